"""Flask and Celery: a task is enlisted in the order's own transaction, and a relay hands it to the broker, confirmed.

.venv/bin/gunicorn --chdir examples celery_outbox:app -b 127.0.0.1:8000
.venv/bin/celery --workdir examples -A celery_outbox:celery worker --pool solo     # in another terminal
curl -i -d item=tea localhost:8000/orders           # 201, and the worker prints a receipt, once for each id
curl -i -d item=gold localhost:8000/orders          # 422: rolled back, and no worker hears of it
.venv/bin/postresponse outbox stats sqlite:////tmp/celery_outbox.sqlite3    # what waits while RabbitMQ is down

BROKER names another broker than the one on this machine.
"""

import os
import tempfile
from pathlib import Path

from celery import Celery
from flask import Flask, request
from sqlalchemy import create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, sessionmaker

from postresponse.messaging import Message, Outbox, Relay
from postresponse.messaging.deliveries.celery import CeleryDestination
from postresponse.unit_of_work.sqlalchemy import SQLAlchemyUnitOfWork
from postresponse.wsgi import PostResponseMiddleware


class Base(DeclarativeBase):
    """The shop's tables, and those of its outbox."""


class Order(Base):
    """What was ordered."""

    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    item: Mapped[str]


celery = Celery("shop", broker=os.environ.get("BROKER", "amqp://guest:guest@127.0.0.1:5672//"))
celery.conf.update(task_default_queue=os.environ.get("QUEUE", "receipts"), task_acks_late=True)


@celery.task(name="send_receipt")  # type: ignore[untyped-decorator]
def send_receipt(item: str) -> None:
    """Send a receipt: on a worker."""
    print(f"a receipt for {item}", flush=True)


outbox = Outbox({"celery": ["send_receipt"]}, Base.metadata)
url = f"sqlite:///{Path(tempfile.gettempdir(), 'celery_outbox.sqlite3')}"
engine = create_engine(url)
db = SQLAlchemyUnitOfWork(sessionmaker(engine))
Base.metadata.create_all(engine)
relay = Relay(outbox, url, {"celery": CeleryDestination(celery)}, autostart=True)
app = Flask(__name__)
app.wsgi_app = PostResponseMiddleware(app.wsgi_app, unit_of_work=db)  # type: ignore[method-assign]


@app.post("/orders")
def create() -> tuple[dict[str, str], int]:
    """Store an order, and the task that belongs to it."""
    item = request.form["item"]
    db.session.add(Order(item=item))
    outbox.enlist(Message("celery", "send_receipt", {"item": item}))
    return {"item": item}, 422 if item == "gold" else 201
