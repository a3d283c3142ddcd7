"""The plain way through a settlement and its steps, side by side: whatever the case, both end alike."""

import itertools
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from postresponse import CommitPolicy
from postresponse.core.at_once import open_at_once, settle_at_once
from postresponse.core.driven import DrivenExchange
from postresponse.core.exchange import Exchange, Failure
from postresponse.core.lifecycle import Event
from postresponse.core.settlement import settle
from tests.core.exchanges import SCOPE, give_head, open_unit, perform, settings_of
from tests.core.test_settlement import LazyUnit
from tests.fakes import FakeUnit, FakeUnits

ERRORS: tuple[type[BaseException], ...] = (LookupError, SystemExit, KeyboardInterrupt)
CALLS = ("begin", "commit", "rollback", "close")
ASKED = ("nothing", "doom", "force", "ended", "left", "raised", "committed early")
HOOKS = ("none", "on_start", "before_commit", "after_commit")
POLICIES = {
    "plain": CommitPolicy(),
    "own rule": CommitPolicy(commit_if=lambda head: head.status != 404),
    "failing rule": CommitPolicy(commit_if=lambda head: 1 / 0),
    "rollback": CommitPolicy(on_disconnect="rollback"),
}


def run(call: Any, unit: object, limit: float | None) -> None:
    """Call a method of the unit of work, as the WSGI adapter does."""
    call()


class Side:
    """One exchange, taken one of the two ways, and all that can be seen of it."""

    def __init__(self, *, plainly: bool, unit: FakeUnit, policy: CommitPolicy) -> None:
        self.plainly = plainly
        self.unit = unit
        self.told: list[Any] = []
        settings = settings_of(
            unit_of_work=lambda exchange: unit, commit=policy, on_error=self.tell, on_commit_failed=self.tell
        )
        self.exchange = DrivenExchange(settings, SCOPE, 0)

    def tell(self, failure: Failure) -> None:
        self.told.append((failure.stage, type(failure.exception), failure.unknown, self.unit.log.copy()))

    def take(self, steps: Any, at_once: Any, done: Event | None) -> Any:
        """Go one way, and return the event, or the type of what was raised."""
        try:
            if not self.plainly:
                return perform(steps(self.exchange))
            rest = at_once(self.exchange, run)
            return done if rest is None else perform(rest)
        except BaseException as error:
            return type(error)

    def run(self, status: int, asked: str, hook: str) -> tuple[Any, ...]:
        """Run a request to the end of its settlement, and return what became of it."""
        opened = self.take(open_unit, open_at_once, None)
        if opened is not None:
            return self.seen(opened)
        exchange = self.exchange
        give_head(exchange, status)
        if asked == "doom":
            exchange.doom("for a test")
        elif asked == "force":
            exchange.force_commit()
        elif asked == "ended":
            self.unit.active = False
        elif asked == "left":
            exchange._left = True
        elif asked == "raised":
            exchange._raised = True
        elif asked == "committed early":
            exchange._unit_ended = True
        if hook != "none":
            getattr(exchange, hook)(lambda *_: self.told.append((hook, self.unit.log.copy())))
        return self.seen(self.take(settle, settle_at_once, Event.SETTLED))

    def seen(self, event: Any) -> tuple[Any, ...]:
        exchange = self.exchange
        failure = exchange._failure and (exchange._failure.stage, exchange._failure.unknown, exchange._failure.partial)
        times = (exchange._settling is not None, exchange._settled is not None)
        return event, self.unit.log, exchange.unit_of_work, exchange._unit_ended, failure, times, self.told


