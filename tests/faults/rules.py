"""What holds after every run, whatever failed: sections 1 to 5 and 7 of the specification, one function a promise.

Each yields what is wrong. What failed is looked at only where the rule itself speaks of it: a database's truth and a
client's bytes are the same for every fault.
"""

import logging
from collections.abc import Callable, Iterator
from typing import Final

from postresponse.core.lifecycle import Ending, UnitState
from postresponse.exceptions import CommitInDoubt
from tests.fakes import ConnectionLost
from tests.faults.kinds import AppFailed
from tests.faults.plan import Call, Fired
from tests.faults.trial import Case, Trial

__all__ = ["RULES", "broken_rules"]

Rule = Callable[[Trial], Iterator[str]]

NOT_COMMITTED: Final = (UnitState.ROLLED_BACK, UnitState.FAILED)


def broken_rules(trial: Trial) -> list[tuple[str, str]]:
    """Return the name of each rule that does not hold, and what is wrong."""
    return [(name, wrong) for name, rule in RULES.items() for wrong in rule(trial)]


def protocol(trial: Trial) -> Iterator[str]:
    """The server was told nothing that its protocol does not allow."""
    yield from trial.server.broken


def one_outcome(trial: Trial) -> Iterator[str]:
    """`on_finished` is called once per exchange, whatever happened."""
    if len(trial.outcomes) + _failed_before_it_was_kept(trial) != 1:
        yield f"{len(trial.outcomes)} outcomes"
    if trial.plan.count("option.on_finished") != 1:
        yield f"the option on_finished was called {trial.plan.count('option.on_finished')} times"


def truth(trial: Trial) -> Iterator[str]:
    """Committed means that the row is there; rolled back and failed, that it is not; and it is there at most once."""
    rows, state = trial.world.rows(trial.order), _state(trial)
    if rows > 1:
        yield f"{rows} rows of one order"
    if state is UnitState.COMMITTED and rows != 1:
        yield "committed, and there is no row"
    if state in NOT_COMMITTED and rows:
        yield f"{state}, and the row is there"
    if state is UnitState.NONE and trial.case.at != "observe" and not _failed_to_make(trial):
        yield "the unit of work has no end"
    if trial.case.at == "observe" and state is not UnitState.NONE:
        yield f"there is no unit of work, and it is {state}"


def known(trial: Trial) -> Iterator[str]:
    """Unknown is what nobody can know, all of it and nothing else; a COMMIT that was refused has failed."""
    state, calls = _state(trial), trial.plan.last_attempt
    fired = [one for one in trial.plan.fired if one.fault.call in calls]
    hidden = any(_may_hide_the_answer(one, calls) for one in fired)
    if state is UnitState.UNKNOWN and not hidden:
        yield "unknown, and nothing kept COMMIT from being answered"
    if state is not UnitState.UNKNOWN and any(map(_leaves_in_doubt, fired)):
        yield f"COMMIT was not answered, and it is {state}"
    if state is not UnitState.FAILED and not hidden and _was_refused(trial, calls, fired):
        yield f"COMMIT was refused, and it is {state}"


def undisturbed(trial: Trial) -> Iterator[str]:
    """Where nothing failed but what the shape says, the client and the unit of work have what it says."""
    found = (trial.status, _state(trial))
    if not trial.plan.fired and found != _due(trial.case):
        yield f"status and unit of work are {found}, where {_due(trial.case)} is due"


def late_writes(trial: Trial) -> Iterator[str]:
    """What is written after the commit is rolled back; what is written before it shares its fate."""
    late, rows = trial.world.rows(-trial.order), trial.world.rows(trial.order)
    if late and (trial.case.at == "head" or late != rows):
        yield f"{late} rows that were written late, {rows} in time"


