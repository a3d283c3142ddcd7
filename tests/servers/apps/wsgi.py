"""The WSGI application: Flask, a synchronous session, and the middleware around both."""

import os
import signal
import time
from collections.abc import Iterable, Iterator
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from flask import Flask, Response, request, send_file
from sqlalchemy import QueuePool, create_engine
from sqlalchemy.orm import sessionmaker

from postresponse.unit_of_work.sqlalchemy import SQLAlchemyUnitOfWork
from postresponse.wsgi import PostResponseMiddleware
from tests.servers.apps.asked import Asked, asked_in, policy_of, wait_at
from tests.servers.apps.database import COUNT, POOL, Statements, connect_args, driver_url, statements, watch
from tests.servers.apps.hooks import on_commit_failed, on_error, on_finished
from tests.servers.apps.record import log_to_stderr
from tests.servers.apps.work import leave_work, supervisor

log_to_stderr()
if os.environ.get("POSTRESPONSE_TEST_SIGTERM"):  # as the README has it for servers that do not heed it
    signal.signal(signal.SIGTERM, signal.default_int_handler)
engine = create_engine(driver_url(asynchronous=False), connect_args=connect_args(asynchronous=False), **POOL)
watch(engine, time.sleep)
db = SQLAlchemyUnitOfWork(sessionmaker(engine))
flask_app = Flask(__name__)


def execute(asked: Asked, todo: Statements) -> None:
    """Execute statements in this request's session."""
    session = db.session
    session.connection().info["asked"] = asked
    for statement, values in todo:
        session.execute(statement, values)


def decorated(asked: Asked, response: Response) -> Response:
    """Add everything that an error response must not repeat."""
    response.headers["Location"] = f"/orders/{asked.key}"
    response.set_etag(asked.key)
    response.set_cookie("order", asked.key)
    return response


def produced(asked: Asked) -> Iterator[bytes]:
    """Produce a body of the size asked for; the gate is behind the first piece."""
    for number in range(asked.pieces()):
        if number == 1:
            wait_at(asked, "body")
        yield asked.piece_at(number)


@flask_app.post("/orders")
def place_order() -> Response:
    """Place an order and answer."""
    asked = asked_in(request.environ)
    wait_at(asked, "handler")
    execute(asked, statements(asked))
    leave_work(asked)
    return decorated(asked, Response(asked.body, 201, mimetype="text/plain"))


@flask_app.post("/orders/streamed")
def place_order_and_stream() -> Response:
    """Place an order and stream the answer."""
    asked = asked_in(request.environ)
    wait_at(asked, "handler")
    execute(asked, statements(asked))
    leave_work(asked)
    return decorated(asked, Response(produced(asked), 201, mimetype="application/octet-stream"))


@flask_app.get("/stream")
def stream() -> Response:
    """Stream a body, after a query where one is asked for."""
    asked = asked_in(request.environ)
    if asked.touch:
        execute(asked, COUNT)
    return Response(produced(asked), mimetype="application/octet-stream")


@flask_app.get("/events")
def events() -> Response:
    """Send three events, the second after the gate."""
    asked = asked_in(request.environ)
    execute(asked, COUNT)

    def produce() -> Iterator[str]:
        for number in range(3):
            if number == 1:
                wait_at(asked, "body")
            yield f"data: {number}\n\n"

    return Response(produce(), mimetype="text/event-stream")


@flask_app.get("/file")
def file() -> Response:
    """Answer with a file, as the server likes to send it."""
    leave_work(asked_in(request.environ))
    return send_file(__file__)


@flask_app.get("/empty")
def empty() -> Response:
    """Answer without a body."""
    asked = asked_in(request.environ)
    leave_work(asked)
    return Response(status=asked.status)


@flask_app.get("/broken")
def broken() -> Response:
    """Leave work, and fail."""
    leave_work(asked_in(request.environ))
    raise RuntimeError("the application is broken")


@flask_app.get("/status")
def status() -> dict[str, int]:
    """Tell the process and the connections that are out of the pool; to be asked through the bare door."""
    assert isinstance(engine.pool, QueuePool)
    return {"pid": os.getpid(), "checked_out": engine.pool.checkedout()}


doors: dict[str, WSGIApplication] = {
    "bare": flask_app.wsgi_app,
    "observer": PostResponseMiddleware(
        flask_app.wsgi_app, on_finished=on_finished, on_error=on_error, supervisor=supervisor
    ),
    "unit": PostResponseMiddleware(
        flask_app.wsgi_app,
        unit_of_work=db,
        commit=policy_of,
        on_finished=on_finished,
        on_commit_failed=on_commit_failed,
        on_error=on_error,
        supervisor=supervisor,
    ),
}


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Go in by the door that the request asks for."""
    return doors[asked_in(environ).through](environ, start_response)
