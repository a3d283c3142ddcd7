"""Several units of work as one: what becomes of each when any call of any of them fails, through both middlewares."""

import gc
import itertools
import logging
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import anyio
import pytest
from django.db import IntegrityError, transaction
from django.http import HttpResponse
from sqlalchemy import Engine, create_engine, exc, text
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker
from sqlalchemy.pool import NullPool
from werkzeug.test import create_environ, run_wsgi_app

from postresponse import CommitPolicy, Retry, asgi, current_exchange, wsgi
from postresponse.core.exchange import Failure
from postresponse.core.lifecycle import Outcome, UnitState
from postresponse.exceptions import (
    CommitInDoubt,
    CommitRefused,
    ConfigurationError,
    PartialCommit,
    UnitOfWorkError,
    WrongApplication,
)
from postresponse.typing import LazyUnit
from postresponse.unit_of_work import composite
from postresponse.unit_of_work.composite import Chained
from postresponse.unit_of_work.django import DjangoUnitOfWork
from postresponse.unit_of_work.sqlalchemy import AsyncSQLAlchemyUnitOfWork, SQLAlchemyUnitOfWork
from tests.core.exchanges import exchange_of
from tests.fakes import AsyncFakeUnit, Conflict, FakeUnit, StrictASGIServer, attempt_asgi
from tests.servers.site import eventually
from tests.unit_of_work.django_project.databases import Database, SQLite
from tests.unit_of_work.django_project.driving import Site as DjangoSite
from tests.unit_of_work.django_project.driving import cleared, orders

NAMES = ("orders", "audit", "stock")
KINDS = ("wsgi", "threads", "asyncio", "trio")
"""Sync units under WSGI and, on threads, under ASGI; and async ones on either event loop."""

Fails = Mapping[str, BaseException]
Log = list[str]


class Named:
    """Writes its name before each call in a log that all share."""

    name: str
    fails: Fails
    log: Log

    def _call(self, call: str) -> None:
        error = self.fails.get(call)
        self.log.append(f"{self.name} {call}" if error is None else f"{self.name} {call}!")
        if error is not None:
            raise error


class SyncUnit(Named, FakeUnit):
    pass


class AsyncUnit(Named, AsyncFakeUnit):
    pass


class Lazy:
    """What a lazy unit has besides."""

    touched = True
    changed = False
    committed = False

    def use(self) -> None:
        self.touched = True


class LazySyncUnit(Lazy, SyncUnit):
    def close(self) -> None:
        super().close()
        self.touched = False

    def invalidate(self) -> None:
        super().invalidate()
        self.touched = False


class LazyAsyncUnit(Lazy, AsyncUnit):
    async def close(self) -> None:  # type: ignore[override]
        await super().close()
        self.touched = False

    async def invalidate(self) -> None:  # type: ignore[override]
        await super().invalidate()
        self.touched = False


class Trial:
    """One request whose unit of work is several.

    Args:
        kind: One of `KINDS`.
        fails: What each call of each member raises, as `{"audit": {"commit": error}}`.
        lazy: Whether the units tell if they were touched.
    """

    def __init__(self, kind: str, fails: Mapping[str, Fails] | None = None, *, lazy: bool = False) -> None:
        self.kind = kind
        self.fails = fails or {}
        self.log: Log = []
        self.outcomes: list[Outcome] = []
        self.failures: list[Failure] = []
        self.units: dict[str, Any] = {}
        self.raised: BaseException | None = None
        is_async = kind in ("asyncio", "trio")
        self.made: type = {
            (False, False): SyncUnit,
            (False, True): LazySyncUnit,
            (True, False): AsyncUnit,
            (True, True): LazyAsyncUnit,
        }[is_async, lazy]
        self.composite = Chained(**{name: self._factory(name) for name in NAMES})

    def _factory(self, name: str) -> Callable[[Any], Any]:
        def make(exchange: object) -> Any:
            unit = self.units[name] = self.made(self.fails.get(name, {}), self.log)
            unit.name = name
            return unit

        return make

    def run(
        self,
        status: int = 201,
        view: Callable[[], None] = lambda: None,
        body: Iterable[bytes] = (b"done",),
        **options: Any,
    ) -> int:
        """Answer one request with *status*, and return what the client saw."""
        options = {"on_finished": self.outcomes.append, "on_commit_failed": self.failures.append, **options}
        return (self._wsgi if self.kind == "wsgi" else self._asgi)(status, view, body, options)

    def _wsgi(self, status: int, view: Callable[[], None], body: Iterable[bytes], options: Any) -> int:
        def app(environ: Any, start_response: Any) -> Iterable[bytes]:
            view()
            start_response(f"{status} Said", [("Content-Type", "text/plain")])
            return body

        wrapped = wsgi.PostResponseMiddleware(app, unit_of_work=self.composite, **options)
        try:
            _, answered, _ = run_wsgi_app(wrapped, create_environ("/orders"), buffered=True)
        except Exception as error:
            self.raised = error
            return 0
        return int(answered[:3])

    def _asgi(self, status: int, view: Callable[[], None], body: Iterable[bytes], options: Any) -> int:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            view()
            await send({"type": "http.response.start", "status": status, "headers": []})
            for part in body:
                await send({"type": "http.response.body", "body": part, "more_body": True})
            await send({"type": "http.response.body"})

        wrapped = asgi.PostResponseMiddleware(app, unit_of_work=self.composite, **options)
        server, self.raised = attempt_asgi(wrapped, "trio" if self.kind == "trio" else "asyncio")
        assert not server.broken
        return server.status or 0

    @property
    def state(self) -> UnitState:
        return self.outcomes[-1].unit_of_work

    @property
    def exception(self) -> BaseException | None:
        return self.outcomes[-1].exception

    def calls(self, *calls: str) -> Log:
        """The log, with only these calls."""
        return [entry for entry in self.log if entry.split(" ")[1].rstrip("!") in calls]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def in_order(call: str) -> Log:
    return [f"{name} {call}" for name in NAMES]


