"""A Flask application that commits in a teardown function: before the first part of a plain body, behind a stream."""

import io
from collections.abc import Iterator

from flask import Flask, Response, g, request, send_file, stream_with_context
from sqlalchemy.orm import Session, sessionmaker

from postresponse.wsgi import PostResponseMiddleware
from tests.observing.sites.found import around_wsgi
from tests.observing.sites.shop import READ, WRITE, customer_of, engine

flask = Flask(__name__)
Sessions = sessionmaker(engine)


def session() -> Session:
    """This request's session."""
    if "session" not in g:
        g.session = Sessions()
    return g.session  # type: ignore[no-any-return]


@flask.teardown_appcontext
def end_session(error: BaseException | None) -> None:
    """Commit it, as many applications do."""
    if "session" in g:
        with g.pop("session") as ended:
            ended.commit()


@flask.post("/plain")
def plain() -> str:
    """Store an order."""
    session().execute(WRITE, customer_of(False))
    return "stored"


@flask.post("/file")
def file() -> Response:
    """Store an order, and send a file."""
    session().execute(WRITE, customer_of(False))
    return send_file(io.BytesIO(b"stored"), "text/plain")


@flask.post("/streamed")
def streamed() -> Response:
    """Store an order in the middle of a body, for whose sake the teardown comes behind it."""

    def body() -> Iterator[bytes]:
        yield b"stored "
        session().execute(WRITE, customer_of("refused" in request.args))
        yield b"all"

    return Response(stream_with_context(body()))


@flask.get("/streamed")
def read() -> Response:
    """Stream what was read."""
    count = session().execute(READ).scalar_one()

    def body() -> Iterator[bytes]:
        yield b"counted "
        yield str(count).encode()

    return Response(stream_with_context(body()))


app = around_wsgi(PostResponseMiddleware(flask))
