"""Work is told of while it waits and runs, and no job is lost from sight when it ends."""

import threading
from collections.abc import Iterator
from typing import Any

import anyio
import pytest

from postresponse import after_response, launch
from postresponse.core.trace import JobTrace
from postresponse.inspector import Inspector
from postresponse.inspector.carried import carried as jobs_of
from postresponse.inspector.ring import Changes
from postresponse.observing import Observer
from postresponse.work import Bulkhead, TaskSupervisor
from tests.inspector.asking import PAGE, ask, serve
from tests.work.waiting import idle, until


@pytest.fixture(params=["asyncio", "trio", "wsgi"])
def protocol(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def release() -> Iterator[threading.Event]:
    """What all work of a test waits for."""
    made = threading.Event()
    yield made
    made.set()


@pytest.fixture
def supervisor(release: threading.Event) -> Iterator[TaskSupervisor]:
    made = TaskSupervisor(grace=5)
    yield made
    release.set()
    made.close(5)


def carried(protocol: str, inspector: Inspector, supervisor: TaskSupervisor) -> list[dict[str, Any]]:
    """What the page is told of the work that is not over, but for its times."""
    told = ask(protocol, inspector, f"{PAGE}changes", supervisor=supervisor).json
    assert told["carries"] == len(told["carried"])
    found: list[dict[str, Any]] = told["carried"]
    return found


def test_what_runs_and_what_waits_for_its_bulkhead_is_told_with_its_request(
    protocol: str, supervisor: TaskSupervisor, release: threading.Event
) -> None:
    inspector = Inspector()
    Bulkhead("mailer", supervisor=supervisor)

    def view() -> int:
        for name in ("first", "second"):
            launch(release.wait, name=name, bulkhead="mailer")
        after_response(release.wait, name="third")
        return 201

    assert carried(protocol, inspector, supervisor) == []
    serve(protocol, inspector, view, supervisor=supervisor)
    until(lambda: [job.state for job in supervisor.jobs()] == ["running", "waiting", "running"])
    first, second, third = carried(protocol, inspector, supervisor)
    assert [(each["name"], each["state"], each["verdict"]) for each in (first, second, third)] == [
        ("first", "running", "runs"),
        ("second", "waiting", "waits for the bulkhead 'mailer': its one place is taken, and 1 in the queue"),
        ("third", "running", "runs"),
    ]
    (request,) = ask(protocol, inspector, f"{PAGE}changes").json["requests"]
    assert {each["request"] for each in (first, second, third)} == {request["id"]}
    assert first["route"] == "GET /orders"
    assert request["time"] - 0.1 < first["time"] <= first["began"] < request["time"] + 60
    assert second["began"] is None
    assert not any(each["problem"] for each in (first, second, third))
    release.set()
    idle(supervisor)
    told = ask(protocol, inspector, f"{PAGE}changes").json
    assert told["carried"] == []
    assert {each["id"] for each in told["jobs"]} == {each["id"] for each in (first, second, third)}


def test_work_of_no_request_is_told_too_and_what_is_late_is_a_problem(
    protocol: str, supervisor: TaskSupervisor, release: threading.Event
) -> None:
    inspector = Inspector()
    job = supervisor.launch(release.wait, timeout=0.01, name="late")
    until(lambda: job.state == "timed_out")
    (late,) = carried(protocol, inspector, supervisor)
    assert (late["verdict"], late["problem"]) == ("was not done in time, and its thread still runs", True)
    assert (late["request"], late["route"], late["tenant"], late["began"]) == (None, "", None, None)


def test_work_that_waits_for_a_thread_or_a_loop_says_so(release: threading.Event) -> None:
    supervisor = TaskSupervisor(max_threads=1, grace=5)

    async def main() -> list[str]:
        for _ in range(2):
            supervisor.launch(release.wait)
        supervisor.launch(anyio.sleep, 0)  # on this loop, which does not turn before it is looked at
        verdicts = [each.verdict for each in jobs_of([supervisor], "7-abc", float)[0]]
        release.set()
        await supervisor.aclose(5)
        return verdicts

    assert anyio.run(main)[1:] == ["waits for a thread", "waits for its event loop"]


def test_of_many_the_oldest_are_shown_and_all_are_counted(
    supervisor: TaskSupervisor, release: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("postresponse.inspector.carried.MOST_SHOWN", 2)
    inspector = Inspector()
    for name in ("a", "b", "c"):
        supervisor.launch(release.wait, name=name)
    told = ask("wsgi", inspector, f"{PAGE}changes", supervisor=supervisor).json
    assert ([each["name"] for each in told["carried"]], told["carries"]) == (["a", "b"], 3)


class Ending:
    """A feed that has all work end right before it is asked."""

    def __init__(self, feed: Any, supervisor: TaskSupervisor, release: threading.Event) -> None:
        self.put = feed.put
        self._feed, self._supervisor, self._release = feed, supervisor, release

    def since(self, mark: int) -> Changes:
        self._release.set()
        idle(self._supervisor)
        found: Changes = self._feed.since(mark)
        return found


def test_a_job_that_ends_while_somebody_looks_is_seen_under_one_id(
    supervisor: TaskSupervisor, release: threading.Event
) -> None:
    inspector = Inspector()

    def view() -> int:
        launch(release.wait, name="mail")
        return 200

    serve("wsgi", inspector, view, supervisor=supervisor)
    inspector.feed = Ending(inspector.feed, supervisor, release)
    told = ask("wsgi", inspector, f"{PAGE}changes").json
    assert [each["id"] for each in told["carried"]] == [each["id"] for each in told["jobs"]] != []


class Slow(Observer):
    """Is told that a job has ended, and takes its time."""

    def __init__(self, release: threading.Event) -> None:
        self.is_told = threading.Event()
        self._release = release

    def job_ended(self, trace: JobTrace) -> None:
        self.is_told.set()
        assert self._release.wait(30)


def test_a_job_whose_observers_are_being_told_is_still_there(release: threading.Event) -> None:
    slow = Slow(release)
    inspector, supervisor = Inspector(), TaskSupervisor(grace=5, observers=[slow])
    supervisor.launch(len, "", name="mail")
    assert slow.is_told.wait(30)
    (job,) = carried("wsgi", inspector, supervisor)
    assert (job["name"], job["state"], job["verdict"]) == ("mail", "done", "is about to end")
    release.set()
    supervisor.close(5)
