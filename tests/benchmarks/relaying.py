"""What it costs to hand messages to a broker so that none is lost: a hundred at once, in a queue that is durable.

Time is that of the clock, with the broker's part in it: what is compared is how often somebody waits. One request
is a hundred messages of about 100 bytes; each contender has a queue of its own, emptied behind each block.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final
from uuid import uuid4

from postresponse.messaging import Delivery
from postresponse.messaging.message import sealed
from tests.benchmarks.runner import Case, Contender, Subject, package
from tests.services import rabbitmq, redis

__all__ = ["to_rabbitmq", "to_redis"]

BATCH: Final = 100
NAME: Final = "shop.confirm"
PAYLOAD: Final = {"order": 4711, "to": "somebody@example.org", "items": [1, 2, 3], "note": "leave it at the door"}


class Publishing(Subject):
    """A contender with a queue and a connection of its own to watch it with.

    Args:
        url: The broker's.
    """

    def __init__(self, url: str) -> None:
        self.url: str = url
        self.queue: str = f"postresponse-benchmark-{uuid4().hex}"
        self._watch = package("kombu").Connection(url)
        self._channel = self._watch.channel()
        self._channel.queue_declare(queue=self.queue, durable=True, auto_delete=False)
        self.open()
        self.publish()
        self._wait_until_there(BATCH)

    def open(self) -> None:
        """Get ready."""

    def publish(self) -> None:
        """Publish a hundred messages."""
        raise NotImplementedError

    def shut(self) -> None:
        """Close what `open` opened."""

    def seconds(self, count: int) -> float:
        begun = time.perf_counter()
        for _ in range(count):
            self.publish()
        spent = time.perf_counter() - begun
        self._wait_until_there(count * BATCH)
        return spent

    def _wait_until_there(self, count: int) -> None:
        """Empty the queue; whoever published has not waited for that, unless it had each message confirmed."""
        deadline = time.monotonic() + 60
        while count > 0:
            count -= self._channel.queue_purge(queue=self.queue)
            assert time.monotonic() < deadline, f"{type(self).__name__}: {count} messages did not arrive"
        assert count == 0

    def close(self) -> None:
        self.shut()
        self._channel.queue_delete(queue=self.queue)
        self._channel.exchange_delete(exchange=self.queue)  # Celery declares one beside its queue
        self._watch.release()


class Pipelined(Publishing):
    """py-amqp by hand: a hundred are published, then their confirms awaited."""

    def open(self) -> None:
        self._connection = package("kombu").Connection(self.url)
        self._own = self._connection.channel()
        self._own.confirm_select()
        self._own.events["basic_ack"].add(self._acked)
        self._number = 0
        self._open: set[int] = set()

    def _acked(self, number: int, multiple: bool) -> None:
        self._open.difference_update([each for each in self._open if each <= number] if multiple else [number])

    def publish(self) -> None:
        channel, body = self._own, sealed(PAYLOAD).encode()
        for _ in range(BATCH):
            properties = {"message_id": str(uuid4()), "type": NAME, "delivery_mode": 2}
            message = channel.prepare_message(body, content_type="application/json", properties=properties)
            self._number += 1
            self._open.add(self._number)
            channel.basic_publish(message, routing_key=self.queue, mandatory=True)
        while self._open:
            self._connection.drain_events(timeout=10)

    def shut(self) -> None:
        self._connection.release()


class Destined(Publishing):
    """A destination of this package, as a relay calls it.

    Args:
        make: Makes it, for a broker and a queue.
        url: The broker's.
    """

    def __init__(self, make: Callable[[str, str], Any], url: str) -> None:
        self._make = make
        super().__init__(url)

    def open(self) -> None:
        self._runner = asyncio.Runner()
        self._destination = self._make(self.url, self.queue)
        self._document = sealed(PAYLOAD)

    def publish(self) -> None:
        batch = [Delivery(uuid4(), "engine", NAME, self._document, "{}") for _ in range(BATCH)]
        errors = self._runner.run(self._destination.send(batch))
        assert errors == [None] * BATCH, errors

    def shut(self) -> None:
        self._runner.run(self._destination.aclose())
        self._runner.close()


class Sent(Publishing):
    """`send_task` of Celery's, a hundred times with one producer.

    Args:
        options: Of the transport.
        url: The broker's.
    """

    def __init__(self, options: dict[str, Any], url: str) -> None:
        self._options = options
        super().__init__(url)

    def open(self) -> None:
        self._app = application(self.url, self.queue, broker_transport_options=self._options)

    def publish(self) -> None:
        with self._app.producer_pool.acquire(block=True) as producer:
            for _ in range(BATCH):
                self._app.send_task(NAME, kwargs=PAYLOAD, task_id=str(uuid4()), producer=producer)

    def shut(self) -> None:
        self._app.close()
        package("kombu").pools.reset()


class Pushed(Publishing):
    """redis-py by hand: a hundred LPUSH in one pipeline."""

    def open(self) -> None:
        self._client = package("redis").Redis.from_url(self.url)

    def publish(self) -> None:
        body = sealed(PAYLOAD).encode()
        with self._client.pipeline(transaction=False) as pipeline:
            for _ in range(BATCH):
                pipeline.lpush(self.queue, body)
            pipeline.execute()

    def shut(self) -> None:
        self._client.close()


def application(url: str, queue: str, **settings: Any) -> Any:
    """An application of Celery's with one queue."""
    app = package("celery").Celery("shop", broker=url, set_as_current=False)
    app.conf.update(task_default_queue=queue, **settings)
    return app


