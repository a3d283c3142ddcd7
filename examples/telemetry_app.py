"""FastAPI, with spans, metrics and log lines that tell how each order went: the commit inside, the receipt linked.

.venv/bin/uvicorn --app-dir examples telemetry_app:app --port 8000
curl -i -X POST localhost:8000/orders/tea      # prints the commit, the request, and the receipt in a trace of its own
curl -i -X POST localhost:8000/orders/gold     # 409: a rollback, and no receipt
curl -s localhost:8000/metrics/ | grep postresponse
"""

import asyncio
import logging
from pathlib import Path
from tempfile import mkdtemp

from fastapi import FastAPI, Response
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor
from prometheus_client import make_asgi_app
from sqlalchemy import create_engine, text
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine

from postresponse import after_response
from postresponse.asgi import PostResponseMiddleware
from postresponse.telemetry.logs import LogContext
from postresponse.telemetry.opentelemetry import OpenTelemetryObserver
from postresponse.telemetry.prometheus import PrometheusObserver
from postresponse.unit_of_work.sqlalchemy import AsyncSQLAlchemyUnitOfWork

path = Path(mkdtemp(), "shop.sqlite3")
engine = create_engine(f"sqlite:///{path}")
with engine.begin() as connection:
    connection.execute(text("CREATE TABLE orders (item TEXT NOT NULL)"))
db = AsyncSQLAlchemyUnitOfWork(async_sessionmaker(create_async_engine(f"sqlite+aiosqlite:///{path}")))


def line(span: ReadableSpan) -> str:
    """One line for a span; your exporter sends it to a collector instead."""
    trace = f"{span.context.trace_id:032x}"[:8] if span.context else "-"
    links = [f"linked to {link.context.trace_id:032x}"[:18] for link in span.links]
    milliseconds = ((span.end_time or 0) - (span.start_time or 0)) / 1e6
    return f"{trace} {span.name}, {milliseconds:.1f} ms {' '.join(links)}".rstrip() + "\n"


tracers = TracerProvider()
tracers.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter(formatter=line)))
logs = LogContext()
handler = logging.StreamHandler()
handler.addFilter(logs)
handler.setFormatter(logging.Formatter("request %(exchange)s, %(route)s, job %(job)s: %(message)s"))
logger = logging.getLogger("shop")
logger.addHandler(handler)
logger.setLevel(logging.INFO)
shop = FastAPI()
shop.mount("/metrics", make_asgi_app())
observers = [OpenTelemetryObserver(tracer_provider=tracers), PrometheusObserver(), logs]
inner = PostResponseMiddleware(shop, unit_of_work=db, observers=observers)
app = OpenTelemetryMiddleware(inner, tracer_provider=tracers, exclude_spans=["receive", "send"])  # around it


async def receipt(item: str) -> None:
    """Take a while, which the request does not."""
    await asyncio.sleep(0.3)
    logger.info("a receipt for %s", item)


@shop.post("/orders/{item}", status_code=201)
async def order(item: str, response: Response) -> None:
    """Store an order."""
    await db.session.execute(text("INSERT INTO orders VALUES (:item)"), {"item": item})
    after_response(receipt, item, name="receipt")
    response.status_code = 409 if item == "gold" else 201
