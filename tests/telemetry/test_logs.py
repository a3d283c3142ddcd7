"""Lines of the log know their request: in handlers, in jobs, and in what is said of jobs."""

import json
import logging
import logging.config
import threading
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import pytest

from postresponse import after_response, wsgi
from postresponse.observing import Observer, Trace
from postresponse.telemetry.logs import LogContext
from postresponse.work import Bulkhead, TaskSupervisor
from tests.fakes import run_wsgi
from tests.work.waiting import idle

request_id: ContextVar[str] = ContextVar("request_id", default="-")
log = logging.getLogger("shop")


class RequestId(logging.Filter):
    """What many applications have: it reads a context variable."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.request_id = request_id.get()
        return True


class Lines(logging.Handler):
    """Keeps what it is given, as JSON."""

    def __init__(self, *filters: logging.Filter) -> None:
        super().__init__()
        self.lines: list[dict[str, Any]] = []
        for each in filters:
            self.addFilter(each)

    def emit(self, record: logging.LogRecord) -> None:
        kept = {
            name: getattr(record, name) for name in ("request_id", "exchange", "route", "job") if hasattr(record, name)
        }
        self.lines.append(json.loads(json.dumps({"message": record.getMessage(), **kept})))

    def of(self, message: str) -> dict[str, Any]:
        """What is known of the one line that begins so."""
        (line,) = [line for line in self.lines if line["message"].startswith(message)]
        return {name: value for name, value in line.items() if name != "message"}


class Numbers(Observer):
    """Keeps the number of each exchange."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def ended(self, trace: Trace, begun: object) -> None:
        self.seen.append(trace.number)


@pytest.fixture
def supervisor() -> Iterator[TaskSupervisor]:
    made = TaskSupervisor()
    yield made
    made.close(2)


@pytest.fixture
def context() -> LogContext:
    return LogContext()


@pytest.fixture
def lines(context: LogContext) -> Iterator[Lines]:
    handler = Lines(RequestId(), context)
    loggers = [log, logging.getLogger("postresponse")]
    for each in loggers:
        each.addHandler(handler)
    log.setLevel(logging.INFO)
    yield handler
    for each in loggers:
        each.removeHandler(handler)
    log.setLevel(logging.NOTSET)


def serve(view: Any, supervisor: TaskSupervisor, *observers: Observer) -> int:
    """Handle one request, whose id is `r-1`; return the number of its exchange."""
    numbers = Numbers()

    def app(environ: Any, start_response: Any) -> list[bytes]:
        token = request_id.set("r-1")
        try:
            view()
        finally:
            request_id.reset(token)
        start_response("200 OK", [("Content-Length", "4")])
        return [b"body"]

    run_wsgi(wsgi.PostResponseMiddleware(app, supervisor=supervisor, observers=[*observers, numbers]))
    idle(supervisor)
    return numbers.seen[0]


def test_a_line_says_which_request_it_came_from_and_which_job(
    context: LogContext, lines: Lines, supervisor: TaskSupervisor
) -> None:
    async def publish() -> None:
        log.info("published")

    def view() -> None:
        log.info("ordered")
        after_response(log.info, "sent", name="receipt")
        after_response(publish, name="event")

    number = serve(view, supervisor, context)
    log.info("idle")
    known = {"request_id": "r-1", "exchange": number, "route": "GET /orders"}
    assert lines.of("ordered") == {**known, "job": ""}
    assert lines.of("sent") == {**known, "job": "receipt"}
    assert lines.of("published") == {**known, "job": "event"}
    assert lines.of("idle") == {"request_id": "-", "exchange": None, "route": "", "job": ""}


def test_the_line_that_says_that_a_job_failed_has_the_request_id_and_the_names(
    context: LogContext, lines: Lines, supervisor: TaskSupervisor
) -> None:
    def failing() -> None:
        raise ValueError("no paper left")

    async def failing_async() -> None:
        failing()

    def view() -> None:
        after_response(failing, name="sync")
        after_response(failing_async, name="async")

    number = serve(view, supervisor, context)
    for name in ("sync", "async"):
        known = {"request_id": "r-1", "exchange": number, "route": "GET /orders", "job": name}
        assert lines.of(f"the job {name} of GET /orders failed") == known


def test_the_line_that_says_that_a_job_is_lost_or_late_has_them_too(
    context: LogContext, lines: Lines, supervisor: TaskSupervisor
) -> None:
    goes_on = threading.Event()
    bulkhead = Bulkhead("mails", max_concurrency=1, max_queue=0, supervisor=supervisor)
    bulkhead.submit(goes_on.wait, 10)

    def view() -> None:
        after_response(log.info, "sent", name="receipt", bulkhead=bulkhead)
        after_response(late, name="late", timeout=0.01)

    def late() -> None:
        goes_on.wait(10)

    def on_error(job: Any, error: BaseException) -> None:
        seen.append(request_id.get())
        goes_on.set()

    seen: list[str] = []

    supervisor._on_error = on_error
    number = serve(view, supervisor, context)
    known = {"request_id": "r-1", "exchange": number, "route": "GET /orders"}
    assert lines.of("the job receipt of GET /orders is lost") == {**known, "job": "receipt"}
    assert lines.of("the job late of GET /orders failed") == {**known, "job": "late"}
    assert seen == ["r-1"]


def test_without_the_observer_the_filter_still_tells_the_request(lines: Lines, supervisor: TaskSupervisor) -> None:
    number = serve(lambda: after_response(log.info, "sent", name="receipt"), supervisor)
    assert lines.of("sent")["exchange"] == number


def test_it_can_be_set_up_by_a_dictionary(context: LogContext) -> None:
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "filters": {"request": {"()": "postresponse.telemetry.logs.LogContext"}},
            "formatters": {"line": {"format": "%(exchange)s %(route)s %(job)s: %(message)s"}},
            "handlers": {"null": {"class": "logging.NullHandler", "filters": ["request"], "formatter": "line"}},
            "loggers": {"shop.configured": {"handlers": ["null"]}},
        }
    )
    (handler,) = logging.getLogger("shop.configured").handlers
    record = logging.LogRecord("shop", logging.INFO, "shop.py", 1, "idle", (), None)
    assert handler.filter(record)
    assert handler.format(record) == "None  : idle"
