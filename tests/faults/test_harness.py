"""The harness itself: every rule fails where its promise is broken, and every kind of call is met."""

import asyncio
import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from postresponse import CommitPolicy, current_exchange
from postresponse.asgi import PostResponseMiddleware as ASGI
from postresponse.core.lifecycle import Ending, UnitState
from postresponse.error_response import ErrorResponse
from postresponse.exceptions import CommitInDoubt
from postresponse.wsgi import PostResponseMiddleware as WSGI
from tests.faults import trial as trial_module
from tests.faults.database import Orders
from tests.faults.kinds import Broken
from tests.faults.plan import Call, Fault, Kind, Plan
from tests.faults.rules import RULES
from tests.faults.runs import STANDS, WORLDS, Runs, case_of, cases_of, fault_of, faults_of, modes_of
from tests.faults.table import Table
from tests.faults.trial import Trial, run_all
from tests.faults.worlds import Fakes, World, _Unit

# -- what is spoiled, each rule in one way or more --------------------------------------------------------------------


def wrapping(change: Callable[[Any, dict[str, Any]], Any]) -> Callable[..., Any]:
    """Spoil the WSGI middleware: *change* gets the application and the options, and returns what the server gets."""
    return lambda app, **options: change(app, options)


def head_twice(app: Any, options: dict[str, Any]) -> Any:
    inner = WSGI(app, **options)

    def spoiled(environ: Any, start_response: Any) -> Any:
        body = inner(environ, start_response)
        start_response("200 OK", [])
        return body

    return spoiled


def raises_behind_its_end(app: Any, options: dict[str, Any]) -> Any:
    inner = WSGI(app, **options)

    def spoiled(environ: Any, start_response: Any) -> Any:
        yield from inner(environ, start_response)
        raise Broken("too late")

    return spoiled


def hides_the_close(app: Any, options: dict[str, Any]) -> Any:
    return WSGI(lambda environ, start_response: iter(app(environ, start_response)), **options)


def tells_success(app: Any, options: dict[str, Any]) -> Any:
    def success(failure: Any) -> ErrorResponse:
        return ErrorResponse(201, (("set-cookie", "of=nobody"),), b"stored")

    return WSGI(app, **{**options, "error_response": success})


def hides_the_failure(app: Any, options: dict[str, Any]) -> Any:
    return WSGI(app, **{**options, "error_response": lambda failure: ErrorResponse(200, (), b"fine")})


def never_retries(app: Any, options: dict[str, Any]) -> Any:
    return WSGI(app, **{**options, "commit": CommitPolicy("head")})


def claims_more(app: Any, options: dict[str, Any]) -> Any:
    keep = options["on_finished"]
    claim = lambda outcome: keep(replace(outcome, ending=Ending.HANDED_OVER))  # noqa: E731
    return WSGI(app, **{**options, "on_finished": claim})


def calls_it_rolled_back(app: Any, options: dict[str, Any]) -> Any:
    keep = options["on_finished"]
    call = lambda outcome: keep(replace(outcome, unit_of_work=UnitState.ROLLED_BACK))  # noqa: E731
    return WSGI(app, **{**options, "on_finished": call})


def answers_otherwise(app: Any, options: dict[str, Any]) -> Any:
    def spoiled(environ: Any, start_response: Any) -> Any:
        return app(environ, lambda status, *args: start_response(status.replace("201 Created", "202 Accepted"), *args))

    return WSGI(spoiled, **options)


def never_commits(app: Any, options: dict[str, Any]) -> Any:
    return WSGI(app, **{**options, "commit": CommitPolicy("head", commit_if=lambda head: False)})


def says_that_it_failed(app: Any, options: dict[str, Any]) -> Any:
    def definite(failure: Any) -> ErrorResponse:
        return ErrorResponse(503, (), b"it was not carried out")

    return WSGI(app, **{**options, "error_response": definite})


def never_tells(app: Any, options: dict[str, Any]) -> Any:
    return WSGI(app, **{**options, "on_commit_failed": None})


def never_reports(app: Any, options: dict[str, Any]) -> Any:
    return WSGI(app, **{**options, "on_finished": None})


def doubles_a_hook(app: Any, options: dict[str, Any]) -> Any:
    hooks = trial_of(options).hooks

    def spoiled(environ: Any, start_response: Any) -> Any:
        body = app(environ, start_response)
        current_exchange().after_commit(lambda: hooks.append((1, "after_commit", 1)))
        return body

    return WSGI(spoiled, **options)


