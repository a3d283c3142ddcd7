"""What is kept of requests and jobs: all that a row needs, in bounded memory, and no value of a request's."""

import json
import os
import sys
import threading
import tracemalloc
from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import sessionmaker

from postresponse import CommitPolicy, after_response, current_exchange, doom, launch
from postresponse.core.lifecycle import Ending, Moments, Outcome, UnitState
from postresponse.inspector import Finding, Inspector
from postresponse.inspector.failures import failure_record
from postresponse.inspector.records import MOST, request_record
from postresponse.inspector.trace_ids import trace_id_of
from postresponse.messaging import Message, Outbox
from postresponse.observing import EnlistedMessage, JobTrace, ObservedCommit, Observer, Trace
from postresponse.unit_of_work.sqlalchemy import SQLAlchemyUnitOfWork
from postresponse.work import TaskSupervisor
from tests.fakes import FakeUnits
from tests.inspector.asking import PAGE, ask, serve

MS = 1_000_000
MOMENTS = Moments(
    began=0, decided=1 * MS, settling=2 * MS, settled=3 * MS, head_sent=4 * MS, body_sent=5 * MS, ended=6 * MS
)
OUTCOME = Outcome(
    Ending.HANDED_OVER, UnitState.COMMITTED, 200, 10, None, None, attempt=1, moments=MOMENTS
)  # fmt: skip
TRACE = Trace(1, 1000.0, "GET", "/orders/7", "/orders/{id}", "head", "acme", OUTCOME)


def outcome(**changes: Any) -> Outcome:
    moments = {name: changes.pop(name) for name in list(changes) if name in Moments.__slots__}
    return replace(OUTCOME, **changes, moments=replace(MOMENTS, **moments))


@pytest.fixture(params=["asyncio", "wsgi"])
def protocol(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def kept(inspector: Inspector, kind: str = "requests") -> list[Any]:
    return [json.loads(each) for each in getattr(inspector.feed.since(0), kind)]


def drawn(record: Any) -> list[tuple[str, float, float, bool]]:
    return [(each.kind, each.begin, each.end, each.failed) for each in record.segments]


def test_a_record_has_what_a_row_shows() -> None:
    record = request_record(TRACE, "7-abc", "a" * 32)
    assert (record.id, record.method, record.route, record.path) == ("7-abc.1", "GET", "/orders/{id}", "/orders/7")
    assert (record.status, record.mode, record.tenant, record.trace_id) == (200, "head", "acme", "a" * 32)
    assert (record.verdict, record.level) == ("committed 1.0 ms before the first byte", "good")
    assert (record.committed, record.problem) == ("before", False)
    assert (record.first_byte, record.last_byte, record.duration) == (4.0, 5.0, 5.0)
    assert drawn(record) == [("handler", 0.0, 2.0, False), ("commit", 2.0, 3.0, False), ("body", 4.0, 5.0, False)]
    assert [event.name for event in record.events] == [event.name for event in TRACE.events]
    with pytest.raises(FrozenInstanceError):
        record.path = "/"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("trace", "level", "committed", "bars"),
    [
        (
            replace(TRACE, outcome=outcome(unit_of_work=UnitState.FAILED)),
            "problem", "", [("handler", 0.0, 2.0, False), ("commit", 2.0, 3.0, True), ("body", 4.0, 5.0, False)],
        ),
        (
            replace(TRACE, outcome=outcome(unit_of_work=UnitState.ROLLED_BACK, status=409)),
            "note", "", [("handler", 0.0, 2.0, False), ("rollback", 2.0, 3.0, False), ("body", 4.0, 5.0, False)],
        ),
        (
            replace(TRACE, mode="after_send", outcome=outcome(settling=5 * MS, settled=8 * MS)),
            "good", "by choice", [("handler", 0.0, 4.0, False), ("commit", 5.0, 8.0, False), ("body", 4.0, 5.0, False)],
        ),
        (
            replace(TRACE, outcome=outcome(ending=Ending.FAILED, unit_of_work=UnitState.NONE, head_sent=None,
                                           settling=None, settled=None, body_sent=None, exception=ValueError("no"))),
            "problem", "", [("handler", 0.0, 6.0, True)],
        ),
        (
            replace(TRACE, outcome=outcome(ending=Ending.INCOMPLETE, body_sent=None)),
            "problem", "before", [("handler", 0.0, 2.0, False), ("commit", 2.0, 3.0, False), ("body", 4.0, 6.0, True)],
        ),
        (
            replace(TRACE, outcome=outcome(ending=Ending.ABORTED, body_sent=None, unit_of_work=UnitState.NONE)),
            "note", "", [("handler", 0.0, 2.0, False), ("commit", 2.0, 3.0, False), ("body", 4.0, 6.0, False)],
        ),
    ],
    ids=["failed commit", "rolled back", "by choice", "raised", "incomplete", "aborted"],
)  # fmt: skip
def test_what_went_wrong_is_drawn_and_counted_as_such(trace: Trace, level: str, committed: str, bars: Any) -> None:
    record = request_record(trace, "7-abc", None)
    assert (record.level, record.committed, drawn(record)) == (level, committed, bars)
    assert record.problem is (level == "problem")