def client(trial: Trial) -> Iterator[str]:
    """Head and buffered: a 2xx has its row, a definite failure has none, and who cannot be told either is told so."""
    if trial.case.at not in ("head", "buffered"):
        return
    rows, status = trial.world.rows(trial.order), trial.status
    if status is not None and status < 400 and rows != 1:
        yield f"the client got {status}, and there is no row"
    cut = not trial.whole and _state(trial) is UnitState.UNKNOWN  # before the words that would have said so
    if status is not None and status >= 400 and rows and not trial.told_unknown and not cut:
        yield f"the client got {status}, and the row is there"
    exits = any(fired.handling and isinstance(fired.error, SystemExit) for fired in trial.plan.fired)
    if status is None and rows and not exits and not any(map(_ends_the_request, trial.plan.fired)):
        yield "the server answers 500 by itself, and the row is there"
    if trial.told_unknown and _state(trial) is not UnitState.UNKNOWN:
        yield f"the client was told that nobody knows, and it is {_state(trial)}"
    if trial.whole and _state(trial) is UnitState.UNKNOWN and not trial.told_unknown:
        yield f"nobody knows, and the client got {status} without a word of it"


def again(trial: Trial) -> Iterator[str]:
    """With retry a single fault that passes, before anything is committed, is not noticed by the client."""
    if not trial.case.retry or len(trial.plan.fired) != 1 or not _passes(trial, trial.plan.fired[0]):
        return
    if (trial.status, trial.whole) != (trial.case.shape.status, True) or trial.replaced:
        yield f"the fault would have passed, and the client got {trial.client}"
    if [outcome.attempt for outcome in trial.outcomes] != [2]:
        yield f"attempts: {[outcome.attempt for outcome in trial.outcomes]}"


def replaced(trial: Trial) -> Iterator[str]:
    """An error response has nothing of the response that it replaces, and is whole unless the server fails."""
    if not trial.replaced:
        return
    assert trial.status is not None
    if trial.status < 500:
        yield f"an error response with status {trial.status}"
    if not trial.whole and not trial.case.shape.leaves and not any(map(_ends_the_request, trial.plan.fired)):
        yield "an error response that is not whole"
    if any(part in trial.server.body for part in trial.case.shape.parts):
        yield "an error response with a part of the application's body"


def exceptions(trial: Trial) -> Iterator[str]:
    """What reaches the server is the application's own, the server's own, or ends the process or the task."""
    raised = trial.raised
    if raised is None:
        if not trial.whole and not trial.case.shape.leaves and not any(map(_ends_the_request, trial.plan.fired)):
            yield "the response is not whole, and nothing was raised"
        return
    if isinstance(raised, ConnectionLost) and trial.case.shape.leaves:
        return
    if isinstance(raised, AppFailed) and trial.case.shape.raises != "never" and not trial.replaced:
        return
    if any(_ends_the_request(fired) for fired in trial.plan.fired):
        return
    if any(fired.handling for fired in trial.plan.fired) and not (trial.replaced and isinstance(raised, Exception)):
        return
    yield f"{raised!r} reached the server"


def connections(trial: Trial) -> Iterator[str]:
    """The connection is back in its pool without a transaction, or given up."""
    yield from trial.world.leaks()


def over(trial: Trial) -> Iterator[str]:
    """Every exchange is over, and says what its outcome says."""
    for exchange in trial.exchanges:
        if exchange.state != "over":
            yield f"the exchange is {exchange.state}"
    if trial.exchanges and trial.outcomes and trial.exchanges[-1].unit_of_work is not trial.outcomes[-1].unit_of_work:
        yield "exchange and outcome disagree"


def closed(trial: Trial) -> Iterator[str]:
    """The application's body is closed exactly once."""
    if trial.closes != trial.bodies:
        yield f"{trial.bodies} bodies, closed {trial.closes} times"