def is_never_over(app: Any, options: dict[str, Any]) -> Any:
    trial_of(options).enter(SimpleNamespace(attempt=1, state="sending", unit_of_work=None))
    return WSGI(app, **options)


def trial_of(options: dict[str, Any]) -> Trial:
    """Return the trial that made *options*."""
    trial: Trial = options["unit_of_work"].__self__
    return trial


def leaves_a_task(app: Any, **options: Any) -> Any:
    tasks = []

    async def spoiled(scope: Any, receive: Any, send: Any) -> None:
        tasks.append(asyncio.create_task(asyncio.sleep(3600)))
        await app(scope, receive, send)

    return ASGI(spoiled, **options)


class Unreturned(Fakes):
    """Units that do not give their connection back."""

    class make(_Unit):
        def _close(self) -> None:
            """Keep it."""


class Uncommitted(Fakes):
    """Units that say that they committed, and did not."""

    class make(_Unit):
        def _commit(self) -> None:
            self._end()


class Doubtful(Fakes):
    """Units that take a refusal for no answer."""

    class make(_Unit):
        def _commit(self) -> None:
            try:
                super()._commit()
            except Broken as error:
                raise CommitInDoubt("nobody knows") from error


class Certain(Fakes):
    """Units that take no answer for a refusal."""

    class make(_Unit):
        def commit(self) -> None:
            try:
                super().commit()
            except CommitInDoubt as error:
                raise Broken("the commit is refused") from error


class WrittenLate(Fakes):
    """A store that keeps what was written late."""

    def rows(self, order: int) -> int:
        return super().rows(abs(order))


class Forgetful(Orders):
    """A database that has no row but the last."""

    def rows(self, order: int) -> int:
        (last,) = self._truth.execute("SELECT max(id) FROM orders").fetchone()
        return super().rows(order) if order == last else 0


SPOILED: list[tuple[str, str, str, Any]] = [
    ("protocol", "head-wsgi-Fakes-small", "", wrapping(head_twice)),
    ("one_outcome", "head-wsgi-Fakes-small", "", wrapping(never_reports)),
    ("truth", "head-wsgi-Fakes-small", "", Uncommitted),
    ("known", "head-wsgi-Fakes-refused", "", Doubtful),
    ("known", "head-wsgi-Fakes-small", "unit.commit#1 in doubt before", Certain),
    ("known", "head-wsgi-Fakes-small", "unit.commit#1 broken before", wrapping(calls_it_rolled_back)),
    ("known", "head-wsgi-Fakes-refused", "", wrapping(calls_it_rolled_back)),
    ("undisturbed", "head-wsgi-Fakes-small", "", wrapping(answers_otherwise)),
    ("undisturbed", "head-wsgi-Fakes-small", "", wrapping(never_commits)),
    ("late_writes", "head-wsgi-Fakes-small", "", WrittenLate),
    ("client", "head-wsgi-Fakes-refused", "", wrapping(tells_success)),
    ("client", "head-wsgi-Fakes-small", "unit.commit#1 in doubt before", wrapping(says_that_it_failed)),
    ("again", "head+retry-wsgi-Fakes-small", "unit.commit#1 busy before", wrapping(never_retries)),
    ("replaced", "head-wsgi-Fakes-refused", "", wrapping(hides_the_failure)),
    ("exceptions", "head-wsgi-Fakes-small", "", wrapping(raises_behind_its_end)),
    ("connections", "head-wsgi-Fakes-small", "", Unreturned),
    ("over", "head-wsgi-Fakes-small", "", wrapping(is_never_over)),
    ("closed", "head-wsgi-Fakes-streamed", "", wrapping(hides_the_close)),
    ("hooks", "head-wsgi-Fakes-small", "", wrapping(doubles_a_hook)),
    ("told", "head-wsgi-Fakes-refused", "", wrapping(never_tells)),
    ("ending", "head-wsgi-Fakes-cut", "", wrapping(claims_more)),
    ("tasks", "head-asyncio-AsyncFakes-small", "", leaves_a_task),
    ("next", "head-wsgi-Orders-small", "dbapi.cursor.close#1 unanswered after", Forgetful),
]


