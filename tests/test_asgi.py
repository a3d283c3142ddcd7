"""The ASGI adapter against a strict server: what leaves, in which order, and how it ended.

The numbers are those of the checklist for a correct middleware that the package keeps.
"""

import asyncio
import gc
import logging
import os
import tempfile
import threading
import time
import types
import weakref
from collections.abc import Callable, Generator, Iterator
from contextlib import aclosing, nullcontext, suppress
from functools import partial
from typing import Any, Final

import anyio
import pytest
from anyio.lowlevel import checkpoint
from trio.testing import MockClock

from postresponse import CommitPolicy, Outcome, commit_policy, current_exchange
from postresponse.aperforming import at_once, on_thread, run_at_once
from postresponse.asgi import PostResponseMiddleware, messages
from postresponse.asgi.messages import PIECES, items_of
from postresponse.core.exchange import KEY, Failure
from postresponse.core.lifecycle import Ending, UnitState
from postresponse.core.units import Manner
from postresponse.error_response import ErrorResponse
from postresponse.exceptions import InvalidHeader, MessageOrderError, NoExchange, ResponseStarted
from postresponse.held import HeldBody
from tests.fakes import BODY, START, ConnectionLost, FakeUnit, FakeUnits, QuickUnit, StrictASGIServer

pytestmark = pytest.mark.anyio

MODES = ["head", "buffered", "after_send"]


class QuickUnits(FakeUnits):
    """A factory of these."""

    def __call__(self, exchange: object) -> Any:
        self.made.append(QuickUnit(self.fails))
        return self.made[-1]


class Site:
    """A wrapped application with a fake unit of work, and all that it reported."""

    def __init__(
        self,
        app: Any,
        commit: Any = "head",
        fails: Any = None,
        *,
        observe: bool = False,
        quick: bool = False,
        **options: Any,
    ) -> None:
        self.units = QuickUnits(fails) if quick else FakeUnits(fails, is_async=True)
        self.outcomes: list[Outcome] = []
        if not observe:
            options |= {"unit_of_work": self.units, "commit": commit}
        self.app = PostResponseMiddleware(app, on_finished=self.outcomes.append, **options)

    async def get(self, *, server: StrictASGIServer | None = None, **request: Any) -> StrictASGIServer:
        """Answer one request; nothing may be broken."""
        server = server or StrictASGIServer(**request)
        await server.run(self.app)
        assert not server.broken
        return server

    @property
    def outcome(self) -> Outcome:
        (outcome,) = self.outcomes
        return outcome