def test_a_commit_that_is_only_observed_is_drawn_where_it_was() -> None:
    commit = ObservedCommit(1 * MS, 2 * MS, False, True, None, "sqlalchemy", "get_db (shop.py:7)")
    bare = replace(TRACE, mode="observe", outcome=outcome(unit_of_work=UnitState.NONE, settling=None, settled=None))
    early = request_record(replace(bare, commits=(commit,)), "7-abc", None)
    assert (early.committed, early.by, early.level) == ("before", ("get_db",), "good")
    late = replace(commit, began=5 * MS, ended=9 * MS, late=True, exception=OSError("gone"))
    record = request_record(replace(bare, commits=(late,)), "7-abc", None)
    assert (record.committed, record.level, record.duration) == ("late", "problem", 9.0)
    assert drawn(record)[-1] == ("commit", 5.0, 9.0, True)
    assert record.exception is not None
    assert record.exception.type == "OSError"
    assert request_record(bare, "7-abc", None).level == "plain"


def test_jobs_join_their_request_whichever_ends_first() -> None:
    for job_first in (True, False):
        inspector = Inspector()
        job = JobTrace("mail", 1, "GET /orders/{id}", 5 * MS, 7 * MS, 9 * MS, "failed", LookupError("nobody"))
        for is_job in (True, False) if job_first else (False, True):
            if is_job:
                inspector.job_ended(job)
            else:
                inspector.ended(TRACE, None)
        (record,), (one,) = kept(inspector), kept(inspector, "jobs")
        assert record["verdict"] == "work after the response failed (mail)"
        assert (record["problem"], record["level"], record["duration"]) == (True, "problem", 9.0)
        assert record["segments"][-1] == {"kind": "work", "begin": 7.0, "end": 9.0, "failed": True, "name": "mail"}
        assert [event[1] for event in record["events"]][-2:] == ["work.start", "work.failed"]
        assert (one["request"], one["waited"], one["ran"]) == (record["id"], 2.0, 2.0)
        assert one["exception"]["message"] == "nobody"
        assert one["verdict"] == "failed: LookupError: nobody"


