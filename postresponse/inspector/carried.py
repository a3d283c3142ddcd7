"""The work that waits or runs now: asked of its supervisors when somebody looks, so that nothing is kept of it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

from postresponse.core.current import current
from postresponse.core.log import TENANT
from postresponse.work.job import Job, JobState
from postresponse.work.supervisor import TaskSupervisor

__all__ = ["Carried", "carried"]

MOST_SHOWN: Final = 100
"""Jobs that are shown, the oldest; a supervisor may have any number."""


@dataclass(frozen=True, slots=True)
class Carried:
    """A job that is not over.

    Attributes:
        id: That of the `JobRecord` which it will have.
        request: The id of the request that it came from, where that is known.
        route: The method and route of that, or an empty string.
        tenant: Whose it is, while the request still tells it.
        name: Its own.
        time: When it was submitted, in seconds since 1970.
        began: When it began to run, likewise; None if it did not, or nobody took it down.
        state: As `JobState` has it.
        problem: Whether somebody should look at it.
        verdict: How it stands, in words.
    """

    id: str
    request: str | None
    route: str
    tenant: str | None
    name: str
    time: float
    began: float | None
    state: str
    problem: bool
    verdict: str


def carried(
    supervisors: Iterable[TaskSupervisor], process: str, wall_clock: Callable[[float], float]
) -> tuple[list[Carried], int]:
    """Return the oldest jobs that wait or run, and how many there are.

    Args:
        process: The name of this one.
        wall_clock: Makes seconds since 1970 of monotonic ones.
    """
    jobs = sorted((job for each in supervisors for job in each.jobs()), key=lambda job: job.submitted)
    return [_carried(job, process, wall_clock) for job in jobs[:MOST_SHOWN]], len(jobs)


def _carried(job: Job[Any], process: str, wall_clock: Callable[[float], float]) -> Carried:
    started, state = job._started, job.state
    return Carried(
        id=f"{process}.job{job._number}" if job._number else f"{process}.unobserved{id(job)}",
        request=None if job.exchange is None else f"{process}.{job.exchange}",
        route=job.route,
        tenant=_tenant(job),
        name=job.name,
        time=wall_clock(job.submitted),
        began=None if started is None else wall_clock(started / 1e9),
        state=state.value,
        problem=state in _STILL_RUNS,
        verdict=_verdict(job, state),
    )


_STILL_RUNS: Final = {
    JobState.TIMED_OUT: "was not done in time, and its thread still runs",
    JobState.DROPPED: "was lost, and its thread still runs",
}


def _verdict(job: Job[Any], state: JobState) -> str:
    if state is JobState.RUNNING:
        return "runs"
    if state is not JobState.WAITING:
        return _STILL_RUNS.get(state, "is about to end")
    gate = job._gate
    if gate is not None and job in gate.waiting:
        places = f"all {gate.max_concurrency} of its places are" if gate.max_concurrency > 1 else "its one place is"
        return f"waits for the bulkhead {gate.name!r}: {places} taken, and {len(gate.waiting)} in the queue"
    return "waits for a thread" if job._home is None else "waits for its event loop"


def _tenant(job: Job[Any]) -> str | None:
    context = job._context  # None once it has ended
    exchange = None if context is None else context.get(current)
    scope = None if exchange is None else exchange.scope
    return str(scope[TENANT]) if scope and TENANT in scope else None