@pytest.mark.parametrize(("rule", "case_text", "fault_text", "spoiled"), SPOILED)
def test_a_broken_promise_is_seen_by_its_rule(
    rule: str, case_text: str, fault_text: str, spoiled: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if isinstance(spoiled, type):
        monkeypatch.setitem(WORLDS, case_of(case_text).world, spoiled)
    else:
        monkeypatch.setattr(trial_module, "ASGIMiddleware" if "asyncio" in case_text else "WSGIMiddleware", spoiled)
    case = case_of(case_text)
    runs = Runs(case.side, case.world, tmp_path, Table())
    runs.these(case, *faults_of(fault_text, case.side))
    assert rule in {found for _, _, found, _ in runs.violations}


def test_every_rule_is_shown_to_fail() -> None:
    assert {rule for rule, *_ in SPOILED} == {*RULES, "next"}


# -- what is counted --------------------------------------------------------------------------------------------------

MET = {
    *("app.work", "app.answer", "app.part", "app.done", "app.close"),
    *(f"dbapi.{name}" for name in ("connect", "cursor", "execute", "cursor.close", "commit", "rollback", "close")),
    *("dbapi.executemany", "dbapi.fetchone", "dbapi.fetchall"),
    *(f"hook.{name}" for name in ("on_start", "before_commit", "after_commit", "after_rollback", "on_finished")),
    *(f"option.{name}" for name in ("commit_if", "error_response", "on_commit_failed", "on_error", "on_finished")),
    *(f"server.{name}" for name in ("receive", "send", "start_response", "write", "next", "close")),
    *(f"unit.{name}" for name in ("factory", "begin", "commit", "rollback", "close", "invalidate")),
}
"""Every call that a fault, or the second of a pair, can meet."""


def test_every_kind_of_call_is_met(tmp_path: Path) -> None:
    met: set[str] = set()
    for side, name in (("wsgi", "Fakes"), ("wsgi", "Orders"), ("asyncio", "AsyncOrders")):
        world = WORLDS[name](tmp_path)
        run_all(side, courses(side, name, world, met))
        world.plan = Plan()
        world.close()
    assert met == MET


def courses(side: str, name: str, world: World, met: set[str]) -> Iterator[Trial]:
    """Run every case without a fault, and with those that have others follow; note what is called."""
    orders = itertools.count(1)
    for case in (case for mode in modes_of(name) for case in cases_of(mode, side, name)):
        for faults in ((), *((fault_of(text, side),) for text in FOLLOWED[name])):
            trial = Trial(case, world, Plan(*faults), next(orders))
            yield trial
            met.update(call.name for call in trial.plan.calls)


FOLLOWED = {
    "Fakes": ("unit.rollback#1 broken before", "hook.after_commit#1 broken before"),
    "Orders": ("dbapi.commit#1 busy before",),
    "AsyncOrders": ("dbapi.rollback#1 unanswered after",),
}


def test_a_call_that_was_to_be_done_first_and_fails_by_itself_keeps_its_own_error() -> None:
    fault = Fault(Call("unit.commit", 1), Kind("after", Broken, done=True))
    plan = Plan(fault)
    with pytest.raises(IndexError):
        plan.around("unit.commit", lambda: [""][1])
    assert (plan.forestalled, plan.fired) == ([fault], [])


def test_a_fault_is_of_one_call_only_and_known_by_name_and_number() -> None:
    plan = Plan(Fault(Call("unit.close", 2), Kind("before", Broken)))
    done: list[str] = []
    plan.around("unit.close", lambda: done.append("first"))
    plan.around("unit.rollback", lambda: done.append("rollback"))
    with pytest.raises(Broken):
        plan.around("unit.close", lambda: done.append("second"))
    plan.around("unit.close", lambda: done.append("third"))
    assert done == ["first", "rollback", "third"]
    assert [str(call) for call in plan.calls] == ["unit.close#1", "unit.rollback#1", "unit.close#2", "unit.close#3"]


@pytest.mark.parametrize("text", ["head-wsgi-AsyncOrders-small", "observe-wsgi-Fakes-small"])
def test_a_case_that_is_not_there_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="there is no case"):
        case_of(text)


@pytest.mark.parametrize("text", ["unit.commit broken before", "unit.commit#1 broken sideways", "commit#1 lost after"])
def test_a_fault_that_is_not_there_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="there is no fault"):
        fault_of(text, "wsgi")


def test_the_ids_that_a_failure_prints_are_read_back() -> None:
    for side, worlds in STANDS.items():
        for world in worlds:
            for case in cases_of(modes_of(world)[-1], side, world):
                assert case_of(str(case)) == case
    assert str(fault_of("dbapi.cursor.close#2 lost after", "wsgi")) == "dbapi.cursor.close#2 lost after"
