"""A whole service: orders in one unit of work with a message each, which a relay posts to a ledger, at least once.

CHECK_PORT=8000 CHECK_SINK=http://127.0.0.1:9000/ CHECK_DB=sqlite:////tmp/orders.db \\
    .venv/bin/python examples/orders_service.py            # FastAPI on uvicorn; --flask: Flask on waitress
curl -i localhost:8000/orders --json '{"id": "o-1", "note": "tea"}'      # 201, and the ledger hears of it
curl -i 'localhost:8000/orders?fail=commit' --json '{"id": "o-2", "note": "tea"}'    # 500, and it does not

The database is SQLite or PostgreSQL, and keeps everything: kill -9 this program, or start a second one on the same
database with CHECK_INSTANCE=2. SIGTERM ends it in good order.
"""

import json
import os
import signal
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

from sqlalchemy import URL, ForeignKey, String, create_engine, event, make_url, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, sessionmaker

from postresponse import after_response
from postresponse.messaging import Backoff, Delivery, Function, Message, Outbox, Relay
from postresponse.unit_of_work.sqlalchemy import SQLAlchemyUnitOfWork

PIECE = b"x" * 65536


class Base(DeclarativeBase):
    """The service's own tables; those of the outbox stand beside them."""


class Order(Base):
    """An order."""

    __tablename__ = "orders"
    id: Mapped[str] = mapped_column(String(200), primary_key=True)
    note: Mapped[str]


class Audit(Base):
    """What refers to an order, which the database looks at when it commits."""

    __tablename__ = "audits"
    id: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[str] = mapped_column(ForeignKey("orders.id", deferrable=True, initially="DEFERRED"))


outbox = Outbox({"ledger": ["order_placed"]}, Base.metadata)


def url() -> URL:
    """The database's, with a driver that is installed."""
    given = make_url(os.environ.get("CHECK_DB", "sqlite:////tmp/orders.db"))
    return given.set(drivername="postgresql+psycopg") if given.drivername.startswith("postgres") else given


def connected(connection: Any, record: object) -> None:
    """Tell SQLite to hold to its foreign keys, and to let readers go on beside a writer."""
    for pragma in ("foreign_keys=ON", "journal_mode=WAL", "synchronous=FULL", "busy_timeout=10000"):
        connection.execute(f"PRAGMA {pragma}")


engine = create_engine(url(), pool_size=20, max_overflow=20, pool_pre_ping=True)
relays = create_engine(url(), pool_size=2, max_overflow=1, pool_pre_ping=True)
if engine.dialect.name == "sqlite":
    event.listen(engine, "connect", connected)
    event.listen(relays, "connect", connected)
db = SQLAlchemyUnitOfWork(sessionmaker(engine))


def create_tables() -> None:
    """Make what is not there; a second instance may do the same at the moment."""
    try:
        Base.metadata.create_all(engine)
    except SQLAlchemyError:
        Base.metadata.create_all(engine)


def post(delivery: Delivery) -> None:
    """Tell the ledger; any answer but 2xx, or none, and it is told again."""
    said = {"order_id": delivery.payload["order_id"], "message_id": str(delivery.id)}
    request = urllib.request.Request(os.environ["CHECK_SINK"], json.dumps(said).encode(), method="POST")
    request.add_header("Content-Type", "application/json")
    try:
        with urllib.request.urlopen(request, timeout=3):
            return
    except urllib.error.HTTPError as error:
        raise ValueError(f"the ledger said {error.code}") from None
    except OSError as error:
        raise ConnectionError("the ledger cannot be reached") from error


relay = Relay(
    outbox,
    relays,
    {"ledger": Function(post, concurrency=8, timeout=4.0)},
    attempts=100_000,  # of nobody whom the ledger refuses it gives up; it asks again every few seconds
    backoff=Backoff(0.2, 5.0),
    lease=10.0,
    autostart=True,
)


