"""Retry: the request is run again with the same body, and neither the client nor a hook notices the first attempts."""

import io
import itertools
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal
from wsgiref.validate import validator

import anyio
import anyio.lowlevel
import pytest
from werkzeug.wrappers import Request

from postresponse import CommitPolicy, Outcome, Retry, commit_policy, current_exchange, doom
from postresponse.asgi import PostResponseMiddleware as ASGIMiddleware
from postresponse.core.exchange import Exchange
from postresponse.core.lifecycle import Ending, UnitState
from postresponse.core.policy import is_transient
from postresponse.exceptions import (
    CommitInDoubt,
    ConfigurationError,
    PartialCommit,
    ResponseReplaced,
    ResponseStarted,
)
from postresponse.wsgi import PostResponseMiddleware as WSGIMiddleware
from postresponse.wsgi.recorded_input import RecordedInput
from tests.fakes import (
    BODY,
    START,
    Conflict,
    FakeUnit,
    FakeUnits,
    QuickUnit,
    StrictASGIServer,
    StrictWSGIServer,
    run_asgi,
    run_wsgi,
)

Point = Literal["head", "buffered"]
POINTS: tuple[Point, ...] = ("head", "buffered")


class ASGISite:
    """An ASGI application whose units of work fail at first, and what became of one request to it."""

    is_async = True

    def __init__(self, view: Callable[[bytes], Any], units: FakeUnits, **options: Any) -> None:
        units.is_async = True
        self.view, self.units = view, units
        self.outcomes: list[Outcome] = []
        self.app = ASGIMiddleware(self._app, unit_of_work=units, on_finished=self.outcomes.append, **options)

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message["body"], message["more_body"]
        status, text = self.view(body)
        await send({"type": START, "status": status, "headers": []})
        await send({"type": BODY, "body": text, "more_body": True})
        await send({"type": BODY, "body": b""})

    def post(self, body: bytes = b"") -> tuple[int | None, bytes]:
        """Send one request with *body*, and return status and body of the answer."""
        parts = [body[start : start + 4] for start in range(0, len(body), 4)] or [b""]
        server = StrictASGIServer("POST", body=parts)
        anyio.run(server.run, self.app)
        assert not server.broken
        return server.status, server.body


