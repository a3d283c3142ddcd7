"""RabbitMQ: where it is, and whether it answers.

`POSTRESPONSE_RABBITMQ_URL` says where (default: on this machine, as guest).
"""

import functools
import os

from kombu import Connection
from kombu.exceptions import OperationalError


def url() -> str:
    """The URL of the broker."""
    return os.environ.get("POSTRESPONSE_RABBITMQ_URL", "amqp://guest:guest@127.0.0.1:5672//")


@functools.cache
def unreachable() -> str | None:
    """Why it cannot be used, or None."""
    try:
        with Connection(url(), connect_timeout=3) as connection:
            connection.ensure_connection(max_retries=1)
    except (OperationalError, OSError) as error:
        return f"no RabbitMQ at {url()}: {error}"
    return None
