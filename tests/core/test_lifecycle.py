"""Every order of events that the table allows, with everything that can fail failing in turn.

A driver carries the table's actions out as the adapters do, and performs the real settlement. Whatever the table leaves
open (what the application says next, whether the server takes the last part) is tried in every way; what the unit of
work and the hooks answer follows from the plan. The invariants are those of the specification.
"""

import copy
import functools
import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import pytest

from postresponse.core.driven import DrivenExchange
from postresponse.core.ending import finish
from postresponse.core.exchange import Exchange, Failure
from postresponse.core.lifecycle import (
    MOVES,
    Action,
    CommitPoint,
    Ending,
    Event,
    Outcome,
    State,
    UnitState,
    ending_of,
)
from postresponse.core.policy import CommitPolicy, Retry
from postresponse.core.settings import Settings
from postresponse.core.settlement import refuse, run_start_hooks, settle
from postresponse.core.steps import Steps
from postresponse.exceptions import CommitInDoubt, MessageOrderError
from tests.core import exchanges
from tests.fakes import Conflict, FakeUnit

SHALLOW: Final = 5
"""Events of an order where two things fail, or something else than a plain error."""
DEEP: Final = {CommitPoint.HEAD: 8, CommitPoint.BUFFERED: 8, CommitPoint.AFTER_SEND: 7, None: 7}
"""Events of an order where one thing fails or none; without a settlement before the head, an order is one shorter."""
POINTS: Final = {id(table): point for point, table in MOVES.items()}
HOOKS: Final = ("on_start", "before_commit", "after_commit", "after_rollback", "on_finished")


@dataclass(frozen=True)
class Plan:
    """What fails in one walk.

    Attributes:
        at: The commit point; None observes only, without a unit of work.
        unit: The call of the unit of work that fails.
        hook: The kind of hook that fails: the first of its kind that is called.
        error: What both raise, a new one each time.
        status: The status that the application answers.
        asked: What the handler asked for: `doom`, `force_commit`, or `ended` for a unit that it ended itself.
        until: The commit point until the head is given, where the policy is changed then.
        attempt: The number of this attempt of the two that the policy allows; None where it allows no second.
        seen: Whether the unit of work saw the error of a statement that the application caught.
    """

    at: CommitPoint | None
    unit: str | None = None
    hook: str | None = None
    error: type[BaseException] = ValueError
    status: int = 200
    asked: str | None = None
    until: CommitPoint | None = None
    attempt: int | None = None
    seen: bool = False


class Walk:
    """One order of events so far: the exchange it led to, and all that happened, in order."""

    def __init__(self, plan: Plan, settings: Settings, exchange: DrivenExchange) -> None:
        self.plan = plan
        self.settings = settings
        self.exchange = exchange
        self.order: tuple[Event, ...] = ()
        self.log: list[str] = []
        self.outcomes: list[Outcome] = []
        self.held = 0
        self.answer: Event | None = None
        self.passing: BaseException | None = None
        self.moves: set[tuple[CommitPoint, State, Event]] = set()

    def fork(self) -> "Walk":
        """Copy everything that a further event may change."""
        twin = Walk(self.plan, self.settings, copy.copy(self.exchange))
        twin.order, twin.log, twin.outcomes = self.order, self.log.copy(), self.outcomes.copy()
        twin.held, twin.answer, twin.passing, twin.moves = self.held, self.answer, self.passing, self.moves
        return twin


