"""A scope of Sentry's for each job, with the real SDK and its transport in memory."""

import logging
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import anyio
import pytest
import sentry_sdk
from sentry_sdk.integrations.asgi import SentryAsgiMiddleware
from sentry_sdk.integrations.dedupe import DedupeIntegration
from sentry_sdk.integrations.logging import LoggingIntegration
from sentry_sdk.integrations.wsgi import SentryWsgiMiddleware
from sentry_sdk.transport import Transport

from postresponse import after_response, asgi, wsgi
from postresponse.telemetry.sentry import SentryScope
from postresponse.work import TaskSupervisor
from tests.fakes import StrictASGIServer, run_wsgi
from tests.work.waiting import aidle, idle


class InMemory(Transport):
    """Keeps what would be sent."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[Any] = []
        self.transactions: list[Any] = []

    def capture_envelope(self, envelope: Any) -> None:
        event, transaction = envelope.get_event(), envelope.get_transaction_event()
        self.events += [event] if event is not None else []
        self.transactions += [transaction] if transaction is not None else []

    def one(self) -> Any:
        (event,) = self.events
        return event


@pytest.fixture(scope="module", autouse=True)
def _logging() -> Iterator[None]:
    """Give logging back as it was."""
    before = logging.Logger.callHandlers
    yield
    logging.Logger.callHandlers = before  # type: ignore[method-assign]


@pytest.fixture
def sent() -> Iterator[InMemory]:
    """What is sent to Sentry, of the lines of the log too.

    Of its usual integrations those two that have a part in this: the others change libraries, for all other tests.
    """
    transport = InMemory()
    scope = sentry_sdk.get_global_scope()
    before = scope.client
    sentry_sdk.init(
        "https://key@sentry.invalid/1",
        transport=transport,
        traces_sample_rate=1.0,
        default_integrations=False,
        auto_enabling_integrations=False,
        integrations=[LoggingIntegration(), DedupeIntegration()],
    )
    yield transport
    sentry_sdk.get_client().close()
    scope.set_client(before)


@pytest.fixture
def supervisor() -> Iterator[TaskSupervisor]:
    made = TaskSupervisor()
    yield made
    made.close(2)


def failing() -> None:
    with sentry_sdk.start_span(op="inner", name="inside of the job"):
        sentry_sdk.set_tag("printer", "3")
        raise ValueError("no paper left")


async def failing_async() -> None:
    failing()


def serve(protocol: str, supervisor: TaskSupervisor, job: Any, *, fails: bool = False) -> None:
    """Handle one request, as an application that Sentry's own middleware is around."""

    def view() -> None:
        sentry_sdk.set_tag("customer", "7")
        if job is not None:
            after_response(job, name="receipt")
        if fails:
            sentry_sdk.capture_message("from the request")

    options: Any = {"supervisor": supervisor, "observers": [SentryScope()]}
    if protocol == "wsgi":

        def wsgi_app(environ: Any, start_response: Any) -> list[bytes]:
            view()
            start_response("200 OK", [("Content-Length", "4")])
            return [b"body"]

        run_wsgi(SentryWsgiMiddleware(wsgi.PostResponseMiddleware(wsgi_app, **options)))
    else:

        async def asgi_app(scope: Any, receive: Any, send: Any) -> None:
            view()
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"body"})

        async def main() -> None:
            await StrictASGIServer().run(SentryAsgiMiddleware(asgi.PostResponseMiddleware(asgi_app, **options)))
            await aidle(supervisor)

        anyio.run(main)
    idle(supervisor)


@pytest.mark.parametrize("job", [failing, failing_async])
@pytest.mark.parametrize("protocol", ["asgi", "wsgi"])
def test_what_a_job_raises_is_reported_once_by_its_name(
    protocol: str, job: Any, sent: InMemory, supervisor: TaskSupervisor
) -> None:
    serve(protocol, supervisor, job)
    event = sent.one()  # and not once more for the line of the log
    assert event["exception"]["values"][-1]["value"] == "no paper left"
    assert event["transaction"] == "receipt"
    assert event["tags"] == {
        "customer": "7",  # the request's
        "printer": "3",
        "postresponse.job": "receipt",
        "postresponse.route": "GET /orders",
    }
    assert event["request"]["url"].endswith("/orders")


@pytest.mark.parametrize("protocol", ["asgi", "wsgi"])
def test_nothing_of_a_job_is_left_in_the_next_request(
    protocol: str, sent: InMemory, supervisor: TaskSupervisor
) -> None:
    serve(protocol, supervisor, failing)
    sent.events.clear()
    serve(protocol, supervisor, None, fails=True)
    assert sent.one()["message"] == "from the request"
    assert sent.one()["tags"] == {"customer": "7"}
    sent.events.clear()
    sentry_sdk.capture_message("from nowhere")
    assert sent.one().get("tags", {}) == {}


def test_the_transaction_of_the_request_keeps_its_name_and_its_spans(
    sent: InMemory, supervisor: TaskSupervisor
) -> None:
    serve("wsgi", supervisor, failing)
    (transaction,) = sent.transactions
    assert transaction["transaction"] != "receipt"
    assert transaction["spans"] == []


def test_where_sentry_is_not_loaded_it_is_not_imported() -> None:
    program = """
import sys
from postresponse.telemetry.sentry import SentryScope
from postresponse.work import TaskSupervisor
supervisor = TaskSupervisor(observers=[SentryScope()])
assert supervisor.launch(lambda: 7).result(5) == 7
supervisor.close()
assert not any(name.startswith("sentry") for name in sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_where_sentry_is_not_initialised_nothing_is_entered(supervisor: TaskSupervisor) -> None:
    assert SentryScope().job_around(supervisor.launch(str)) is None