def answer(*parts: bytes, status: int = 200, headers: Any = (), **start: Any) -> Any:
    """An application that answers in *parts*, each a message of its own."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": START, "status": status, "headers": list(headers), **start})
        for part in parts[:-1]:
            await send({"type": BODY, "body": part, "more_body": True})
        await send({"type": BODY, "body": parts[-1] if parts else b""})

    return app


class Forgiving(StrictASGIServer):
    """A server that does not look at what it sends."""

    def _check(self, message: Any) -> None: ...


def kinds(server: StrictASGIServer) -> list[str]:
    return [message["type"].removeprefix("http.response.") for message in server.messages]


# -- 12: what is not ours passes through ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["websocket", "something.new"])
async def test_other_scopes_pass_untouched(kind: str) -> None:
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.extend((scope, receive, send))

    async def receive() -> Any: ...
    async def send(message: Any) -> None: ...

    scope = {"type": kind}
    await PostResponseMiddleware(app)(scope, receive, send)
    assert seen[0] is scope
    assert seen[1] is receive
    assert seen[2] is send
    assert scope == {"type": kind}


@pytest.mark.parametrize("extensions", [None, {}, "missing"])
async def test_extensions_may_be_missing_or_none(extensions: Any) -> None:
    site, server = Site(answer(b"ok")), StrictASGIServer()
    server.scope["extensions"] = extensions
    if extensions == "missing":
        del server.scope["extensions"]
    assert (await site.get(server=server)).body == b"ok"


@pytest.mark.parametrize("commit", MODES)
async def test_unknown_messages_keep_their_place(commit: str) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.early_hint", "links": [b"</style.css>"]})
        await send({"type": START, "status": 200})
        await send({"type": BODY, "body": b"a", "more_body": True})
        await send({"type": "http.response.push", "path": "/style.css"})
        await send({"type": BODY, "body": b"b"})

    names = ["http.response.early_hint", "http.response.push", "early_hint", "push"]
    server = await Site(app, commit).get(extensions=names)
    assert kinds(server) == ["early_hint", "start", "body", "push", "body"]


@pytest.mark.parametrize("commit", MODES)
async def test_a_message_behind_a_withheld_head_stays_behind_it(commit: str) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": START, "status": 200})
        await send({"type": "http.response.push", "path": "/style.css"})
        await send({"type": BODY, "body": b"a"})

    server = await Site(app, commit).get(extensions=["http.response.push"])
    assert kinds(server) == ["start", "push", "body"]


@pytest.mark.parametrize("kind", [bytearray, memoryview])
async def test_a_body_of_other_bytes_is_held_as_well(kind: Any) -> None:
    site = Site(answer(kind(b"ab"), kind(b"c")), "buffered")
    server = await site.get()
    assert (server.body, server.declared) == (b"abc", 3)


async def test_a_commit_that_is_put_off_once_the_head_is_known_comes_behind_the_body() -> None:
    class Server(StrictASGIServer):
        async def send(self, message: Any) -> None:
            seen.append(list(site.units.log))
            await super().send(message)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": START, "status": 200})
        current_exchange().policy = CommitPolicy("after_send")
        await send({"type": BODY, "body": b"a"})

    site = Site(app)
    seen: list[list[str]] = []
    await site.get(server=Server())
    assert seen == [["begin"], ["begin"]]
    assert site.units.log == ["begin", "commit", "close"]


async def test_at_the_head_nothing_is_said_of_what_never_ends(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("postresponse.core.log._told", set())
    caplog.set_level(logging.INFO, "postresponse")
    events = answer(b"data: 1\n\n", headers=[(b"content-type", b"text/event-stream")])
    await Site(events, "head").get()
    assert "streams, so its unit of work" not in caplog.text
    for path in ("/one", "/two", "/one"):
        server = StrictASGIServer()
        server.scope["path"] = path
        await Site(events, "buffered").get(server=server)
    assert [record.message.split(":")[0] for record in caplog.records if "streams" in record.message] == [
        "GET /one",
        "GET /two",
    ]


async def test_lifespan_is_passed_on_to_an_application_that_knows_it() -> None:
    told: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert scope == {"type": "lifespan"}
        for _ in range(2):
            message = await receive()
            told.append(message["type"])
            await send({"type": f"{message['type']}.complete", "by": "app"})

    assert await _lifespan(app) == [
        {"type": "lifespan.startup.complete", "by": "app"},
        {"type": "lifespan.shutdown.complete", "by": "app"},
    ]
    assert told == ["lifespan.startup", "lifespan.shutdown"]


async def test_lifespan_is_answered_where_the_application_does_not(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "postresponse")

    async def refuses(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http"

    async def fails(scope: Any, receive: Any, send: Any) -> None:
        raise RuntimeError("its own")

    async def returns(scope: Any, receive: Any, send: Any) -> None:
        return

    for app in (refuses, returns):
        assert await _lifespan(app) == [
            {"type": "lifespan.startup.complete"},
            {"type": "lifespan.shutdown.complete"},
        ]
    assert "is answered in its place: AssertionError(" in caplog.text
    with pytest.raises(RuntimeError, match="its own"):
        await _lifespan(fails)


async def test_a_failed_startup_is_not_covered_up() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        raise RuntimeError("no database")

    with pytest.raises(RuntimeError, match="no database"):
        await _lifespan(app)


async def _lifespan(app: Any) -> list[Any]:
    asked = iter(["lifespan.startup", "lifespan.shutdown"])
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": next(asked)}

    async def send(message: Any) -> None:
        sent.append(message)

    await PostResponseMiddleware(app)({"type": "lifespan"}, receive, send)
    return sent


# -- what leaves, and when --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parts", [(), (b"one",), (b"one", b"two", b"three")])
@pytest.mark.parametrize(
    ("commit", "order"),
    [
        ("head", ["begin", "commit", "close", "start", "body"]),
        ("buffered", ["begin", "commit", "close", "start", "body"]),
        ("after_send", ["begin", "start", "body", "commit", "close"]),
    ],
)
async def test_the_commit_is_where_the_policy_says(commit: str, order: list[str], parts: Any) -> None:
    site = Site(answer(*parts), commit)

    class Server(StrictASGIServer):
        async def send(self, message: Any) -> None:
            await super().send(message)
            site.units.log.append(message["type"].removeprefix("http.response."))

    server = await site.get(server=Server())
    log = site.units.log
    assert list(dict.fromkeys(log)) == order
    assert server.body == b"".join(parts)
    assert (site.outcome.ending, site.outcome.unit_of_work) == ("handed_over", "committed")
    assert site.outcome.bytes_sent == len(b"".join(parts))


async def test_in_head_mode_a_stream_flows_as_it_is_produced() -> None:
    seen: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": START, "status": 200})
        for _ in range(3):
            await send({"type": BODY, "body": b"x", "more_body": True})
            seen.append(len(server.messages))
        await send({"type": BODY})

    server = StrictASGIServer()
    await Site(app).get(server=server)
    assert seen == [2, 3, 4]


@pytest.mark.parametrize("quick", [False, True])
async def test_a_held_response_gets_a_content_length_and_others_none(quick: bool) -> None:
    assert (await Site(answer(b"ab", b"c"), "buffered", quick=quick).get()).declared == 3
    assert (await Site(answer(b"ab", b"c"), "head").get()).declared is None
    assert (await Site(answer(b"ab", headers=[(b"content-length", b"2")]), "buffered", quick=quick).get()).declared == 2
    assert (await Site(answer(status=204), "buffered", quick=quick).get()).declared is None
    assert (await Site(answer(), "buffered", quick=quick).get(method="HEAD")).declared is None
    chunked = await Site(answer(b"ab", headers=[(b"transfer-encoding", b"chunked")]), "buffered", quick=quick).get()
    assert chunked.declared is None
    as_long = await Site(answer(b"ab", headers=[(b"x-of-17-character", b"1")]), "buffered", quick=quick).get()
    assert as_long.declared == 2


@pytest.mark.parametrize("status", ["200", None, 99, 1000, True, 200.0])
@pytest.mark.parametrize("commit", ["head", "buffered"])
async def test_a_status_that_no_server_can_send_is_refused_before_the_commit(commit: str, status: Any) -> None:
    site = Site(answer(b"ok", status=status), commit)
    with pytest.raises(MessageOrderError, match=f"expected a status code, found {status!r}"):
        await site.get()
    assert site.units.log == ["begin", "rollback", "close"]


@pytest.mark.parametrize("status", [100, 999])
async def test_a_status_that_a_server_may_know_passes(status: int) -> None:
    server = await Site(answer(b"", status=status)).get(server=Forgiving())
    assert server.messages[0]["status"] == status


@pytest.mark.parametrize("commit", ["head", "buffered"])
@pytest.mark.parametrize("kind", [iter, tuple, lambda pairs: dict(pairs).items()], ids=["iterator", "tuple", "view"])
async def test_headers_may_be_any_iterable_and_are_read_once(commit: str, kind: Any) -> None:
    pairs = [(b"x-one", b"1"), (b"x-two", b"2")]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": START, "status": 200, "headers": kind(pairs)})
        await send({"type": BODY, "body": b"ok"})

    server = await Site(app, commit).get()
    assert [pair for pair in server.headers if pair[0] != b"content-length"] == pairs


@pytest.mark.parametrize("kind", [list, tuple])
async def test_a_header_that_forges_another_is_refused_whatever_it_is_given_as(kind: Any) -> None:
    site = Site(answer(b"ok", headers=[kind((b"x-one", b"1\r\nset-cookie: a"))]))
    with pytest.raises(InvalidHeader):
        await site.get()
    assert site.units.log == ["begin", "rollback", "close"]


@pytest.mark.parametrize(
    ("status", "header", "ending"),
    [
        (304, (b"content-length", b"5"), "handed_over"),
        (204, (b"content-length", b"5"), "handed_over"),
        (200, (b"x-count", b"5"), "handed_over"),
        (200, (b"accept-charset", b"utf-8"), "handed_over"),
        (200, (b"Content-Length", b"5"), "incomplete"),
    ],
)
async def test_what_has_no_body_misses_no_byte_of_it(status: int, header: Any, ending: str) -> None:
    site = Site(answer(b"", status=status, headers=[header]), observe=True)
    await Forgiving().run(site.app)
    assert site.outcome.ending == ending


async def test_what_holds_more_than_bytes_gets_no_content_length() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": START, "status": 200})
        if "pathsend" in scope["extensions"]:
            await send({"type": "http.response.pathsend", "path": "/srv/file"})
            return
        with tempfile.TemporaryFile() as file:
            await send({"type": "http.response.zerocopysend", "file": file, "more_body": True})
        await send({"type": BODY, "body": b"x"})

    server = ZeroCopyServer()
    assert (await Site(app, "buffered").get(server=server)).declared is None
    assert len(server.read) == 1
    server = ZeroCopyServer()
    server.scope["extensions"] = {"pathsend": {}, "http.response.pathsend": {}}
    assert (await Site(app, "buffered").get(server=server)).declared is None
    assert server.path == "/srv/file"


@pytest.mark.parametrize("commit", ["head", "buffered"])
async def test_nothing_is_left_of_a_response_whose_commit_failed(commit: str, caplog: pytest.LogCaptureFixture) -> None:
    headers = [(b"set-cookie", b"a=b"), (b"etag", b'"1"'), (b"location", b"/orders/1"), (b"content-encoding", b"gzip")]
    site = Site(answer(b"secret", b"more", status=201, headers=headers), commit, {"commit": ValueError("the reason")})
    server = await site.get()
    assert kinds(server) == ["start", "body"]
    assert server.status == 500
    assert dict(server.headers)[b"content-type"] == b"application/problem+json"
    assert {name for name, _ in server.headers} == {b"content-type", b"cache-control", b"content-length"}
    assert server.declared == len(server.body)
    assert b"secret" not in server.body
    assert b"reason" not in server.body
    assert site.units.log == ["begin", "commit!", "rollback", "close"]
    assert (site.outcome.unit_of_work, site.outcome.status) == ("failed", 500)
    assert isinstance(site.outcome.exception, ValueError)
    (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert record.exc_info is not None
    assert "GET /orders" in record.getMessage()


async def test_after_send_a_failed_commit_is_told_to_us_only(caplog: pytest.LogCaptureFixture) -> None:
    failures: list[Failure] = []
    site = Site(answer(b"ok"), "after_send", {"commit": ValueError("late")}, on_commit_failed=failures.append)
    server = await site.get()
    assert (server.status, server.body) == (200, b"ok")
    assert site.outcome.unit_of_work is UnitState.FAILED
    assert [str(failure.exception) for failure in failures] == ["late"]
    assert "could not commit" in caplog.text


async def test_a_client_that_prefers_html_gets_html() -> None:
    site = Site(answer(b"ok"), fails={"commit": ValueError()})
    server = await site.get(headers=[(b"accept", b"text/html,application/xhtml+xml,*/*;q=0.8")])
    assert dict(server.headers)[b"content-type"] == b"text/html; charset=utf-8"
    assert server.body.startswith(b"<!doctype html>")


async def test_a_head_request_gets_the_head_of_the_error_only() -> None:
    server = await Site(answer(), fails={"commit": ValueError()}).get(method="HEAD")
    assert (server.status, server.body) == (500, b"")
    assert server.declared
    assert server.declared > 0


async def test_a_stream_that_was_replaced_is_stopped(caplog: pytest.LogCaptureFixture) -> None:
    produced = 0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal produced
        await send({"type": START, "status": 200})
        while True:
            produced += 1
            await send({"type": BODY, "body": b"tick", "more_body": True})

    site = Site(app, fails={"commit": ValueError()})
    assert (await site.get()).status == 500
    assert produced == 2
    assert "raised after its response was replaced" not in caplog.text


async def test_nothing_that_the_application_says_gets_between_the_parts_of_the_error_response() -> None:
    replacing, said = anyio.Event(), anyio.Event()

    async def error_response(failure: Failure) -> None:
        replacing.set()
        await said.wait()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(answer(b"secret"), scope, receive, send)
            await replacing.wait()
            await send({"type": "http.response.push", "path": "/style.css"})
            said.set()

    site = Site(app, fails={"commit": ValueError()}, error_response=error_response)
    assert kinds(await site.get(extensions=["http.response.push"])) == ["start", "body"]


async def test_what_the_application_raises_behind_a_replaced_response_is_logged_only(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await answer(b"ok")(scope, receive, send)
        raise KeyError("later")

    site = Site(app, fails={"commit": ValueError("first")})
    assert (await site.get()).status == 500
    assert "raised after its response was replaced" in caplog.text
    assert str(site.outcome.exception) == "first"


# -- held bodies ------------------------------------------------------------------------------------------------------


async def test_the_last_bytes_that_are_held_leave_with_the_end() -> None:
    server = await Site(answer(b"a", b"b", b""), "buffered").get()
    assert server.messages[1:] == [
        {"type": BODY, "body": b"a", "more_body": True},
        {"type": BODY, "body": b"b", "more_body": False},
    ]


@pytest.mark.parametrize(
    ("max_memory", "cached", "on_the_loop"),
    [(1, False, False), (1, True, True), (1 << 30, False, True)],
    ids=["file", "cached file", "memory"],
)
async def test_what_has_to_be_waited_for_is_read_on_threads_and_only_a_little_ahead(
    max_memory: int, cached: bool, on_the_loop: bool
) -> None:
    readers: list[int] = []

    class Held(HeldBody):
        def take(self) -> Iterator[Any]:
            for item in super().take():
                readers.append(threading.get_ident())
                yield item

        def _read_cached(self, size: int) -> bytes | None:
            return os.pread(self._file.fileno(), min(size, 128 * 1024), self._at) if cached else None

    held = Held(max_memory)
    for number in range(20):
        if held.append(bytes([number]) * 128 * 1024):
            held.spill()
    async with aclosing(items_of(held)) as items:
        assert (await anext(items))[:1] == b"\0"
        assert len(readers) <= PIECES
        assert [reader == threading.get_ident() for reader in readers] == [on_the_loop] * len(readers)
        assert b"".join([item[:1] async for item in items]) == bytes(range(1, 20))


async def test_a_file_of_which_the_page_cache_has_a_part_is_read_on_the_loop_as_far_as_it_has() -> None:
    readers: list[tuple[int, bool]] = []

    class Held(HeldBody):
        def take(self) -> Iterator[Any]:
            for item in super().take():
                readers.append((item[0], threading.get_ident() == loop))
                yield item

        def _read_cached(self, size: int) -> bytes | None:
            number = self._at // len(part)
            return bytes([number]) * len(part) if number in (0, 1, 10, 11) else None

    loop, part, held = threading.get_ident(), b"x" * 128 * 1024, Held(1)
    for number in range(16):
        held.append(bytes([number]) * len(part))
    held.spill()
    async with aclosing(items_of(held)) as items:
        assert [item[0] async for item in items] == list(range(16))
    on_loop = {number for number, here in readers if here}
    assert on_loop == {0, 1, 10, 11}  # and 2 to 9 at a time
    assert len(readers) == 16


async def test_a_large_body_is_held_in_a_file_and_arrives_whole() -> None:
    parts = [bytes([65 + n]) * 1000 for n in range(20)]
    server = await Site(answer(*parts), CommitPolicy("buffered", max_memory=3000)).get()
    assert server.body == b"".join(parts)
    assert server.declared == 20_000


async def test_a_body_over_the_limit_is_an_error() -> None:
    errors: list[Failure] = []
    policy = CommitPolicy("buffered", max_body=10)
    site = Site(answer(b"12345678", b"9abc", b"d"), policy, on_error=errors.append)
    server = await site.get()
    assert server.status == 500
    assert site.units.log == ["begin", "rollback", "close"]
    assert site.outcome.unit_of_work is UnitState.ROLLED_BACK
    assert "max_body=10" in str(errors[0].exception)


async def test_or_commits_and_streams_from_there_on() -> None:
    policy = CommitPolicy("buffered", max_body=10, on_overflow="head")
    site = Site(answer(b"12345678", b"9abc", b"d", b"e"), policy)
    server = await site.get()
    assert server.body == b"123456789abcde"
    assert server.declared is None
    assert site.outcome.unit_of_work is UnitState.COMMITTED
    assert site.outcome.bytes_sent == 14


async def test_a_reused_buffer_of_the_application_is_copied() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": START, "status": 200})
        buffer = bytearray(b"first")
        await send({"type": BODY, "body": buffer, "more_body": True})
        buffer[:] = b"again"
        await send({"type": BODY, "body": bytes(buffer)})

    assert (await Site(app, "buffered").get()).body == b"firstagain"


@pytest.mark.parametrize(
    "headers",
    [[(b"content-type", b"text/event-stream; charset=utf-8")], [(b"content-type", b"multipart/x-mixed-replace")]],
)
async def test_what_never_ends_is_not_held(
    headers: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("postresponse.core.log._told", set())
    caplog.set_level(logging.INFO, "postresponse")
    seen: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scope["path"] = f"/{headers[0][1].decode()}"
        await send({"type": START, "status": 200, "headers": headers})
        await send({"type": BODY, "body": b"x", "more_body": True})
        seen.append(len(server.messages))
        await send({"type": BODY})

    for _ in range(2):
        server = StrictASGIServer()
        site = Site(app, "buffered")
        await site.get(server=server)
    assert seen == [2, 2]
    assert caplog.text.count("commits at the head and not buffered") == 1


async def test_the_head_of_events_leaves_before_the_first_of_them() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": START, "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        assert kinds(server) == ["start"]
        assert current_exchange().unit_of_work is UnitState.COMMITTED
        await send({"type": BODY, "body": b"data: 1\n\n"})

    for commit in ("head", "buffered"):
        server = StrictASGIServer()
        await Site(app, commit).get(server=server)
    server = StrictASGIServer()
    assert (
        await Site(answer(b"", headers=[(b"content-type", b"text/event-stream")]), fails={"commit": ValueError()}).get()
    ).status == 500


async def test_stream_if_decides_by_status_and_headers() -> None:
    policy = CommitPolicy("buffered", stream_if=lambda head: head.get("X-Stream") == "yes" and head.status == 200)
    assert (await Site(answer(b"a", b"b", headers=[(b"x-stream", b"yes")]), policy).get()).declared is None
    assert (await Site(answer(b"a", b"b"), policy).get()).declared == 2


# -- 13: what ends a response -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("last", [{"body": b"x"}, {}], ids=["with a body", "without"])
@pytest.mark.parametrize("hooked", [False, True])
@pytest.mark.parametrize("commit", MODES)
async def test_trailers_end_a_response_that_announced_them(commit: str, hooked: bool, last: dict[str, bytes]) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if hooked:
            current_exchange().on_start(lambda exchange: None)
        await send({"type": START, "status": 200, "trailers": True})
        await send({"type": BODY, **last})
        assert current_exchange().state != "sent"
        await send({"type": "http.response.trailers", "headers": [], "more_trailers": True})
        assert current_exchange().state != "sent"
        await send({"type": "http.response.trailers", "headers": []})
        assert current_exchange().state == "sent"

    site = Site(app, commit)
    assert list(dict.fromkeys(kinds(await site.get()))) == ["start", "body", "trailers"]
    assert site.outcome.ending is Ending.HANDED_OVER


@pytest.mark.parametrize("commit", MODES)
async def test_a_path_to_send_ends_a_response_and_is_held_as_a_message(commit: str) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": START, "status": 200, "headers": [(b"content-length", b"9")]})
        await send({"type": "http.response.pathsend", "path": "/srv/file"})

    site = Site(app, commit)
    server = await site.get(extensions=["http.response.pathsend"])
    assert server.path == "/srv/file"
    assert (site.outcome.ending, site.outcome.bytes_sent) == ("handed_over", None)


class ZeroCopyServer(StrictASGIServer):
    """Reads what it is told to send from a descriptor."""

    def __init__(self) -> None:
        super().__init__()
        self.read: list[bytes] = []

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.zerocopysend":
            file = message["file"]
            self.read.append(os.pread(file if isinstance(file, int) else file.fileno(), 100, 0))
            message = {"type": BODY, "more_body": message.get("more_body", False)}
        await super().send(message)


@pytest.mark.parametrize("as_number", [False, True])
@pytest.mark.parametrize("commit", MODES)
async def test_a_descriptor_to_send_may_be_closed_by_the_application_meanwhile(commit: str, as_number: bool) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": START, "status": 200})
        with tempfile.TemporaryFile() as file:
            file.write(b"contents")
            file.flush()
            given = file.fileno() if as_number else file
            await send({"type": "http.response.zerocopysend", "file": given, "offset": 0, "more_body": True})
        assert current_exchange().state == ("decided" if commit == "buffered" else "sending")
        with tempfile.TemporaryFile() as file:
            await send({"type": "http.response.zerocopysend", "file": file})
        assert current_exchange().state == "sent"

    site, server = Site(app, commit), ZeroCopyServer()
    await site.get(server=server)
    assert server.read == [b"contents", b""]
    assert (site.outcome.ending, site.outcome.bytes_sent) == ("handed_over", None)


@pytest.mark.parametrize("commit", MODES)
async def test_trailers_end_a_response_that_is_sent_from_a_descriptor(commit: str) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": START, "status": 200, "trailers": True})
        with tempfile.TemporaryFile() as file:
            await send({"type": "http.response.zerocopysend", "file": file})
        assert current_exchange().state != "sent"
        await send({"type": "http.response.trailers", "headers": []})

    site, server = Site(app, commit), ZeroCopyServer()
    await site.get(server=server)
    assert kinds(server) == ["start", "body", "trailers"]
    assert site.outcome.ending is Ending.HANDED_OVER


# -- 14, 15: seeing the client leave ----------------------------------------------------------------------------------


@pytest.mark.parametrize("commit", [*MODES, "observe"])
@pytest.mark.parametrize("reads", [False, True])
async def test_a_client_that_leaves_mid_stream_is_aborted(commit: str, reads: bool) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if reads:
            assert (await receive())["type"] == "http.request"
        await send({"type": START, "status": 200})
        for _ in range(4):
            await send({"type": BODY, "body": b"x", "more_body": True})
        await send({"type": BODY, "body": b"x"})

    site = Site(app, commit, observe=commit == "observe")
    await site.get(leaves_at=3, body=(b"a",))
    assert site.outcome.ending is Ending.ABORTED
    assert site.outcome.unit_of_work == ("none" if commit == "observe" else "committed")


async def test_a_disconnect_after_the_last_send_began_means_nothing() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert (await receive())["type"] == "http.request"
        await answer(b"a", b"b")(scope, receive, send)
        assert (await receive())["type"] == "http.disconnect"
        assert (await receive())["type"] == "http.disconnect"

    site = Site(app)
    await site.get()
    assert site.outcome.ending is Ending.HANDED_OVER


async def test_the_application_hears_of_it_once_the_last_send_has_returned() -> None:
    class Server(StrictASGIServer):
        async def send(self, message: Any) -> None:
            if message.get("body") == b"last":
                self.leave()
                for _ in range(5):
                    await checkpoint()
                self.left = False
            await super().send(message)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()

        async def listen() -> None:  # as Starlette does
            await receive()
            tasks.cancel_scope.cancel()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listen)
            await answer(b"a", b"last")(scope, receive, send)

    site = Site(app)
    await site.get(server=Server())
    assert site.outcome.ending is Ending.HANDED_OVER


async def test_what_is_read_besides_reaches_the_application() -> None:
    got: list[bytes] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": START, "status": 200})
        await send({"type": BODY, "body": b"early", "more_body": True})
        for _ in range(6):
            await checkpoint()
        more = True
        while more:
            message = await receive()
            got.append(message["body"])
            more = message["more_body"]
        await send({"type": BODY})

    await Site(app).get(method="POST", body=(b"1", b"2", b"3"))
    assert got == [b"1", b"2", b"3"]


async def test_a_client_that_leaves_with_all_of_content_length_has_not_aborted_it() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": START, "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": BODY, "body": b"ab", "more_body": True})
        server.leave()
        for _ in range(4):
            await checkpoint()
        await send({"type": BODY})

    site, server = Site(app), StrictASGIServer()
    await site.get(server=server)
    assert site.outcome.ending is Ending.HANDED_OVER


async def test_who_asks_in_the_middle_of_a_stream_is_told_that_the_client_left() -> None:
    outcomes: list[Outcome] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": START, "status": 200})
        await send({"type": BODY, "body": b"a", "more_body": True})
        current_exchange().on_finished(outcomes.append)
        server.leave()
        for _ in range(4):
            await checkpoint()
        await send({"type": BODY})

    server = StrictASGIServer()
    await server.run(PostResponseMiddleware(app))
    assert [outcome.ending for outcome in outcomes] == [Ending.ABORTED]


async def test_a_head_request_is_never_aborted_by_its_disconnect() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await receive()
        await answer()(scope, receive, send)

    site, server = Site(app), StrictASGIServer("HEAD")
    original = server.receive

    async def receive() -> Any:  # granian tells of a disconnect as soon as it knows that no body is needed
        return await original() if server._requests else {"type": "http.disconnect"}

    server.receive = receive  # type: ignore[method-assign]
    await site.get(server=server)
    assert site.outcome.ending is Ending.HANDED_OVER


async def test_a_client_that_waits_for_100_continue_is_not_told_to_go_on_by_us() -> None:
    server = StrictASGIServer("POST", headers=[(b"expect", b"100-continue")], body=(b"never read",))
    await Site(answer(b"a", b"b")).get(server=server)
    assert server._requests == [b"never read"]


@pytest.mark.parametrize(("on_disconnect", "verdict"), [("commit", "committed"), ("rollback", "rolled_back")])
async def test_a_client_that_left_before_the_head_decides_only_where_the_policy_says_so(
    on_disconnect: Any, verdict: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("postresponse.asgi.exchange.QUICK", 0)
    monkeypatch.setattr("postresponse.asgi.delivery.BRIEF", 0)
    server = StrictASGIServer()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        server.leave()
        for _ in range(4):
            await checkpoint()
        await answer(b"a", b"b")(scope, receive, send)

    site = Site(app, CommitPolicy(on_disconnect=on_disconnect))
    await site.get(server=server)
    assert (site.outcome.ending, site.outcome.unit_of_work) == ("aborted", verdict)


@pytest.mark.parametrize("headers", [(), [(b"expect", b"100-continue")]], ids=["watched", "not watched"])
async def test_who_waits_for_the_disconnect_hears_it_and_a_policy_that_rolls_back_does(headers: Any) -> None:
    server = StrictASGIServer(headers=headers)
    heard: list[Any] = []

    async def listen(receive: Any) -> None:
        while not heard or heard[-1]["type"] != "http.disconnect":
            heard.append(await receive())

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listen, receive)
            for _ in range(4):
                await checkpoint()
            server.leave()
        await answer(b"a", b"b")(scope, receive, send)

    site = Site(app, CommitPolicy(on_disconnect="rollback"))
    await site.get(server=server)
    assert [message["type"] for message in heard] == ["http.request", "http.disconnect"]
    assert (site.outcome.ending, site.outcome.unit_of_work) == ("aborted", "rolled_back")
    assert site.units.log == ["begin", "rollback", "close"]


@pytest.mark.parametrize("observe", [False, True])
@pytest.mark.parametrize("hooked", [False, True])
async def test_a_slow_one_message_response_is_watched_as_well(
    observe: bool, hooked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("postresponse.asgi.exchange.QUICK", 0)
    monkeypatch.setattr("postresponse.asgi.delivery.BRIEF", 0)
    server = StrictASGIServer()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if hooked:
            current_exchange().on_start(lambda exchange: None)
        server.leave()
        await answer(b"all")(scope, receive, send)

    site = Site(app, observe=observe)
    await site.get(server=server)
    assert site.outcome.ending is Ending.ABORTED


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_of_a_replaced_response_the_outcome_tells_what_left_instead(method: str, quick: bool) -> None:
    site = Site(answer(b"a", b"bc"), fails={"commit": ValueError()}, quick=quick)
    server = await site.get(method=method)
    outcome = site.outcome
    assert (server.status, outcome.status, outcome.ending) == (500, 500, Ending.HANDED_OVER)
    assert outcome.bytes_sent == len(server.body) == (0 if method == "HEAD" else server.declared)
    assert outcome.moments.settled is not None
    assert outcome.moments.head_sent is not None
    assert outcome.moments.settled <= outcome.moments.head_sent


# -- what a client that left is known by -----------------------------------------------------------------------------


EXPECTS: Final = (b"expect", b"100-continue")  # whose body nobody asks for but the application: so nobody watches


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("parts", [(b"a", b"bc", b"d"), (b"a", b"bc", b"")], ids=["", "an empty end"])
@pytest.mark.parametrize("commit", MODES)
async def test_where_nobody_watches_the_bytes_are_counted_as_well(
    commit: str, parts: tuple[bytes, ...], quick: bool
) -> None:
    site = Site(answer(*parts), commit, quick=quick)
    await site.get(headers=[EXPECTS])
    assert (site.outcome.ending, site.outcome.bytes_sent) == ("handed_over", len(b"".join(parts)))


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("headers", [[], [EXPECTS]], ids=["watched", "not watched"])
@pytest.mark.parametrize("leaves_at", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("swallows", [False, True])
@pytest.mark.parametrize("commit", [*MODES, "observe"])
async def test_a_send_that_fails_says_that_the_client_left(
    commit: str, swallows: bool, leaves_at: int, headers: Any, quick: bool
) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        with suppress(OSError) if swallows else nullcontext():
            await answer(b"a", b"b", b"c", b"d")(scope, receive, send)

    site = Site(app, commit, observe=commit == "observe", quick=quick)
    with suppress(ConnectionLost):
        await StrictASGIServer(headers=headers, leaves_at=leaves_at, tells=True).run(site.app)
    # The parts of a stream are handed on without a look at what becomes of them: then an end is all that is missing.
    unseen = [Ending.INCOMPLETE] if swallows and commit != "buffered" else []
    assert site.outcome.ending in [Ending.ABORTED, *unseen]


@pytest.mark.parametrize("is_function", [True, False])
async def test_an_error_of_the_application_that_is_an_oserror_says_nothing_of_the_client(is_function: bool) -> None:
    class Sender:
        """What a server written in another language may give."""

        async def __call__(self, message: Any) -> None:
            await StrictASGIServer.send(server, message)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": START, "status": 200})
        for part in (b"a", b"b", b"c"):
            await send({"type": BODY, "body": part, "more_body": True})
        open("/nowhere/at/all")  # noqa: ASYNC230, SIM115

    site, server = Site(app, observe=True), StrictASGIServer()
    if not is_function:
        server.send = Sender()  # type: ignore[method-assign]
    with pytest.raises(FileNotFoundError):
        await server.run(site.app)
    assert site.outcome.ending is Ending.FAILED


@pytest.mark.parametrize("cause", [True, False])
async def test_a_failed_send_is_found_behind_the_error_that_the_application_made_of_it(cause: bool) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            await answer(b"a", b"b", b"c", b"d")(scope, receive, send)
        except OSError as error:
            if cause:
                raise RuntimeError("gone") from error
            raise RuntimeError("gone")  # noqa: B904

    site = Site(app, observe=True)
    with pytest.raises(RuntimeError):
        await StrictASGIServer(headers=[EXPECTS], leaves_at=3, tells=True).run(site.app)
    assert site.outcome.ending is Ending.ABORTED


@pytest.mark.parametrize(("last", "ending"), [(b"3", "aborted"), (b"", "handed_over")])
async def test_a_client_that_leaves_with_the_last_declared_byte_is_seen_and_one_that_has_all_is_not(
    last: bytes, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("postresponse.asgi.delivery.BRIEF", 0)

    class Server(StrictASGIServer):
        async def send(self, message: Any) -> None:
            await super().send(message)
            if message["type"] == BODY and message["body"] == last:
                self.leave()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": START, "status": 200, "headers": [(b"content-length", b"3")]})
        for part in (b"1", b"2", b"3", b""):
            await send({"type": BODY, "body": part, "more_body": True})
        for _ in range(4):
            await checkpoint()
        await send({"type": BODY, "body": b""})

    site = Site(app, observe=True)
    await site.get(server=Server())
    assert site.outcome.ending == ending


async def test_a_request_that_says_nothing_of_more_is_over_and_what_follows_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("postresponse.asgi.delivery.BRIEF", 0)

    class Server(StrictASGIServer):
        async def receive(self) -> Any:
            message = await super().receive()
            message.pop("more_body", None)
            return message

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": START, "status": 200})
        await send({"type": BODY, "body": b"a", "more_body": True})
        server.leave()
        await anyio.wait_all_tasks_blocked()
        await send({"type": BODY, "body": b"b"})

    site, server = Site(app, observe=True), Server()
    await site.get(server=server)
    assert site.outcome.ending is Ending.ABORTED


async def test_a_server_that_cannot_be_read_any_more_is_not_asked_again() -> None:
    asked: list[int] = []

    class Server(StrictASGIServer):
        async def receive(self) -> Any:
            await checkpoint()
            asked.append(len(asked))
            if len(asked) == 1:
                return {"type": "http.request", "body": b"all of it"}
            raise OSError("the connection is gone")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": START, "status": 200})
        await send({"type": BODY, "body": b"a", "more_body": True})
        for _ in range(10):
            await checkpoint()
        assert (await receive())["body"] == b"all of it"
        with pytest.raises(OSError, match="gone"):
            await receive()
        await send({"type": BODY, "body": b"b"})

    await Site(app, observe=True).get(server=Server())
    assert len(asked) == 2


async def test_a_commit_does_not_wait_for_a_thread_that_a_handler_has() -> None:
    """Handlers that wait for a connection have all the threads, and the connection is that of the commit."""
    free, limiter = threading.Event(), anyio.to_thread.current_default_thread_limiter()

    async def handle() -> None:
        await anyio.to_thread.run_sync(free.wait)

    async with anyio.create_task_group() as tasks:
        for _ in range(int(limiter.total_tokens)):
            tasks.start_soon(handle)
        while limiter.available_tokens:
            await checkpoint()
        with anyio.fail_after(10):
            await on_thread(free.set)


async def test_a_disconnect_is_told_again_and_the_server_asked_once() -> None:
    asked: list[int] = []

    class Server(StrictASGIServer):
        async def receive(self) -> Any:
            asked.append(len(asked))
            return await super().receive()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert (await receive())["body"] == b"first"
        server.leave()
        for _ in range(3):
            assert (await receive())["type"] == "http.disconnect"
        await answer(b"ok")(scope, receive, send)

    server = Server(body=(b"first", b"second"))
    site = Site(app, CommitPolicy(on_disconnect="rollback"))
    await site.get(server=server)
    assert len(asked) == 2
    assert site.units.log == ["begin", "rollback", "close"]


@pytest.mark.parametrize("make", [partial(FakeUnits, is_async=True), QuickUnits], ids=["waits", "quick"])
@pytest.mark.parametrize("commit", ["head", "buffered"])
async def test_where_it_decides_the_loop_gets_its_turns_however_quick_the_response_is(commit: Any, make: Any) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await checkpoint()  # the watch begins to wait
        await checkpoint()
        server.leave()
        await answer(b"ok")(scope, receive, send)

    server, policy = StrictASGIServer(), CommitPolicy(commit, on_disconnect="rollback")
    units = make()
    await server.run(PostResponseMiddleware(app, unit_of_work=units, commit=policy))
    assert units.log == ["begin", "rollback", "close"]


@pytest.mark.parametrize("make", [partial(FakeUnits, is_async=True), QuickUnits], ids=["waits", "quick"])
@pytest.mark.parametrize("commit", ["head", "buffered"])
async def test_and_where_the_application_waits_for_the_disconnect_itself(commit: Any, make: Any) -> None:
    async def listen(receive: Any) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listen, receive)
            for _ in range(4):
                await checkpoint()
            server.leave()
            await answer(b"ok")(scope, receive, send)

    server, policy = StrictASGIServer(headers=[EXPECTS]), CommitPolicy(commit, on_disconnect="rollback")
    units = make()
    await server.run(PostResponseMiddleware(app, unit_of_work=units, commit=policy))
    assert units.log == ["begin", "rollback", "close"]


async def test_a_slow_response_is_watched_from_its_beginning() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await anyio.sleep(0.02)
        server.leave()
        await answer(b"ok")(scope, receive, send)

    site, server = Site(app, observe=True), StrictASGIServer()
    await site.get(server=server)
    assert site.outcome.ending is Ending.ABORTED


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("parts", [(b"all",), (b"a", b"b"), (b"x" * 70_000,)], ids=["one", "two", "large"])
@pytest.mark.parametrize("commit", [*MODES, "observe"])
async def test_when_the_end_was_taken_is_told_and_not_when_the_work_behind_it_ended(
    commit: str, parts: tuple[bytes, ...], quick: bool
) -> None:
    behind: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await answer(*parts)(scope, receive, send)
        behind.append(time.monotonic_ns())

    site = Site(app, commit, observe=commit == "observe", quick=quick)
    await site.get()
    moments = site.outcome.moments
    assert moments.head_sent is not None
    assert moments.body_sent is not None
    assert moments.began <= moments.head_sent <= moments.body_sent <= behind[0] <= moments.ended


@pytest.mark.parametrize("commit", ["head", "buffered"])
@pytest.mark.parametrize("leaves_at", [1, 2, 3])
async def test_a_failed_send_tells_where_the_server_says_nothing_else(commit: str, leaves_at: int) -> None:
    class Server(StrictASGIServer):
        async def receive(self) -> Any:
            message = await super().receive()
            if message["type"] == "http.disconnect":
                await anyio.sleep_forever()
            return message

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": START, "status": 200})
        for part in (b"a", b"b"):
            await send({"type": BODY, "body": part, "more_body": True})
        with suppress(OSError):
            await send({"type": BODY, "body": b"c"})

    site = Site(app, commit)
    with suppress(ConnectionLost):
        await Server(leaves_at=leaves_at, tells=True).run(site.app)
    assert site.outcome.ending is Ending.ABORTED


async def test_a_request_without_headers_gets_the_default_error_response() -> None:
    server = StrictASGIServer()
    del server.scope["headers"]
    site = Site(answer(b"ok"), fails={"commit": ValueError()})
    await site.app(dict(server.scope), server.receive, server.send)
    assert (server.status, server.broken) == (500, [])
    assert (b"content-type", b"application/problem+json") in server.headers


async def test_a_clean_up_that_hangs_on_a_thread_is_cut_off() -> None:
    severed = threading.Event()

    class Unit(FakeUnit):
        def rollback(self) -> None:
            super().rollback()
            assert severed.wait(10)

        def sever(self) -> None:
            severed.set()

    app = PostResponseMiddleware(
        answer(b"ok", status=404), unit_of_work=lambda exchange: Unit({}), cleanup_timeout=0.05
    )
    assert (await StrictASGIServer().run(app)).body == b"ok"
    assert severed.is_set()


@pytest.mark.parametrize("anyio_backend", ["asyncio", ("trio", {"clock": MockClock(autojump_threshold=0)})])
async def test_an_async_clean_up_that_hangs_is_cancelled() -> None:
    log: list[str] = []

    class Unit(QuickUnit):
        async def rollback(self) -> None:  # type: ignore[override]
            await checkpoint()
            try:
                await anyio.sleep_forever()
            finally:
                log.append("cancelled")

        async def invalidate(self) -> None:  # type: ignore[override]
            log.append("given up")

    app = PostResponseMiddleware(
        answer(b"ok", status=404), unit_of_work=lambda exchange: Unit({}), cleanup_timeout=0.05
    )
    assert (await StrictASGIServer().run(app)).body == b"ok"
    assert log == ["cancelled", "given up"]


async def test_two_that_wait_for_the_disconnect_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("postresponse.asgi.delivery.BRIEF", 0)
    asked: list[int] = []
    served = anyio.Event()

    class Server(StrictASGIServer):
        async def receive(self) -> Any:
            asked.append(len(asked))
            if len(asked) == 1:
                await checkpoint()
                await checkpoint()
                return {"type": "http.request"}
            await served.wait()
            return {"type": "http.disconnect"}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(receive)
            tasks.start_soon(receive)
            for _ in range(4):
                await checkpoint()
            await answer(b"a", b"b", b"c")(scope, receive, send)
            served.set()

    site = Site(app, observe=True)
    await site.get(server=Server())
    assert len(asked) == 2


@pytest.mark.parametrize("anyio_backend", [("trio", {"clock": MockClock(autojump_threshold=0)})], ids=["trio"])
async def test_a_disconnect_is_told_to_the_application_a_second_later_if_the_last_send_still_runs() -> None:
    told: list[float] = []

    class Server(StrictASGIServer):
        async def send(self, message: Any) -> None:
            if message.get("body") == b"last":
                self.leave()
                await anyio.sleep(60)
            await super().send(message)

    async def listen(receive: Any) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        told.append(anyio.current_time() - began)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listen, receive)
            await checkpoint()
            await answer(b"last")(scope, receive, send)

    began = anyio.current_time()
    server = Server()
    await Site(app, observe=True).app(dict(server.scope), server.receive, server.send)
    assert told == [pytest.approx(1.0)]


# -- 16: a large last message -----------------------------------------------------------------------------------------


async def test_a_large_last_message_is_handed_over_apart_from_the_end() -> None:
    server = await Site(answer(b"x" * 70_000), observe=True).get()
    assert [len(message.get("body", b"")) for message in server.messages[1:]] == [70_000, 0, 0]
    assert [message.get("more_body", False) for message in server.messages[1:]] == [True, True, False]
    assert len((await Site(answer(b"x" * 65_536), observe=True).get()).messages) == 2
    assert len((await Site(answer(b"a", b"x" * 65_536), observe=True).get()).messages) == 3


# -- 17, 18, 19: faults -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("commit", [*MODES, "observe"])
@pytest.mark.parametrize("leaves_at", [1, 2, 3])
async def test_an_oserror_from_send_is_aborted_and_passes_through(commit: str, leaves_at: int) -> None:
    site = Site(answer(b"a", b"b", b"c"), commit, observe=commit == "observe")
    server = StrictASGIServer(leaves_at=leaves_at, tells=True)
    with pytest.raises(ConnectionLost):
        await server.run(site.app)
    assert site.outcome.ending is Ending.ABORTED
    expected = {"observe": "none", "after_send": "rolled_back"}.get(commit, "committed")
    assert site.outcome.unit_of_work == expected


async def test_an_oserror_of_the_application_itself_is_failed() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": START, "status": 200})
        await send({"type": BODY, "body": b"a", "more_body": True})
        raise FileNotFoundError("its own")

    site = Site(app)
    with pytest.raises(FileNotFoundError):
        await StrictASGIServer().run(site.app)
    assert site.outcome.ending is Ending.FAILED


@pytest.mark.parametrize("commit", [*MODES, "observe"])
async def test_an_application_that_raises_after_its_head_left_is_cut_off(commit: str) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": START, "status": 200})
        await send({"type": BODY, "body": b"a", "more_body": True})
        raise KeyError("mid-body")

    site, server = Site(app, commit, observe=commit == "observe"), StrictASGIServer()
    with pytest.raises(KeyError):
        await server.run(site.app)
    assert not server.complete
    assert site.outcome.ending is Ending.FAILED
    if commit == "buffered":
        assert server.messages == []


@pytest.mark.parametrize("commit", [*MODES, "observe"])
async def test_what_is_raised_behind_a_complete_response_passes_through_and_changes_nothing(commit: str) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await answer(b"page of the 500", status=500)(scope, receive, send)
        raise KeyError("as Starlette does behind its own 500")

    site, server = Site(app, commit, observe=commit == "observe"), StrictASGIServer()
    with pytest.raises(KeyError):
        await server.run(site.app)
    assert server.complete
    assert site.outcome.ending is Ending.HANDED_OVER
    assert isinstance(site.outcome.exception, KeyError)


@pytest.mark.parametrize("commit", [*MODES, "observe"])
async def test_a_response_without_its_end_is_incomplete(commit: str) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": START, "status": 200})
        await send({"type": BODY, "body": b"half", "more_body": True})

    site = Site(app, commit, observe=commit == "observe")
    server = await site.get()
    if commit == "buffered":  # not a byte has left, so the client can still be told
        assert (server.status, site.outcome.unit_of_work) == (500, "rolled_back")
    else:
        assert site.outcome.ending is Ending.INCOMPLETE


@pytest.mark.parametrize("commit", MODES)
async def test_an_application_that_answers_nothing_rolls_back(commit: str) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None: ...

    site = Site(app, commit)
    server = await site.get()
    assert server.messages == []
    assert (site.outcome.ending, site.outcome.unit_of_work) == ("incomplete", "rolled_back")


async def test_a_head_without_a_body_is_decided_at_the_end() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": START, "status": 200})

    site = Site(app)
    server = await site.get()
    assert kinds(server) == ["start"]
    assert (site.outcome.ending, site.outcome.unit_of_work) == ("incomplete", "committed")


@pytest.mark.parametrize("error", [ValueError("hook"), SystemExit(3)])
async def test_no_hook_raises_out_of_a_complete_response(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    failures: list[Failure] = []
    ran: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        def fail(*_: object) -> None:
            raise error

        exchange = current_exchange()
        exchange.on_finished(lambda _: ran.append("finished, registered first"))
        exchange.on_finished(fail)
        exchange.after_commit(fail)
        exchange.after_commit(lambda: ran.append("committed"))
        await answer(b"ok")(scope, receive, send)

    site = Site(app, "after_send", on_error=failures.append)
    assert (await site.get()).complete
    assert ran == ["committed", "finished, registered first"]
    assert [(failure.stage, failure.exception) for failure in failures] == [
        ("after_commit", error),
        ("on_finished", error),
    ]
    assert caplog.text.count("failed") >= 2


async def test_a_failing_on_error_is_logged_too(caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        current_exchange().on_finished(lambda _: 1 / 0)
        await answer(b"ok")(scope, receive, send)

    def on_error(failure: Failure) -> None:
        raise LookupError("the pager is down")

    await Site(app, on_error=on_error).get()
    assert "ZeroDivisionError" in caplog.text
    assert "the pager is down" in caplog.text


async def test_async_hooks_are_awaited_in_order() -> None:
    order: list[str] = []

    def note(name: str) -> Callable[..., Any]:
        async def hook(*_: object) -> None:
            await checkpoint()
            order.append(name)

        return hook

    async def app(scope: Any, receive: Any, send: Any) -> None:
        exchange = current_exchange()
        for turn in ("1", "2"):
            exchange.on_start(note(f"on_start {turn}"))
            exchange.before_commit(note(f"before_commit {turn}"))
            exchange.after_commit(note(f"after_commit {turn}"))
            exchange.after_rollback(note("never"))
            exchange.on_finished(note(f"on_finished {turn}"))
        await answer(b"ok")(scope, receive, send)

    await Site(app).get()
    assert order == [
        *("on_start 2", "on_start 1", "before_commit 1", "before_commit 2"),
        *("after_commit 1", "after_commit 2", "on_finished 2", "on_finished 1"),
    ]


@pytest.mark.parametrize("commit", [*MODES, "observe"])
async def test_a_start_hook_changes_status_and_headers(commit: str) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        def change(exchange: Any) -> None:
            exchange.status = 202
            exchange.headers.append(("X-Seen", "yes"))

        current_exchange().on_start(change)
        await answer(b"ok", headers=[(b"x-app", b"1")])(scope, receive, send)

    site = Site(app, commit, observe=commit == "observe")
    server = await site.get()
    assert server.status == site.outcome.status == 202
    assert dict(server.headers)[b"x-seen"] == b"yes"
    assert dict(server.headers)[b"x-app"] == b"1"
    assert site.outcome.ending is Ending.HANDED_OVER
    moments = site.outcome.moments
    assert moments.decided is not None
    assert moments.began <= moments.decided <= moments.ended


async def test_a_head_without_headers_can_be_given_some() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        current_exchange().on_start(lambda exchange: exchange.headers.append(("x-seen", "caf\xe9")))
        await send({"type": START, "status": 200})
        await send({"type": BODY})

    assert (await Site(app).get()).headers == [(b"x-seen", b"caf\xe9")]


@pytest.mark.parametrize("commit", [*MODES, "observe"])
async def test_a_failing_start_hook_is_a_500_and_a_rollback(commit: str) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        current_exchange().on_start(lambda _: 1 / 0)
        await answer(b"secret", b"more")(scope, receive, send)

    site = Site(app, commit, observe=commit == "observe")
    server = await site.get()
    assert server.status == 500
    assert b"secret" not in server.body
    assert site.outcome.unit_of_work == ("none" if commit == "observe" else "rolled_back")


@pytest.mark.parametrize("where", ["handler", "commit", "between", "body", "after"])
@pytest.mark.parametrize("commit", MODES)
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_native_cancellation_leaves_exactly_one_verdict(commit: str, where: str) -> None:
    reached, may_go = asyncio.Event(), asyncio.Event()

    async def stop_at(place: str) -> None:
        if place == where:
            reached.set()
            await may_go.wait()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await stop_at("handler")
        await send({"type": START, "status": 200})
        await stop_at("between")
        await send({"type": BODY, "body": b"a", "more_body": True})
        await stop_at("body")
        await send({"type": BODY, "body": b"b"})
        await stop_at("after")

    site = Site(app, commit)

    class Unit(FakeUnits):
        def __call__(self, exchange: object) -> Any:
            unit = super().__call__(exchange)
            plain = unit.commit

            async def commit_slowly() -> None:
                await stop_at("commit")
                await plain()

            unit.commit = commit_slowly
            return unit

    site.units = units = Unit(is_async=True)
    site.app = PostResponseMiddleware(app, unit_of_work=units, commit=commit, on_finished=site.outcomes.append)  # type: ignore[arg-type]
    task = asyncio.create_task(StrictASGIServer().run(site.app))
    await reached.wait()
    task.cancel()
    for _ in range(3):
        await asyncio.sleep(0)
    may_go.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    ends = [call for call in units.log if call in ("commit", "rollback")]
    assert len(ends) == 1
    assert units.log[-1] == "close"
    committed = ends == ["commit"]
    assert site.outcome.unit_of_work == ("committed" if committed else "rolled_back")
    complete = where == "after" or (where == "commit" and commit == "after_send")
    assert site.outcome.ending == ("handed_over" if complete else "aborted")
    if where in ("handler", "between"):
        assert not committed
    if where in ("commit", "after"):
        assert committed


async def test_a_cancelled_scope_does_not_cut_a_commit() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        with anyio.CancelScope() as cancel:
            current_exchange().before_commit(cancel.cancel)
            await answer(b"a", b"b")(scope, receive, send)

    site = Site(app)
    await StrictASGIServer().run(site.app)
    assert site.units.log == ["begin", "commit", "close"]
    assert (site.outcome.ending, site.outcome.unit_of_work) == ("incomplete", "committed")


async def test_a_send_left_to_another_task_does_not_lose_the_transaction() -> None:
    started, may_commit = anyio.Event(), anyio.Event()

    async def hold() -> None:
        started.set()
        await may_commit.wait()

    async with anyio.create_task_group() as tasks:

        async def app(scope: Any, receive: Any, send: Any) -> None:
            current_exchange().before_commit(hold)
            tasks.start_soon(_quietly, answer(b"ok"), scope, receive, send)
            await started.wait()
            tasks.start_soon(_release)

        async def _release() -> None:
            await checkpoint()
            may_commit.set()

        site = Site(app)
        await StrictASGIServer().run(site.app)
    assert site.units.log == ["begin", "commit", "close"]
    assert site.outcome.unit_of_work is UnitState.COMMITTED


async def _quietly(app: Any, scope: Any, receive: Any, send: Any) -> None:
    try:
        await app(scope, receive, send)
    except RuntimeError:
        return


# -- 21, 22 -----------------------------------------------------------------------------------------------------------


async def test_fewer_bytes_than_content_length_are_incomplete() -> None:
    site = Site(answer(b"ab", headers=[(b"content-length", b"5")]), observe=True)
    server = StrictASGIServer()
    with pytest.raises(AssertionError, match="shorter"):
        await server.run(site.app)
    assert site.outcome.ending is Ending.FAILED

    site = Site(answer(b"ab", headers=[(b"content-length", b"5")]), observe=True)
    await Forgiving().run(site.app)
    assert (site.outcome.ending, site.outcome.bytes_sent) == ("incomplete", 2)
    site = Site(answer(headers=[(b"content-length", b"5")]), observe=True)
    await Forgiving("HEAD").run(site.app)
    assert site.outcome.ending is Ending.HANDED_OVER


class StuckServer(StrictASGIServer):
    """Sends over HTTP/2 as one server does: to a client that left it never returns."""

    def __init__(self) -> None:
        super().__init__(http_version="2")

    async def send(self, message: Any) -> None:
        if message.get("body") == b"stuck":
            self.leave()
            await anyio.sleep_forever()
        await super().send(message)


@pytest.mark.parametrize("commit", MODES)
async def test_over_http_2_a_send_that_never_returns_ends_with_the_client(commit: str) -> None:
    site = Site(answer(b"a", b"stuck", b"c"), commit)
    await site.get(server=StuckServer())
    assert site.outcome.ending is Ending.ABORTED


@pytest.mark.parametrize("anyio_backend", [("trio", {"clock": MockClock(autojump_threshold=0)})], ids=["trio"])
async def test_and_it_ends_at_once() -> None:
    began = anyio.current_time()
    await Site(answer(b"a", b"stuck", b"c")).get(server=StuckServer())
    assert anyio.current_time() == began


async def test_over_http_2_a_last_send_gets_a_little_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("postresponse.asgi.delivery.LINGER", 0.01)

    class Server(StrictASGIServer):
        async def send(self, message: Any) -> None:
            if message.get("body") == b"last":
                self.leave()
                if self.stuck:
                    await anyio.sleep_forever()
                for _ in range(5):
                    await checkpoint()
            await super().send(message)

        stuck = False

    site = Site(answer(b"a", b"last"))
    await site.get(server=Server(http_version="2"))
    assert site.outcome.ending is Ending.HANDED_OVER
    site = Site(answer(b"a", b"last"))
    server = Server(http_version="2")
    server.stuck = True
    await site.get(server=server)
    assert site.outcome.ending is Ending.ABORTED


# -- installed twice --------------------------------------------------------------------------------------------------


async def test_installed_twice_there_is_one_exchange_and_one_unit() -> None:
    inner_units = FakeUnits(is_async=True)
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.extend((scope[KEY], current_exchange()))
        await answer(b"ok")(scope, receive, send)

    site = Site(PostResponseMiddleware(app, unit_of_work=inner_units))
    await site.get()
    assert seen[0] is seen[1]
    assert inner_units.made == []
    assert site.units.log == ["begin", "commit", "close"]


@pytest.mark.parametrize("commit", MODES)
async def test_a_unit_of_work_inside_an_observing_middleware_is_not_lost(commit: Any) -> None:
    units = FakeUnits(is_async=True)
    told: list[Outcome] = []
    inner = PostResponseMiddleware(answer(b"ok"), unit_of_work=units, commit=commit, on_finished=told.append)
    site = Site(inner, observe=True)
    await site.get()
    assert units.log == ["begin", "commit", "close"]
    assert [site.outcome] == told
    refused = FakeUnits({"begin": ValueError()}, is_async=True)
    site = Site(PostResponseMiddleware(answer(b"ok"), unit_of_work=refused, commit=commit), observe=True)
    assert (await site.get()).status == 500


async def test_an_application_behind_two_of_them_reads_its_body() -> None:
    read: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        read.append((await receive())["body"])
        await answer(b"ok")(scope, receive, send)

    units = FakeUnits(is_async=True)
    await Site(PostResponseMiddleware(app, unit_of_work=units), observe=True).get(method="POST", body=(b"item=tea",))
    await Site(PostResponseMiddleware(app)).get(method="POST", body=(b"item=tea",))
    assert read == [b"item=tea"] * 2


@pytest.mark.parametrize("given_to", ["outer", "inner", "both"])
async def test_of_two_of_them_the_inner_ones_callbacks_hear_of_failures_else_the_outer_ones(given_to: str) -> None:
    heard: list[str] = []

    def callbacks(name: str) -> dict[str, Any]:
        def error_response(failure: Failure) -> ErrorResponse:
            heard.append(f"error_response {name}")
            return ErrorResponse(409, (), b"conflict")

        return {
            "error_response": error_response,
            "on_commit_failed": lambda failure: heard.append(f"on_commit_failed {name}"),
            "on_error": lambda failure: heard.append(f"on_error {name}"),
        }

    async def app(scope: Any, receive: Any, send: Any) -> None:
        current_exchange().after_rollback(lambda: 1 / 0)
        await answer(b"ok")(scope, receive, send)

    units = FakeUnits({"commit": ValueError()}, is_async=True)
    inner = PostResponseMiddleware(app, unit_of_work=units, **callbacks("inner") if given_to != "outer" else {})
    site = Site(inner, observe=True, **callbacks("outer") if given_to != "inner" else {})
    assert (await site.get()).status == 409
    name = "outer" if given_to == "outer" else "inner"
    assert heard == [f"on_error {name}", f"on_commit_failed {name}", f"error_response {name}"]


async def test_where_nobody_wants_the_outcome_two_of_them_send_what_the_application_sends() -> None:
    inner = PostResponseMiddleware(answer(b"x" * 70_000), unit_of_work=FakeUnits(is_async=True))
    server = await StrictASGIServer().run(PostResponseMiddleware(inner))
    assert [len(message.get("body", b"")) for message in server.messages] == [0, 70_000]


async def test_the_exchange_is_gone_after_the_request() -> None:
    site = Site(answer(b"ok"))
    await site.get()
    with pytest.raises(NoExchange):
        current_exchange()


@pytest.mark.parametrize("parts", [(b"one",), (b"one", b"two", b"three")])
@pytest.mark.parametrize("commit", [*MODES, "observe"])
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_request_leaves_its_exchange_to_no_collector(commit: str, parts: Any) -> None:
    alive: list[weakref.ref[Any]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        alive.append(weakref.ref(current_exchange()))
        await answer(*parts)(scope, receive, send)

    site = Site(app, commit, observe=commit == "observe")
    gc.disable()
    try:
        await site.get()
        for _ in range(3):  # a watch that was stopped ends on the next turn of the loop
            await checkpoint()
        assert [found() for found in alive] == [None]
    finally:
        gc.enable()


# -- headers as the application wrote them ----------------------------------------------------------------------------


@pytest.mark.parametrize("sign", [b"\r", b"\n", b"\0"])
@pytest.mark.parametrize("commit", ["head", "buffered"])
async def test_a_character_that_forges_another_header_is_refused_before_the_commit(commit: str, sign: bytes) -> None:
    site = Site(answer(b"ok", headers=[(b"x-note", b"a" + sign + b"b")]), commit)
    with pytest.raises(InvalidHeader, match="holds CR, LF or NUL"):
        await StrictASGIServer().run(site.app)
    assert site.units.log == ["begin", "rollback", "close"]


def test_the_type_of_the_body_says_that_it_never_ends_and_nothing_else_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "_good", {})

    def is_endless(name: bytes, value: bytes) -> list[bool]:
        return [messages.look_at_head({"status": 200, "headers": [(name, value)]})[1] for _ in range(2)]

    assert is_endless(b"Content-Type", b"text/event-stream") == [True, True]
    assert is_endless(b"content-type", b"text/plain") == [False, False]
    assert is_endless(b"x-type", b"text/event-stream") == [False, False]


def test_headers_that_are_all_different_take_no_more_and_more_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    known: dict[Any, bool] = {}
    monkeypatch.setattr(messages, "_good", known)
    messages.look_at_head({"status": 200, "headers": [(b"set-cookie", b"x" * 5000)]})
    assert known == {}
    messages.look_at_head({"status": 200, "headers": [(b"etag", str(number).encode()) for number in range(3000)]})
    assert len(known) <= 1024


@pytest.mark.parametrize("commit", ["head", "buffered"])
async def test_header_names_are_read_whatever_their_case_and_leave_as_they_are(commit: str) -> None:
    """Some frameworks keep the case on purpose, though the specification wants lower case."""
    headers = [(b"Content-LENGTH", b"3"), (b"Content-Type", b"text/plain")]
    for body, ending in ((b"abc", Ending.HANDED_OVER), (b"ab", Ending.INCOMPLETE)):
        sent: list[Any] = []

        async def send(message: Any, sent: list[Any] = sent) -> None:
            sent.append(message)

        site = Site(answer(body, headers=headers), commit)
        server = StrictASGIServer()
        await site.app({**server.scope}, server.receive, send)
        assert sent[0]["headers"] == headers
        assert site.outcome.ending is ending


async def test_one_scope_for_two_requests_has_two_exchanges() -> None:
    site = Site(answer(b"x"))
    scope = StrictASGIServer().scope
    for _ in range(2):
        server = StrictASGIServer()
        await site.app(scope, server.receive, server.send)
    assert len(site.units.made) == 2
    assert KEY not in scope


# -- policies of a view -----------------------------------------------------------------------------------------------


async def test_a_view_has_its_own_policy() -> None:
    @commit_policy("buffered")
    async def view(scope: Any, receive: Any, send: Any) -> None:
        await answer(b"a", b"b")(scope, receive, send)

    assert (await Site(view).get()).declared == 2


async def test_a_policy_by_scope() -> None:
    def choose(scope: Any) -> str | None:
        return "buffered" if scope["method"] == "POST" else None

    assert (await Site(answer(b"a", b"b"), choose).get(method="POST")).declared == 2
    assert (await Site(answer(b"a", b"b"), choose).get(method="GET")).declared is None


async def test_a_policy_that_comes_too_late_is_refused() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": START, "status": 200})
        await send({"type": BODY, "body": b"a", "more_body": True})
        with pytest.raises(ResponseStarted, match=r"setting the commit policy came too late: the response is sending"):
            current_exchange().policy = "buffered"
        await send({"type": BODY})

    await Site(app).get()


# -- the error response -----------------------------------------------------------------------------------------------


async def test_error_response_may_be_plain_awaited_or_an_application() -> None:
    plain = ErrorResponse(409, (("X-Own", "1"),), b"conflict")

    def made(failure: Failure) -> ErrorResponse:
        assert failure.stage == "commit"
        return plain

    async def awaited(failure: Failure) -> ErrorResponse:
        return plain

    def application(failure: Failure) -> Any:
        headers = [(b"x-own", b"1"), (b"content-length", b"99")]
        return answer(b"con", b"flict", status=409, headers=headers)

    for make in (made, awaited, application):
        server = await Site(answer(b"ok"), fails={"commit": ValueError()}, error_response=make).get()
        assert (server.status, server.body, server.declared) == (409, b"conflict", 8)
        assert dict(server.headers)[b"x-own"] == b"1"


async def test_one_that_fails_falls_back_to_the_default(caplog: pytest.LogCaptureFixture) -> None:
    async def silent(scope: Any, receive: Any, send: Any) -> None: ...

    def bad(failure: Failure) -> Any:
        raise LookupError("no template")

    broken: list[Callable[[Failure], Any]] = [
        bad,
        lambda failure: "text",
        lambda failure: silent,
        lambda failure: ErrorResponse(500, (("X", "a\r\nSet-Cookie: b"),), b""),
    ]
    for make in broken:
        server = await Site(answer(b"ok"), fails={"commit": ValueError()}, error_response=make).get()
        assert server.status == 500
        assert dict(server.headers)[b"content-type"] == b"application/problem+json"
    assert caplog.text.count("error_response failed") == len(broken)


# -- observing --------------------------------------------------------------------------------------------------------


async def test_observing_says_when_each_response_left(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "postresponse.access")
    site = Site(answer(b"ok"), observe=True)
    await site.get()
    assert "GET /orders 200: handed_over, unit of work none, head after" in caplog.text
    moments = site.outcome.moments
    assert moments.decided is not None
    assert moments.head_sent is not None
    assert moments.body_sent is not None
    assert moments.began <= moments.decided <= moments.head_sent <= moments.body_sent <= moments.ended
    assert (moments.settling, moments.settled) == (None, None)
    assert site.outcome.sent


async def test_drained_is_true_only_where_a_transport_shows_it() -> None:
    class Transport:
        size = 0

        def get_write_buffer_size(self) -> int:
            return self.size

        def is_closing(self) -> bool:
            return False

    site, server = Site(answer(b"ok"), observe=True), StrictASGIServer()
    server.transport = Transport()  # type: ignore[attr-defined]
    await site.get(server=server)
    assert site.outcomes.pop().drained is True
    server = StrictASGIServer()
    server.transport = Transport()  # type: ignore[attr-defined]
    server.transport.size = 9  # type: ignore[attr-defined]
    await site.get(server=server)
    assert site.outcomes.pop().drained is None
    await site.get()
    assert site.outcome.drained is None


# -- units of work that block, or say that they never do --------------------------------------------------------------


async def test_late_use_of_a_unit_of_work_that_blocks_is_ended_on_a_thread() -> None:
    ended_on: list[int] = []

    class Unit(FakeUnit):
        touched = changed = False

        def rollback(self) -> None:
            ended_on.append(threading.get_ident())

        def close(self) -> None:
            ended_on.append(threading.get_ident())
            self.touched = False

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await answer(b"ok")(scope, receive, send)
        unit.touched = True

    unit = Unit({})
    await StrictASGIServer().run(PostResponseMiddleware(app, unit_of_work=lambda exchange: unit))
    assert len(ended_on) == 2
    assert threading.get_ident() not in ended_on


def test_what_waits_where_nothing_was_to_wait_is_an_error_and_no_silence() -> None:
    async def waits() -> None:
        await checkpoint_of_its_own()

    @types.coroutine
    def checkpoint_of_its_own() -> Generator[None]:
        yield

    with pytest.raises(AssertionError, match="waits, and its code has no await"):
        run_at_once(waits, object(), None)
    with pytest.raises(AssertionError, match="waits, and its code has no await"):
        at_once(step for step in [(waits, (), Manner.AT_ONCE, None)])
