"""What becomes of work when a process ends, forks, or loses its event loop."""

import asyncio
import subprocess
import sys
import textwrap
import time
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from postresponse.exceptions import SupervisorClosed
from postresponse.work import Bulkhead, Job, JobState, TaskSupervisor, homes
from tests.work.conftest import Told
from tests.work.waiting import idle

PREAMBLE = """
import asyncio, logging, os, sys, threading, time
from postresponse.work import TaskSupervisor, after_response, default_supervisor, launch, scope

logging.basicConfig(format="%(message)s")
say = lambda *words: print(*words, flush=True)
"""


def run(script: str) -> tuple[list[str], str, float]:
    """Run a script, which ends well, and return the lines of its output, what it logged, and the seconds it took."""
    began = time.monotonic()
    ran = subprocess.run(
        [sys.executable, "-c", PREAMBLE + textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.splitlines(), ran.stderr, time.monotonic() - began


def test_a_process_that_ends_waits_for_its_work() -> None:
    said, logged, _ = run(
        """
        def sync():
            time.sleep(0.2)
            say("sync")

        async def awaited():
            await asyncio.sleep(0.3)
            say("async")

        with scope():
            after_response(sync)
            after_response(awaited)
        say("the end")
        """
    )
    assert (said, logged) == (["the end", "sync", "async"], "")


def test_what_outlives_the_grace_is_told_of_by_name_and_holds_nobody_up() -> None:
    said, logged, took = run(
        """
        supervisor = TaskSupervisor(grace=0.1, on_dropped=lambda job: say("dropped", job.name))
        supervisor.launch(time.sleep, 20, name="sync")
        supervisor.launch(asyncio.sleep, 20, name="async")
        time.sleep(0.1)
        """
    )
    assert sorted(said) == ["dropped async", "dropped sync"]
    assert logged.count("is lost: its supervisor, or its event loop, ended before it") == 2
    assert took < 15


def test_nothing_starts_before_the_first_work_and_a_child_begins_with_nothing() -> None:
    said, _, _ = run(
        """
        say(threading.active_count())
        parent = launch(time.sleep, 0.3, name="the parent's")
        say(launch(asyncio.sleep, 0, "in the parent").result(5))
        if (child := os.fork()) == 0:
            say(default_supervisor().jobs(), threading.active_count())
            say(launch(os.getpid).result(5) == os.getpid(), launch(asyncio.sleep, 0, "in the child").result(5))
            os._exit(0)
        os.waitpid(child, 0)
        say(parent.result(5))
        """
    )
    assert said == ["1", "in the parent", "[] 1", "True in the child", "None"]


def test_work_whose_event_loop_ends_is_told_of(supervisor: TaskSupervisor, told: Told, quiet: None) -> None:
    jobs: list[Job[Any]] = []
    bulkhead = Bulkhead("one", max_concurrency=1, supervisor=supervisor)

    async def main() -> None:
        jobs.append(supervisor.launch(asyncio.sleep, 10, name="runs", bulkhead="one"))
        await asyncio.sleep(0)
        jobs.append(supervisor.launch(asyncio.sleep, 10, name="waits", bulkhead="one"))
        jobs.append(supervisor.launch(asyncio.sleep, 0, name="has not started"))

    asyncio.run(main())
    assert sorted(told.dropped) == ["has not started", "runs"]
    assert [job.name for job in supervisor.jobs()] == ["waits"]  # it got the slot of one that was cancelled
    supervisor._looked_at = 0  # a second later
    assert supervisor.launch(int, bulkhead="one").result(5) == 0
    assert {job.state for job in jobs} == {JobState.DROPPED}
    idle(supervisor)
    assert (bulkhead.running, bulkhead.waiting) == (0, 0)


def test_a_supervisor_outlives_an_event_loop(supervisor: TaskSupervisor) -> None:
    async def main() -> object:
        return await supervisor.launch(asyncio.sleep, 0, "value")

    assert [asyncio.run(main()) for _ in range(3)] == ["value"] * 3
    assert anyio.run(lambda: _on_trio(supervisor), backend="trio") == "value"


async def _on_trio(supervisor: TaskSupervisor) -> object:
    async def work() -> str:
        await anyio.lowlevel.checkpoint()
        return "value"

    return await supervisor.launch(work)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_loop_that_is_closed_takes_no_work(supervisor: TaskSupervisor, backend: str) -> None:

    async def here() -> Any:
        return homes.here()

    home = anyio.run(here, backend=backend)
    assert not home.is_here()
    with pytest.raises(SupervisorClosed, match=r"closed|over"):
        home.call_soon(print)


def test_a_job_does_not_take_what_is_its_functions(supervisor: TaskSupervisor) -> None:
    job = supervisor.launch(int)
    for call in (job.set_running_or_notify_cancel, lambda: job.set_result(3), lambda: job.set_exception(None)):
        with pytest.raises(RuntimeError):
            call()
    assert job.result(5) == 0
