"""Where nobody asks how a response ends, shorter ways are taken; whoever asks late is still told no lie."""

import asyncio
import itertools
import logging
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from postresponse import CommitPolicy, Outcome, asgi, current_exchange, wsgi
from postresponse.core.current import current
from postresponse.core.exchange import KEY
from postresponse.core.lifecycle import Ending, UnitState
from tests.core.test_settlement import LazyUnit
from tests.fakes import BODY, START, FakeUnits, QuickUnit, StrictASGIServer, StrictWSGIServer, run_asgi, run_wsgi

PARTS = [b"one", b"two"]


def listed(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    """Answer with the list above, and nothing behind it."""
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "6")])
    return PARTS


def returned(app: Any, **options: Any) -> tuple[Any, dict[str, Any]]:
    """Call the middleware once, and return what the server gets, and the environ that it holds."""
    environ = StrictWSGIServer().environ
    return wsgi.PostResponseMiddleware(app, **options)(environ, StrictWSGIServer().start_response), environ


# -- WSGI -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("units", [None, FakeUnits()])
def test_a_list_that_is_done_with_goes_to_the_server_as_it_is(units: FakeUnits | None) -> None:
    kept = []

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        kept.append(current_exchange())
        return listed(environ, start_response)

    body, environ = returned(app, unit_of_work=units)
    assert body is PARTS
    assert KEY not in environ
    assert kept[0].state == "over"
    assert current.get() is None
    assert units is None or units.log == ["begin", "commit", "close"]


def _registers(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    current_exchange().on_finished(lambda outcome: None)
    return listed(environ, start_response)


@pytest.mark.parametrize(
    ("app", "options"),
    [
        (listed, {"on_finished": lambda outcome: None}),
        (_registers, {}),
        (listed, {"unit_of_work": FakeUnits(), "commit": "after_send"}),
        (listed, {"unit_of_work": FakeUnits(), "commit": "buffered"}),
    ],
    ids=["asked for", "asked for by the handler", "open until the end", "held"],
)
def test_a_list_is_watched_where_something_follows(app: Any, options: dict[str, Any]) -> None:
    body, environ = returned(app, **options)
    assert body is not PARTS
    assert KEY in environ
    assert b"".join(body) == b"onetwo"
    body.close()
    assert KEY not in environ


def test_a_list_is_watched_for_the_line_in_the_access_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "postresponse.access")
    body, _ = returned(listed)
    assert body is not PARTS
    body.close()
    assert "/orders 200" in caplog.text


def test_a_unit_of_work_that_is_used_again_behind_its_commit_is_still_cleaned_up() -> None:
    unit = LazyUnit({})
    unit.touched = True

    def used_again(environ: dict[str, Any], start_response: Any) -> Any:
        current_exchange().after_commit(lambda: setattr(unit, "touched", True))
        return listed(environ, start_response)

    body, _ = returned(used_again, unit_of_work=lambda exchange: unit)
    assert unit.log == ["begin", "commit", "close"]
    body.close()
    assert unit.log == ["begin", "commit", "close", "rollback", "close"]


@pytest.mark.parametrize("asked", [True, False])
def test_the_bytes_of_a_generator_are_counted_for_whoever_asked_before(asked: bool) -> None:
    outcomes: list[Outcome] = []

    def streamed(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        exchange = current_exchange()
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "6")])
        yield b"one"
        exchange.on_finished(outcomes.append)  # late: nothing is counted any more
        yield b"two"

    options: dict[str, Any] = {"on_finished": outcomes.append} if asked else {}
    run_wsgi(wsgi.PostResponseMiddleware(streamed, **options))
    assert {(outcome.ending, outcome.bytes_sent) for outcome in outcomes} == {
        (Ending.HANDED_OVER, 6 if asked else None),
    }


# -- ASGI -------------------------------------------------------------------------------------------------------------


async def _answers(send: Any, *parts: bytes) -> None:
    await send({"type": START, "status": 200, "headers": []})
    for part in parts:
        await send({"type": BODY, "body": part, "more_body": True})
    await send({"type": BODY, "body": b""})


@pytest.mark.parametrize("at", [None, "head", "buffered"])
def test_who_asks_behind_the_last_part_is_told_that_it_was_taken(at: Any) -> None:
    outcomes: list[Outcome] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await _answers(send)
        current_exchange().on_finished(outcomes.append)

    units = None if at is None else FakeUnits(is_async=True)
    run_asgi(asgi.PostResponseMiddleware(app, unit_of_work=units, commit=at))
    (outcome,) = outcomes
    assert outcome.ending is Ending.HANDED_OVER
    assert outcome.unit_of_work is (UnitState.NONE if at is None else UnitState.COMMITTED)
    moments = outcome.moments
    assert moments.head_sent is not None
    assert moments.body_sent is not None
    assert moments.began <= moments.head_sent <= moments.body_sent <= moments.ended


