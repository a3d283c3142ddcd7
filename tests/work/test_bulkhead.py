import functools
import random
import threading
import time
from concurrent.futures import CancelledError, wait
from typing import Any

import anyio
import pytest

from postresponse.exceptions import ConfigurationError, SupervisorClosed, TooManyTasks
from postresponse.work import Bulkhead, BulkheadLimits, Job, JobState, TaskSupervisor
from tests.work.conftest import Told
from tests.work.waiting import aidle, idle, until


class Counter:
    """How many are inside at once."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.inside = self.most = self.entered = 0

    def __enter__(self) -> None:
        with self.lock:
            self.inside += 1
            self.entered += 1
            self.most = max(self.most, self.inside)

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.inside -= 1


def test_work_beyond_the_bound_waits_and_beyond_that_is_refused_at_once(supervisor: TaskSupervisor) -> None:
    bulkhead, held = Bulkhead("mails", max_concurrency=2, max_queue=1, supervisor=supervisor), threading.Event()
    jobs = [bulkhead.submit(held.wait, 5) for _ in range(3)]
    assert (bulkhead.running, bulkhead.waiting) == (2, 1)
    with pytest.raises(TooManyTasks, match="'mails' is full: 2 run and 1 wait"):
        bulkhead.submit(held.wait, 5)
    assert supervisor.jobs() == jobs
    held.set()
    wait(jobs, 5)
    idle(supervisor)
    assert (bulkhead.running, bulkhead.waiting) == (0, 0)


def test_keyword_arguments_are_for_the_function_as_an_executor_has_it(supervisor: TaskSupervisor) -> None:
    with Bulkhead("mails", supervisor=supervisor) as bulkhead:
        assert bulkhead.submit(int, "11", base=2).result(5) == 3
        assert list(bulkhead.map(abs, [-1, -2])) == [1, 2]
    with pytest.raises(SupervisorClosed, match="'mails' was shut down"):
        bulkhead.submit(int)


def test_shutting_down_may_cancel_what_waits(supervisor: TaskSupervisor) -> None:
    bulkhead, held = Bulkhead("mails", supervisor=supervisor), threading.Event()
    jobs = [bulkhead.submit(held.wait, 5) for _ in range(3)]
    threading.Timer(0.02, held.set).start()
    bulkhead.shutdown(cancel_futures=True)
    assert [job.state for job in jobs] == [JobState.DONE, JobState.CANCELLED, JobState.CANCELLED]


def test_two_of_one_name_share_one_bound_and_have_to_agree_on_it(supervisor: TaskSupervisor) -> None:
    held = threading.Event()
    first = Bulkhead("mails", max_concurrency=1, max_queue=0, supervisor=supervisor)
    second = Bulkhead("mails", max_concurrency=1, max_queue=0, supervisor=supervisor)
    first.submit(held.wait, 5)
    with pytest.raises(TooManyTasks):
        second.submit(held.wait, 5)
    held.set()
    with pytest.raises(ConfigurationError, match=r"there is a bulkhead 'mails' with max_concurrency=1, max_queue=0"):
        Bulkhead("mails", max_concurrency=2, max_queue=0, supervisor=supervisor)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("max_concurrency", 0),
        ("max_concurrency", -1),
        ("max_concurrency", True),
        ("max_concurrency", 1.5),
        ("max_queue", -1),
        ("timeout", 0),
        ("timeout", -1),
        ("timeout", "5"),
    ],
)
def test_limits_that_it_cannot_have_are_refused(supervisor: TaskSupervisor, option: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=rf"{option}: expected .*found {value!r}"):
        Bulkhead("mails", supervisor=supervisor, **{option: value})
    with pytest.raises(ConfigurationError, match=option):
        BulkheadLimits(**{option: value})
    with pytest.raises(ConfigurationError, match="name: expected a word"):
        Bulkhead("", supervisor=supervisor)
    assert supervisor._gates == {}


@pytest.mark.anyio
async def test_the_timeout_counts_the_waiting_too(supervisor: TaskSupervisor, told: Told, quiet: None) -> None:
    bulkhead = Bulkhead("mails", max_concurrency=1, timeout=0.03, supervisor=supervisor)
    first = bulkhead.submit(anyio.sleep, 10)
    second = bulkhead.submit(anyio.sleep, 10)
    with pytest.raises(TimeoutError, match=r"sleep was not done in 0\.03 s"):
        await second
    await aidle(supervisor)
    assert [first.state, second.state] == [JobState.TIMED_OUT] * 2
    assert (bulkhead.running, bulkhead.waiting, len(told.errors)) == (0, 0, 2)


def test_a_late_function_keeps_its_slot_until_its_thread_ends(supervisor: TaskSupervisor, quiet: None) -> None:
    bulkhead = Bulkhead("mails", max_concurrency=1, supervisor=supervisor)
    began, held = threading.Event(), threading.Event()

    def hold() -> None:
        began.set()
        held.wait(5)

    late = supervisor.launch(hold, bulkhead="mails", timeout=0.3)
    assert began.wait(5)
    following = bulkhead.submit(int)
    with pytest.raises(TimeoutError):
        late.result(5)
    assert (following.state, bulkhead.running) == (JobState.WAITING, 1)
    held.set()
    assert following.result(5) == 0


@pytest.mark.anyio
async def test_work_that_is_cancelled_while_it_waits_gives_its_place_back(supervisor: TaskSupervisor) -> None:
    bulkhead = Bulkhead("mails", max_concurrency=1, max_queue=1, supervisor=supervisor)
    first, second = bulkhead.submit(anyio.sleep, 10), bulkhead.submit(anyio.sleep, 10)
    assert second.cancel()
    third = bulkhead.submit(anyio.sleep, 0)
    first.cancel()
    await third
    for job in (first, second):
        with pytest.raises(CancelledError):
            await job
    await aidle(supervisor)
    assert (bulkhead.running, bulkhead.waiting) == (0, 0)


@pytest.mark.parametrize("seed", range(4))
def test_hammered_from_all_sides_the_bound_holds_and_every_slot_comes_back(
    supervisor: TaskSupervisor, quiet: None, seed: int
) -> None:
    bulkhead = Bulkhead("mails", max_concurrency=3, max_queue=20, supervisor=supervisor)
    counter = Counter()
    jobs: list[Job[Any]] = []

    def sync(choose: random.Random) -> None:
        with counter:
            time.sleep(choose.random() / 2000)
            if choose.random() < 0.2:
                raise LookupError

    async def awaited(choose: random.Random) -> None:
        with counter:
            await anyio.sleep(choose.random() / 2000)
            if choose.random() < 0.2:
                raise SystemExit

    def client(number: int) -> None:
        choose = random.Random(seed * 100 + number)
        for _ in range(60):
            work = functools.partial(choose.choice([sync, awaited]), choose)
            try:
                job = supervisor.launch(
                    work, bulkhead=bulkhead, timeout=choose.choice([None, 5, 0.001]), name=f"client {number}"
                )
            except TooManyTasks:
                time.sleep(0.001)
                continue
            jobs.append(job)
            if choose.random() < 0.2:
                job.cancel()

    clients = [threading.Thread(target=client, args=(number,)) for number in range(8)]
    for each in clients:
        each.start()
    for each in clients:
        each.join()
    idle(supervisor)
    assert counter.most <= 3
    assert counter.entered > 0
    until(lambda: (bulkhead.running, bulkhead.waiting) == (0, 0))  # the last job is gone before its slot is back
    assert counter.inside == 0
    assert all(job.done() for job in jobs)