@pytest.mark.parametrize(
    ("state", "says"),
    [("timed_out", "was not done in time"), ("dropped", "was lost"), ("done", None), ("cancelled", None)],
)
def test_a_job_that_did_not_end_well_is_the_verdict(state: str, says: str | None) -> None:
    inspector = Inspector()
    inspector.ended(TRACE, None)
    inspector.job_ended(JobTrace("mail", 1, "", 5 * MS, None, 9 * MS, state, None, 1))
    inspector.job_ended(JobTrace("stray", None, "", 5 * MS, 6 * MS, 9 * MS, state, None, 2))
    (record,) = kept(inspector)
    assert record["verdict"] == (f"work after the response {says} (mail)" if says else TRACE.verdict)
    one, other = kept(inspector, "jobs")
    assert (one["ran"], other["ran"]) == (None, 3.0)
    said = says or state
    assert (one["verdict"], other["verdict"]) == (f"{said}, and had not begun", said)


def test_what_is_a_problem_already_keeps_its_verdict() -> None:
    inspector = Inspector()
    failed = replace(TRACE, outcome=outcome(unit_of_work=UnitState.FAILED))
    inspector.ended(failed, None)
    inspector.job_ended(JobTrace("mail", 1, "", 5 * MS, 7 * MS, 9 * MS, "failed", LookupError("nobody")))
    assert kept(inspector)[0]["verdict"] == failed.verdict


def test_through_the_middleware_a_request_and_its_work_are_one_row(protocol: str, quiet: None) -> None:
    inspector, supervisor = Inspector(), TaskSupervisor(grace=5)

    def view() -> int:
        after_response(len, "", name="early")
        launch(int, "no number", name="parse").exception(5) if protocol == "wsgi" else None
        return 201

    serve(protocol, inspector, view, unit_of_work=FakeUnits(), supervisor=supervisor)
    supervisor.close(5)
    (record,) = kept(inspector)
    wanted = {"early": "done", "parse": "failed"} if protocol == "wsgi" else {"early": "done"}
    assert {job["name"]: job["state"] for job in record["jobs"]} == wanted
    assert (record["mode"], record["unit_of_work"], record["route"]) == ("head", "committed", "/orders")


def test_of_a_request_no_query_no_header_and_no_body_is_kept(protocol: str) -> None:
    inspector = Inspector()

    def view() -> int:
        doom("a dry run")
        return 200

    secret: Any = {"query": "token=s3cret", "headers": {"authorization": "s3cret"}}
    serve(protocol, inspector, view, **secret, unit_of_work=FakeUnits())
    (record,) = inspector.feed.since(0).requests
    assert "s3cret" not in record
    assert json.loads(record)["verdict"] == "rolled back (doomed)"


def test_an_exception_is_text_without_the_parameters_of_its_statement() -> None:
    card, statement = {"number": "-".join(["4111"] * 4)}, text("INSERT INTO cards VALUES (:number)")
    with create_engine("sqlite://").connect() as connection, pytest.raises(DBAPIError, match="no such table") as caught:
        connection.execute(statement, card)
    record = failure_record(caught.value)
    assert record is not None
    assert record.type == "sqlalchemy.exc.OperationalError"
    assert "4111-4111" not in str(record)
    assert "[parameters: left out]" in record.message
    assert record.traceback.startswith("Traceback")
    assert failure_record(None) is None


def test_a_very_long_traceback_keeps_its_end() -> None:
    record = failure_record(ValueError("x" * 100_000 + "end"))
    assert record is not None
    assert len(record.message) == 1000
    assert len(record.traceback) < 17_000
    assert record.traceback.endswith("end\n")


def test_messages_that_a_request_enlists_are_named_by_their_ids(protocol: str) -> None:
    outbox = Outbox({"mail": ["receipt"]})
    engine = create_engine("sqlite://", poolclass=None)
    outbox.tables.waiting.metadata.create_all(engine)
    session = sessionmaker(engine)()
    inspector, ids = Inspector(), list[str]()

    def view() -> int:
        ids.extend(str(outbox.enlist(Message("mail", "receipt", {"to": "ann"}), into=session)) for _ in range(MOST + 5))
        return 200

    serve(protocol, inspector, view)
    session.rollback()
    engine.dispose()
    (record,) = kept(inspector)
    assert record["messages"] == [[each, "mail", "receipt"] for each in ids[:MOST]]
    assert "ann" not in json.dumps(record)


