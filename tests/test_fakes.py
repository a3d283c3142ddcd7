"""The strict fakes refuse what they are there to refuse; and both linters stand on both sides of the middleware."""

import warnings
from collections.abc import Iterator
from typing import Any, Final

import anyio
import pytest

from postresponse.wsgi import PostResponseMiddleware
from tests.fakes import BODY, START, ConnectionLost, FakeUnits, StrictASGIServer, StrictWSGIServer, attempt_asgi, linted

HEAD: Final = {"type": START, "status": 200, "headers": []}
PART: Final = {"type": BODY, "body": b"part", "more_body": True}
END: Final = {"type": BODY, "body": b"end"}


def with_length(length: bytes) -> dict[str, Any]:
    return HEAD | {"headers": [(b"content-length", length)]}


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize(
    ("messages", "refusal"),
    [
        ([END], "before http.response.start"),
        ([HEAD, HEAD], "a second http.response.start"),
        ([HEAD, END, END], "after the end of the response"),
        ([with_length(b"2"), END], "longer than its Content-Length"),
        ([with_length(b"4"), END], "shorter than its Content-Length"),
        ([HEAD | {"status": "200"}], "status '200'"),
        ([HEAD | {"headers": [("x", "y")]}], "header 'x'"),
        ([HEAD | {"headers": [(b"X", b"y")]}], "header b'X'"),
        ([HEAD | {"headers": [(b"x", b"y\r\nz: 1")]}], "forges another one"),
        ([HEAD, {"type": BODY, "body": "text"}], "body 'text'"),
        ([HEAD, {"type": BODY, "more_body": 1}], "more_body 1"),
        ([HEAD, {"type": "http.response.trailers"}], "trailers that were not announced"),
        ([HEAD, {"type": "http.response.pathsend", "path": "/"}], "pathsend to a server without it"),
        ([{"type": "http.response.early_hint"}], "no extension of this server"),
        ([{"type": "websocket.accept"}], "before http.response.start"),
    ],
)
def test_the_asgi_server_refuses_what_is_out_of_order_or_of_a_wrong_type(
    backend: str, messages: list[Any], refusal: str
) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        for message in messages:
            await send(message)

    server, error = attempt_asgi(app, backend)
    assert refusal in str(error)
    assert [refusal in found for found in server.broken] == [True]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_the_asgi_server_refuses_a_second_receive_and_whatever_follows_a_cancelled_one(backend: str) -> None:
    async def two_at_once(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        async with anyio.create_task_group() as group:
            group.start_soon(receive)
            group.start_soon(receive)

    async def cancelled(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        with anyio.move_on_after(0):
            await receive()
        await send(HEAD)

    server, _ = attempt_asgi(two_at_once, backend)
    assert server.broken == ["receive() was called while another one is pending"]
    server, _ = attempt_asgi(cancelled, backend)
    assert ["after a receive() was cancelled" in found for found in server.broken] == [True]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_the_asgi_servers_client_leaves_when_it_is_told_to(backend: str) -> None:
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(await receive())
        await send(HEAD)
        seen.append(await receive())
        await send(PART)

    server, error = attempt_asgi(app, backend, leaves_at=1)
    assert ([message["type"] for message in seen], error) == (["http.request", "http.disconnect"], None)
    assert (server.body, server.left) == (b"", True)
    server, error = attempt_asgi(app, backend, leaves_at=1, tells=True)
    assert isinstance(error, ConnectionLost)


def test_the_asgi_server_sees_what_is_left_in_its_scope() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        scope["postresponse"] = "left"

    server: StrictASGIServer = attempt_asgi(app)[0]
    assert server.broken == ["something was left in the server's scope"]


@pytest.mark.parametrize(
    ("status", "headers", "body", "refusal"),
    [
        ("200 OK", [("Content-Length", "2")], [b"end"], "longer than its Content-Length"),
        ("200 OK", [("Content-Length", "4")], [b"end"], "shorter than its Content-Length"),
        ("200", [], [b"end"], "status '200'"),
        (200, [], [b"end"], "status 200"),
        ("200 OK", (), [b"end"], "headers ()"),
        ("200 OK", [["x", "y"]], [b"end"], "header ['x', 'y']"),
        ("200 OK", [("x", "y\nz: 1")], [b"end"], "forges another one"),
        ("200 OK", [], ["text"], "no bytes: 'text'"),
    ],
)
def test_the_wsgi_server_refuses_what_is_of_a_wrong_type_or_length(
    status: Any, headers: Any, body: Any, refusal: str
) -> None:
    def app(environ: Any, start_response: Any) -> Any:
        start_response(status, headers)
        return body

    server = StrictWSGIServer().run(app)
    assert refusal in str(server.raised)


def test_the_wsgi_server_refuses_a_second_head_a_missing_one_and_a_wrong_length() -> None:
    def two(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [])
        start_response("200 OK", [])

    class Wrong(list[bytes]):
        def __len__(self) -> int:
            return 7

    def wrong(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [])
        return Wrong([b"one"])

    assert "a second start_response" in str(StrictWSGIServer().run(two).raised)
    assert "before start_response" in str(StrictWSGIServer().run(lambda *_: [b"one"]).raised)
    assert "no start_response" in str(StrictWSGIServer().run(lambda *_: []).raised)
    assert "len() said 7, and there were 1 chunks" in str(StrictWSGIServer().run(wrong).raised)
    assert StrictWSGIServer().run(lambda *_: None).broken == ["the application returned None"]  # type: ignore[arg-type]


def returning(body: Any) -> Any:
    def app(environ: Any, start_response: Any) -> Any:
        environ["wsgi.input"].read(0)
        start_response("200 OK", [("Content-Type", "text/plain")])
        return body()

    return app


def writing(environ: Any, start_response: Any) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])(b"one, ")
    return [b"two"]


