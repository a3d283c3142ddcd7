import logging
import time
from typing import Any, Literal

import anyio
import anyio.lowlevel
import pytest

from postresponse import Outcome, current_exchange, doom
from postresponse.exceptions import ConfigurationError, NoExchange, StreamClosed, WrongApplication
from postresponse.work import Stream, TaskSupervisor, after_response, launch, scope
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


@pytest.mark.anyio
@pytest.mark.parametrize("is_async", [True, False])
@pytest.mark.parametrize("ends", ["well", "doomed", "raised", "refused", "cancelled"])
async def test_an_async_block_ends_its_unit_of_work_of_whatever_kind(
    supervisor: TaskSupervisor, ends: str, is_async: bool
) -> None:
    ran: list[str] = []
    outcomes: list[Outcome] = []
    units = FakeUnits({"commit": LookupError("refused")} if ends == "refused" else {}, is_async=is_async)

    async def told(outcome: Outcome) -> None:
        await anyio.lowlevel.checkpoint()
        outcomes.append(outcome)

    async def block() -> None:
        async with scope("import", unit_of_work=units, on_finished=told, supervisor=supervisor) as exchange:
            assert current_exchange() is exchange
            for when in ("committed", "rolled_back"):
                after_response(ran.append, when, when=when)
            if ends == "doomed":
                doom()
            if ends == "raised":
                raise LookupError
            if ends == "cancelled":
                await anyio.sleep_forever()

    if ends in ("raised", "refused"):
        with pytest.raises(LookupError):
            await block()
    else:
        with anyio.move_on_after(0.05 if ends == "cancelled" else 10):
            await block()
    await auntil(lambda: ran)
    gives_up = ends == "cancelled" and not is_async  # somebody on a thread may still use it
    rolled_back = ["invalidate" if gives_up else "rollback"]
    calls = {"well": ["commit"], "refused": ["commit!", "rollback"]}.get(ends, rolled_back)
    assert units.log == ["begin", *calls, "close"]
    assert ran == ["committed" if ends == "well" else "rolled_back"]
    assert len(outcomes) == 1
    with pytest.raises(NoExchange):
        current_exchange()


@pytest.mark.anyio
async def test_an_async_unit_of_work_is_for_an_async_block(supervisor: TaskSupervisor) -> None:
    with pytest.raises(WrongApplication, match="is async"), scope(unit_of_work=FakeUnits(is_async=True)):
        raise AssertionError


@pytest.mark.anyio
async def test_a_block_owns_its_streams_and_each_has_its_name(
    supervisor: TaskSupervisor, caplog: pytest.LogCaptureFixture
) -> None:
    async with scope("import", supervisor=supervisor) as block:
        first: Stream[int] = block.stream("s1", maxsize=5, batch_size=2, batch_wait=1.0, history=1, customer=7)
        second: Stream[int] = block.stream("s2")
        assert (first.maxsize, first.batch_size, first.batch_wait, first.context["customer"]) == (5, 2, 1.0, 7)
        assert block.streams == {"s1": first, "s2": second}
        with pytest.raises(ConfigurationError, match="stream: the scope 'import' has a stream 's1' already"):
            block.stream("s1")
        with pytest.raises(ConfigurationError, match="expected a name"):
            block.stream(" ")
        with pytest.raises(ConfigurationError, match="maxsize"):
            block.stream("s3", maxsize=0)
        first.put_nowait(1, 2, 3)
        second.put_nowait(4)
        second.done()
    with pytest.raises(StreamClosed, match="the scope 'import' left it, and its producers were not done"):
        await first.put(5)
    assert [item async for item in second] == [4]
    got: list[Any] = []
    await first.consume(got.append, None, got.append)
    assert (got[:2], type(got[2])) == ([[1, 2], [3]], StreamClosed)
    (line,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert line.getMessage() == (
        "the stream s1 (customer=7) is closed: the scope 'import' left it, and its producers were not done; 3 were put,"
        " 0 taken, and 3 wait"
    )
    with pytest.raises(NoExchange, match="the scope 'import' is over"):
        block.stream("s4")


@pytest.mark.parametrize("fails", [True, False])
def test_a_plain_block_owns_streams_too(supervisor: TaskSupervisor, fails: bool) -> None:
    def block() -> None:
        with scope("import", supervisor=supervisor) as owner:
            streams.append(owner.stream("s1"))
            streams[0].put_sync(1)
            if fails:
                raise LookupError

    streams: list[Stream[int]] = []
    if fails:
        with pytest.raises(LookupError):
            block()
    else:
        block()
    assert streams[0].closed
    assert streams[0].waiting == 1


@pytest.mark.anyio
async def test_the_same_name_in_another_block_is_another_stream(supervisor: TaskSupervisor) -> None:
    for _ in range(2):
        async with scope("import", supervisor=supervisor) as block:
            stream = block.stream("s1")
            await stream.put_all([1, 2])
            stream.done()
            assert [item async for item in stream] == [1, 2]


@pytest.mark.anyio
@pytest.mark.parametrize("is_async", [True, False])
async def test_a_block_whose_unit_of_work_cannot_begin_is_not_run(supervisor: TaskSupervisor, is_async: bool) -> None:
    units = FakeUnits({"begin": LookupError("no connection")})
    block = scope("import", unit_of_work=units, supervisor=supervisor)

    async def enter() -> None:
        if is_async:
            async with block:
                raise AssertionError
        else:
            with block:
                raise AssertionError

    with pytest.raises(LookupError, match="no connection"):
        await enter()
    assert units.log[0] == "begin!"
    assert units.log[-1] == "close"