def test_enlisting_costs_a_request_without_observers_nothing() -> None:
    outbox, exchanges = Outbox({"mail": ["receipt"]}), []
    engine = create_engine("sqlite://")
    outbox.tables.waiting.metadata.create_all(engine)
    db = SQLAlchemyUnitOfWork(sessionmaker(engine))

    def view() -> int:
        outbox.enlist(Message("mail", "receipt"))
        exchanges.append(current_exchange())
        return 200

    ask("wsgi", None, "/orders", view=view, unit_of_work=db)
    engine.dispose()
    assert exchanges[0]._messages is None


def test_memory_is_bounded_whatever_comes() -> None:
    inspector = Inspector(size=20)
    long = replace(TRACE, path="/" + "x" * 5000, template=None, messages=(EnlistedMessage("1", "mail", "name"),) * 500)
    many = replace(long, commits=(ObservedCommit(1 * MS, None, False, True, None, "django", "f (a.py:1)"),) * 500)

    def burst(first: int, count: int) -> None:
        for number in range(first, first + count):
            for job in range(3):
                mail = JobTrace("mail", number, "", 5 * MS, 7 * MS, 9 * MS, "done", None, 6 * number + job)
                inspector.job_ended(mail)
                inspector.job_ended(replace(mail, name="stray", exchange=-number - job, number=mail.number + 3))
            inspector.ended(replace(many, number=number), None)

    burst(0, 25)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    burst(25, 75)
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert (len(kept(inspector)), len(kept(inspector, "jobs"))) == (20, 20)
    record = kept(inspector)[-1]
    assert len(record["path"]) < 310
    assert len(record["messages"]) == MOST
    assert len(record["segments"]) <= MOST + 10
    # The ring had its size before: it is replaced, and does not grow.
    assert grown < 3_000_000


def test_one_request_with_any_number_of_jobs_is_bounded_and_the_last_failure_is_seen() -> None:
    inspector = Inspector()
    done = JobTrace("mail", 1, "", 5 * MS, 7 * MS, 9 * MS, "done", None)
    inspector.ended(TRACE, None)
    for _ in range(MOST + 20):
        inspector.job_ended(done)
    inspector.job_ended(replace(done, state="failed", exception=ValueError("no")))
    (record,) = kept(inspector)
    assert len(record["jobs"]) == MOST
    assert record["verdict"] == "work after the response failed (mail)"


