"""An application of Celery's that real workers run: its task writes down what it was given."""

import json
import os
from pathlib import Path
from typing import Any

from celery import Celery

app = Celery("shop", broker=os.environ.get("SHOP_BROKER", "memory://"), set_as_current=False)
app.conf.update(
    task_default_queue=os.environ.get("SHOP_QUEUE", "shop"),
    broker_connection_retry_on_startup=False,
    worker_hijack_root_logger=False,
    enable_utc=True,
)


@app.task(bind=True, name="shop.note")  # type: ignore[untyped-decorator]
def note(self: Any, *args: Any, **kwargs: Any) -> None:
    """Write one line."""
    with Path(os.environ["SHOP_FILE"]).open("a") as file:
        file.write(json.dumps([self.request.id, args, kwargs, self.request.headers]) + "\n")
