"""An application of Celery's whose tasks are the steps of a flow: each writes down when it began and when it ended."""

import os
import time
from pathlib import Path

from celery import Celery

from tests.services import redis

app = Celery("shop", broker=redis.url(), backend=redis.url(), set_as_current=False)
app.conf.update(
    task_default_queue=os.environ.get("SHOP_QUEUE", "shop"),
    result_expires=60,
    broker_connection_retry_on_startup=False,
    worker_hijack_root_logger=False,
)


def _noted(name: str, order: str) -> str:
    began = time.time()
    time.sleep(0.2)
    with Path(os.environ["SHOP_FILE"]).open("a") as file:
        file.write(f"{name} {began} {time.time()}\n")
    return f"{name} of {order}"


@app.task  # type: ignore[untyped-decorator]
def reserve(order: str) -> str:
    """The first step."""
    return _noted("reserve", order)


@app.task  # type: ignore[untyped-decorator]
def invoice(order: str) -> str:
    """Beside the label."""
    return _noted("invoice", order)


@app.task(name="print_label")  # type: ignore[untyped-decorator]
def label(order: str) -> str:
    """Beside the invoice."""
    return _noted("label", order)


@app.task  # type: ignore[untyped-decorator]
def notify(order: str) -> str:
    """The last step."""
    return _noted("notify", order)
