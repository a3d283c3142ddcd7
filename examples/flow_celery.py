"""One flow, here and on Celery: where its steps must outlive this process, each is a task of a worker's.

.venv/bin/celery --workdir examples -A flow_celery:celery worker --pool threads
.venv/bin/python examples/flow_celery.py                # in another terminal: one result, from both

BROKER names another Redis than the one on this machine.
"""

import os
import time
from typing import Any

import anyio
from celery import Celery

from postresponse.work import Flow

url = os.environ.get("BROKER", "redis://127.0.0.1:6379/0")
celery = Celery("shop", broker=url, backend=url)
celery.conf.update(task_default_queue=os.environ.get("QUEUE", "orders"), result_expires=3600)


@celery.task(name="reserve")  # type: ignore[untyped-decorator]
def reserve(order: dict[str, Any]) -> str:
    """Take the item out of the stock."""
    time.sleep(0.1)
    return f"reserved {order['item']}"


@celery.task(name="invoice")  # type: ignore[untyped-decorator]
def invoice(order: dict[str, Any]) -> str:
    """Write an invoice."""
    time.sleep(0.2)
    return f"invoice for {order['item']}"


@celery.task(name="label")  # type: ignore[untyped-decorator]
def label(order: dict[str, Any]) -> str:
    """Print a label, beside that."""
    time.sleep(0.2)
    return f"label for {order['item']}"


ORDER = Flow.parse("reserve + (invoice | label)", {"reserve": reserve, "invoice": invoice, "label": label})


if __name__ == "__main__":
    order = {"item": "tea"}
    result = anyio.run(ORDER.run, order)
    print(result, "\n")  # what ran beside what
    print("here:     ", result.value)
    print("on Celery:", ORDER.to_celery(celery, order).apply_async().get(timeout=30))