def test_threads_that_end_requests_at_once_lose_none() -> None:
    inspector = Inspector(size=4000)

    def end(first: int) -> None:
        for number in range(first, first + 200):
            inspector.ended(replace(TRACE, number=number), None)
            inspector.job_ended(JobTrace("mail", number, "", 5 * MS, 7 * MS, 9 * MS, "done", None))

    threads = [threading.Thread(target=end, args=(first * 1000,)) for first in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    records = kept(inspector)
    assert len(records) == 800
    assert all(len(record["jobs"]) == 1 for record in records)


def test_who_has_seen_all_is_told_what_is_new_alone_and_who_comes_from_elsewhere_everything(protocol: str) -> None:
    inspector = Inspector()
    serve(protocol, inspector)
    first = ask(protocol, inspector, f"{PAGE}changes").json
    again = ask(protocol, inspector, f"{PAGE}changes", query=f"since={first['since']}").json
    assert (len(first["requests"]), again["requests"], again["since"]) == (1, [], first["since"])
    serve(protocol, inspector)
    new = ask(protocol, inspector, f"{PAGE}changes", query=f"since={first['since']}").json
    assert [each["id"] for each in new["requests"]] == [f"{inspector.process}.{new['requests'][0]['id'].split('.')[1]}"]
    for since in ("another-process:1", "", "x", f"{inspector.process}:99999"):
        assert len(ask(protocol, inspector, f"{PAGE}changes", query=f"since={since}").json["requests"]) == 2
    assert first["live"] == ("polling" if protocol == "wsgi" else "events")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_process_that_was_forked_has_a_name_of_its_own_and_begins_anew() -> None:
    inspector = Inspector()
    inspector.ended(TRACE, None)
    before = inspector.process
    inspector._pid = 0  # as it is in a child
    inspector.job_ended(JobTrace("mail", 1, "", 5 * MS, 7 * MS, 9 * MS, "done", None))
    assert inspector.process != before
    inspector._pid = 0
    inspector.ended(TRACE, None)
    assert len(kept(inspector)) == 1


def test_a_trace_id_comes_from_the_request_or_from_opentelemetry(monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = "0af7651916cd43dd8448eb211c80319c", "b" * 32
    sent = f"00-{one}-b7ad6b7169203331-01"
    with monkeypatch.context() as patched:
        patched.delitem(sys.modules, "opentelemetry.trace", raising=False)
        assert trace_id_of({"headers": []}) is None
    assert trace_id_of({"REQUEST_METHOD": "GET", "HTTP_TRACEPARENT": sent}) == one
    assert trace_id_of({"headers": [(b"host", b"x"), (b"traceparent", sent.encode())]}) == one
    for wrong in ("", "00-zz-b7ad6b7169203331-01", f"00-{'0' * 32}-b7ad6b7169203331-01", f"00-{one}-{'0' * 16}-01"):
        assert trace_id_of({"REQUEST_METHOD": "GET", "HTTP_TRACEPARENT": wrong}) is None
    trace: Any = pytest.importorskip("opentelemetry.trace")
    assert trace_id_of({"headers": []}) is None
    context = trace.SpanContext(int(two, 16), 1, is_remote=False)
    with trace.use_span(trace.NonRecordingSpan(context)):
        assert trace_id_of({"headers": []}) == two
        assert trace_id_of({"REQUEST_METHOD": "GET", "HTTP_TRACEPARENT": sent}) == one


def test_a_trace_id_that_came_with_a_request_is_kept(protocol: str) -> None:
    inspector, wanted = Inspector(), "0af7651916cd43dd8448eb211c80319c"
    serve(protocol, inspector, headers={"traceparent": f"00-{wanted}-b7ad6b7169203331-01"})
    assert kept(inspector)[0]["trace_id"] == wanted


def test_the_set_up_names_options_and_findings_and_no_value_of_an_object(protocol: str) -> None:
    class Tally(Observer):
        def findings(self) -> list[str]:
            return ["37 of 40 came late"]

    def fails() -> list[Finding]:
        raise LookupError("no such thing")

    inspector = Inspector(findings=fails)
    options: Any = {"unit_of_work": FakeUnits(), "commit": "buffered", "observers": [Tally()]}
    told = ask(protocol, inspector, f"{PAGE}set-up", **options).json
    (said,) = told["options"]
    assert said.pop("observers").endswith("Tally")
    assert said == {"unit_of_work": "FakeUnits", "commit": "buffered"}
    assert [(each["text"], each["problem"]) for each in told["findings"]] == [
        (f"{fails.__qualname__} failed: LookupError: no such thing", True),
        ("37 of 40 came late", False),
    ]
    assert told["looked"] is True
    policy = CommitPolicy("after_send", max_body=None)
    told = ask(protocol, True, f"{PAGE}set-up", unit_of_work=FakeUnits(), commit=policy).json
    assert told["options"] == [{"unit_of_work": "FakeUnits", "commit": "at=after_send, max_body=None"}]
    told = ask(protocol, True, f"{PAGE}set-up", unit_of_work=FakeUnits(), commit=CommitPolicy()).json
    assert told["options"][0]["commit"] == "head"
    silent = ask(protocol, True, f"{PAGE}set-up").json
    assert (silent["options"], silent["findings"], silent["looked"]) == ([{}], [], False)
