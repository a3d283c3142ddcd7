"""Queues of a test's own on real brokers, and ways in which a broker goes away."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
from kombu import Connection

from postresponse.messaging import Delivery
from postresponse.messaging.message import sealed
from tests.services import rabbitmq
from tests.services.blackhole import Blackhole
from tests.services.ports import free_port


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def delivery(name: str = "note", payload: Any = None, **headers: str) -> Delivery:
    """A message on its way."""
    return Delivery(uuid4(), "engine", name, sealed(payload), headers)


class Rabbit:
    """A queue on RabbitMQ, and what is in it."""

    def __init__(self) -> None:
        self.queue = f"postresponse-test-{uuid4().hex}"
        self.connection = Connection(rabbitmq.url())
        self.channel = self.connection.channel()

    def declare(self, name: str = "", **options: Any) -> str:
        """Make the queue, or another one that is deleted with it, and return its name."""
        name = self.queue + name
        self.channel.queue_declare(queue=name, durable=True, auto_delete=False, **options)
        return name

    def get(self, name: str = "") -> Any:
        """Take a message from it; None where there is none."""
        return self.channel.basic_get(self.queue + name, no_ack=True)

    def count(self) -> int:
        """How many messages are in it."""
        return int(self.channel.queue_declare(queue=self.queue, passive=True).message_count)

    def close(self) -> None:
        for name in ("", ".other", ".DQ", ".XQ"):
            self.channel.queue_delete(self.queue + name)
        self.channel.exchange_delete(self.queue)
        self.connection.release()


@pytest.fixture
def rabbit() -> Iterator[Rabbit]:
    """A queue's name of the test's own, on RabbitMQ."""
    made = Rabbit()
    yield made
    made.close()


class Away:
    """A broker that goes away and comes back: a proxy in front of it, and the URL that leads through it."""

    def __init__(self, url: str, default_port: int) -> None:
        parts = urlsplit(url)
        self.proxy = Blackhole(parts.hostname or "127.0.0.1", parts.port or default_port)
        credentials = f"{parts.username}:{parts.password}@" if parts.username else ""
        self.url = f"{parts.scheme}://{credentials}127.0.0.1:{self.proxy.port}{parts.path}"

    def close(self) -> None:
        self.proxy.cut()
        self.proxy.close()


@pytest.fixture
def through() -> Iterator[Callable[[str, int], Away]]:
    """Makes a proxy in front of a broker."""
    made: list[Away] = []

    def make(url: str, default_port: int) -> Away:
        made.append(Away(url, default_port))
        return made[-1]

    yield make
    for each in made:
        with suppress(OSError):
            each.close()


@pytest.fixture
def closed_port() -> int:
    """A port that nobody listens on."""
    return free_port()