def failing() -> Iterator[dict[str, BaseException]]:
    """Nothing that fails, and each call that may fail in each way."""
    yield {}
    for call, error in itertools.product(CALLS, ERRORS):
        yield {call: error("for a test")}


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("asked", ASKED)
def test_both_ways_end_alike(policy: str, asked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("postresponse"), "disabled", True)  # thousands of tracebacks
    ways = set()
    for fails, status, hook, kind in itertools.product(
        failing(), (200, 404), HOOKS, ("eager", "untouched", "touched", "touched until committed")
    ):
        seen = []
        for plainly in (False, True):
            unit = _unit(kind, dict(fails))
            side = Side(plainly=plainly, unit=unit, policy=POLICIES[policy])
            seen.append(side.run(status, asked, hook))
        assert seen[0] == seen[1], (fails, status, hook, kind)
        ways.add(seen[0][0])
    assert Event.SETTLED in ways or policy == "failing rule"


def _unit(kind: str, fails: dict[str, BaseException]) -> FakeUnit:
    if kind == "eager":
        return FakeUnit(fails)

    class Unit(LazyUnit):
        def commit(self) -> None:
            super().commit()
            self.touched = kind != "touched until committed"

    unit = Unit(fails)
    unit.touched = kind != "untouched"
    return unit


def test_a_factory_that_fails_refuses_the_request_both_ways() -> None:
    def factory(exchange: Exchange) -> Any:
        raise LookupError("no unit")

    ended = []
    for plainly in (False, True):
        side = Side(plainly=plainly, unit=FakeUnit({}), policy=CommitPolicy())
        side.exchange._settings = settings_of(unit_of_work=factory, on_error=side.tell)
        ended.append((side.take(open_unit, open_at_once, None), side.told))
    assert ended[0] == ended[1]
    assert ended[0][0] is Event.REFUSED


def test_a_connection_that_cannot_be_given_back_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    side = Side(plainly=True, unit=FakeUnit({"close": LookupError()}), policy=CommitPolicy())
    side.run(200, "nothing", "none")
    assert [record.message for record in caplog.records] == ["GET /orders: the unit of work could not close"]


def test_what_waits_is_left_to_the_steps() -> None:
    settings = settings_of(is_async=True, unit_of_work=FakeUnits())
    exchange = DrivenExchange(settings, SCOPE, 0)
    rest = open_at_once(exchange, run)  # a plain function blocks, and under ASGI goes to a thread
    assert rest is not None
    assert perform(rest) is None
    give_head(exchange)
    rest_of_it = settle_at_once(exchange, run)
    assert rest_of_it is not None
    assert exchange._unit.log == ["begin"]
    assert perform(rest_of_it) is Event.SETTLED
    assert exchange._unit.log == ["begin", "commit", "close"]


@pytest.mark.parametrize("kind", ["eager", "untouched", "touched", "touched until committed"])
def test_what_nothing_stands_against_takes_no_steps(kind: str) -> None:
    calls: list[tuple[str, object, float | None]] = []

    def noted(call: Any, unit: object, limit: float | None) -> None:
        calls.append((call.__name__, unit, limit))
        call()

    unit = _unit(kind, {})
    exchange = Side(plainly=True, unit=unit, policy=CommitPolicy()).exchange
    assert open_at_once(exchange, noted) is None
    give_head(exchange)
    assert settle_at_once(exchange, noted) is None
    expected = [("begin", unit, None), ("commit", unit, None), ("close", unit, 5.0)]
    assert calls == ([] if kind == "untouched" else expected[:2] if kind == "touched until committed" else expected)


def test_a_unit_that_cannot_tell_whether_it_is_active_is_rolled_back_both_ways() -> None:
    class Unit(FakeUnit):
        silent = False

        @property
        def active(self) -> bool:
            if self.silent:
                raise LookupError("the connection is gone")
            return True

        @active.setter
        def active(self, active: bool) -> None: ...

    seen = []
    for plainly in (False, True):
        unit = Unit({})
        side = Side(plainly=plainly, unit=unit, policy=CommitPolicy())
        assert side.take(open_unit, open_at_once, None) is None
        give_head(side.exchange)
        unit.silent = True
        seen.append(side.seen(side.take(settle, settle_at_once, Event.SETTLED)))
    assert seen[0] == seen[1]
    assert seen[0][:2] == (Event.REFUSED, ["begin", "rollback", "close"])
