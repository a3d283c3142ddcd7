import time
from typing import Any, Literal

import anyio
import anyio.lowlevel
import pytest

from postresponse import Outcome, current_exchange, doom
from postresponse.exceptions import NoExchange
from postresponse.work import TaskSupervisor, after_response, launch, scope
from tests.fakes import FakeUnits
from tests.work.waiting import auntil, idle

WHEN: tuple[Literal["committed", "sent", "aborted", "always"], ...] = ("committed", "sent", "aborted", "always")


def test_work_starts_when_the_block_is_over(supervisor: TaskSupervisor) -> None:
    ran: list[str] = []
    with scope("import", supervisor=supervisor) as exchange:
        assert current_exchange() is exchange
        after_response(ran.append, "committed")
        after_response(ran.append, "never", when="rolled_back")
        time.sleep(0.01)
        ran.append("the block")
    idle(supervisor)
    assert ran == ["the block", "committed"]
    with pytest.raises(NoExchange, match="no current exchange"):
        after_response(ran.append, "too late")


def test_a_block_that_raises_starts_what_is_due_then(supervisor: TaskSupervisor) -> None:
    ran: list[str] = []
    outcomes: list[Outcome] = []

    def block() -> None:
        with scope("import", supervisor=supervisor, on_finished=outcomes.append):
            for when in WHEN:
                after_response(ran.append, when, when=when)
            raise LookupError

    with pytest.raises(LookupError):
        block()
    idle(supervisor)
    assert (ran, [outcome.ending for outcome in outcomes]) == (["always"], ["failed"])


@pytest.mark.parametrize("ends", ["well", "doomed", "raised", "refused"])
def test_a_block_with_a_unit_of_work_ends_it(supervisor: TaskSupervisor, ends: str) -> None:
    ran: list[str] = []
    units = FakeUnits({"commit": LookupError("refused")} if ends == "refused" else {})

    def block() -> None:
        with scope("import", unit_of_work=units, supervisor=supervisor):
            for when in ("committed", "rolled_back"):
                after_response(ran.append, when, when=when)
            if ends == "doomed":
                doom()
            if ends == "raised":
                raise LookupError

    if ends in ("raised", "refused"):
        with pytest.raises(LookupError):
            block()
    else:
        block()
    idle(supervisor)
    calls = {"well": ["commit"], "refused": ["commit!", "rollback"]}.get(ends, ["rollback"])
    assert units.log == ["begin", *calls, "close"]
    assert ran == ["committed" if ends == "well" else "rolled_back"]


@pytest.mark.anyio
async def test_inside_async_code_async_work_runs_on_its_loop(supervisor: TaskSupervisor) -> None:
    done: list[Any] = []

    async def work(value: str) -> None:
        await anyio.lowlevel.checkpoint()
        done.append((value, launch(anyio.sleep, 0) is not None))

    with scope(supervisor=supervisor):
        after_response(work, "registered")
    await auntil(lambda: done and not supervisor.jobs())
    assert done == [("registered", True)]