def failing_over(environ: Any, start_response: Any) -> Iterator[bytes]:
    start_response("500 Oops", [("Content-Type", "text/plain")])
    try:
        raise LookupError("a template failed")
    except LookupError as error:
        start_response("200 OK", [("Content-Type", "text/plain")], (type(error), error, error.__traceback__))
    yield from (b"", b"one, ", b"", b"two")


def chunks() -> Iterator[bytes]:
    yield from (b"one, ", b"", b"two")


@pytest.mark.parametrize("closing", ["normal", "early", "unread"])
@pytest.mark.parametrize("at", [None, "head", "buffered", "after_send"])
@pytest.mark.parametrize(
    "app", [returning(lambda: [b"one, ", b"two"]), returning(lambda: (b"one, two",)), returning(chunks), writing]
)
def test_the_middleware_keeps_pep_3333_on_both_sides(closing: Any, at: Any, app: Any) -> None:
    options: dict[str, Any] = {} if at is None else {"unit_of_work": FakeUnits(), "commit": at}
    server = StrictWSGIServer(closing=closing)
    with warnings.catch_warnings():
        if closing != "normal":  # Lint means the server, which has not taken all of a held body
            warnings.filterwarnings("ignore", "Content-Length and the number of bytes sent")
        server.run(linted(app, lambda inner: PostResponseMiddleware(inner, **options)))
    assert (server.raised, server.broken) == (None, [])
    assert closing != "normal" or (server.status, server.body) == ("200 OK", b"one, two")
    for unit in options["unit_of_work"].made if options else ():
        assert unit.log == ["begin", "commit", "close"]


@pytest.mark.parametrize("at", ["head", "buffered", "after_send"])
def test_the_head_that_replaced_the_first_one_is_judged_and_counted(at: Any) -> None:
    def fails_late(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [("Content-Length", "2")])
        try:
            raise LookupError("a template failed")
        except LookupError as error:
            exc_info = (type(error), error, error.__traceback__)
            start_response("500 Oops", [("Content-Length", "4")], exc_info)(b"oops")
        return []

    units, outcomes = FakeUnits(), list[Any]()
    wrapped = PostResponseMiddleware(fails_late, unit_of_work=units, commit=at, on_finished=outcomes.append)
    server = StrictWSGIServer().run(wrapped)
    assert (server.status, server.body, server.broken) == ("500 Oops", b"oops", [])
    assert units.log == ["begin", "rollback", "close"]
    (outcome,) = outcomes
    assert (outcome.status, outcome.bytes_sent, outcome.ending) == (500, 4, "handed_over")


@pytest.mark.parametrize("at", [None, "head", "buffered", "after_send"])
@pytest.mark.parametrize("failure", ["none", "commit"])
def test_a_lazy_application_may_replace_its_head_before_its_first_part(at: Any, failure: str) -> None:
    units = FakeUnits({} if failure == "none" else {"commit": LookupError("refused")})
    options: dict[str, Any] = {} if at is None else {"unit_of_work": units, "commit": at}
    server = StrictWSGIServer().run(PostResponseMiddleware(failing_over, **options))
    assert (server.raised, server.broken) == (None, [])
    replaced = at in ("head", "buffered") and failure == "commit"
    assert server.code == (500 if replaced else 200)
