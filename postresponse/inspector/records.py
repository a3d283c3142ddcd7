"""What the inspector keeps of a request and of a job: plain data, with no body, no header and no query in it."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final, Literal

from postresponse.core.lifecycle import Ending, UnitState
from postresponse.core.trace import EnlistedMessage, JobTrace, Trace, TraceEvent
from postresponse.inspector.failures import FailureRecord, failure_record

__all__ = ["MOST", "JobRecord", "RequestRecord", "Segment", "job_record", "request_record", "with_job"]

MOST: Final = 50
"""Commits, messages and jobs that are kept of one request; it may have had any number."""
LONGEST: Final = 300
"""Characters of a path, a name or a tenant."""

Level = Literal["problem", "note", "good", "plain"]
Committed = Literal["before", "late", "by choice", ""]


@dataclass(frozen=True, slots=True)
class Segment:
    """One bar of the waterfall.

    Attributes:
        kind: `"handler"`, `"commit"`, `"rollback"`, `"body"` or `"work"`.
        begin: Milliseconds since the request came.
        end: The same.
        failed: Whether it is drawn as one that failed, or came late.
        name: What it is called, where the kind does not say it.
    """

    kind: str
    begin: float
    end: float
    failed: bool = False
    name: str = ""


@dataclass(frozen=True, slots=True)
class JobRecord:
    """How one job went.

    Attributes:
        id: Names it, in every process.
        request: The id of the request that it came from, where that is known.
        route: The method and route of that, or an empty string.
        name: Its own.
        time: When it had ended, in seconds since 1970.
        state: `"done"`, `"failed"`, `"timed_out"`, `"cancelled"` or `"dropped"`.
        problem: Whether somebody should look at it.
        verdict: How it went, in words.
        waited: Milliseconds from its submission to its start, or to its end if it never ran.
        ran: Milliseconds that it ran; None if it never did.
        exception: What it raised.
    """

    id: str
    request: str | None
    route: str
    name: str
    time: float
    state: str
    problem: bool
    verdict: str
    waited: float
    ran: float | None
    exception: FailureRecord | None


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """How one request went; all times are milliseconds since it came, but for `time`.

    Attributes:
        id: Names it, in every process.
        process: The process that served it.
        time: When it came, in seconds since 1970.
        method: Of the request.
        path: Of the request, without its query.
        route: The template of its route, or the path.
        status: Of the response, where it has one.
        mode: When its unit of work commits; `"observe"` where there is none.
        idle: Whether nothing was asked of that, so that it had nothing to commit.
        tenant: Whose it was, where that is told.
        ending: How the response ended.
        unit_of_work: How that ended.
        verdict: What became of it, in words.
        level: How the verdict is to be taken.
        problem: Whether somebody should look at it.
        committed: When it committed, as far as a client is concerned.
        by: The functions that committed what is not managed.
        way_out: What to do about a late commit, or an empty string.
        first_byte: When the head was handed over.
        last_byte: When the end was.
        duration: When all was over, the work behind it included.
        segments: Its waterfall.
        events: What happened, in order.
        exception: What was raised.
        trace_id: Its id in a tracing system.
        messages: What it enlisted in an outbox.
        jobs: The work that it started, as far as that has ended.
    """

    id: str
    process: str
    time: float
    method: str
    path: str
    route: str
    status: int | None
    mode: str
    idle: bool
    tenant: str | None
    ending: str
    unit_of_work: str
    verdict: str
    level: Level
    problem: bool
    committed: Committed
    by: tuple[str, ...]
    way_out: str
    first_byte: float | None
    last_byte: float | None
    duration: float
    segments: tuple[Segment, ...]
    events: tuple[TraceEvent, ...]
    exception: FailureRecord | None
    trace_id: str | None
    messages: tuple[EnlistedMessage, ...] = ()
    jobs: tuple[JobRecord, ...] = ()


def request_record(trace: Trace, process: str, trace_id: str | None) -> RequestRecord:
    """Return what is kept of *trace*."""
    outcome, moments = trace.outcome, trace.outcome.moments

    def ms(at: int | None) -> float | None:
        return None if at is None else round((at - moments.began) / 1e6, 3)

    trace = replace(trace, commits=trace.commits[:MOST])
    segments = tuple(_segments(trace))
    late = next((each.exception for each in trace.late_commits if each.exception is not None), None)
    return RequestRecord(
        id=f"{process}.{trace.number}",
        process=process,
        time=trace.time,
        method=trace.method,
        path=_short(trace.path),
        route=_short(trace.route),
        status=outcome.status,
        mode=trace.mode,
        idle=trace.idle,
        tenant=None if trace.tenant is None else _short(str(trace.tenant)),
        ending=outcome.ending.value,
        unit_of_work=outcome.unit_of_work.value,
        verdict=trace.verdict,
        level=_level(trace),
        problem=trace.is_problem,
        committed=_committed(trace),
        by=tuple(sorted({each.where.partition(" ")[0] for each in trace.commits if each.where})),
        way_out=next((each.way_out for each in trace.late_commits), ""),
        first_byte=ms(moments.head_sent),
        last_byte=ms(moments.body_sent),
        duration=max(segment.end for segment in segments),
        segments=segments,
        events=tuple(TraceEvent(round(event.ms, 3), event.name, event.detail) for event in trace.events),
        exception=failure_record(outcome.exception or late),
        trace_id=trace_id,
        messages=trace.messages[:MOST],
    )


def job_record(trace: JobTrace, process: str, time: float) -> JobRecord:
    """Return what is kept of a job of *process* that ended at *time*."""
    started = trace.ended if trace.started is None else trace.started
    failure = failure_record(trace.exception)
    return JobRecord(
        id=f"{process}.job{trace.number}",
        request=None if trace.exchange is None else f"{process}.{trace.exchange}",
        route=trace.route,
        name=trace.name,
        time=time,
        state=trace.state,
        problem=trace.is_problem,
        verdict=_job_verdict(trace.state, trace.started is not None, failure),
        waited=round(max(started - trace.submitted, 0) / 1e6, 3),
        ran=None if trace.started is None else round((trace.ended - trace.started) / 1e6, 3),
        exception=failure,
    )


def _job_verdict(state: str, ran: bool, failure: FailureRecord | None) -> str:
    if state == "failed" and failure is not None:
        return f"failed: {failure.type}: {failure.message}"
    said = _WORK_WORDS.get(state, state)
    return said if ran or state == "failed" else f"{said}, and had not begun"


def with_job(record: RequestRecord, job: JobRecord, begin: float, end: float) -> RequestRecord:
    """Return *record* with a *job* of its that ran, or waited in vain, from *begin* to *end*."""
    worse = job.problem and not record.problem
    said = _WORK_WORDS.get(job.state, job.state)
    events = (
        TraceEvent(round(begin, 3), "work.start", job.name),
        TraceEvent(round(end, 3), f"work.{job.state}", job.name),
    )
    record = replace(
        record,
        duration=max(record.duration, round(end, 3)),
        problem=record.problem or job.problem,
        level="problem" if job.problem else record.level,
        verdict=f"work after the response {said} ({job.name})" if worse else record.verdict,
    )
    if len(record.jobs) >= MOST:
        return record
    return replace(
        record,
        jobs=(*record.jobs, job),
        segments=(*record.segments, Segment("work", round(begin, 3), round(end, 3), job.problem, job.name)),
        events=tuple(sorted((*record.events, *events), key=lambda event: event.ms)),
    )


_WORK_WORDS = {"timed_out": "was not done in time", "dropped": "was lost"}


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def _level(trace: Trace) -> Level:
    if trace.is_problem:
        return "problem"
    if trace.outcome.ending is Ending.ABORTED or trace.outcome.unit_of_work is UnitState.ROLLED_BACK:
        return "note"
    return "good" if _committed(trace) else "plain"


def _committed(trace: Trace) -> Committed:
    if trace.late_commits:
        return "late"
    if trace.outcome.unit_of_work is UnitState.COMMITTED:
        return "" if trace.idle else "by choice" if trace.mode == "after_send" else "before"
    return "before" if any(not each.late and each.exception is None for each in trace.commits) else ""


def _segments(trace: Trace) -> Iterator[Segment]:
    outcome, moments = trace.outcome, trace.outcome.moments
    head, settling, over = moments.head_sent, moments.settling, moments.ended

    def bar(kind: str, begin: int, end: int, failed: bool = False, name: str = "") -> Segment:
        return Segment(
            kind, round((begin - moments.began) / 1e6, 3), round((end - moments.began) / 1e6, 3), failed, name
        )

    first = min(at for at in (settling, head, over) if at is not None)
    yield bar("handler", moments.began, first, outcome.ending is Ending.FAILED and head is None)
    is_empty = trace.idle and outcome.unit_of_work is UnitState.COMMITTED
    if settling is not None and not is_empty:
        kind = "rollback" if outcome.unit_of_work is UnitState.ROLLED_BACK else "commit"
        failed = outcome.unit_of_work in (UnitState.FAILED, UnitState.UNKNOWN)
        yield bar(kind, settling, over if moments.settled is None else moments.settled, failed)
    if head is not None:
        broken = outcome.ending in (Ending.FAILED, Ending.INCOMPLETE)
        yield bar("body", head, over if moments.body_sent is None else moments.body_sent, broken)
    for commit in trace.commits:
        failed = commit.exception is not None or (commit.late and commit.wrote)
        yield bar("commit", commit.began, commit.ended or commit.began, failed, commit.where)