def in_reverse(call: str) -> Log:
    return [f"{name} {call}" for name in reversed(NAMES)]


# -- as they should ---------------------------------------------------------------------------------------------------


def test_all_begin_commit_and_close_in_order(kind: str) -> None:
    trial = Trial(kind)
    assert trial.run() == 201
    assert trial.log == in_order("begin") + in_order("commit") + in_order("close")
    assert (trial.state, trial.exception) == ("committed", None)


def test_they_roll_back_in_reverse(kind: str) -> None:
    trial = Trial(kind)
    assert trial.run(404) == 404
    assert trial.log == in_order("begin") + in_reverse("rollback") + in_order("close")
    assert trial.state == "rolled_back"


def test_an_application_that_raises_rolls_all_back(kind: str) -> None:
    trial = Trial(kind)

    def view() -> None:
        raise LookupError("no such order")

    trial.run(view=view)
    assert isinstance(trial.raised, LookupError)
    assert trial.log == in_order("begin") + in_reverse("rollback") + in_order("close")


@pytest.mark.parametrize("status", [201, 404])
def test_those_that_nobody_touched_are_not_called(kind: str, status: int) -> None:
    trial = Trial(kind, lazy=True)
    touched = iter([False, True, False])

    def view() -> None:
        for unit in trial.units.values():
            unit.touched = next(touched)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Lazy, "touched", False)
        trial.run(status, view)
    assert trial.log == ["audit commit" if status == 201 else "audit rollback", "audit close"]
    assert trial.state == ("committed" if status == 201 else "rolled_back")


def test_a_request_that_touches_none_calls_none(kind: str) -> None:
    trial = Trial(kind, lazy=True)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Lazy, "touched", False)
        trial.run()
    assert (trial.log, trial.state) == ([], "committed")


@pytest.mark.parametrize("status", [201, 404])
def test_one_that_the_handler_ended_itself_is_only_closed(kind: str, status: int) -> None:
    trial = Trial(kind)

    def view() -> None:
        trial.units["audit"].active = False

    trial.run(status, view)
    others = [name for name in NAMES if name != "audit"]
    ended = (
        [f"{name} commit" for name in others] if status == 201 else [f"{name} rollback" for name in reversed(others)]
    )
    assert trial.log == in_order("begin") + ended + in_order("close")
    assert trial.state == ("committed" if status == 201 else "rolled_back")


def test_where_the_handler_ended_all_that_it_touched_itself_there_is_nothing_to_end(kind: str) -> None:
    trial = Trial(kind, lazy=True)

    def view() -> None:
        trial.units["orders"].active = trial.units["audit"].active = False
        trial.units["stock"].touched = False

    trial.run(500, view)
    assert trial.log == [*in_order("begin"), "orders close", "audit close"]
    assert trial.state == "none"


# -- every member failing at each of its calls ------------------------------------------------------------------------


@pytest.mark.parametrize("failing", NAMES)
@pytest.mark.parametrize("error", [LookupError("refused"), SystemExit(3)], ids=["error", "exit"])
def test_behind_one_that_cannot_begin_those_that_have_are_rolled_back(
    kind: str, failing: str, error: BaseException
) -> None:
    trial = Trial(kind, {failing: {"begin": error}})
    seen: list[int] = []
    assert trial.run(view=lambda: seen.append(1)) == 500
    begun = NAMES[: NAMES.index(failing) + 1]
    assert [entry.rstrip("!") for entry in trial.log] == [
        *(f"{name} begin" for name in begun),
        *(f"{name} rollback" for name in reversed(begun)),
        *(f"{name} close" for name in begun),
    ]
    assert (seen, trial.state) == ([], "rolled_back")


