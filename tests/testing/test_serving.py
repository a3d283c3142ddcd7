"""An application on each server that a test may serve it on; and what is refused, in clear words."""

import gc
import socket
from collections.abc import Iterable
from contextlib import closing
from typing import Any

import pytest

from postresponse import asgi, wsgi
from postresponse.exceptions import ConfigurationError, WrongApplication
from postresponse.testing import ConnectionEnded, ServerFailed, captured, serving
from tests.servers.apps import bare

APPS = {"asgi": asgi.PostResponseMiddleware(bare.asgi), "wsgi": wsgi.PostResponseMiddleware(bare.wsgi)}
THREADED = {"uvicorn": "asgi", "hypercorn": "asgi", "waitress": "wsgi", "cheroot": "wsgi", "werkzeug": "wsgi"}


@pytest.mark.filterwarnings("ignore:Exception ignored in. <function IOBase:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("server", THREADED)
def test_each_server_in_this_process_shows_when_a_response_came(server: str) -> None:
    with captured() as work, serving(APPS[THREADED[server]], server) as site:
        response = site.get("/length")
        assert (response.status, response.body) == (200, bare.BODY)
        assert response.first_body_byte is not None
        assert response.first_byte <= response.first_body_byte <= response.last_byte
        with site.client() as client:
            assert [client.request("POST", "/length").body for _ in range(2)] == [bare.BODY] * 2
        with site.connection() as connection:
            connection.send("GET", "/length")
            connection.reset()
        (first, *_) = work.traces
        assert (first.method, first.path, first.outcome.ending) == ("GET", "/length", "handed_over")
        moments = first.outcome.moments
        assert moments.head_sent is not None
        assert moments.began < moments.head_sent
    with pytest.raises(OSError, match="refused"):
        site.get("/")
    gc.collect()  # a file of cheroot's that still holds something for the client that left, which Python 3.13 tells of


@pytest.mark.parametrize("server", ["granian-wsgi", "gunicorn-asgi"])
def test_one_that_runs_in_a_process_of_its_own_is_given_a_name(server: str) -> None:
    name = f"tests.servers.apps.bare:{server.rpartition('-')[2]}"
    with serving(name, server) as site:
        assert site.post("/").body == bare.BODY
        assert isinstance(site.log(), str)
    with (
        pytest.raises(ConfigurationError, match="runs in a process of its own, and is given the name"),
        serving(APPS["asgi"], server),
    ):
        pass


async def refuses_to_start(scope: Any, receive: Any, send: Any) -> None:
    assert scope["type"] == "lifespan"
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "there is no database"})


def two(environ: Any, start_response: Any) -> Iterable[bytes]:
    return []


@pytest.mark.parametrize(
    ("app", "server", "error", "says"),
    [
        (two, "uvicorn", ConfigurationError, "uvicorn serves asgi, and the application is wsgi"),
        (two, "waitres", ConfigurationError, "did you mean 'waitress'"),
        ("no.such:app", None, ConfigurationError, "say which server"),
        ("tests.servers.apps.bare:nothing", "waitress", ServerFailed, "nothing"),
        (lambda: None, None, WrongApplication, "expected an ASGI or a WSGI application"),
        (refuses_to_start, None, ServerFailed, "did not listen in time|raised"),
    ],
    ids=["protocol", "misspelt", "no server", "no application", "neither", "startup"],
)
def test_what_cannot_be_served_is_told(app: Any, server: str | None, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says), serving(app, server):
        pass


@pytest.mark.parametrize("app", [two, "tests.servers.apps.bare:wsgi"], ids=["here", "a process"])
def test_a_port_in_use_is_told(app: Any) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        says = f"port {port} of 127.0.0.1 cannot be listened on: Address already in use"
        with pytest.raises(ServerFailed, match=says), serving(app, "waitress", port=port):
            pass


def test_a_response_that_is_cut_off_looks_cut_off() -> None:
    def cut(environ: Any, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Length", "10")])
        yield b"half"
        raise OSError("gone")

    with serving(cut, "werkzeug") as site, pytest.raises(ConnectionEnded):
        site.get("/")
