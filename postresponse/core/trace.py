"""What observers are told: how one exchange went, step by step, with the verdict in words; and how one job went.

Plain data, taken together when all is over: an exchange without an observer has none of it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from postresponse.core.lifecycle import CommitPoint, Ending, Outcome, UnitState

__all__ = ["EnlistedMessage", "JobTrace", "Mode", "ObservedCommit", "Trace", "TraceEvent", "mode_of"]

Mode = Literal["observe", "head", "buffered", "after_send"]


@dataclass(frozen=True, slots=True)
class ObservedCommit:
    """A commit of a request's that this package saw, and does not manage.

    Attributes:
        began: When it was sent, in nanoseconds of the monotonic clock.
        ended: When the database had answered; None where nothing told of that.
        late: Whether the head of the response had left before it.
        wrote: Whether its transaction is known, or suspected, to have written.
        exception: What it raised.
        source: Who told of it: `"sqlalchemy"` or `"django"`.
        where: The function that it came from, with its file and line: one of the application's where there is one, else
            of a library that uses the database's; or an empty string, also for one that is early and that no observer
            hears of.
    """

    began: int
    ended: int | None
    late: bool
    wrote: bool
    exception: BaseException | None
    source: str
    where: str

    @property
    def way_out(self) -> str:
        """What to do about it where it is late."""
        return _WAYS_OUT.get(self.source, "commit before the response starts")


class EnlistedMessage(NamedTuple):
    """A message that a request has enlisted in an outbox.

    Attributes:
        id: The message's.
        destination: Which engine it is for.
        name: What that calls it.
    """

    id: str
    destination: str
    name: str


class TraceEvent(NamedTuple):
    """One thing that happened to an exchange.

    Attributes:
        ms: Milliseconds since the request reached the middleware.
        name: What it was, as `commit.start`.
        detail: What else there is to say, or an empty string.
    """

    ms: float
    name: str
    detail: str


@dataclass(frozen=True, slots=True)
class Trace:
    """How one exchange went.

    Attributes:
        number: Counts the exchanges of this process.
        time: When the request came, in seconds since 1970.
        method: Of the request.
        path: Of the request, without its query.
        template: The route's template where the framework told it, or None; there are few of them, and many paths.
        mode: When the unit of work was to commit; `"observe"` where there is none.
        tenant: Whose request it was, where a `TenantLimitMiddleware` further out named one.
        outcome: How the response and the unit of work ended.
        idle: Whether nothing was asked of the unit of work, so that there was nothing to commit.
        doomed: The reason that was given to `doom`, where that decided; or None.
        length: The Content-Length of the response, where it has one.
        commits: The commits that this package does not manage, in order.
        messages: What was enlisted in an outbox meanwhile, in order; sent if its transaction committed.
    """

    number: int
    time: float
    method: str
    path: str
    template: str | None
    mode: Mode
    tenant: str | None
    outcome: Outcome
    length: int | None = None
    idle: bool = False
    doomed: str | None = None
    commits: tuple[ObservedCommit, ...] = ()
    messages: tuple[EnlistedMessage, ...] = ()

    @property
    def route(self) -> str:
        """The template of the route where there is one, else the path."""
        return self.path if self.template is None else self.template

    @property
    def late_commits(self) -> tuple[ObservedCommit, ...]:
        """The commits that came after the head had left and may have written: what a client cannot be told of."""
        return tuple(commit for commit in self.commits if commit.late and commit.wrote)

    @property
    def late_failure(self) -> ObservedCommit | None:
        """The first of the late commits that failed, or None."""
        return next((commit for commit in self.late_commits if commit.exception is not None), None)

    @property
    def lateness(self) -> float:
        """Milliseconds from the first byte to the end of a late commit: of the first that failed, else of the last."""
        late = self.late_commits
        if not late:
            return 0.0
        worst, moments = self.late_failure or late[-1], self.outcome.moments
        return max((worst.ended or worst.began) - (moments.head_sent or moments.began), 0) / 1e6

    @property
    def is_problem(self) -> bool:
        """Whether somebody should look at it."""
        return bool(
            self.late_commits
            or self.outcome.unit_of_work in (UnitState.FAILED, UnitState.UNKNOWN)
            or self.outcome.ending in (Ending.FAILED, Ending.INCOMPLETE)
        )

    @property
    def verdict(self) -> str:
        """What became of it, in one plain phrase: that of its worst part."""
        outcome, moments = self.outcome, self.outcome.moments
        head = moments.head_sent
        if outcome.unit_of_work is UnitState.UNKNOWN:
            return "nobody knows whether it committed"
        if outcome.unit_of_work is UnitState.FAILED:
            told = "and the client was told so" if self.mode in ("head", "buffered") else "behind the client's back"
            return f"the commit failed, {told}"
        if self.late_commits:
            did = "a commit failed" if self.late_failure else "committed"
            return f"{did} {self.lateness:.1f} ms AFTER the first byte"
        if outcome.ending is Ending.FAILED:
            return f"the application raised {type(outcome.exception).__name__}"
        if outcome.ending is Ending.ABORTED:
            return f"the client left{self._how_far()}"
        if outcome.ending is Ending.INCOMPLETE:
            return f"the response was incomplete{self._how_far()}"
        if outcome.unit_of_work is UnitState.ROLLED_BACK:
            return "rolled back (doomed)" if self.doomed is not None else f"rolled back ({outcome.status})"
        if outcome.unit_of_work is UnitState.COMMITTED and moments.settled is not None and not self.idle:
            if self.mode == "after_send" and moments.body_sent is not None and moments.settled > moments.body_sent:
                return f"committed {_ms(moments.body_sent, moments.settled)} ms after the last byte (by choice)"
            return f"committed {_ms(moments.settled, head or moments.ended)} ms before the first byte"
        early = [each for each in self.commits if each.wrote and not each.late]
        if early and early[-1].exception is not None:
            return "a commit failed before the first byte"
        if early and head is not None:
            return f"committed {_ms(early[-1].ended or early[-1].began, head)} ms before the first byte"
        return "nothing was committed"

    @property
    def events(self) -> tuple[TraceEvent, ...]:
        """What happened, in order."""
        began = self.outcome.moments.began
        known = [(at, name, detail) for at, name, detail in self._happened() if at is not None]
        return tuple(TraceEvent((at - began) / 1e6, name, detail) for at, name, detail in sorted(known, key=_first))

    def _happened(self) -> Iterator[tuple[int | None, str, str]]:
        outcome, moments = self.outcome, self.outcome.moments
        yield moments.began, "request.start", ""
        yield moments.decided, "handler.head", "" if outcome.status is None else str(outcome.status)
        ends = "rollback" if outcome.unit_of_work is UnitState.ROLLED_BACK else "commit"
        idle = "nothing to commit" if self.idle and ends == "commit" else ""
        yield moments.settling, f"{ends}.start", idle
        yield moments.settled, f"{ends}.{_WORDS.get(outcome.unit_of_work, 'done')}", idle
        for commit in self.commits:
            place = f", {commit.where}" if commit.where else ""
            read = "" if commit.wrote else ", nothing written"
            yield commit.began, "commit.start", f"observed, not managed{place}{read}"
            failed = commit.exception is not None
            name = type(commit.exception).__name__ if failed else ""
            yield commit.ended, "commit.failed" if failed else "commit.done", name
        yield moments.head_sent, "head.sent", "" if outcome.status is None else str(outcome.status)
        size = "" if outcome.bytes_sent is None else f"{outcome.bytes_sent} bytes"
        yield moments.body_sent, "body.last", size
        said = "" if outcome.exception is None else f", {type(outcome.exception).__name__}"
        yield moments.ended, "request.end", f"{outcome.ending}{said}"

    def _how_far(self) -> str:
        sent = self.outcome.bytes_sent
        if self.outcome.moments.head_sent is None:
            return " before the first byte"
        if sent is None:
            return ""
        return f" at {100 * sent // self.length} %" if self.length else f" after {sent} bytes"

    def __str__(self) -> str:
        """The timeline, a line an event."""
        lines = [f"{self.method} {self.path} {self.outcome.status or '-'} ({self.mode}): {self.verdict}"]
        lines += [f"{ms:>10.1f} ms  {name} {detail}".rstrip() for ms, name, detail in self.events]
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class JobTrace:
    """How one job went; its times are nanoseconds of the monotonic clock.

    Attributes:
        name: As given, or the function's.
        exchange: The number of the exchange that it came from, as in `Trace.number`; None where there was none.
        route: The method and route of that, or an empty string.
        submitted: When it was submitted.
        started: When it began to run; None if it never did.
        ended: When it had really ended, and its slot was free.
        state: How: `"done"`, `"failed"`, `"timed_out"`, `"cancelled"` or `"dropped"`.
        exception: What it raised.
        number: Counts the jobs of this process that somebody observes, from 1.
    """

    name: str
    exchange: int | None
    route: str
    submitted: int
    started: int | None
    ended: int
    state: str
    exception: BaseException | None
    number: int = 0

    @property
    def is_problem(self) -> bool:
        """Whether somebody should look at it."""
        return self.state in ("failed", "timed_out", "dropped")


_WAYS_OUT = {
    "sqlalchemy": "give the session to unit_of_work=, or commit before the response starts",
    "django": "write before the response starts, or use DjangoUnitOfWork with commit_policy('buffered')",
}
_WORDS = {UnitState.FAILED: "failed", UnitState.UNKNOWN: "unknown"}


def _first(happened: tuple[Any, ...]) -> Any:
    return happened[0]


def _ms(since: int, until: int) -> str:
    return f"{max(until - since, 0) / 1e6:.1f}"


def mode_of(point: CommitPoint, *, managed: bool) -> Mode:
    """Name the mode of an exchange that commits at *point*."""
    if not managed:
        return "observe"
    return "head" if point is CommitPoint.HEAD else "buffered" if point is CommitPoint.BUFFERED else "after_send"
