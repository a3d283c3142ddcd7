"""Tenants in front of a WSGI application."""

import io
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from postresponse.exceptions import ConfigurationError, WrongApplication
from postresponse.tenancy import Load
from postresponse.tenancy.wsgi import TenantLimitMiddleware
from postresponse.work import BulkheadLimits
from tests.fakes import FileWrapper, StrictWSGIServer, linted, run_wsgi
from tests.work.waiting import until

ONE = BulkheadLimits(max_concurrency=1, max_queue=1, timeout=5)


def tenant(environ: dict[str, Any]) -> str:
    return str(environ["HTTP_TENANT"])


class House:
    """An application that holds each request until it is let go, and says who was served."""

    def __init__(self, limits: Any = ONE, **options: Any) -> None:
        self.served: list[str] = []
        self.go = threading.Event()
        self.app = TenantLimitMiddleware(self._app, key=tenant, limits=limits, **options)
        self.threads: list[threading.Thread] = []

    def _app(self, environ: dict[str, Any], start_response: Any) -> list[bytes]:
        self.served.append(environ["HTTP_NAME"])
        self.go.wait(5)
        start_response("200 OK", [("Content-Length", "2")])
        return [environ["HTTP_NAME"].encode()]

    def come(self, name: str, **environ: Any) -> StrictWSGIServer:
        """Let a request of the tenant that *name* begins with come, on a thread of its own."""
        server = StrictWSGIServer()

        def app(given: dict[str, Any], start_response: Any) -> Iterable[bytes]:
            given.update({"HTTP_TENANT": name[:1], "HTTP_NAME": name} | environ)
            return self.app(given, start_response)

        thread = threading.Thread(target=server.run, args=(app,))
        thread.start()
        self.threads.append(thread)
        return server

    def end(self) -> None:
        """Let all go, and wait for them."""
        self.go.set()
        for thread in self.threads:
            thread.join(5)
            assert not thread.is_alive()
        assert self.app.load() == []


def test_a_full_tenant_waits_and_is_refused_while_the_other_is_served_at_once() -> None:
    house = House()
    house.come("a1")
    until(lambda: house.served == ["a1"])
    waiting = house.come("a2")
    until(lambda: house.app.load() == [Load("a", None, 1, 1)])
    refused = house.come("a3")
    other = house.come("b1")
    until(lambda: refused.ended and house.served == ["a1", "b1"])
    assert refused.code == 429
    assert ("retry-after", "1") in refused.headers
    house.end()
    assert [other.body, waiting.body] == [b"b1", b"a2"]


def test_without_a_key_the_refusal_is_503_and_head_gets_no_body() -> None:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Content-Length", "1")])
        return [b"x"]

    limited = TenantLimitMiddleware(app, key=None, limits=BulkheadLimits(1, 0))
    held = limited(StrictWSGIServer().environ, StrictWSGIServer().start_response)
    server, head = run_wsgi(limited, accept="text/html"), run_wsgi(limited, method="HEAD")
    assert (server.code, head.code, head.body) == (503, 503, b"")
    assert server.body.startswith(b"<!doctype html>")
    assert isinstance(held, Iterable)
    held.close()  # type: ignore[attr-defined]
    assert run_wsgi(limited).code == 200


def test_the_slot_comes_back_with_the_close_of_the_body_and_not_before() -> None:
    closed = []

    class Rows:
        def __iter__(self) -> Iterator[bytes]:
            yield b"row"

        def close(self) -> None:
            closed.append(limited.load())

    def app(environ: dict[str, Any], start_response: Any) -> Rows:
        start_response("200 OK", [])
        return Rows()

    limited = TenantLimitMiddleware(app, key=None, limits=ONE)
    server = StrictWSGIServer()
    body: Any = limited(server.environ, server.start_response)
    assert list(body) == [b"row"]
    assert limited.load() == [Load(None, None, 1, 0)]
    body.close()
    body.close()
    assert closed[0] == [Load(None, None, 1, 0)]
    assert limited.load() == []


@pytest.mark.parametrize("closing", ["early", "twice", "unread", "in_flight", "generator_exit", "never"])
def test_however_a_server_ends_the_slot_comes_back(closing: Any) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield b"one"
        yield b"two"

    limited = TenantLimitMiddleware(app, key=None, limits=ONE)
    StrictWSGIServer(closing=closing).run(limited)
    assert limited.load() == []


def test_a_close_that_raises_gives_the_slot_back() -> None:
    class Broken(list[bytes]):
        def close(self) -> None:
            raise OSError("mine")

    def app(environ: dict[str, Any], start_response: Any) -> Broken:
        start_response("200 OK", [])
        return Broken()

    limited = TenantLimitMiddleware(app, key=None, limits=ONE)
    assert isinstance(StrictWSGIServer().run(limited).raised, OSError)
    assert limited.load() == []


def test_an_application_that_raises_gives_its_slot_back() -> None:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        raise KeyError("mine")

    limited = TenantLimitMiddleware(app, key=None, limits=ONE)
    with pytest.raises(KeyError, match="mine"):
        limited(StrictWSGIServer().environ, StrictWSGIServer().start_response)
    assert limited.load() == []