def test_an_exception_behind_the_last_part_does_not_make_it_untaken() -> None:
    outcomes: list[Outcome] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await _answers(send)
        current_exchange().on_finished(outcomes.append)
        raise LookupError("in a background task")

    with pytest.raises(LookupError):
        run_asgi(asgi.PostResponseMiddleware(app))
    assert [(outcome.ending, type(outcome.exception)) for outcome in outcomes] == [(Ending.HANDED_OVER, LookupError)]


@pytest.mark.parametrize(("asked", "counted"), [("before", 6), ("meanwhile", None)])
def test_the_bytes_of_a_stream_are_counted_for_whoever_asked_before_it_began(asked: str, counted: int | None) -> None:
    outcomes: list[Outcome] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if asked == "before":
            current_exchange().on_finished(outcomes.append)
        await send({"type": START, "status": 200, "headers": []})
        await send({"type": BODY, "body": b"one", "more_body": True})
        if asked == "meanwhile":
            current_exchange().on_finished(outcomes.append)
        await send({"type": BODY, "body": b"two", "more_body": True})
        await send({"type": BODY, "body": b""})

    run_asgi(asgi.PostResponseMiddleware(app))
    assert [(outcome.ending, outcome.bytes_sent) for outcome in outcomes] == [(Ending.HANDED_OVER, counted)]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_who_asks_in_the_middle_of_a_stream_is_told_of_a_client_that_leaves_later(backend: str) -> None:
    outcomes: list[Outcome] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": START, "status": 200, "headers": []})
        await send({"type": BODY, "body": b"one", "more_body": True})
        current_exchange().on_finished(outcomes.append)
        await anyio.sleep(0.005)  # longer than a stream of which nobody would see the client leave
        server.leave()
        await anyio.wait_all_tasks_blocked()
        await send({"type": BODY, "body": b"two", "more_body": True})
        await send({"type": BODY, "body": b""})

    server = StrictASGIServer()
    anyio.run(server.run, asgi.PostResponseMiddleware(app), backend=backend)
    assert [outcome.ending for outcome in outcomes] == [Ending.ABORTED]


@pytest.mark.parametrize(("asked", "asks_server"), [(True, True), (False, False)])
def test_the_server_is_asked_for_a_disconnect_only_where_somebody_wants_to_know(asked: bool, asks_server: bool) -> None:
    class Counting(StrictASGIServer):
        received = 0

        async def receive(self) -> dict[str, Any]:
            self.received += 1
            return await super().receive()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": START, "status": 200, "headers": []})
        await send({"type": BODY, "body": b"one", "more_body": True})
        await anyio.lowlevel.checkpoint()
        await send({"type": BODY, "body": b"two", "more_body": True})
        await send({"type": BODY, "body": b""})

    server = Counting()
    options: dict[str, Any] = {"on_finished": lambda outcome: None} if asked else {}
    anyio.run(server.run, asgi.PostResponseMiddleware(app, **options))
    assert (server.received > 0) is asks_server
    assert server.body == b"onetwo"


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_where_a_policy_depends_on_it_a_client_that_leaves_is_seen(backend: str) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        server.leave()
        await anyio.wait_all_tasks_blocked()
        await _answers(send, b"one")

    server, units = StrictASGIServer(), FakeUnits(is_async=True)
    policy = CommitPolicy(on_disconnect="rollback")
    anyio.run(server.run, asgi.PostResponseMiddleware(app, unit_of_work=units, commit=policy), backend=backend)
    assert units.log == ["begin", "rollback", "close"]


@pytest.mark.parametrize("at", [None, "head", "buffered"])
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_over_http_2_a_send_that_never_returns_ends_with_the_client_though_nobody_asks(backend: str, at: Any) -> None:
    class Stuck(StrictASGIServer):
        async def send(self, message: Any) -> None:
            if message.get("body") == b"stuck":
                self.leave()
                await anyio.sleep_forever()
            await super().send(message)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await _answers(send, b"one", b"stuck", b"three")

    async def serve() -> None:
        server = Stuck(http_version="2")
        await server.run(asgi.PostResponseMiddleware(app, unit_of_work=units, commit=at))

    units = None if at is None else FakeUnits(is_async=True)
    anyio.run(serve, backend=backend)
    assert units is None or units.log == ["begin", "commit", "close"]


def test_nothing_waits_for_the_client_any_more_once_the_response_is_over() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await _answers(send, b"one")

    async def serve() -> None:
        class Silent(StrictASGIServer):
            async def receive(self) -> Any:
                await anyio.sleep_forever()

        units = FakeUnits(is_async=True)
        policy = CommitPolicy(on_disconnect="rollback")
        server = Silent()
        await asgi.PostResponseMiddleware(app, unit_of_work=units, commit=policy)(
            dict(server.scope), server.receive, server.send
        )
        await anyio.lowlevel.checkpoint()
        await anyio.lowlevel.checkpoint()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(serve())


