"""Whether things happened in the order that was promised, and a timeline that says why not."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from postresponse.core.lifecycle import UnitState
from postresponse.core.policy import did_you_mean
from postresponse.core.trace import Trace
from postresponse.exceptions import ConfigurationError
from postresponse.work.job import Job

__all__ = ["Seen", "assert_committed_before_sent", "assert_sent_before", "is_called", "timeline"]

COMMIT_EARLIER: Final = (
    "A client that has its answer cannot be told of a commit that fails, and looks for a row that is not there yet. "
    'Way out: commit="head" (the default) or "buffered" commits before the first byte.'
)
COMMIT_OURS: Final = (
    "This commit is not managed by the middleware, and its client could not be told if it failed. "
    "Way out: give the middleware unit_of_work=, and leave the commit to it."
)
START_LATER: Final = (
    "Way out: after_response() starts work when the response has left; launch() starts it beside the request."
)
COMMIT_LATER: Final = 'Way out: commit="after_send" commits behind the last byte; nobody is told if that fails.'
SEND_ALL: Final = "Way out: look at why the response was cut off; work of when='committed' starts all the same."


@dataclass(frozen=True)
class Seen:
    """What a recorder knows when it is asked.

    Attributes:
        traces: The exchanges that are over.
        jobs: The work that was started, or held back.
        unended: The routes of exchanges that are not over.
    """

    traces: Sequence[Trace]
    jobs: Sequence[Job[Any]]
    unended: Sequence[str]

    def on(self, route: str | None) -> list[Trace]:
        """Return the exchanges on *route*.

        Raises:
            ConfigurationError: There are none.
        """
        found = [trace for trace in self.traces if route is None or route in _names(trace)]
        if found:
            return found
        if route is None:
            raise ConfigurationError(
                f"no exchange was seen{self._not_over()}; is the application inside a PostResponseMiddleware, and in "
                "this process?"
            )
        names = sorted({f"{trace.method} {trace.route}" for trace in self.traces})
        raise ConfigurationError(f"route: no exchange was on {route!r}{did_you_mean(route, names)}{self._not_over()}")

    def of(self, trace: Trace) -> list[Job[Any]]:
        """Return the work that came of an exchange."""
        return [job for job in self.jobs if job.exchange == trace.number]

    def _not_over(self) -> str:
        if not self.unended:
            return ""
        return (
            f"; begun and not over: {', '.join(self.unended)} (is the response closed? "
            "Flask's test client closes it with buffered=True)"
        )


def assert_committed_before_sent(seen: Seen, route: str | None) -> None:
    """See `Recorder.assert_committed_before_sent`."""
    __tracebackhide__ = True
    found = seen.on(route)
    wanted = [trace for trace in found if route is not None or _wants_commit(trace)]
    if not wanted:
        verdicts = "\n".join(f"  {trace.method} {trace.route}: {trace.verdict}" for trace in found)
        raise ConfigurationError(f"no exchange committed anything; seen:\n{verdicts}")
    for trace in wanted:
        if not _committed_early(trace):
            late = trace.late_commits
            way_out = COMMIT_OURS if late else COMMIT_EARLIER if trace.mode == "after_send" else ""
            raise AssertionError(_failed(seen, trace, f"{trace.method} {trace.route}: {trace.verdict}", way_out))


def assert_sent_before(seen: Seen, name: str, route: str | None) -> None:
    """See `Recorder.assert_sent_before`."""
    __tracebackhide__ = True
    found = seen.on(route)
    looked_at = list(_moments(seen, found, name))
    if not looked_at:
        names = sorted({job.name for trace in found for job in seen.of(trace)})
        raise ConfigurationError(f"name: no work was called {name!r}{did_you_mean(name, names)}{seen._not_over()}")
    for trace, began in looked_at:
        sent = trace.outcome.moments.body_sent
        if sent is None:
            raise AssertionError(_failed(seen, trace, f"the response never left as a whole before {name}", SEND_ALL))
        if began < sent:
            early = f"{name} began {(sent - began) / 1e6:.1f} ms BEFORE the last byte had left"
            raise AssertionError(_failed(seen, trace, early, COMMIT_LATER if name == "commit" else START_LATER))


def is_called(job: Job[Any], name: str) -> bool:
    """Whether *name* is that of *job*, or of its function without what that stands in."""
    return name in (job.name, job.name.rpartition(".")[2])


def timeline(trace: Trace, jobs: Sequence[Job[Any]]) -> str:
    """What happened to an exchange, and the work that came of it, a line an event."""
    first, *lines = str(trace).splitlines()
    began = trace.outcome.moments.began
    events = [(each.ms, line) for each, line in zip(trace.events, lines, strict=True)]
    for job in jobs:
        ms = (job.submitted * 1e9 - began) / 1e6
        events.append((ms, f"{ms:>10.1f} ms  work.due {job.name}"))
    return "\n".join([first, *(line for _, line in sorted(events, key=_moment))])


def _moment(event: tuple[float, str]) -> float:
    return event[0]


def _names(trace: Trace) -> tuple[str, ...]:
    return trace.path, trace.route, f"{trace.method} {trace.path}", f"{trace.method} {trace.route}"


def _wants_commit(trace: Trace) -> bool:
    ended = trace.outcome.unit_of_work
    managed = ended in (UnitState.COMMITTED, UnitState.FAILED, UnitState.UNKNOWN) and trace.outcome.moments.settled
    return bool(managed) or any(commit.wrote for commit in trace.commits)


def _committed_early(trace: Trace) -> bool:
    moments = trace.outcome.moments
    if trace.late_commits or trace.outcome.unit_of_work in (UnitState.FAILED, UnitState.UNKNOWN):
        return False
    if trace.outcome.unit_of_work is UnitState.COMMITTED:
        head = moments.head_sent
        return moments.settled is not None and (head is None or moments.settled <= head)
    return any(commit.wrote and commit.exception is None for commit in trace.commits)


def _moments(seen: Seen, found: Sequence[Trace], name: str) -> Iterator[tuple[Trace, int]]:
    """Give each exchange with the moment at which what is called *name* began."""
    for trace in found:
        for job in seen.of(trace):
            if is_called(job, name):
                yield trace, int(job.submitted * 1e9)
        settling = trace.outcome.moments.settling
        if name == "commit" and settling is not None and _wants_commit(trace):
            yield trace, settling
        if name == "commit":
            yield from ((trace, commit.began) for commit in trace.commits)


def _failed(seen: Seen, trace: Trace, what: str, way_out: str) -> str:
    told = "\n".join(f"  {line}" for line in timeline(trace, seen.of(trace)).splitlines())
    return "\n".join(filter(None, [what, told, way_out]))