def _rabbitmq_destination(url: str, queue: str) -> Any:
    return package("postresponse.messaging.deliveries.rabbitmq").RabbitMQDestination(url, routing_key=queue)


def _celery_destination(url: str, queue: str) -> Any:
    return package("postresponse.messaging.deliveries.celery").CeleryDestination(application(url, queue))


def to_rabbitmq() -> Sequence[Case]:
    """Everybody beside the limit of what is possible; and beside what Celery's users have, which the design names."""
    needs = ("kombu", "celery", *(("rabbitmq-server",) if rabbitmq.unreachable() else ()))  # no pip installs the latter

    def contender(name: str, kind: Any, make: Callable[[str], Subject], target: float | None = None) -> Contender:
        return Contender(name, kind, lambda: make(rabbitmq.url()), needs, target)

    unconfirmed, confirmed = (partial(Sent, {"confirm_publish": wanted}) for wanted in (False, True))
    documents, tasks = partial(Destined, _rabbitmq_destination), partial(Destined, _celery_destination)
    return [
        Case(
            "100 messages",
            [
                contender("py-amqp, 100 published, then 100 confirms", "limit", Pipelined),
                contender("Celery, send_task, unconfirmed", "peer", unconfirmed),
                contender("Celery, send_task, confirmed", "peer", confirmed),
                contender("RabbitMQDestination", "ours", documents),
                contender("CeleryDestination", "ours", tasks),
            ],
        ),
        Case(
            "100 messages, beside Celery",
            [
                contender("Celery, send_task, confirmed", "peer", confirmed),
                contender("RabbitMQDestination", "ours", documents, 0.5),
                contender("CeleryDestination", "ours", tasks, 0.5),
            ],
        ),
    ]


def to_redis() -> Sequence[Case]:
    """Where the reply to each push is the confirmation."""
    needs = ("redis", "celery", *(("redis-server",) if redis.unreachable() else ()))  # no pip installs the latter

    def contender(name: str, kind: Any, make: Callable[[str], Subject]) -> Contender:
        return Contender(name, kind, lambda: make(redis.url()), needs)

    return [
        Case(
            "100 messages",
            [
                contender("redis-py, 100 LPUSH in one pipeline", "limit", Pushed),
                contender("Celery, send_task", "peer", partial(Sent, {})),
                contender("CeleryDestination", "ours", partial(Destined, _celery_destination)),
            ],
        )
    ]
