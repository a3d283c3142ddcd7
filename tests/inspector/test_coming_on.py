"""Where the inspector is on without being asked for, and what is said where it was and has nothing to show."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.testclient import TestClient

from postresponse import asgi, wsgi
from postresponse.cli.described import options_of
from postresponse.inspector import Inspector
from postresponse.work.process import open_again
from tests.inspector.asking import PAGE, ask

KIND = pytest.mark.parametrize("kind", [Starlette, FastAPI])
Make = Callable[..., Any]


@pytest.fixture(autouse=True)
def _open_again() -> Iterator[None]:
    """The lifespan of an application ends the supervisor of this process, which other tests have too."""
    yield
    open_again()


def around(kind: Any, *, debug: bool, **options: Any) -> Any:
    return asgi.PostResponseMiddleware(kind(debug=debug), **options)


def added(kind: Any, *, debug: bool, **options: Any) -> Any:
    app = kind(debug=debug)
    app.add_middleware(GZipMiddleware)
    app.add_middleware(asgi.PostResponseMiddleware, **options)
    return app


def given(kind: Any, *, debug: bool, **options: Any) -> Any:
    return kind(debug=debug, middleware=[Middleware(asgi.PostResponseMiddleware, **options)])


def client(app: Any, peer: str = "127.0.0.1") -> TestClient:
    """One on this machine, which begins without lifespan."""
    return TestClient(app, "http://localhost", client=(peer, 50000))


@KIND
@pytest.mark.parametrize("make", [around, added, given])
@pytest.mark.parametrize("debug", [True, False])
@pytest.mark.parametrize("begins", [True, False])
def test_it_is_on_in_the_debug_mode_of_starlette_and_fastapi(kind: Any, make: Make, debug: bool, begins: bool) -> None:
    app = make(kind, debug=debug)
    if begins:
        with client(app):  # a server that begins with lifespan
            pass
    assert client(app).get("/orders").status_code == 404
    answer = client(app).get(f"{PAGE}changes")
    assert answer.status_code == (200 if debug else 404)
    if debug:
        assert [each["path"] for each in answer.json()["requests"]] == ["/orders"]
        assert client(app, "10.0.0.7").get(PAGE).content == b"Not Found\n"


@KIND
@pytest.mark.parametrize("make", [around, added, given])
def test_in_debug_mode_false_turns_it_off_and_production_does_without_a_word(
    kind: Any, make: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert client(make(kind, debug=True, inspector=False)).get(PAGE).status_code == 404
    monkeypatch.setenv("POSTRESPONSE_ENV", "production")
    answer = client(make(kind, debug=True)).get(PAGE)
    assert (answer.status_code, answer.content == b"Not Found\n") == (404, False)  # the application's own
    assert [each for each in caplog.records if each.name == "postresponse"] == []


def test_the_options_tell_that_it_may_come_on() -> None:
    app = around(Starlette, debug=True)
    told = {each.name: each.value for each in options_of(app)}
    assert told["inspector"] == "on in debug mode alone"
    ask("asyncio", None, app=app)
    assert {each.name: each.value for each in options_of(app)}["inspector"] == "at /__postresponse__/"
    off = {each.name: each.value for each in options_of(around(Starlette, debug=True, inspector=False))}
    assert off["inspector"] == "off"


def twice(protocol: str, inner: Any, outer: Any) -> Any:
    if protocol == "wsgi":
        last: Any = wsgi.PostResponseMiddleware(nothing_here, inspector=inner)
        return wsgi.PostResponseMiddleware(last, inspector=outer)
    app = Starlette(middleware=[Middleware(asgi.PostResponseMiddleware, inspector=inner)])
    return asgi.PostResponseMiddleware(app, inspector=outer)


def nothing_here(environ: Any, start_response: Any) -> list[bytes]:
    start_response("404 Not Found", [("Content-Length", "0")])
    return []


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """What was said of an inspector; by other tests nothing was."""
    monkeypatch.setattr("postresponse.core.log._told", set())
    return lambda: [each.getMessage() for each in caplog.records if "inspector" in each.getMessage()]


@pytest.mark.parametrize("protocol", ["asyncio", "wsgi"])
def test_that_of_an_inner_middleware_says_once_that_it_shows_nothing(
    protocol: str, said: Callable[[], list[str]]
) -> None:
    app = twice(protocol, True, None)
    for _ in range(2):
        assert ask(protocol, None, app=app).status == 404
    (line,) = said()
    assert line.startswith("the inspector at /__postresponse__/ shows nothing: its middleware is inside of another")
    assert line.endswith("give inspector= to that one")


@pytest.mark.parametrize("protocol", ["asyncio", "wsgi"])
def test_nothing_is_said_where_the_outer_one_has_the_same_or_nobody_asked(
    protocol: str, said: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = Inspector()
    assert ask(protocol, None, app=twice(protocol, one, one)).status == 200
    assert ask(protocol, None, "/orders", app=twice(protocol, one, one)).status == 404
    assert said() == []
    with client(asgi.PostResponseMiddleware(given(Starlette, debug=True))) as browser:  # whose lifespan passes both
        browser.get("/")
    assert said() == []