def hooks(trial: Trial) -> Iterator[str]:
    """Each hook runs at most once, those of the last attempt alone, and those of the end that the unit of work had."""
    last = max((exchange.attempt for exchange in trial.exchanges), default=1)
    state = _state(trial)
    expected = {"after_commit": state is UnitState.COMMITTED, "after_rollback": state in NOT_COMMITTED}
    if trial.registered == last:
        expected["on_finished"] = True
    for name, runs in expected.items():
        wanted = [(last, name, index) for index in (0, 1)] if runs and trial.registered == last else []
        found = [hook for hook in trial.hooks if hook[1] == name]
        if (sorted(found) if name == "on_finished" else found) != wanted:
            yield f"{name} after {state}: {found}"
    for name in ("on_start", "before_commit"):
        found = [hook for hook in trial.hooks if hook[:2] == (last, name)]
        order = [(last, name, index) for index in ((1, 0) if name == "on_start" else (0, 1))]
        if found != order[: len(found)]:
            yield f"{name}: {found}"
        ran_all = state is UnitState.COMMITTED if name == "before_commit" else _is_own(trial)
        if ran_all and trial.registered == last and len(found) != 2:
            yield f"{name} ran {len(found)} times of 2"


def told(trial: Trial) -> Iterator[str]:
    """A commit that failed is told once and logged at ERROR with its traceback; a hook's error is logged as well."""
    state, fired = _state(trial), trial.plan.fired
    calls = trial.told.count("on_commit_failed")
    if calls != (state in (UnitState.FAILED, UnitState.UNKNOWN)):
        yield f"on_commit_failed was called {calls} times, and the unit of work is {state}"
    errors = [level for level, has_traceback in trial.logged if level >= logging.ERROR and has_traceback]
    if state in (UnitState.FAILED, UnitState.UNKNOWN) and not errors:
        yield f"{state}, and no ERROR with a traceback is logged"
    for one in fired:
        hook = one.fault.call.family in ("hook", "option")
        runs_again = any(call.name == "app.work" and call.number > 1 for call in trial.plan.calls)
        if hook and isinstance(one.error, Exception | SystemExit) and not errors and not runs_again:
            yield f"{one.fault} is not logged"


def ending(trial: Trial) -> Iterator[str]:
    """The ending claims no more than the server did, and no less where nothing disturbed it."""
    for outcome in trial.outcomes:
        # A client may leave so that nothing tells of it: servers take what is sent to nobody.
        silently = any(fired.fault.kind.then == "client leaves" for fired in trial.plan.fired)
        if outcome.ending is Ending.HANDED_OVER and not trial.whole and not silently:
            yield "handed over, and the server has not taken the end"
        goes_on = not any(map(_ends_the_request, trial.plan.fired))
        if trial.whole and goes_on and outcome.ending is not Ending.HANDED_OVER:
            yield f"the server took the end, and it is {outcome.ending}"
        if trial.status is not None and trial.whole and outcome.status != trial.status:
            yield f"the client got {trial.status}, the outcome says {outcome.status}"
        if outcome.unit_of_work in (UnitState.FAILED, UnitState.UNKNOWN) and outcome.exception is None:
            yield f"{outcome.unit_of_work} without its exception"


def tasks(trial: Trial) -> Iterator[str]:
    """Nothing of the request runs on."""
    yield from trial.tasks


RULES: Final[dict[str, Rule]] = {
    rule.__name__: rule
    for rule in (
        protocol,
        one_outcome,
        truth,
        known,
        undisturbed,
        late_writes,
        client,
        again,
        replaced,
        exceptions,
        connections,
        over,
        closed,
        hooks,
        told,
        ending,
        tasks,
    )
}


def _state(trial: Trial) -> UnitState:
    """Return how the unit of work ended, as the middleware says."""
    if trial.outcomes:
        return trial.outcomes[-1].unit_of_work
    if trial.exchanges:
        return trial.exchanges[-1].unit_of_work  # type: ignore[no-any-return]
    return UnitState.NONE if trial.case.at == "observe" else UnitState.ROLLED_BACK


COMMITS: Final = ("dbapi.commit", "unit.commit")


def _leaves_in_doubt(fired: Fired) -> bool:
    """Whether *fired* is a COMMIT that raised what is no answer.

    No error at all is one that was answered: a request that is cancelled just then, or a client that leaves, waits for
    its commit (section 7).
    """
    error, kind = fired.error, fired.fault.kind
    if fired.fault.call.name not in COMMITS or error is None:
        return False
    if isinstance(error, CommitInDoubt) or not isinstance(error, Exception):
        return True
    # A unit of work's own error is an answer, whatever became of its connection: it has `CommitInDoubt` to say else.
    return kind.done or (fired.fault.call.family == "dbapi" and kind.then == "connection dies")