class WSGISite:
    """The same under WSGI."""

    is_async = False

    def __init__(self, view: Callable[[bytes], Any], units: FakeUnits, **options: Any) -> None:
        self.view, self.units = view, units
        self.outcomes: list[Outcome] = []
        app = validator(self._app)
        self.app = validator(WSGIMiddleware(app, unit_of_work=units, on_finished=self.outcomes.append, **options))

    def _app(self, environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"] or 0))
        status, text = self.view(body)
        start_response(f"{status} Said", [("Content-Type", "text/plain")])
        yield text

    def post(self, body: bytes = b"") -> tuple[int | None, bytes]:
        """Send one request with *body*, and return status and body of the answer."""
        server = StrictWSGIServer("POST", content=body).run(self.app)
        assert not server.broken
        if server.raised is not None:
            raise server.raised
        return server.code, server.body


SITES = [ASGISite, WSGISite]
Site = type[ASGISite] | type[WSGISite]
sites = pytest.mark.parametrize("site", SITES, ids=["asgi", "wsgi"])
points = pytest.mark.parametrize("at", POINTS)


def retry(at: Point = "head", **options: Any) -> CommitPolicy:
    """A policy that tries three times, at once."""
    return CommitPolicy(at, retry=Retry(**{"backoff": 0, **options}))


def echo(body: bytes) -> tuple[int, bytes]:
    return 201, body


# -- what is run again ------------------------------------------------------------------------------------------------


@sites
@points
@pytest.mark.parametrize("stage", ["begin", "commit"])
@pytest.mark.parametrize("body", [b"", b"12345678", b"x" * 1000], ids=["empty", "short", "long"])
def test_a_conflict_is_run_again_with_the_same_body(site: Site, at: Point, stage: str, body: bytes) -> None:
    seen: list[bytes] = []

    def view(body: bytes) -> tuple[int, bytes]:
        seen.append(body)
        return 201, body + b" taken"

    one = site(view, FakeUnits({stage: Conflict()}, times=2), commit=retry(at))
    assert one.post(body) == (201, body + b" taken")
    assert seen == [body] * (3 if stage == "commit" else 1)
    assert len(one.units.made) == 3
    (outcome,) = one.outcomes
    assert (outcome.attempt, outcome.unit_of_work, outcome.ending) == (3, UnitState.COMMITTED, Ending.HANDED_OVER)
    assert outcome.moments.began <= outcome.moments.ended
    ends = [unit.log[1:] for unit in one.units.made]
    first = ["commit!", "rollback", "close"] if stage == "commit" else ["rollback", "close"]
    assert ends == [first, first, ["commit", "close"]]


@sites
@points
def test_a_failing_statement_that_the_application_answers_with_a_500_is_run_again(site: Site, at: Point) -> None:
    units = FakeUnits()

    def view(body: bytes) -> tuple[int, bytes]:
        if len(units.made) < 3:
            units.made[-1].statement_error = Conflict()
            return 500, b"sorry"
        return 200, b"done"

    one = site(view, units, commit=retry(at))
    assert one.post() == (200, b"done")
    assert one.outcomes[0].attempt == 3


@sites
@points
def test_an_application_that_raises_a_conflict_is_run_again(site: Site, at: Point) -> None:
    numbers = itertools.count(1)

    def view(body: bytes) -> tuple[int, bytes]:
        if next(numbers) < 3:
            raise Conflict
        return 200, b"done"

    one = site(view, FakeUnits(), commit=retry(at))
    assert one.post() == (200, b"done")
    assert [unit.log[-2:] for unit in one.units.made[:2]] == [["rollback", "close"]] * 2


@sites
def test_the_attempts_are_counted_and_the_last_one_knows(site: Site) -> None:
    told: list[tuple[int, bool]] = []

    def view(body: bytes) -> tuple[int, bytes]:
        told.append((current_exchange().attempt, current_exchange().is_last_attempt))
        return 201, b""

    one = site(view, FakeUnits({"commit": Conflict()}), commit=retry(attempts=3))
    assert one.post()[0] == 503
    assert told == [(1, False), (2, False), (3, True)]
    (outcome,) = one.outcomes
    assert (outcome.attempt, outcome.unit_of_work, outcome.status) == (3, UnitState.FAILED, 503)


@sites
def test_what_counts_as_a_reason_is_for_the_policy_to_say(site: Site) -> None:
    class Stale(Exception):
        pass

    units = FakeUnits({"commit": Stale()}, times=1)
    assert site(echo, units, commit=retry(on=lambda error: isinstance(error, Stale))).post()[0] == 201
    units = FakeUnits({"commit": Conflict()}, times=1)
    assert site(echo, units, commit=retry(on=lambda error: isinstance(error, Stale))).post()[0] == 503


class Plain(FakeUnit):
    """A unit of work that says nothing of the errors that it saw."""

    def __init__(self, fails: Mapping[str, BaseException]) -> None:
        super().__init__(fails)
        del self.statement_error


class AsyncPlain(Plain, QuickUnit):
    """The awaitable twin, which never waits."""


class PlainUnits(FakeUnits):
    def __call__(self, exchange: object) -> Any:
        self.made.append((AsyncPlain if self.is_async else Plain)({} if self.made else self.fails))
        return self.made[-1]


@sites
def test_a_unit_of_work_that_knows_nothing_of_retry_is_run_again(site: Site) -> None:
    one = site(echo, PlainUnits({"commit": Conflict()}), commit=retry())
    assert one.post(b"x") == (201, b"x")
    assert [unit.log for unit in one.units.made] == [
        ["begin", "commit!", "rollback", "close"],
        ["begin", "commit", "close"],
    ]


# -- what is not ------------------------------------------------------------------------------------------------------


@sites
@points
@pytest.mark.parametrize(
    "error", [ValueError(), CommitInDoubt(), PartialCommit(("orders",), "audit")], ids=["other", "in doubt", "partial"]
)
def test_a_failure_that_does_not_pass_is_not_run_again(site: Site, at: Point, error: Exception) -> None:
    error.__cause__ = None if isinstance(error, ValueError) else Conflict()
    one = site(echo, FakeUnits({"commit": error}), commit=retry(at))
    assert one.post()[0] == (503 if isinstance(error, CommitInDoubt) else 500)
    assert len(one.units.made) == 1


@sites
def test_what_committed_all_the_same_is_not_run_again(site: Site) -> None:
    class Units(FakeUnits):
        def __call__(self, exchange: object) -> Any:
            unit = super().__call__(exchange)
            unit.committed = True  # one of several databases, as a unit of work over them tells it
            return unit

    one = site(echo, Units({"commit": Conflict()}), commit=retry())
    assert one.post()[0] == 503
    assert len(one.units.made) == 1


@sites
def test_what_ends_a_process_is_not_run_again(site: Site) -> None:
    def view(body: bytes) -> tuple[int, bytes]:
        raise SystemExit(3)

    one = site(view, FakeUnits(), commit=retry(on=lambda error: True))
    with pytest.raises(SystemExit):
        one.post()
    assert [unit.log for unit in one.units.made] == [["begin", "rollback", "close"]]
    assert [(outcome.attempt, outcome.ending) for outcome in one.outcomes] == [(1, Ending.FAILED)]


@sites
def test_a_request_that_is_tried_once_is_not_run_again(site: Site) -> None:
    one = site(echo, FakeUnits({"commit": Conflict()}), commit=retry(attempts=1))
    assert one.post()[0] == 503
    assert len(one.units.made) == 1


@sites
def test_an_answer_below_500_is_the_applications_own(site: Site) -> None:
    units = FakeUnits()

    def view(body: bytes) -> tuple[int, bytes]:
        units.made[-1].statement_error = Conflict()
        return 409, b"somebody was faster"

    assert site(view, units, commit=retry()).post() == (409, b"somebody was faster")
    assert len(units.made) == 1


@sites
def test_what_was_doomed_is_not_run_again(site: Site) -> None:
    units = FakeUnits()

    def view(body: bytes) -> tuple[int, bytes]:
        units.made[-1].statement_error = Conflict()
        doom("on purpose")
        return 500, b"no"

    assert site(view, units, commit=retry()).post() == (500, b"no")
    assert len(units.made) == 1


@sites
@points
def test_a_body_over_the_limit_turns_retry_off_for_that_request(site: Site, at: Point) -> None:
    last: list[bool] = []

    def view(body: bytes) -> tuple[int, bytes]:
        last.append(current_exchange().is_last_attempt)
        return echo(body)

    for size, attempts in ((10, 3), (11, 1)):
        one = site(view, FakeUnits({"commit": Conflict()}), commit=retry(at, max_request_body=10))
        assert one.post(b"x" * size)[0] == 503
        assert len(one.units.made) == attempts
    assert last == [False, False, True, True]


@sites
def test_a_limit_of_zero_still_runs_requests_without_a_body_again(site: Site) -> None:
    for body, attempts in ((b"", 2), (b"x", 1)):
        units = FakeUnits({"commit": Conflict()}, times=1)
        assert site(echo, units, commit=retry(max_request_body=0)).post(body)[0] == (201 if attempts == 2 else 503)
        assert len(units.made) == attempts


@sites
def test_a_view_may_turn_it_off(site: Site) -> None:
    @commit_policy(retry=None)
    def view(body: bytes) -> tuple[int, bytes]:
        return echo(body)

    one = site(view, FakeUnits({"commit": Conflict()}), commit=retry())
    assert one.post()[0] == 503
    assert len(one.units.made) == 1


@sites
def test_a_function_of_the_request_may_choose_it(site: Site) -> None:
    for chosen, attempts in ((retry(), 3), ("buffered", 1)):
        one = site(echo, FakeUnits({"commit": Conflict()}), commit=lambda _, chosen=chosen: chosen)
        assert one.post(b"body")[0] == 503
        assert len(one.units.made) == attempts


@sites
def test_a_predicate_that_fails_is_logged_and_the_answer_stands(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    def on(error: BaseException) -> bool:
        raise RuntimeError("a bug")

    one = site(echo, FakeUnits({"commit": Conflict()}), commit=retry(on=on))
    assert one.post()[0] == 503
    assert "Retry.on failed" in caplog.text


# -- hooks of a discarded attempt -------------------------------------------------------------------------------------


def _interrupted(exchange: Exchange) -> None:
    """Have Ctrl-C arrive while an attempt is let go of."""

    def stop() -> None:
        raise KeyboardInterrupt

    exchange._at_end = [stop]


def test_what_ends_the_process_passes_and_the_attempt_before_it_is_told_of() -> None:
    outcomes: list[Outcome] = []
    attempts: list[int] = []

    def app(environ: Any, start_response: Any) -> Any:
        attempts.append(current_exchange().attempt)
        _interrupted(current_exchange())
        raise Conflict

    wrapped = WSGIMiddleware(
        app, unit_of_work=FakeUnits(), commit=CommitPolicy(retry=Retry()), on_finished=outcomes.append
    )
    with pytest.raises(KeyboardInterrupt):
        run_wsgi(wrapped)
    assert attempts == [1]
    assert [outcome.unit_of_work for outcome in outcomes] == ["rolled_back"]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_and_on_an_event_loop(backend: str) -> None:
    outcomes: list[Outcome] = []
    attempts: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        attempts.append(current_exchange().attempt)
        _interrupted(current_exchange())
        raise Conflict

    wrapped = ASGIMiddleware(
        app, unit_of_work=FakeUnits(is_async=True), commit=CommitPolicy(retry=Retry()), on_finished=outcomes.append
    )
    with pytest.raises(KeyboardInterrupt):
        run_asgi(wrapped, backend)
    assert attempts == [1]
    assert [outcome.unit_of_work for outcome in outcomes] == ["rolled_back"]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_request_that_is_cancelled_behind_a_discarded_attempt_is_not_run_again_and_is_told_of(backend: str) -> None:
    outcomes: list[Outcome] = []
    attempts: list[int] = []

    async def serve() -> None:
        async def stop() -> None:
            scope.cancel()
            await anyio.lowlevel.checkpoint()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            attempts.append(current_exchange().attempt)
            current_exchange()._at_end = [stop]
            raise Conflict

        units, policy = FakeUnits(is_async=True), CommitPolicy(retry=Retry())
        wrapped = ASGIMiddleware(app, unit_of_work=units, commit=policy, on_finished=outcomes.append)
        with anyio.CancelScope() as scope:
            await StrictASGIServer().run(wrapped)
        assert scope.cancelled_caught

    anyio.run(serve, backend=backend)
    assert attempts == [1]
    assert [outcome.unit_of_work for outcome in outcomes] == ["rolled_back"]


@sites
@points
def test_of_a_discarded_attempt_only_the_hooks_before_the_commit_run(site: Site, at: Point) -> None:
    ran: list[str] = []
    told: list[Any] = []

    def view(body: bytes) -> tuple[int, bytes]:
        exchange = current_exchange()
        number = exchange.attempt
        exchange.on_start(lambda exchange: ran.append(f"on_start {number}"))
        exchange.before_commit(lambda: ran.append(f"before_commit {number}"))
        exchange.after_commit(lambda: ran.append(f"after_commit {number}"))
        exchange.after_rollback(lambda: ran.append(f"after_rollback {number}"))
        exchange.on_finished(lambda outcome: ran.append(f"on_finished {number}"))
        return echo(body)

    one = site(
        view,
        FakeUnits({"commit": Conflict()}, times=2),
        commit=retry(at),
        on_commit_failed=told.append,
        on_error=told.append,
    )
    assert one.post(b"x") == (201, b"x")
    discarded = [f"{hook} {number}" for number in (1, 2) for hook in ("on_start", "before_commit")]
    assert ran == [*discarded, "on_start 3", "before_commit 3", "after_commit 3", "on_finished 3"]
    assert told == []
    assert len(one.outcomes) == 1


@sites
def test_what_is_registered_in_a_discarded_attempt_is_refused(site: Site) -> None:
    kept: list[Any] = []

    def view(body: bytes) -> tuple[int, bytes]:
        kept.append(current_exchange())
        return echo(body)

    site(view, FakeUnits({"commit": Conflict()}, times=1), commit=retry()).post()
    with pytest.raises(ResponseStarted, match="over"):
        kept[0].on_finished(print)


# -- what the application sees ----------------------------------------------------------------------------------------


def test_each_attempt_has_a_scope_of_its_own() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        scope["headers"].append((b"x-changed", b"by the application"))
        scope["changed"] = True
        for name in ("state", "extensions"):
            scope[name][len(scope[name])] = "changed"
        seen.append((len(scope), len(scope["headers"]), len(scope["state"]), len(scope["extensions"])))
        await send({"type": START, "status": 200, "headers": []})
        await send({"type": BODY, "body": b""})

    seen: list[Any] = []
    units = FakeUnits({"commit": Conflict()}, times=2, is_async=True)
    server = StrictASGIServer()
    server.scope["state"] = {}
    anyio.run(server.run, ASGIMiddleware(app, unit_of_work=units, commit=retry()))
    assert not server.broken
    assert seen == [seen[0]] * 3
    assert (server.scope["state"], server.scope["extensions"]) == ({}, {})


def test_each_attempt_has_an_environ_of_its_own() -> None:
    def app(environ: dict[str, Any], start_response: Any) -> Any:
        assert "changed" not in environ
        environ["changed"] = True
        seen.append(environ)
        start_response("200 OK", [])
        return [b""]

    seen: list[Any] = []
    units = FakeUnits({"commit": Conflict()}, times=2)
    server = StrictWSGIServer().run(WSGIMiddleware(app, unit_of_work=units, commit=retry()))
    assert (server.code, server.raised) == (200, None)
    assert len({id(environ) for environ in seen}) == 3


def test_background_work_of_a_discarded_attempt_does_not_run() -> None:
    ran: list[int] = []
    raised: list[BaseException] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        number = current_exchange().attempt
        await send({"type": START, "status": 200, "headers": []})
        try:
            await send({"type": BODY, "body": b"done"})
        except OSError as error:
            raised.append(error)
            with pytest.raises(ResponseReplaced, match="run again"):
                await send({"type": START, "status": 500, "headers": []})
            raise
        ran.append(number)

    units = FakeUnits({"commit": Conflict()}, times=1, is_async=True)
    server = StrictASGIServer()
    anyio.run(server.run, ASGIMiddleware(app, unit_of_work=units, commit=retry()))
    assert (server.status, server.body) == (200, b"done")
    assert ran == [2]
    assert [type(error) for error in raised] == [ResponseReplaced]


def test_a_legacy_write_of_a_discarded_attempt_is_stopped_and_its_body_closed() -> None:
    closed: list[int] = []

    class Body(list[bytes]):
        number = 0

        def close(self) -> None:
            closed.append(self.number)

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        number = current_exchange().attempt
        write = start_response("200 OK", [])
        try:
            write(b"part")
        except ResponseReplaced:
            with pytest.raises(ResponseReplaced):
                start_response("500 No", [], (ValueError, ValueError(), None))
        body = Body()
        body.number = number
        return body

    units = FakeUnits({"commit": Conflict()}, times=1)
    server = StrictWSGIServer().run(WSGIMiddleware(app, unit_of_work=units, commit=retry()))
    assert (server.code, server.body, server.raised, server.broken) == (200, b"part", None, [])
    assert closed == [1, 2]


def test_the_inner_close_is_called_once_for_each_attempt() -> None:
    closed: list[int] = []

    class Body:
        def __init__(self, number: int) -> None:
            self.number = number

        def __iter__(self) -> Iterator[bytes]:
            yield b"part"

        def close(self) -> None:
            closed.append(self.number)

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", [])
        return Body(current_exchange().attempt)

    units = FakeUnits({"commit": Conflict()}, times=2)
    server = StrictWSGIServer().run(WSGIMiddleware(app, unit_of_work=units, commit=retry("buffered")))
    assert (server.code, server.body, server.raised) == (200, b"part", None)
    assert closed == [1, 2, 3]


def test_a_body_of_a_discarded_attempt_that_cannot_be_closed_is_logged_only(caplog: pytest.LogCaptureFixture) -> None:
    class Body(list[bytes]):
        def close(self) -> None:
            if current_exchange().attempt == 1:
                raise LookupError("in close")

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", [])
        return Body([b"part"])

    units = FakeUnits({"commit": Conflict()}, times=1)
    server = StrictWSGIServer().run(WSGIMiddleware(app, unit_of_work=units, commit=retry()))
    assert (server.code, server.body, server.raised) == (200, b"part", None)
    assert "GET /orders: a body that is discarded could not be closed" in caplog.text
    assert "in close" in caplog.text


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_body_read_in_part_is_given_from_its_start(backend: str) -> None:
    read: list[bytes] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for _ in range(1 if current_exchange().attempt == 1 else 3):
            read.append((await receive())["body"])
        await send({"type": START, "status": 200, "headers": []})
        await send({"type": BODY, "body": b""})

    units = FakeUnits({"commit": Conflict()}, times=1, is_async=True)
    server = StrictASGIServer("POST", body=[b"a", b"b", b"c"])
    anyio.run(server.run, ASGIMiddleware(app, unit_of_work=units, commit=retry()), backend=backend)
    assert not server.broken
    assert read == [b"a", b"a", b"b", b"c"]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_receive_that_a_discarded_attempt_left_pending_is_not_cancelled(backend: str) -> None:
    """A server may answer the one after a cancelled `receive` with a disconnect that never was."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async def listen(group: Any) -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            group.cancel_scope.cancel()

        async with anyio.create_task_group() as group:
            group.start_soon(listen, group)
            await anyio.wait_all_tasks_blocked()
            await send({"type": START, "status": 200, "headers": []})
            await send({"type": BODY, "body": b"x", "more_body": True})
            await send({"type": BODY, "body": b"y"})
            group.cancel_scope.cancel()

    outcomes: list[Outcome] = []
    units = FakeUnits({"commit": Conflict()}, times=2, is_async=True)
    wrapped = ASGIMiddleware(app, unit_of_work=units, commit=retry(on=lambda _: True), on_finished=outcomes.append)
    server = StrictASGIServer()
    anyio.run(server.run, wrapped, backend=backend)
    assert not server.broken
    assert (server.status, server.body) == (200, b"xy")
    assert [(outcome.attempt, outcome.ending) for outcome in outcomes] == [(3, Ending.HANDED_OVER)]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_request_that_is_cancelled_between_two_attempts_is_reported(backend: str) -> None:
    outcomes: list[Outcome] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": START, "status": 200, "headers": []})
        await send({"type": BODY, "body": b""})

    async def main() -> None:
        with anyio.move_on_after(0.05) as scope:
            await server.run(
                ASGIMiddleware(
                    app,
                    unit_of_work=units,
                    commit=retry(backoff=lambda failed: 60),
                    on_finished=outcomes.append,
                )
            )
        assert scope.cancelled_caught

    units = FakeUnits({"commit": Conflict()}, is_async=True)
    server = StrictASGIServer()
    anyio.run(main, backend=backend)
    assert server.messages == []
    assert [(outcome.attempt, outcome.ending) for outcome in outcomes] == [(2, Ending.ABORTED)]
    assert len(units.made) == 1


def test_a_multipart_form_is_parsed_by_every_attempt(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "postresponse")
    content = b'--x\r\nContent-Disposition: form-data; name="n"\r\n\r\n17\r\n--x--\r\n'
    seen: list[str] = []

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        environ["CONTENT_TYPE"] = "multipart/form-data; boundary=x"
        seen.append(Request(environ).form["n"])
        start_response("200 OK", [])
        return [b"ok"]

    units = FakeUnits({"commit": Conflict()}, times=2)
    server = StrictWSGIServer("POST", content=content).run(WSGIMiddleware(app, unit_of_work=units, commit=retry()))
    assert (server.code, server.body) == (200, b"ok")
    assert seen == ["17"] * 3
    assert caplog.text.count("is run again") == 2


# -- the recorded input under WSGI ------------------------------------------------------------------------------------

LINES = b"one\ntwo\n\nthree and more\nthe end"


@pytest.mark.parametrize(
    "read",
    [
        lambda stream: stream.read(),
        lambda stream: stream.read(-1) + stream.read(),
        lambda stream: b"".join(iter(lambda: stream.read(3), b"")),
        lambda stream: b"".join(iter(stream.readline, b"")),
        lambda stream: b"".join(iter(lambda: stream.readline(2), b"")),
        lambda stream: b"".join(stream),
        lambda stream: b"".join(stream.readlines()),
        lambda stream: b"".join(stream.readlines(6)) + stream.read(),
        lambda stream: stream.read(0) + stream.readline(None) + stream.read(None),
    ],
)
@pytest.mark.parametrize("first", [0, 1, 4, 9, len(LINES), None])
def test_a_recorded_input_is_read_as_often_as_one_likes(read: Callable[[Any], bytes], first: int | None) -> None:
    recorded = RecordedInput(io.BytesIO(LINES), len(LINES))
    begun = recorded.read(first)
    assert begun == LINES[:first]
    recorded.rewind()
    for _ in range(2):
        assert read(recorded) == LINES
        recorded.rewind()
    assert recorded.whole


class Stream(io.BytesIO):
    """A server's, which writes down what it is asked for; a size that is none is not said, as PEP 3333 has it."""

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self.asked: list[int] = []

    def read(self, size: int = -1, /) -> bytes:  # type: ignore[override]
        self.asked.append(size)
        return super().read(size)

    def readline(self, size: int = -1, /) -> bytes:  # type: ignore[override]
        self.asked.append(size)
        return super().readline(size)


def test_nothing_is_read_ahead_or_behind_the_end() -> None:
    stream = Stream(b"0123456789")
    recorded = RecordedInput(stream, 100)
    assert (recorded.read(4), recorded.read(4)) == (b"0123", b"4567")
    recorded.rewind()
    assert (recorded.read(6), recorded.read(3), recorded.read(1)) == (b"012345", b"678", b"9")
    assert (recorded.read(5), recorded.read(5), recorded.read(), recorded.readline()) == (b"", b"", b"", b"")
    assert stream.asked == [4, 4, 1, 1, 5]


@pytest.mark.parametrize("read", [lambda recorded: recorded.read(), lambda recorded: recorded.read(None)])
def test_once_all_was_read_the_server_is_not_asked_again(read: Callable[[RecordedInput], bytes]) -> None:
    stream = Stream(b"0123456789")
    recorded = RecordedInput(stream, 100)
    assert (read(recorded), recorded.read(1), read(recorded)) == (b"0123456789", b"", b"")
    assert stream.asked == [-1]


def test_byte_by_byte_the_end_is_seen_as_well() -> None:
    stream = Stream(b"01")
    recorded = RecordedInput(stream, 100)
    assert [recorded.read(1) for _ in range(5)] == [b"0", b"1", b"", b"", b""]
    assert stream.asked == [1, 1, 1]


def test_a_line_has_so_many_bytes_at_most_before_and_behind_what_was_read_already() -> None:
    recorded = RecordedInput(Stream(b"one\ntwo and three\nfour"), 100)
    assert (recorded.readline(2), recorded.readline(2), recorded.readline(5)) == (b"on", b"e\n", b"two a")
    recorded.rewind()
    assert (recorded.readline(0), recorded.readline(2), recorded.readline(9)) == (b"", b"on", b"e\n")
    assert (recorded.readline(7), recorded.readline(0), recorded.readline(-1)) == (b"two and", b"", b" three\n")
    recorded.rewind()
    assert (recorded.readline(), recorded.readline(None)) == (b"one\n", b"two and three\n")
    assert recorded.readline(9) == b"four"


def test_the_rest_of_a_line_is_asked_of_the_server_without_a_size_where_none_was_given() -> None:
    stream = Stream(b"one\n")
    recorded = RecordedInput(stream, 100)
    assert recorded.readline(2) == b"on"
    recorded.rewind()
    assert recorded.readline(-1) == b"one\n"
    assert stream.asked == [2, -1]


def test_lines_are_told_up_to_a_hint() -> None:
    recorded = RecordedInput(io.BytesIO(LINES), 100)
    assert recorded.readlines(5) == [b"one\n", b"two\n"]
    assert recorded.readlines() == [b"\n", b"three and more\n", b"the end"]
    recorded.rewind()
    assert recorded.readlines(4) == [b"one\n"]
    assert recorded.readlines(1) == [b"two\n"]
    assert recorded.readlines(0) == [b"\n", b"three and more\n", b"the end"]


# -- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"attempts": 0}, "attempts: expected a number above zero, found 0"),
        ({"attempts": -3}, "attempts: expected a number above zero, found -3"),
        ({"attempts": 2.5}, "attempts: .*found 2.5"),
        ({"attempts": True}, "attempts: .*found True"),
        ({"max_request_body": -1}, "max_request_body: .*zero or more, found -1"),
        ({"max_request_body": "1 MiB"}, "max_request_body: .*found '1 MiB'"),
        ({"on": Conflict()}, "on: expected a function, found Conflict"),
        ({"backoff": -0.1}, "backoff: expected seconds, zero or more, found -0.1"),
        ({"backoff": float("nan")}, "backoff: .*found nan"),
        ({"backoff": float("inf")}, "backoff: .*found inf"),
        ({"backoff": "fast"}, "backoff: .*found 'fast'"),
    ],
)
def test_an_option_that_cannot_be_is_refused_at_construction(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        Retry(**options)


def test_an_async_predicate_is_refused() -> None:
    async def on(error: BaseException) -> bool:
        return True

    async def backoff(failed: int) -> float:
        return 1

    with pytest.raises(ConfigurationError, match="on: expected a plain function, found an async one"):
        Retry(on=on)
    with pytest.raises(ConfigurationError, match="backoff: expected a plain function, found an async one"):
        Retry(backoff=backoff)  # type: ignore[arg-type]


def test_after_send_cannot_be_run_again() -> None:
    with pytest.raises(ConfigurationError, match="retry: a response that has left cannot be taken back"):
        CommitPolicy("after_send", retry=Retry())
    with pytest.raises(ConfigurationError, match="retry: expected a Retry or None, found 3"):
        CommitPolicy(retry=3)  # type: ignore[arg-type]


@sites
def test_a_view_that_commits_after_the_response_has_to_turn_it_off(site: Site) -> None:
    seen: list[BaseException] = []

    def view(body: bytes) -> tuple[int, bytes]:
        with pytest.raises(ConfigurationError, match="give retry=None with it") as refused:
            current_exchange().policy = "after_send"
        seen.append(refused.value)
        current_exchange().policy = CommitPolicy("after_send")
        return echo(body)

    assert site(view, FakeUnits(), commit=retry()).post(b"x") == (201, b"x")
    assert len(seen) == 1


@sites
def test_a_view_cannot_turn_it_on_where_no_body_was_recorded(site: Site) -> None:
    def view(body: bytes) -> tuple[int, bytes]:
        with pytest.raises(ConfigurationError, match="the body of this request is not recorded"):
            current_exchange().policy = retry()
        return echo(body)

    assert site(view, FakeUnits(), commit="head").post(b"x") == (201, b"x")


@sites
def test_a_backoff_that_returns_no_seconds_is_an_error_of_the_request(site: Site) -> None:
    one = site(echo, FakeUnits({"commit": Conflict()}), commit=retry(backoff=lambda failed: "soon"))
    with pytest.raises(ConfigurationError, match="backoff: expected seconds, zero or more, found 'soon'"):
        one.post()
    assert [outcome.ending for outcome in one.outcomes] == [Ending.FAILED]


@pytest.mark.parametrize(("commit", "warnings"), [(retry(), 1), ("head", 0)])
def test_a_middleware_further_in_cannot_run_a_request_again_and_says_so_once(
    commit: Any, warnings: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("postresponse.core.log._told", set())
    units = FakeUnits({"commit": Conflict()})

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", [])
        return [b""]

    inner = WSGIMiddleware(app, unit_of_work=units, commit=commit)
    for number in (1, 2):
        server = StrictWSGIServer().run(WSGIMiddleware(inner))
        assert server.code == 503
        assert len(units.made) == number
    assert caplog.text.count("a Retry of a middleware that is not the outermost one has no effect") == warnings


# -- the pause --------------------------------------------------------------------------------------------------------


def test_a_completion_that_nobody_knows_of_is_no_conflict() -> None:
    unknown = Conflict()
    unknown.sqlstate = "40003"
    assert is_transient(Conflict())
    assert not is_transient(unknown)


@sites
def test_before_each_further_attempt_a_random_part_of_the_pause_is_waited(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    chances, pauses = iter([0.5, 0.25]), []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr("random.random", lambda: next(chances))
    monkeypatch.setattr("postresponse.asgi.exchange.sleep", sleep)
    monkeypatch.setattr("time.sleep", pauses.append)
    one = site(echo, FakeUnits({"commit": Conflict()}, times=2), commit=retry(backoff=0.1))
    assert one.post() == (201, b"")
    assert pauses == [pytest.approx(0.05), pytest.approx(0.05)]  # a half of 0.1 s, and a quarter of twice that


def test_the_pause_grows_is_jittered_and_has_an_end() -> None:
    retry = Retry(backoff=0.1)
    assert [round(retry.pause(failed, 1.0), 3) for failed in (1, 2, 3, 4, 5, 1000)] == [0.1, 0.2, 0.4, 0.8, 1, 1]
    assert retry.pause(3, 0.5) == pytest.approx(0.2)
    assert retry.pause(3, 0.0) == 0
    assert Retry(backoff=lambda failed: failed * 2).pause(3, 0.5) == 6