def place(order: dict[str, Any], fail: str | None) -> None:
    """Store the order, and what is to be told of it; one unit of work with all else that the request writes."""
    db.session.add(Order(id=order["id"], note=order["note"]))
    db.session.flush()  # an id that is there already is refused here
    outbox.enlist(Message("ledger", "order_placed", {"order_id": order["id"]}))
    if fail == "commit":
        db.session.add(Audit(order_id=f"no {order['id']}"))
    if fail == "after":
        after_response(broken)
    if fail == "raise":
        raise RuntimeError("behind both writes")


def broken() -> None:
    """Work after the response that fails."""
    raise RuntimeError("behind the response")


def status_of(fail: str | None) -> int:
    """What the handler answers."""
    return 409 if fail == "status" else 201


def body(order: dict[str, Any], megabytes: int, fail: str | None) -> Iterator[bytes]:
    """A streamed body, which may end too early."""
    yield json.dumps({"id": order["id"]}).encode() + b"\n"
    for _ in range(megabytes * 16):
        yield PIECE
    if fail == "raise_stream":
        raise RuntimeError("in the middle of the body")


def found(order_id: str) -> int:
    """Whether that order is committed."""
    with engine.connect() as connection:
        return 200 if connection.scalar(select(Order.id).where(Order.id == order_id)) else 404


def checked_out() -> dict[str, int]:
    """Connections in use by the web part."""
    return {"checked_out": engine.pool.checkedout()}  # type: ignore[attr-defined]


def streams(stream: int, fail: str | None) -> bool:
    """Whether the response comes in parts."""
    return stream > 0 or fail == "raise_stream"


def serve_fastapi(port: int) -> None:
    """Serve on uvicorn; the lifespan starts and drains the relay."""
    import uvicorn
    from fastapi import FastAPI
    from fastapi.responses import JSONResponse, Response, StreamingResponse

    from postresponse.asgi import PostResponseMiddleware

    app = FastAPI()
    app.add_middleware(PostResponseMiddleware, unit_of_work=db, commit="head")

    @app.get("/healthz")
    def healthz() -> dict[str, str]:
        return {"is": "ready"}

    @app.get("/stats")
    def stats() -> dict[str, int]:
        return checked_out()

    @app.get("/orders/{order_id:path}")
    def get(order_id: str) -> Response:
        return JSONResponse({"id": order_id}, found(order_id))

    @app.post("/orders")
    def create(order: dict[str, Any], fail: str | None = None, stream: int = 0) -> Response:
        place(order, fail)
        if streams(stream, fail):
            return StreamingResponse(body(order, stream, fail), status_of(fail))
        return JSONResponse({"id": order["id"]}, status_of(fail))

    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning", timeout_graceful_shutdown=5)


def serve_flask(port: int) -> None:
    """Serve on waitress; the relay is drained when the interpreter ends."""
    from flask import Flask, Response, jsonify, request
    from waitress import serve

    from postresponse.wsgi import PostResponseMiddleware

    app = Flask(__name__)

    @app.get("/healthz")
    def healthz() -> dict[str, str]:
        return {"is": "ready"}

    @app.get("/stats")
    def stats() -> dict[str, int]:
        return checked_out()

    @app.get("/orders/<path:order_id>")
    def get(order_id: str) -> tuple[Response, int]:
        return jsonify(id=order_id), found(order_id)

    @app.post("/orders")
    def create() -> Response | tuple[Response, int]:
        order, fail, stream = request.get_json(), request.args.get("fail"), request.args.get("stream", 0, int)
        place(order, fail)
        if streams(stream, fail):
            return Response(body(order, stream, fail), status_of(fail))
        return jsonify(id=order["id"]), status_of(fail)

    relay.start()
    serve(PostResponseMiddleware(app.wsgi_app, unit_of_work=db), host="127.0.0.1", port=port, threads=16)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # which waitress would not heed
    create_tables()
    (serve_flask if "--flask" in sys.argv else serve_fastapi)(int(os.environ.get("CHECK_PORT", "8000")))