@pytest.mark.parametrize("failing", NAMES)
def test_one_that_cannot_commit_rolls_back_itself_and_those_behind_it(kind: str, failing: str) -> None:
    error = LookupError("refused")
    trial = Trial(kind, {failing: {"commit": error}})
    nobody_knows = failing == "orders" and not isinstance(error, Exception)  # an exit cut the only commit off
    assert trial.run() == (503 if nobody_knows else 500)
    at = NAMES.index(failing)
    assert trial.log == [
        *in_order("begin"),
        *(f"{name} commit" for name in NAMES[:at]),
        f"{failing} commit!",
        *(f"{name} rollback" for name in reversed(NAMES[at:])),
        *in_order("close"),
    ]
    assert trial.state == ("unknown" if nobody_knows else "failed")
    (failure,) = trial.failures
    assert failure.exception is trial.exception
    if failing == "orders":
        assert (failure.exception, failure.partial) == (error, False)
        return
    partial = failure.exception
    assert isinstance(partial, PartialCommit)
    assert (partial.committed, partial.failed, partial.rolled_back) == (NAMES[:at], failing, NAMES[at + 1 :])
    assert (partial.__cause__, failure.partial) == (error, True)


@pytest.mark.parametrize("failing", NAMES)
def test_one_that_is_no_longer_active_behind_its_failed_commit_is_rolled_back_too(kind: str, failing: str) -> None:
    trial = Trial(kind, {failing: {"commit": LookupError("refused")}})
    with pytest.MonkeyPatch.context() as patched:
        is_open = property(lambda unit: f"{unit.name} commit!" not in unit.log, lambda unit, value: None)
        patched.setattr(trial.made, "active", is_open, raising=False)
        trial.run()
    assert trial.calls("rollback") == [f"{name} rollback" for name in reversed(NAMES[NAMES.index(failing) :])]


@pytest.mark.parametrize("failing", NAMES)
def test_one_of_which_nobody_knows_leaves_the_whole_unknown(kind: str, failing: str) -> None:
    error = CommitInDoubt("lost")
    trial = Trial(kind, {failing: {"commit": error}})
    assert trial.run() == 503
    at = NAMES.index(failing)
    assert trial.calls("rollback") == [f"{name} rollback" for name in reversed(NAMES[at:])]
    assert trial.calls("close") == in_order("close")
    assert trial.state == "unknown"
    if failing == "orders":
        assert trial.exception is error
        return
    assert isinstance(trial.exception, CommitInDoubt)
    assert str(trial.exception) == f"nobody knows whether {failing} committed, after {', '.join(NAMES[:at])} had"
    partial = trial.exception.__cause__
    assert isinstance(partial, PartialCommit)
    assert (partial.committed, partial.failed, partial.rolled_back) == (NAMES[:at], failing, NAMES[at + 1 :])
    assert partial.__cause__ is error


@pytest.mark.parametrize("failing", NAMES)
def test_an_exit_out_of_a_commit_leaves_the_whole_unknown(
    kind: str, failing: str, caplog: pytest.LogCaptureFixture
) -> None:
    error = SystemExit(3)
    trial = Trial(kind, {failing: {"commit": error}})
    assert trial.run() == 503
    assert (trial.state, trial.exception) == ("unknown", error)
    assert ("interrupted half-way" in caplog.text) is (failing != "orders")
    assert trial.calls("close") == in_order("close")