def test_a_servers_file_wrapper_is_still_recognised_and_gives_the_slot_back_when_it_is_closed() -> None:
    def app(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", [("Content-Length", "4")])
        return environ["wsgi.file_wrapper"](io.BytesIO(b"file"))

    limited = TenantLimitMiddleware(app, key=None, limits=ONE)
    server = StrictWSGIServer(file_wrapper=True)
    body: Any = limited(server.environ, server.start_response)
    assert type(body) is FileWrapper
    assert limited.load() == [Load(None, None, 1, 0)]
    body.close()
    assert body.file.closed
    assert limited.load() == []
    assert run_wsgi(limited, file_wrapper=True).sent_as_file


def test_a_body_says_how_many_parts_it_has_where_the_application_does() -> None:
    def app(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", [])
        return [b"a"] if environ["REQUEST_METHOD"] == "GET" else iter([b"a"])

    limited = TenantLimitMiddleware(app, key=None, limits=BulkheadLimits(2))
    sized: Any = limited(StrictWSGIServer().environ, StrictWSGIServer().start_response)
    assert len(sized) == 1
    stream = limited(StrictWSGIServer("POST").environ, StrictWSGIServer().start_response)
    assert not hasattr(stream, "__len__")


def test_it_keeps_to_the_protocol_on_both_sides() -> None:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "1")])
        return [b"a"]

    server = run_wsgi(linted(app, lambda inner: TenantLimitMiddleware(inner, key=None)))
    assert server.body == b"a"


def test_what_waits_too_long_is_answered_with_503_and_is_never_served() -> None:
    house = House(BulkheadLimits(1, 1, timeout=0.05))
    house.come("a1")
    until(lambda: house.served == ["a1"])
    late = house.come("a2")
    until(lambda: late.ended)
    assert late.code == 503
    assert b"waited too long" in late.body
    house.end()
    assert house.served == ["a1"]


@pytest.mark.parametrize("key", ["gunicorn.socket", "werkzeug.socket", "unix", "waitress"])
def test_who_leaves_while_it_waits_is_never_served_where_the_server_lets_that_be_seen(key: str) -> None:
    house = House(BulkheadLimits(1, 1, timeout=None))
    house.come("a1")
    until(lambda: house.served == ["a1"])
    if key == "unix":
        ours, theirs = socket.socketpair()
    else:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            theirs = socket.create_connection(listener.getsockname())
            ours = listener.accept()[0]
    left = threading.Event()
    seen: dict[str, Any] = {"waitress.client_disconnected": left.is_set} if key == "waitress" else {}
    name = "gunicorn.socket" if key == "unix" else key
    with ours, theirs:
        gone = house.come("a2", **(seen or {name: ours}))
        until(lambda: house.app.load() == [Load("a", None, 1, 1)])
        time.sleep(0.3)
        assert house.app.load() == [Load("a", None, 1, 1)]
        theirs.close()
        left.set()
        until(lambda: house.app.load() == [Load("a", None, 1, 0)])
    until(lambda: gone.ended)
    house.end()
    assert house.served == ["a1"]


@pytest.mark.parametrize("path", [("", "/caf\xc3\xa9/menu"), ("/caf\xc3\xa9", "/menu")])
def test_a_path_is_looked_at_as_its_client_wrote_it(path: tuple[str, str]) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        return []

    limited = TenantLimitMiddleware(app, key=None, views={"/café": BulkheadLimits(1, 0)})
    environ = StrictWSGIServer().environ | {"SCRIPT_NAME": path[0], "PATH_INFO": path[1]}
    held = limited(environ, StrictWSGIServer().start_response)
    assert limited.load() == [Load(None, "/café", 1, 0)]
    del held


def test_a_path_may_be_left_out_and_may_be_no_text() -> None:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        return []

    limited = TenantLimitMiddleware(app, key=None, views={"/": None, "/\ufffd": BulkheadLimits(1, 0)})
    environ = StrictWSGIServer().environ
    del environ["SCRIPT_NAME"], environ["PATH_INFO"]
    held = limited(environ, StrictWSGIServer().start_response)
    broken = limited(environ | {"PATH_INFO": "/\xff"}, StrictWSGIServer().start_response)
    assert sorted(limited.load(), key=str) == [Load(None, "/\ufffd", 1, 0), Load(None, None, 1, 0)]
    del held, broken
    assert limited.load() == []


def test_options_are_checked_where_they_are_given() -> None:
    async def asgi_app(scope: Any, receive: Any, send: Any) -> None: ...

    def app(environ: Any, start_response: Any) -> Any: ...

    with pytest.raises(ConfigurationError, match="did you mean 'limits'"):
        TenantLimitMiddleware(app, key=tenant, limit=ONE)  # type: ignore[call-arg]
    with pytest.raises(WrongApplication, match=r"use postresponse\.tenancy\.asgi\.TenantLimitMiddleware"):
        TenantLimitMiddleware(asgi_app, key=tenant)  # type: ignore[arg-type]