@pytest.mark.parametrize("at", [None, "head", "buffered"])
def test_a_scope_that_does_not_say_the_version_is_taken_for_http_1(at: Any) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await _answers(send, b"one", b"two", b"three")

    server = StrictASGIServer()
    del server.scope["http_version"]
    units = None if at is None else FakeUnits(is_async=True)
    anyio.run(server.run, asgi.PostResponseMiddleware(app, unit_of_work=units, commit=at))
    assert server.body == b"onetwothree"


@pytest.mark.parametrize("size", [60, 40])
def test_what_is_held_over_the_memory_of_the_policy_goes_to_a_file(size: int) -> None:
    spilled = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": START, "status": 200, "headers": []})
        await send({"type": BODY, "body": bytes(size), "more_body": True})
        held = scope[KEY]._held
        spilled.append(held.spilled)
        await send({"type": BODY, "body": b""})

    policy = CommitPolicy(at="buffered", max_memory=50)
    server = run_asgi(asgi.PostResponseMiddleware(app, unit_of_work=FakeUnits(is_async=True), commit=policy))
    assert server.body == bytes(size)
    assert spilled == [size > 50]


def test_a_response_that_is_quick_is_not_watched_for_its_client_though_somebody_asks() -> None:
    class Asked(StrictASGIServer):
        times = 0

        async def receive(self) -> Any:
            self.times += 1
            return await super().receive()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": START, "status": 200, "headers": []})
        for _ in range(3):
            await anyio.lowlevel.checkpoint()
        await send({"type": BODY, "body": b""})

    server = Asked()
    anyio.run(server.run, asgi.PostResponseMiddleware(app, on_finished=lambda outcome: None))
    assert server.complete
    assert server.times == 0


@pytest.mark.parametrize("at", ["head", "buffered"])
def test_a_server_that_says_at_the_head_that_the_client_left_is_believed_though_the_application_is_not_told(
    at: Any,
) -> None:
    outcomes: list[Outcome] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        with suppress(OSError):
            await _answers(send)

    server = StrictASGIServer(leaves_at=0, tells=True)
    middleware = asgi.PostResponseMiddleware(
        app, unit_of_work=lambda exchange: QuickUnit({}), commit=at, on_finished=outcomes.append
    )
    anyio.run(server.run, middleware)
    assert [outcome.ending for outcome in outcomes] == [Ending.ABORTED]


# -- side by side -----------------------------------------------------------------------------------------------------

HEAD = {"type": START, "status": 200, "headers": []}
SAID: dict[str, dict[str, Any]] = {
    "head": HEAD,
    "head of events": {**HEAD, "headers": [(b"content-type", b"text/event-stream")]},
    "head, trailers follow": {**HEAD, "trailers": True},
    "head of 4 bytes": {**HEAD, "headers": [(b"content-length", b"4")]},
    "part": {"type": BODY, "body": b"part", "more_body": True},
    "large part": {"type": BODY, "body": bytes(100), "more_body": True},
    "part of a bytearray": {"type": BODY, "body": bytearray(b"part"), "more_body": True},
    "part of nothing": {"type": BODY, "more_body": True},
    "last part": {"type": BODY, "body": b"last", "more_body": False},
    "end": {"type": BODY},
    "trailers": {"type": "http.response.trailers", "headers": [(b"a", b"b")]},
    "path": {"type": "http.response.pathsend", "path": "/a"},
    "hint": {"type": "http.response.early_hint", "links": []},
}


async def told(program: tuple[str, ...], at: Any, *, heard: bool) -> list[Any]:
    """What the server, the unit of work and the application see of a program of messages, in order."""
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for name in program:
            try:
                await send(dict(SAID[name]))
            except Exception as error:
                seen.append(f"{name}: {type(error).__name__}")

    async def send(message: Any) -> None:
        seen.append({**message, "headers": list(message["headers"])} if "headers" in message else dict(message))

    options: dict[str, Any] = {"on_finished": lambda outcome: None} if heard else {}
    if at is not None:
        options["commit"] = CommitPolicy(at=at, max_memory=50, max_body=150 if at == "buffered" else None)
        options["unit_of_work"] = lambda exchange: QuickUnit({}, seen)
    try:
        scope = StrictASGIServer().scope
        await asgi.PostResponseMiddleware(app, **options)(scope, anyio.sleep_forever, send)
    except Exception as error:
        seen.append(f"out of the application: {type(error).__name__}")
    return seen


@pytest.mark.parametrize("at", [None, "head", "buffered", "after_send"])
def test_every_short_program_looks_the_same_from_outside_whether_somebody_asks_or_not(at: Any, quiet: None) -> None:
    heads = [name for name in SAID if name.startswith("head")]
    rest = [name for name in SAID if name not in heads]
    programs = [
        *itertools.product(SAID),
        *itertools.product(SAID, SAID),
        *itertools.product(heads, SAID, SAID),
        *itertools.product(("head", "head, trailers follow"), rest, rest, rest),
    ]

    async def different() -> list[Any]:
        return [
            (program, unheard, heard)
            for program in programs
            if (unheard := await told(program, at, heard=False)) != (heard := await told(program, at, heard=True))
        ]

    assert asyncio.run(different()) == []
    assert len(programs) > 2000