class Stage:
    """Where the hooks and the unit of work of a plan write what they do: to the walk that is on."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.walk: Walk

    def clock(self) -> int:
        return len(self.walk.log)

    def make_unit(self, exchange: Exchange) -> Any:
        stage = self

        class Unit(FakeUnit):
            def _call(self, name: str) -> None:
                self.log = stage.walk.log
                self.fails = {} if stage.plan.unit is None else {stage.plan.unit: stage.plan.error("refused")}
                super()._call(name)

        unit = Unit({})
        unit.active = self.plan.asked != "ended"
        unit.statement_error = Conflict() if self.plan.seen else None
        return unit

    def hook(self, kind: str, name: str, *_: object) -> None:
        fails = self.plan.hook == kind and f"{kind} first" not in self.walk.log and name == FIRST_CALLED[kind]
        self.walk.log.append(f"{kind} {name}{'!' if fails else ''}")
        if fails:
            raise self.plan.error("refused")

    def finished(self, name: str, outcome: Outcome) -> None:
        self.walk.outcomes.append(outcome)
        self.hook("on_finished", name)

    def told(self, name: str, failure: Failure) -> None:
        self.walk.log.append(f"{name}: {failure.stage}")


FIRST_CALLED: Final = {"on_start": "second", "on_finished": "second"} | dict.fromkeys(HOOKS[1:4], "first")


def policy_of(plan: Plan, at: CommitPoint) -> CommitPolicy:
    """The policy of a plan: with a second attempt where it has one."""
    return CommitPolicy(at=at, retry=None if plan.attempt is None else Retry(attempts=2))


def begin(plan: Plan) -> tuple[Stage, Walk]:
    """Open the exchange of *plan*, two hooks of each kind registered."""
    stage = Stage(plan)
    settings = Settings.of(
        is_async=False,
        clock=stage.clock,
        wall_clock=lambda: 0.0,
        unit_of_work=None if plan.at is None else stage.make_unit,
        commit=None if plan.at is None else policy_of(plan, plan.until or plan.at),
        error_response=None,
        on_commit_failed=functools.partial(stage.told, "on_commit_failed"),
        on_finished=functools.partial(stage.finished, "settings"),
        on_error=functools.partial(stage.told, "on_error"),
        cleanup_timeout=1,
    )
    walk = stage.walk = Walk(
        plan, settings, DrivenExchange(settings, {"type": "http", "method": "GET", "path": "/"}, 0)
    )
    walk.exchange._attempt = plan.attempt or 1
    if plan.at is not None:
        walk.answer = perform(walk, exchanges.open_unit(walk.exchange))
    if walk.answer is None and walk.passing is None:
        for name in ("first", "second"):
            walk.exchange.on_start(functools.partial(stage.hook, "on_start", name))
            walk.exchange.on_finished(functools.partial(stage.finished, name))
            if plan.at is not None:
                for kind in HOOKS[1:4]:
                    getattr(walk.exchange, kind)(functools.partial(stage.hook, kind, name))
        if plan.asked in ("doom", "force_commit"):
            getattr(walk.exchange, plan.asked)()
    return stage, walk


def perform(walk: Walk, steps: Steps[Any]) -> Any:
    """Perform *steps* at once; what passes through them is kept for the walk, and the answer is then None."""
    try:
        return exchanges.perform(steps)
    except BaseException as error:
        assert type(error) is walk.plan.error  # noqa: PT017 (nothing else may come out)
        walk.passing = error
        return None


def choices(walk: Walk) -> tuple[Event, ...]:
    """The events that may come next: what the walk itself has to say, or all that the table leaves open."""
    exchange = walk.exchange
    row = exchange._moves[exchange._state]
    if walk.passing is not None and exchange._state in (State.PENDING, State.SETTLING, State.READY):
        return (Event.RAISED,)
    if exchange._state is State.SETTLING or (exchange._state is State.PENDING and walk.answer is not None):
        assert walk.answer is not None
        return (walk.answer,)
    if exchange._state is State.READY:
        assert walk.answer is not None
        return (walk.answer, Event.RETURNED, Event.RAISED)
    if exchange._state is State.PENDING:
        return (Event.START, Event.RETURNED, Event.RAISED)
    return tuple(row)


def say(walk: Walk, event: Event) -> None:
    """Take *event* through the table and carry out what it answers, as an adapter does."""
    exchange = walk.exchange
    walk.order += (event,)
    walk.log.append(event.name)
    walk.answer = None
    was = exchange._state
    walk.moves.add((POINTS[id(exchange._moves)], was, event))
    if event in (Event.START, Event.RESTART) and was <= State.DECIDED:
        exchange._status, exchange._decided = walk.plan.status, walk.settings.clock()
    if event is Event.RAISED:
        exchange._raised = True
        exchange._exception = exchange._exception or RuntimeError("the application raised")
    if event is Event.HANDED:
        exchange._head_sent = walk.settings.clock()
        walk.log.extend(["leaves: head", *["leaves: body"] * walk.held])
        walk.held = 0
    if event is Event.TAKEN:
        exchange._body_sent = walk.settings.clock()
        walk.log.append("leaves: error" if was is State.REPLACING else "taken")
    carry_out(walk, exchange._advance(event), event, was)
    if walk.plan.until is not None and walk.plan.at is not None and was is State.PENDING and event is Event.START:
        exchange.policy = policy_of(walk.plan, walk.plan.at)


def carry_out(walk: Walk, action: Action, event: Event, was: State) -> None:
    """Do what the table says."""
    exchange = walk.exchange
    if action is Action.HOLD:
        walk.held += event is Event.BODY
    elif action is Action.SETTLE and was is State.ENDING:
        perform(walk, settle(exchange))
    elif action is Action.SETTLE:
        walk.answer = perform(walk, settle(exchange))
    elif action is Action.REFUSE:
        walk.answer = perform(walk, refuse(exchange, event))
    elif action is Action.RELEASE:
        if exchange._on_start is None or perform(walk, run_start_hooks(exchange)):
            walk.answer = Event.HANDED
        elif walk.passing is None:
            walk.answer = Event.REFUSED
    elif action is Action.FORWARD:
        late = "late " if was is State.SENT else ""
        walk.log.append(f"{late}leaves: {event.name.lower()}")
    elif action is Action.REPLACE:
        assert exchange._failure is not None
        exchange._status = exchange._failure.status
        walk.held = 0
        walk.log.append("replaced")
    elif action in (Action.FINISH, Action.SWALLOW):
        walk.log.append("finish")
        perform(walk, finish(exchange))


def walks(plan: Plan, length: int) -> Iterator[Walk]:
    """Walk every order of at most *length* events that ends the exchange."""
    stage, first = begin(plan)
    stack = [first]
    while stack:
        walk = stack.pop()
        if len(walk.order) == length:
            continue
        events = choices(walk)
        for event in events:
            twin = stage.walk = walk if event is events[-1] else walk.fork()
            say(twin, event)
            if twin.exchange._state is State.OVER:
                yield twin
            else:
                stack.append(twin)


# -- the invariants ---------------------------------------------------------------------------------------------------


def unit_calls(walk: Walk) -> list[str]:
    return [entry for entry in walk.log if entry.rstrip("!") in ("begin", "commit", "rollback", "close", "invalidate")]


def check_the_head(walk: Walk) -> None:
    """At most one head leaves, nothing of the application after it was replaced, and no body before the head."""
    leaving = [entry for entry in walk.log if entry.startswith("leaves: ") or entry == "replaced"]
    assert leaving.count("leaves: head") + leaving.count("replaced") <= 1
    if "replaced" in leaving:
        assert leaving[: leaving.index("replaced")] == []
        assert set(leaving[1:]) <= {"leaves: error"}
    elif leaving:
        assert leaving[0] == "leaves: head"


def check_the_unit(walk: Walk) -> None:
    """The unit of work ended once, in one of the ways there are, and was closed after it."""
    plan, state, calls = walk.plan, walk.exchange.unit_of_work, unit_calls(walk)
    if plan.at is None:
        assert state is UnitState.NONE
        assert calls == []
        return
    rolled_back = ["rollback!", "invalidate"] if plan.unit == "rollback" else ["rollback"]
    closed = ["close!", "invalidate"] if plan.unit == "close" else ["close"]
    if plan.unit == "begin":
        assert (state, calls) == (UnitState.ROLLED_BACK, ["begin!", "rollback", *closed])
        return
    doubt = plan.error is CommitInDoubt or (plan.unit == "commit" and not issubclass(plan.error, Exception))
    failed = UnitState.UNKNOWN if doubt else UnitState.FAILED
    ways = [
        (UnitState.COMMITTED, ["begin", "commit", *closed]),
        (UnitState.ROLLED_BACK, ["begin", *rolled_back, *closed]),
    ]
    if plan.unit == "commit":
        ways[0] = (failed, ["begin", "commit!", "rollback", *closed])
    if plan.hook == "before_commit":
        ways[0] = (failed, ["begin", *rolled_back, *closed])
    if plan.asked == "ended":
        ways.append((UnitState.NONE, ["begin", *closed]))
    if is_interrupted(walk) and calls[1:3] == calls[3:5]:
        del calls[1:3]  # it was interrupted, its connection given up, and it was done again
    assert (state, calls) in ways


def is_interrupted(walk: Walk) -> bool:
    """Whether Ctrl+C came inside of a clean-up: then the connection is given up, and no after_ hook runs."""
    return walk.plan.error is KeyboardInterrupt and walk.plan.unit in ("rollback", "close")


def check_the_verdict(walk: Walk) -> None:
    """The first rule that applies decided."""
    plan = walk.plan
    if plan.at is None or plan.unit == "begin":
        return
    ended = next(number for number, entry in enumerate(walk.log) if entry.startswith(ENDS_A_UNIT))
    before = walk.log[:ended]
    tried = walk.exchange.unit_of_work in (UnitState.COMMITTED, UnitState.FAILED, UnitState.UNKNOWN)
    is_refused = "OVERFLOW" in before or "on_start second!" in before
    is_refused = is_refused or (plan.at is CommitPoint.BUFFERED and "RETURNED" in before and "FINAL" not in before)
    if "RAISED" in before or "START" not in before or is_refused:
        assert not tried
        assert walk.exchange.unit_of_work is UnitState.ROLLED_BACK
    elif plan.asked is not None:
        assert tried == (plan.asked == "force_commit")
        assert (walk.exchange.unit_of_work is UnitState.NONE) == (plan.asked == "ended")
    else:
        assert tried == (plan.status < 400)


ENDS_A_UNIT: Final = ("commit", "rollback", "close", "before_commit")


def check_the_moment(walk: Walk) -> None:
    """Head and buffered: all of the unit of work, and its connection, before the first byte; after_send: after the end.

    A response below 400 leaves only if its unit committed, was left alone, or was doomed by the handler itself.
    """
    if walk.plan.at is None or "leaves: head" not in walk.log:
        return
    head = walk.log.index("leaves: head")
    last = max(number for number, entry in enumerate(walk.log) if entry in unit_calls(walk))
    state = walk.exchange.unit_of_work
    if walk.plan.at is CommitPoint.AFTER_SEND:
        if "taken" in walk.log:
            assert walk.log.index("taken") < walk.log.index(next(entry for entry in unit_calls(walk)[1:]))
        return
    assert last < head
    if walk.plan.status < 400 and walk.plan.asked != "doom":
        assert state is UnitState.COMMITTED or (state is UnitState.NONE and walk.plan.asked == "ended")


def check_the_hooks(walk: Walk) -> None:
    """Each kind in its own order, never twice, and only as far as a failure lets it."""
    ran = {
        kind: [entry.removeprefix(f"{kind} ") for entry in walk.log if entry.startswith(f"{kind} ")] for kind in HOOKS
    }
    fails = {kind: "!" if walk.plan.hook == kind else "" for kind in HOOKS}
    if walk.plan.unit == "begin":
        assert [kind for kind in HOOKS if ran[kind]] == ["on_finished"]
        assert ran["on_finished"] == ["settings"]
        return
    assert ran["on_finished"] == [f"second{fails['on_finished']}", "first", "settings"]
    assert ran["on_start"] in ([], ["second!"] if fails["on_start"] else ["second", "first"])
    assert ran["before_commit"] in ([], ["first!"] if fails["before_commit"] else ["first", "second"])
    committed = walk.exchange.unit_of_work is UnitState.COMMITTED
    rolled_back = walk.exchange.unit_of_work in (UnitState.ROLLED_BACK, UnitState.FAILED)
    if not is_interrupted(walk):
        assert ran["after_commit"] == ([f"first{fails['after_commit']}", "second"] if committed else [])
        assert ran["after_rollback"] == ([f"first{fails['after_rollback']}", "second"] if rolled_back else [])
    if "leaves: head" in walk.log:
        assert ran["on_start"] == ["second", "first"]
    if walk.exchange.unit_of_work in (UnitState.COMMITTED, UnitState.FAILED, UnitState.UNKNOWN):
        assert ran["before_commit"] != []


def check_what_was_told(walk: Walk) -> None:
    """Each failure was told once, to the function that is for it."""
    told = Counter(entry for entry in walk.log if entry.startswith(("on_error: ", "on_commit_failed: ")))
    assert set(told.values()) <= {1}
    if not issubclass(walk.plan.error, Exception):
        return
    failed = Counter(entry for entry in walk.log if entry.endswith("!") and not entry.startswith(("rollback", "close")))
    expected = {f"{BELONGS_TO.get(name := entry.split()[0].rstrip('!'), 'on_error')}: {name}" for entry in failed}
    assert {entry for entry in told if not entry.endswith((": overflow", ": no end"))} == expected


BELONGS_TO: Final = {"commit": "on_commit_failed", "before_commit": "on_commit_failed"}


def check_the_outcome(walk: Walk) -> None:
    """One outcome, the same for all, that claims what the order shows and no more; its moments are in order."""
    outcome = walk.outcomes[0]
    assert all(other is outcome for other in walk.outcomes)
    assert outcome.unit_of_work is walk.exchange.unit_of_work
    is_taken = "taken" in walk.log or "leaves: error" in walk.log
    if is_taken:
        assert outcome.ending is Ending.HANDED_OVER
    else:
        assert outcome.ending is (Ending.FAILED if walk.order[-1] is Event.RAISED else Ending.INCOMPLETE)
    assert outcome.sent == is_taken
    if walk.order[-1] is Event.RAISED or "replaced" in walk.log:
        assert outcome.exception is not None
    moments = outcome.moments
    assert (moments.settling is None) == (
        walk.plan.at is None or (walk.log[0] == "begin!" and "rollback" not in walk.log)
    )
    if not is_interrupted(walk):
        assert (moments.settled is None) == (walk.plan.at is None)
    known = [moments.began, moments.settling, moments.settled, moments.ended]
    assert (held := [moment for moment in known if moment is not None]) == sorted(held)
    sent = [moments.decided, moments.head_sent, moments.body_sent, moments.ended]
    assert (held := [moment for moment in sent if moment is not None]) == sorted(held)


def check_the_attempt(walk: Walk) -> None:
    """The request is run again where a conflict undid the unit of work before anything left, and nowhere else."""
    plan, log, state = walk.plan, walk.log, walk.exchange.unit_of_work
    ended = next((number for number, entry in enumerate(log) if entry.startswith((*ENDS_A_UNIT, "begin!"))), len(log))
    raised, failed = "RAISED" in log[:ended], walk.exchange._failure is not None
    answered = "START" in log and plan.status >= 500 and plan.asked is None
    conflict = plan.error is Conflict and any(f"{name}!" in log for name in FAILS_IT)
    expected = (conflict and failed) or (plan.seen and (raised or failed or answered))
    expected = expected and state in (UnitState.ROLLED_BACK, UnitState.FAILED)
    if plan.attempt != 1 or "leaves: head" in log or (plan.error is KeyboardInterrupt and walk.passing is not None):
        expected = False
    assert walk.exchange._again == expected


FAILS_IT: Final = ("begin", "commit", "before_commit first", "on_start second")


def check_what_was_discarded(walk: Walk) -> None:
    """Nothing of the attempt leaves, nobody is told of it, and its unit of work is undone and given back."""
    assert walk.exchange.unit_of_work in (UnitState.ROLLED_BACK, UnitState.FAILED)
    assert unit_calls(walk)[-1] in ("close", "invalidate")
    silent = ("leaves", "replaced", "taken", "after_", "on_finished", "on_error", "on_commit_failed")
    assert not [entry for entry in walk.log if entry.startswith(silent)]
    assert walk.outcomes == []


CHECKS: Final[tuple[Callable[[Walk], None], ...]] = (
    check_the_head,
    check_the_unit,
    check_the_verdict,
    check_the_moment,
    check_the_hooks,
    check_what_was_told,
    check_the_outcome,
)


def plans() -> Iterator[tuple[Plan, int]]:
    """Everything that can fail, one or two at a time, for every commit point and for none; with the events to walk."""
    for at in (*CommitPoint, None):
        units = (None, "begin", "commit", "rollback", "close") if at else (None,)
        hooks = (None, *HOOKS) if at else (None, "on_start", "on_finished")
        for unit, hook in itertools.product(units, hooks):
            yield Plan(at, unit, hook), DEEP[at] if unit is None or hook is None else SHALLOW
            yield Plan(at, unit, hook, status=404), SHALLOW
            if (unit is None) != (hook is None):
                yield Plan(at, unit, hook, SystemExit), SHALLOW
                yield Plan(at, unit, hook, KeyboardInterrupt), SHALLOW
    for at in CommitPoint:
        yield Plan(at, "commit", None, CommitInDoubt), DEEP[at]
        for asked, status, hook in itertools.product(("doom", "force_commit", "ended"), (200, 404), (None, *HOOKS)):
            yield Plan(at, None, hook, status=status, asked=asked), SHALLOW
    for at, attempt, seen, status in itertools.product(list(CommitPoint)[:2], (1, 2), (False, True), (200, 500)):
        for unit, hook in itertools.product((None, "begin", "commit", "rollback", "close"), (None, *HOOKS)):
            yield Plan(at, unit, hook, Conflict, status, attempt=attempt, seen=seen), SHALLOW
        for asked in ("doom", "force_commit", "ended"):
            yield Plan(at, "commit", None, Conflict, status, asked, attempt=attempt, seen=seen), SHALLOW
        for error in (CommitInDoubt, KeyboardInterrupt):
            yield Plan(at, "commit", None, error, status, attempt=attempt, seen=seen), SHALLOW
    for until, at in itertools.product((CommitPoint.HEAD, CommitPoint.BUFFERED), CommitPoint):
        for unit in (None, "commit", "rollback", "close"):
            yield Plan(at, unit, until=until), SHALLOW
        for hook in HOOKS:
            yield Plan(at, None, hook, until=until), SHALLOW


ORDERS: Final = 184_974
"""At least so many orders are walked: a table or a plan that shrinks unnoticed proves less."""

NEVER_TAKEN: Final = {
    # The start hooks have run before the unit of work ended, and are not run again when the head leaves.
    (CommitPoint.HEAD, State.READY, Event.REFUSED),
    (CommitPoint.BUFFERED, State.READY, Event.REFUSED),
}


@pytest.mark.no_cover  # what it runs thousands of times is run by other tests as well
@pytest.mark.usefixtures("quiet")
def test_every_order_of_events_keeps_the_promises(record_property: Callable[[str, object], None]) -> None:
    orders, moves = 0, set()
    for plan, length in plans():
        for walk in walks(plan, length):
            orders += 1
            for check in (check_the_attempt, *((check_what_was_discarded,) if walk.exchange._again else CHECKS)):
                try:
                    check(walk)
                except (AssertionError, LookupError) as error:
                    raise AssertionError(f"{check.__name__}: {plan}\n{walk.log}") from error
        moves |= walk.moves
    record_property("orders", orders)
    print(f"\nwalked {orders:,} orders of up to {max(DEEP.values())} events")
    assert orders >= ORDERS
    table = {(point, state, event) for point in MOVES for state, row in MOVES[point].items() for event in row}
    assert table - moves == NEVER_TAKEN


@pytest.mark.parametrize("point", CommitPoint)
def test_every_state_of_a_table_is_reached_and_has_a_row(point: CommitPoint) -> None:
    table = MOVES[point]
    reached = {State.PENDING, *((State.DECIDED,) if point is CommitPoint.AFTER_SEND else ())}
    while more := {after for state in reached for after, _ in table[state].values()} - reached:
        reached |= more
    assert reached == set(table)
    missing = {State.SETTLING, State.DISCARDED} if point is CommitPoint.AFTER_SEND else set()
    assert reached == set(State) - missing


@pytest.mark.parametrize(
    ("point", "state", "event"),
    [
        (point, state, event)
        for point, table in MOVES.items()
        for state, row in table.items()
        for event in Event
        if event not in row
    ],
)
def test_an_event_that_the_table_does_not_have_is_refused_by_name(
    point: CommitPoint, state: State, event: Event
) -> None:
    _, walk = begin(Plan(point))
    exchange = walk.exchange
    exchange._state = state
    with pytest.raises(MessageOrderError) as refused:
        exchange._advance(event)
    assert f"while its response is {state.words}" in str(refused.value)
    assert SAID.get(event, event.name.lower()) in str(refused.value)
    assert exchange._state is state


SAID: Final = {
    Event.START: "status and headers",
    Event.RESTART: "new status and headers",
    Event.BODY: "a part of the body",
    Event.FINAL: "the end of the body",
}


def test_the_ending_follows_from_the_evidence() -> None:
    evidence = ("taken", "raised", "left", "missing", "ended")
    for values in itertools.product((False, True), repeat=5):
        told = dict(zip(evidence, values, strict=True))
        ending = ending_of(**told)
        if told["left"]:
            assert ending is Ending.ABORTED
        elif told["raised"]:
            assert ending is Ending.FAILED
        elif told["missing"] or not told["ended"]:
            assert ending is Ending.INCOMPLETE
        else:
            assert ending is (Ending.HANDED_OVER if told["taken"] else Ending.UNCONFIRMED)