def _may_hide_the_answer(fired: Fired, calls: list[Call]) -> bool:
    """Whether *fired* can have kept the one who sent COMMIT from its answer, as one of the *calls* of its attempt."""
    if _leaves_in_doubt(fired):
        return True
    sent = next((place for place, call in enumerate(calls) if call.name == "dbapi.commit"), None)
    if fired.fault.call.family != "dbapi" or sent is None:
        return False
    place = calls.index(fired.fault.call)
    if fired.fault.kind.then == "connection dies":  # nobody noticed before COMMIT was sent on it
        return place < sent
    # The session gives its connection back inside of its commit: an exit from there is one out of the unit's commit.
    # Meanwhile the loop may watch for a disconnect.
    inside = place > sent and {call.family for call in calls[sent:place]} <= {"dbapi", "server"}
    return inside and not isinstance(fired.error, Exception | None)


def _was_refused(trial: Trial, calls: list[Call], fired: list[Fired]) -> bool:
    """Whether COMMIT was answered with an error, a fault's or the database's own."""
    raised = [one.fault.call.name for one in fired if one.error is not None]
    if any(name in COMMITS for name in raised):
        return True
    return trial.case.shape.refused and any(call.name in COMMITS for call in calls)


def _due(case: Case) -> tuple[int | None, UnitState]:
    """Return what the client gets and how the unit of work ends where no fault comes between."""
    shape, at = case.shape, case.at
    before_the_head = shape.raises == "before the head" or (shape.raises == "in the body" and at == "buffered")
    if at == "observe":
        return (None if before_the_head else shape.status), UnitState.NONE
    if before_the_head:
        return None, UnitState.ROLLED_BACK
    # The send to a client that left raises, on a server that tells, and that out of the application.
    raises_behind_it = shape.raises == "in the body" or (shape.leaves and case.side != "wsgi")
    if shape.status >= 400 or (at == "after_send" and raises_behind_it):
        return shape.status, UnitState.ROLLED_BACK
    if shape.refused:
        return (shape.status if at == "after_send" else 500), UnitState.FAILED
    return shape.status, UnitState.COMMITTED


def _failed_to_make(trial: Trial) -> bool:
    return any(fired.fault.call.name == "unit.factory" and fired.error is not None for fired in trial.plan.fired)


STATEMENTS: Final = {
    **{"dbapi.cursor": 3, "dbapi.execute": 2, "dbapi.executemany": 1},
    **{"dbapi.fetchone": 1, "dbapi.fetchall": 1},
}
"""The calls of a handler's three statements; further ones come with the late use of a session."""


def _passes(trial: Trial, fired: Fired) -> bool:
    """Whether *fired* is a conflict that is gone on the next attempt, in a request that would be answered 2xx."""
    shape, call = trial.case.shape, fired.fault.call
    if fired.fault.kind.name != "busy before" or shape.status >= 400 or shape.refused or shape.leaves:
        return False
    if shape.raises != "never" or call.number > STATEMENTS.get(call.name, 1):
        return False
    if call.name in STATEMENTS:
        return True
    if call.family == "app":  # behind a framework only the unit of work can remember a statement's error
        return call.name in ("app.work", "app.answer") and not shape.framework
    return call.name in ("dbapi.commit", "unit.begin", "unit.commit")


def _is_own(trial: Trial) -> bool:
    """Whether the response that left was the application's own."""
    return trial.status is not None and not trial.replaced


def _ends_the_request(fired: Fired) -> bool:
    """Whether the server failed, the client left, the request was cancelled or the process is to end."""
    if fired.fault.call.family == "server" or fired.fault.kind.then in ("request is cancelled", "client leaves"):
        return True
    return isinstance(fired.error, KeyboardInterrupt)


def _failed_before_it_was_kept(trial: Trial) -> bool:
    return any(
        fired.fault.call.name == "option.on_finished" and not fired.fault.kind.done and fired.error is not None
        for fired in trial.plan.fired
    )