@pytest.mark.parametrize("call", ["rollback", "close"])
@pytest.mark.parametrize("given_up", [True, False], ids=["given up", "not even that"])
@pytest.mark.parametrize("failing", NAMES)
@pytest.mark.parametrize("status", [201, 404])
def test_one_that_cannot_be_cleaned_up_is_given_up_and_the_others_are_cleaned_up(
    kind: str, failing: str, call: str, given_up: bool, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    if (status, call) == (201, "rollback"):
        return  # nothing is rolled back
    fails: dict[str, BaseException] = {call: OSError("gone")}
    if not given_up:
        fails["invalidate"] = OSError("gone as well")
    trial = Trial(kind, {failing: fails})
    assert trial.run(status) == status
    expected = in_order("begin") + (in_order("commit") if status == 201 else in_reverse("rollback")) + in_order("close")
    at = expected.index(f"{failing} {call}")
    expected[at : at + 1] = [f"{failing} {call}!", f"{failing} invalidate" + ("" if given_up else "!")]
    assert trial.log == expected
    assert trial.state == ("committed" if status == 201 else "rolled_back")
    said = f"{failing} could not {'roll back' if call == 'rollback' else 'close'}"
    errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert errors[0] == f"GET /orders: {said}"
    assert len(errors) == (1 if given_up else 2)
    assert given_up or errors[1] == f"GET /orders: the connection of {failing} could not be given up"


class Plain:
    """No more than a unit of work has to be."""

    active = True

    def __init__(self) -> None:
        self.log: Log = []

    def begin(self) -> None: ...
    def commit(self) -> None: ...

    def rollback(self) -> None:
        raise OSError("gone")

    def close(self) -> None:
        self.log.append("close")


def test_one_that_cannot_be_given_up_is_closed_all_the_same() -> None:
    plain, other = Plain(), FakeUnit({})
    unit = Chained(orders=lambda exchange: plain, audit=lambda exchange: other)(exchange_of())
    unit.rollback()
    unit.close()
    assert (plain.log, other.log) == (["close"], ["rollback", "close"])


@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
@pytest.mark.anyio
async def test_a_method_of_an_async_one_that_is_not_async_is_called(anyio_backend: str) -> None:
    class Mixed(AsyncFakeUnit):
        def invalidate(self) -> None:  # type: ignore[override]
            self.log.append("invalidated at once")

    broken, other = Mixed({"rollback": OSError("gone")}), AsyncFakeUnit({})
    unit = Chained(orders=lambda exchange: broken, audit=lambda exchange: other)(exchange_of(is_async=True))
    await unit.rollback()
    assert (broken.log, other.log) == (["rollback!", "invalidated at once"], ["rollback"])


def test_a_failed_commit_whose_rollback_fails_too_keeps_its_own_error(kind: str) -> None:
    error = LookupError("refused")
    trial = Trial(
        kind, {"orders": {"commit": error, "rollback": OSError("gone")}, "stock": {"rollback": OSError("gone")}}
    )
    trial.run()
    assert trial.exception is error
    assert trial.calls("rollback", "invalidate", "close") == [
        "stock rollback!",
        "stock invalidate",
        "audit rollback",
        "orders rollback!",
        "orders invalidate",
        *in_order("close"),
    ]


@pytest.mark.parametrize("pair", list(itertools.combinations(NAMES, 2)), ids="-".join)
@pytest.mark.parametrize("call", ["rollback", "close"])
def test_two_that_cannot_be_cleaned_up_do_not_hide_each_other(
    kind: str, pair: tuple[str, str], call: str, caplog: pytest.LogCaptureFixture
) -> None:
    trial = Trial(kind, {name: {call: OSError(name)} for name in pair})
    trial.run(404)
    told = [str(record.exc_info[1]) for record in caplog.records if record.exc_info]
    assert sorted(told) == sorted(pair)
    assert len(trial.calls("close")) == len(NAMES)


# -- what ends a task or a process ------------------------------------------------------------------------------------


class Interrupted(BaseException):
    """As KeyboardInterrupt, without pytest's own ideas about that one."""


@pytest.mark.parametrize("call", ["rollback", "close"])
@pytest.mark.parametrize("failing", NAMES)
def test_what_ends_a_process_passes_once_all_were_cleaned_up(failing: str, call: str) -> None:
    trial = Trial("wsgi", {failing: {call: Interrupted()}})
    with pytest.raises(Interrupted):
        trial.run(404)
    assert [entry.rstrip("!") for entry in trial.calls("rollback", "close")] == in_reverse("rollback") + in_order(
        "close"
    )
    assert trial.calls("invalidate") == [f"{failing} invalidate"]


def test_what_ends_a_process_while_one_is_given_up_passes_as_well() -> None:
    trial = Trial("wsgi", {"audit": {"close": OSError("gone"), "invalidate": Interrupted()}})
    with pytest.raises(Interrupted):
        trial.run()
    assert trial.calls("close") == ["orders close", "audit close!", "stock close"]


def test_what_ends_a_process_half_way_is_not_wrapped_but_said(caplog: pytest.LogCaptureFixture) -> None:
    trial = Trial("wsgi", {"audit": {"commit": Interrupted()}})
    with pytest.raises(Interrupted):
        trial.run()
    assert "interrupted half-way: audit could not commit after orders had" in caplog.text
    assert trial.calls("rollback") == ["stock rollback", "audit rollback"]
    first = Trial("wsgi", {"orders": {"commit": Interrupted()}})
    caplog.clear()
    with pytest.raises(Interrupted):
        first.run()
    assert "half-way" not in caplog.text


def test_what_ends_a_process_while_one_begins_passes_once_the_others_are_rolled_back() -> None:
    trial = Trial("wsgi", {"audit": {"begin": Interrupted()}})
    with pytest.raises(Interrupted):
        trial.run()
    assert trial.calls("begin", "rollback") == ["orders begin", "audit begin!", "audit rollback", "orders rollback"]


# -- before the first commit ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fails", [False, True])
def test_all_send_what_they_hold_before_the_first_commits(kind: str, fails: bool) -> None:
    trial = Trial(kind, {"stock": {"flush": LookupError("no such item")}} if fails else {})

    def flush(self: Any) -> None:
        self._call("flush")

    async def aflush(self: Any) -> None:
        await self._call_slowly("flush")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(trial.made, "flush", aflush if kind in ("asyncio", "trio") else flush, raising=False)
        trial.run()
    if not fails:
        assert trial.calls("flush", "commit", "rollback") == in_order("flush") + in_order("commit")
        return
    assert trial.calls("flush") == ["orders flush", "audit flush", "stock flush!"]
    assert trial.calls("commit", "rollback") == in_reverse("rollback")
    assert not isinstance(trial.exception, PartialCommit)
    assert trial.state == "failed"


# -- run again --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("failing", ["orders", "audit"])
def test_a_conflict_is_run_again_only_while_nothing_was_committed(kind: str, failing: str) -> None:
    fails = {failing: {"commit": Conflict("could not serialize access")}}
    trial = Trial(kind, fails)

    def view() -> None:
        if current_exchange().attempt == 2:
            for unit in trial.units.values():
                unit.fails = {}

    answered = trial.run(view=view, commit=CommitPolicy(retry=Retry(backoff=0)))
    assert answered == (201 if failing == "orders" else 500)
    assert trial.outcomes[-1].attempt == (2 if failing == "orders" else 1)


def test_a_conflict_that_a_member_saw_is_what_the_whole_saw(kind: str) -> None:
    trial = Trial(kind)

    def view() -> None:
        if current_exchange().attempt == 1:
            trial.units["orders"].statement_error = Conflict("could not serialize access")
            trial.units["stock"].statement_error = LookupError("no such item")

    def status() -> int:
        return trial.run(500, view, commit=CommitPolicy(retry=Retry(attempts=2, backoff=0)))

    assert status() == 500
    assert trial.outcomes[-1].attempt == 2


def test_of_several_errors_of_statements_a_transient_one_is_told_of_before_the_last() -> None:
    trial = Trial("wsgi")
    unit = trial.composite(exchange_of())
    assert unit.statement_error is None
    errors = [LookupError("first"), LookupError("last")]
    trial.units["orders"].statement_error, trial.units["stock"].statement_error = errors
    assert unit.statement_error is errors[1]
    conflict = trial.units["audit"].statement_error = Conflict("could not serialize access")
    assert unit.statement_error is conflict


def test_the_whole_may_have_committed_if_one_may_have() -> None:
    trial = Trial("wsgi", lazy=True)
    unit = trial.composite(exchange_of())
    assert unit.committed is False
    trial.units["audit"].committed = True
    assert unit.committed is True


# -- after the end ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changed", [True, False])
def test_late_use_of_one_is_rolled_back_and_a_late_write_warned_of(
    kind: str, changed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    trial = Trial(kind, lazy=True)

    def body() -> Iterable[bytes]:
        yield b"first"
        trial.units["audit"].touched, trial.units["audit"].changed = True, changed
        yield b"second"

    trial.run(body=body())
    assert trial.log[-2:] == ["audit rollback", "audit close"]
    assert trial.calls("commit", "rollback", "close") == [
        *in_order("commit"),
        *in_order("close"),
        "audit rollback",
        "audit close",
    ]
    assert ("late write" in caplog.text) is changed


def test_a_unit_that_does_not_say_is_not_closed_twice(kind: str) -> None:
    trial = Trial(kind)
    trial.run(body=iter([b"first", b"second"]))
    assert trial.calls("close") == in_order("close")


def test_it_is_a_lazy_unit_whatever_its_members_are(kind: str) -> None:
    trial = Trial(kind)
    unit = trial.composite(exchange_of())
    assert unit.active is True
    assert isinstance(unit, LazyUnit)
    assert (unit.touched, unit.changed) == (True, False)
    assert repr(unit).endswith("of orders, audit, stock>")


@pytest.mark.parametrize("kind", ["wsgi", "threads", "asyncio"], indirect=False)
def test_a_request_leaves_nothing_to_the_collector(kind: str) -> None:
    trial = Trial(kind, lazy=True)
    alive: list[weakref.ref[Any]] = []

    def view() -> None:
        alive.extend(weakref.ref(found) for found in (current_exchange(), *trial.units.values()))
        trial.units.clear()

    if kind != "wsgi":
        trial.run()  # the first loop leaves garbage of its own
    gc.collect()
    gc.disable()
    try:
        trial.run(view=view)
        # A worker thread may look at its last job for a moment longer.
        eventually(lambda: [found() for found in alive] == [None] * 4, "nothing left")
    finally:
        gc.enable()


def test_a_line_in_the_log_that_comes_after_the_request_still_has_a_name(caplog: pytest.LogCaptureFixture) -> None:
    trial = Trial("wsgi", {"orders": {"rollback": OSError("gone")}})
    exchange = exchange_of()
    unit = trial.composite(exchange)
    del exchange
    unit.rollback()
    assert caplog.messages == ["a finished request: orders could not roll back"]


@pytest.mark.parametrize("fails", [None, "begin", "commit", "rollback", "close", "invalidate"])
@pytest.mark.parametrize("rule", ["begin", "commit", "rollback", "close", "invalidate"])
def test_every_call_of_a_rule_can_be_its_last(rule: str, fails: str | None) -> None:
    for last in range(1, 8):
        errors: Fails = {} if fails is None else {fails: OSError("gone"), "invalidate": OSError("gone")}
        trial = Trial("wsgi", dict.fromkeys(NAMES, errors))
        unit = trial.composite(exchange_of())
        calls = getattr(unit._members, rule)()
        call = next(calls)
        try:
            for _ in range(last):
                try:
                    call.call()
                except OSError as error:
                    call = calls.throw(error)
                else:
                    call = calls.send(None)
        except (StopIteration, OSError):
            return
        calls.close()
        assert next(calls, None) is None


# -- one that hangs ---------------------------------------------------------------------------------------------------


class Hanging(SyncUnit):
    """A unit whose rollback hangs until its connection is severed."""

    def __init__(self, fails: Fails, log: Log) -> None:
        super().__init__(fails, log)
        self.cut = threading.Event()

    def rollback(self) -> None:
        assert self.cut.wait(20)
        self._call("rollback")
        raise OSError("severed")

    def sever(self) -> None:
        self._call("sever")
        self.cut.set()


@pytest.mark.parametrize("hanging", [("audit",), ("orders", "audit"), NAMES], ids="-".join)
def test_those_that_hang_are_severed_and_the_others_rolled_back_within_the_time_for_all(
    hanging: tuple[str, ...],
) -> None:
    trial = Trial("wsgi")
    kinds = {name: Hanging if name in hanging else SyncUnit for name in NAMES}
    log = trial.log

    def factory(name: str) -> Callable[[Any], Any]:
        def make(exchange: object) -> Any:
            unit = trial.units[name] = kinds[name]({}, log)
            unit.name = name
            return unit

        return make

    trial.composite = Chained(**{name: factory(name) for name in NAMES})
    began = time.monotonic()
    assert trial.run(404, cleanup_timeout=2.0) == 404
    assert time.monotonic() - began < 10
    assert trial.state == "rolled_back"
    expected: Log = []
    for name in reversed(NAMES):
        expected += (
            [f"{name} sever", f"{name} rollback", f"{name} invalidate"] if name in hanging else [f"{name} rollback"]
        )
    assert trial.calls("sever", "rollback", "invalidate") == expected
    assert trial.calls("close") == in_order("close")


def test_what_severs_the_whole_severs_the_one_that_hangs() -> None:
    trial = Trial("wsgi")
    unit: Any = trial.composite(exchange_of())
    unit.sever()  # nothing runs
    hanging = Hanging({}, trial.log)
    hanging.name = "audit"
    unit._members.members[1].unit = hanging
    rolling_back = threading.Thread(target=unit.rollback)
    rolling_back.start()
    while unit._members.running is not unit._members.members[1]:
        time.sleep(0.001)
    unit.sever()
    rolling_back.join(20)
    assert trial.log == ["stock rollback", "audit sever", "audit rollback", "audit invalidate", "orders rollback"]


@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
@pytest.mark.anyio
async def test_an_async_one_that_hangs_is_cancelled_and_given_up_alone(anyio_backend: str) -> None:
    log: Log = []

    class Forever(AsyncUnit):
        async def rollback(self) -> None:  # type: ignore[override]
            await anyio.sleep_forever()

    def factory(name: str) -> Callable[[Any], Any]:
        def make(exchange: object) -> Any:
            unit = (Forever if name == "audit" else AsyncUnit)({}, log)
            unit.name = name
            return unit

        return make

    unit: Any = Chained(**{name: factory(name) for name in NAMES})(exchange_of(is_async=True, cleanup_timeout=0.4))
    with anyio.fail_after(20):
        await unit.rollback()
        await unit.close()
    assert log == ["stock rollback", "audit invalidate", "orders rollback", *in_order("close")]


@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
@pytest.mark.anyio
async def test_what_is_cancelled_from_outside_is_given_up_afterwards(anyio_backend: str) -> None:
    """As the core does, whose own limit is on all of it."""
    trial = Trial(anyio_backend)
    unit: Any = trial.composite(exchange_of(is_async=True))
    with anyio.CancelScope() as scope:
        scope.cancel()
        await unit.rollback()
    assert scope.cancelled_caught
    await unit.invalidate()
    await unit.close()
    ended = {
        name: [entry for entry in trial.log if entry in (f"{name} rollback", f"{name} invalidate")] for name in NAMES
    }
    assert all(ended.values()), trial.log
    assert trial.calls("close") == in_order("close")


# -- real ones --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("customer", [None, 404], ids=["committed", "refused"])
@pytest.mark.parametrize("kind", ["wsgi", "asgi", "async"], indirect=False)
def test_two_databases_of_django_commit_one_after_the_other(default: Database, kind: str, customer: int | None) -> None:
    other = cleared(SQLite("other"))

    def view(request: Any) -> HttpResponse:
        orders("default").create()
        orders("other").create(customer_id=customer)  # a foreign key that COMMIT checks
        return HttpResponse(status=201)

    both = Chained(first=DjangoUnitOfWork("default"), second=DjangoUnitOfWork("other"))
    answer = DjangoSite(view, kind, unit_of_work=both).get()
    assert answer.outcome is not None
    if customer is None:
        assert (answer.unit, default.orders(), other.orders()) == ((201, "committed"), [None], [None])
        return
    assert (answer.unit, default.orders(), other.orders()) == ((500, "failed"), [None], [])
    partial = answer.outcome.exception
    assert isinstance(partial, PartialCommit)
    assert (partial.committed, partial.failed) == (("first",), "second")
    assert isinstance(partial.__cause__, IntegrityError)


@pytest.mark.parametrize("status", [201, 404])
def test_django_and_sqlalchemy_end_together(default: Database, tmp_path: Path, status: int) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'audit.sqlite3'}")
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE entry (id INTEGER)"))
    audit = SQLAlchemyUnitOfWork(sessionmaker(engine))

    def view(request: Any) -> HttpResponse:
        orders("default").create()
        audit.session.execute(text("INSERT INTO entry VALUES (1)"))
        return HttpResponse(status=status)

    both = Chained(orders=DjangoUnitOfWork("default"), audit=audit)
    assert DjangoSite(view, "wsgi", unit_of_work=both).get().unit[0] == status
    with engine.connect() as connection:
        entries = list(connection.scalars(text("SELECT id FROM entry")))
    assert (default.orders(), entries) == (([None], [1]) if status == 201 else ([], []))
    engine.dispose()


class Base(DeclarativeBase):
    pass


class Entry(Base):
    __tablename__ = "entry"
    id: Mapped[int] = mapped_column(primary_key=True)


@pytest.fixture
def files(tmp_path: Path) -> Iterator[list[Engine]]:
    """Two files with a table, of which the second holds a row already."""
    engines = [create_engine(f"sqlite:///{tmp_path / name}.sqlite3") for name in ("orders", "audit")]
    for engine in engines:
        Base.metadata.create_all(engine)
    with Session(engines[1]) as session:
        session.add(Entry(id=1))
        session.commit()
    yield engines
    for engine in engines:
        engine.dispose()


def entries(engine: Engine) -> int:
    with engine.connect() as connection:
        return int(connection.scalar(text("SELECT count(*) FROM entry")) or 0)


@pytest.mark.parametrize("nested", [False, True])
def test_what_a_session_still_holds_fails_while_nothing_is_committed(files: list[Engine], nested: bool) -> None:
    orders, audit, other = (SQLAlchemyUnitOfWork(sessionmaker(engine)) for engine in (*files, files[0]))
    outcomes: list[Outcome] = []

    def app(environ: Any, start_response: Any) -> list[bytes]:
        orders.session.add(Entry(id=1))
        audit.session.add(Entry(id=1))
        start_response("201 Created", [])
        return [b"done"]

    both: Any = Chained(orders=orders, audit=Chained(audit=audit, other=other) if nested else audit)
    wrapped = wsgi.PostResponseMiddleware(app, unit_of_work=both, on_finished=outcomes.append)
    _, status, _ = run_wsgi_app(wrapped, create_environ("/"), buffered=True)
    assert (status[:3], outcomes[0].unit_of_work) == ("500", "failed")
    assert isinstance(outcomes[0].exception, exc.IntegrityError)
    assert entries(files[0]) == 0


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_what_an_async_session_still_holds_fails_while_nothing_is_committed(files: list[Engine]) -> None:
    engines = [create_async_engine(engine.url.set(drivername="sqlite+aiosqlite")) for engine in files]
    orders, audit = (AsyncSQLAlchemyUnitOfWork(async_sessionmaker(engine)) for engine in engines)
    outcomes: list[Outcome] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        orders.session.add(Entry(id=1))
        audit.session.add(Entry(id=1))
        await send({"type": "http.response.start", "status": 201, "headers": []})
        await send({"type": "http.response.body", "body": b"done"})

    both = Chained(orders=orders, audit=audit)
    wrapped = asgi.PostResponseMiddleware(app, unit_of_work=both, on_finished=outcomes.append)
    assert (await StrictASGIServer("POST").run(wrapped)).status == 500
    assert isinstance(outcomes[0].exception, exc.IntegrityError)
    assert entries(files[0]) == 0
    for engine in engines:
        await engine.dispose()


@pytest.mark.parametrize("kind", ["wsgi", "asgi", "async"], indirect=False)
def test_what_django_can_only_roll_back_is_refused_while_nothing_is_committed(default: Database, kind: str) -> None:
    cleared(SQLite("other"))

    def view(request: Any) -> HttpResponse:
        orders("default").create()
        transaction.set_rollback(True, using="other")
        return HttpResponse(status=201)

    both = Chained(first=DjangoUnitOfWork("default"), second=DjangoUnitOfWork("other"))
    answer = DjangoSite(view, kind, unit_of_work=both).get()
    assert (answer.unit, default.orders()) == ((500, "failed"), [])
    assert answer.outcome is not None
    assert isinstance(answer.outcome.exception, CommitRefused)


@pytest.mark.parametrize("status", [201, 404])
def test_django_and_async_sqlalchemy_end_together_under_asgi(
    default: Database, files: list[Engine], status: int
) -> None:
    engine = create_async_engine(files[0].url.set(drivername="sqlite+aiosqlite"), poolclass=NullPool)
    audit = AsyncSQLAlchemyUnitOfWork(async_sessionmaker(engine))

    async def view(request: Any) -> HttpResponse:
        await orders("default").acreate()
        audit.session.add(Entry(id=1))
        return HttpResponse(status=status)

    both = Chained(orders=DjangoUnitOfWork("default"), audit=audit)
    assert DjangoSite(view, "asgi", unit_of_work=both).get().unit[0] == status
    assert (default.orders(), entries(files[0])) == (([None], 1) if status == 201 else ([], 0))


# -- refused ----------------------------------------------------------------------------------------------------------


def sync_factory(exchange: object) -> FakeUnit:
    return FakeUnit({})


def async_factory(exchange: object) -> AsyncFakeUnit:
    return AsyncFakeUnit({})


class Says:
    """A factory that says which kind it makes."""

    def __init__(self, is_async: bool | None) -> None:
        self.is_async = is_async

    def __call__(self, exchange: object) -> FakeUnit:
        return AsyncFakeUnit({}) if self.is_async else FakeUnit({})


@pytest.mark.parametrize("members", [{}, {"orders": sync_factory}], ids=["none", "one"])
def test_less_than_two_are_refused(members: Any) -> None:
    with pytest.raises(ConfigurationError, match=rf"expected two or more.*found {'orders' if members else 'none'};"):
        Chained(**members)


async def coroutine_function(exchange: object) -> Any: ...


@pytest.mark.parametrize("wrong", [None, "sqlite://", coroutine_function])
def test_what_is_no_factory_is_refused_by_name(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match="Chained: audit: expected a plain function"):
        Chained(orders=sync_factory, audit=wrong)


def test_the_same_one_twice_is_refused_by_both_names() -> None:
    with pytest.raises(ConfigurationError, match="orders and audit are the same unit of work"):
        Chained(orders=sync_factory, stock=Says(False), audit=sync_factory)


def test_sync_and_async_ones_that_say_so_are_refused_at_construction() -> None:
    with pytest.raises(WrongApplication, match="orders and stock is sync and audit is async"):
        Chained(orders=Says(False), audit=Says(True), stock=Says(False), other=Says(None))


@pytest.mark.parametrize("kind", ["asyncio", "trio"])
def test_sync_and_async_ones_that_do_not_say_so_are_refused_at_the_call(kind: str) -> None:
    trial = Trial(kind)
    trial.composite = Chained(orders=sync_factory, audit=async_factory)
    errors: list[Failure] = []
    assert trial.run(on_error=errors.append) == 500
    assert isinstance(errors[0].exception, WrongApplication)
    assert "orders is sync and audit is async" in str(errors[0].exception)


@pytest.mark.parametrize(
    ("said", "is_async"),
    [((None, None), None), ((None, True), True), ((False, None), False), ((True, True), True)],
    ids=str,
)
def test_it_is_of_the_kind_that_its_members_say(said: tuple[bool | None, bool | None], is_async: bool | None) -> None:
    assert Chained(orders=Says(said[0]), audit=Says(said[1])).is_async is is_async


def test_django_is_refused_by_name_with_what_it_can_never_go_with() -> None:
    django, sync_one, async_one = DjangoUnitOfWork(), sync_factory, Says(is_async=True)
    with pytest.raises(WrongApplication, match="two is sync and three is async"):
        Chained(one=django, two=Says(is_async=False), three=async_one)
    with pytest.raises(WrongApplication, match="use its sync twin"):
        wsgi.PostResponseMiddleware(lambda environ, start_response: [], unit_of_work=Chained(one=django, two=async_one))
    with pytest.raises(WrongApplication, match="two is sync and one is async"):  # Django's is, under ASGI
        Chained(one=django, two=sync_one)(exchange_of(is_async=True))


def test_async_ones_are_refused_under_wsgi() -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        return []

    with pytest.raises(WrongApplication, match="Chained is async and cannot run under WSGI"):
        wsgi.PostResponseMiddleware(app, unit_of_work=Chained(orders=Says(True), audit=Says(True)))


async def returned_coroutine() -> None: ...


@pytest.mark.parametrize(
    ("unit", "said"),
    [
        (lambda: None, "the factory returned None"),
        (returned_coroutine, "the factory returned a coroutine"),
        (object, "has no begin"),
    ],
    ids=["none", "coroutine", "object"],
)
def test_a_factory_that_makes_no_unit_of_work_is_named(unit: Callable[[], Any], said: str) -> None:
    chained = Chained(orders=sync_factory, audit=lambda exchange: unit())
    with pytest.raises(UnitOfWorkError, match=rf"^Chained: audit: .*{said}"):
        chained(exchange_of())


def test_a_composite_can_be_a_member(kind: str) -> None:
    trial = Trial(kind, {"stock": {"commit": LookupError("refused")}})
    inner = trial.composite
    is_async = kind in ("asyncio", "trio")
    trial.composite = Chained(first=async_factory if is_async else sync_factory, rest=inner)
    trial.run()
    assert isinstance(trial.exception, PartialCommit)
    assert (trial.exception.committed, trial.exception.failed) == (("first",), "rest")
    assert isinstance(trial.exception.__cause__, PartialCommit)
    assert trial.exception.__cause__.committed == ("orders", "audit")


def test_the_module_has_no_other_names() -> None:
    with pytest.raises(AttributeError, match="no attribute 'ThreePhase'"):
        _ = composite.ThreePhase
