"""Connections to a broker through kombu: each from when it is made until it breaks, and used by one thread.

RabbitMQ hands messages over as they come. From Redis they are fetched, one command a message: what kombu does instead,
a blocking pop, takes one message more after consuming has ended, and puts it back behind all others.
"""

import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic
from typing import Any, Final, Protocol

from kombu import Connection
from kombu.exceptions import OperationalError

__all__ = ["Copy", "Options", "Refused", "Session", "connect"]

HEARTBEAT: Final = 10
"""Seconds; who was silent for two of them is gone."""
RESTORE: Final = 10.0
"""Seconds between two looks for what others took from Redis and did not come back with."""
AT_ONCE: Final = 0.001
"""Seconds to wait for more of what has begun to come."""
DURABLE: Final = 2
"""The delivery mode of messages that outlive the broker (AMQP 0-9-1, section 4.2.6)."""


class Refused(Exception):
    """The broker did not take a message; the connection is as it was."""


@dataclass(frozen=True, slots=True)
class Options:
    """What a connection is made with.

    Attributes:
        url: Of the broker.
        queue: Its name.
        prefetch: How many messages it may have that are not dealt with.
        timeout: Seconds for connecting, and for each answer.
        arguments: What the queue is declared with; None where it has to be there.
        dead_letters: The name of that for what is given up, if there is one.
        transport_options: Of kombu's.
    """

    url: str
    queue: str
    prefetch: int
    timeout: float
    arguments: Mapping[str, Any] | None
    dead_letters: str | None
    transport_options: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Copy:
    """A message as it is published.

    Attributes:
        queue: Where it is put.
        body: Its document.
        headers: All of them.
        properties: `message_id` and `type`, and what it had besides.
    """

    queue: str
    body: bytes
    headers: Mapping[str, Any]
    properties: Mapping[str, Any]


class Session(Protocol):
    """One connection. What raises anything but `Refused` has broken it."""

    @property
    def is_consuming(self) -> bool:
        """Whether messages come."""

    @property
    def outlasts(self) -> bool:
        """Whether what it took can be dealt with by a later one."""

    @property
    def socket(self) -> Any:
        """What can be read when something came; None where one has to look."""

    def consume(self) -> None:
        """Have messages come."""

    def cancel(self) -> None:
        """Let no more come."""

    def fetch(self, room: int) -> bool:
        """Receive what came; True if there was something."""

    def make_room(self) -> None:
        """Do not count what was received until now."""

    def publish(self, copy: Copy) -> None:
        """Put a message on a queue; when this returns the broker has it.

        Raises:
            Refused: It has not.
        """

    def ack(self, message: Any) -> None:
        """It is dealt with."""

    def requeue(self, messages: Sequence[Any]) -> None:
        """Put them back where they were, in this order."""

    def reject(self, message: Any) -> None:
        """It is given up."""

    def beat(self) -> None:
        """Look whether the other end is there; about once a second."""

    def close(self) -> None:
        """End, and raise nothing."""

    def drop(self) -> None:
        """End, without a word to the other end, and raise nothing."""


def connect(options: Options, arrived: Callable[[Any, Session], None]) -> Session:
    """Connect, and return the session; *arrived* is called with each message that comes, and with it."""
    kind = RedisSession if options.url.startswith("redis") else AmqpSession
    connection = Connection(
        options.url,
        connect_timeout=options.timeout,
        heartbeat=HEARTBEAT,
        transport_options={**kind.defaults(options), **options.transport_options},
    )
    try:
        # Once more at once, as *url* may name several.
        connection.ensure_connection(
            max_retries=1, interval_start=0, interval_step=0, interval_max=0, timeout=options.timeout
        )
        return kind(connection, options, arrived)
    except BaseException:
        _dropped(connection)
        raise


class AmqpSession:
    """RabbitMQ: one channel for what comes, and one that publishes and has it confirmed."""

    outlasts: bool = False

    def __init__(self, connection: Any, options: Options, arrived: Callable[[Any, Session], None]) -> None:
        self._connection = connection
        self._raw = connection.connection
        self._raw.sock.settimeout(options.timeout)  # for every answer that is waited for
        self._options = options
        self._arrived = arrived
        self._in = connection.channel()
        self._out = connection.channel()
        self._returned: list[Any] = []
        # Unless somebody hears of what comes back, it is raised before the confirmation that follows was read.
        self._out.events["basic_return"].add(lambda *told: self._returned.append(told[0]))
        self._tag: str | None = None
        self._declare(options.queue, options.arguments)
        if options.dead_letters is not None:
            self._declare(options.dead_letters, None if options.arguments is None else {})
        self._in.basic_qos(0, options.prefetch, False)

    @staticmethod
    def defaults(options: Options) -> dict[str, Any]:
        """What kombu is told."""
        return {"confirm_publish": True}

    def _declare(self, queue: str, arguments: Mapping[str, Any] | None) -> None:
        self._in.queue_declare(
            queue=queue,
            passive=arguments is None,
            durable=True,
            exclusive=False,
            auto_delete=False,
            arguments=dict(arguments or {}),
        )

    @property
    def is_consuming(self) -> bool:
        """Whether messages come."""
        return self._tag is not None

    @property
    def socket(self) -> Any:
        """What can be read when something came."""
        return self._raw.sock

    def consume(self) -> None:
        """Have messages come."""
        self._tag = self._in.basic_consume(
            queue=self._options.queue, no_ack=False, callback=self._received, on_cancel=self._cancelled
        )

    def _received(self, raw: Any) -> None:
        self._arrived(self._in.message_to_python(raw), self)

    def _cancelled(self, tag: str) -> None:
        raise OperationalError(f"the broker ended consuming from {self._options.queue}: the queue may be gone")

    def cancel(self) -> None:
        """Let no more come; those on their way have come when this returns."""
        tag, self._tag = self._tag, None
        if tag is not None:
            self._in.basic_cancel(tag)

    def fetch(self, room: int) -> bool:
        """Receive what came."""
        found = False
        while True:
            try:
                self._raw.drain_events(timeout=AT_ONCE)
            except TimeoutError:
                return found
            found = True

    def make_room(self) -> None:
        """Consume anew: RabbitMQ counts by consumer what is not acknowledged."""
        if self._tag is not None:
            self.cancel()
            self.consume()

    def publish(self, copy: Copy) -> None:
        """Put a message on a queue, and wait until the broker confirms that it has it."""
        from amqp.exceptions import MessageNacked

        self._returned.clear()
        try:
            self._out.basic_publish(
                _prepared(self._out, copy),
                exchange="",
                routing_key=copy.queue,
                mandatory=True,
                timeout=self._options.timeout,
                confirm_timeout=self._options.timeout,
            )
        except MessageNacked as error:
            raise Refused(f"the broker did not take it for {copy.queue}") from error
        if self._returned:
            raise Refused(f"there is no queue {copy.queue}")

    def ack(self, message: Any) -> None:
        """It is dealt with."""
        self._in.basic_ack(message.delivery_tag)

    def requeue(self, messages: Sequence[Any]) -> None:
        """Put them back where they were, which RabbitMQ knows."""
        for message in messages:
            self._in.basic_reject(message.delivery_tag, requeue=True)

    def reject(self, message: Any) -> None:
        """Give it to the queue's dead-letter exchange, if it has one."""
        self._in.basic_reject(message.delivery_tag, requeue=False)

    def beat(self) -> None:
        """Say that this end is there, and look whether the other one is."""
        self._raw.heartbeat_tick(rate=2)

    def close(self) -> None:
        """End; what is not acknowledged is others' at once."""
        with suppress(Exception):
            self._raw.close()
        self.drop()

    def drop(self) -> None:
        """End without a word."""
        _dropped(self._connection)


class RedisSession:
    """Redis: a list that messages are fetched from, and a table of those that are not acknowledged."""

    outlasts: bool = True

    def __init__(self, connection: Any, options: Options, arrived: Callable[[Any, Session], None]) -> None:
        self.is_consuming: bool = False
        self._connection = connection
        self._options = options
        self._arrived = arrived
        self._channel = connection.channel()
        self._channel.do_restore = False  # in no order; and what is dealt with by a later connection, too
        self._looked_at = monotonic()

    @staticmethod
    def defaults(options: Options) -> dict[str, Any]:
        """What kombu is told."""
        return {"socket_timeout": options.timeout, "socket_connect_timeout": options.timeout}

    @property
    def socket(self) -> Any:
        """None: one has to look."""
        return None

    def consume(self) -> None:
        """Look for messages from now on."""
        self.is_consuming = True

    def cancel(self) -> None:
        """Look for no more."""
        self.is_consuming = False

    def fetch(self, room: int) -> bool:
        """Fetch at most *room* messages."""
        found = False
        for _ in range(room if self.is_consuming else 0):
            message = self._channel.basic_get(self._options.queue)
            if message is None:
                break
            self._arrived(message, self)
            found = True
        return found

    def make_room(self) -> None:
        """Nothing: whoever fetches counts."""

    def publish(self, copy: Copy) -> None:
        """Put a message on a queue."""
        from redis.exceptions import ResponseError

        try:
            self._channel.basic_publish(_prepared(self._channel, copy), exchange="", routing_key=copy.queue)
        except ResponseError as error:
            raise Refused(f"Redis did not take it for {copy.queue}: {error}") from error

    def ack(self, message: Any) -> None:
        """It is dealt with."""
        self._channel.basic_ack(message.delivery_tag)

    def requeue(self, messages: Sequence[Any]) -> None:
        """Put them back at the front, the last one first; rejecting one puts it behind all others."""
        for message in reversed(messages):
            self._channel.qos.restore_by_tag(message.delivery_tag)
            self._channel.basic_ack(message.delivery_tag)

    def reject(self, message: Any) -> None:
        """It is gone."""
        self._channel.basic_reject(message.delivery_tag, requeue=False)

    def beat(self) -> None:
        """Now and then put back what others took longer ago than the visibility timeout."""
        if monotonic() >= self._looked_at + RESTORE:
            self._looked_at = monotonic()
            self._channel.qos.restore_visible(num=self._channel.unacked_restore_limit, interval=1)

    def close(self) -> None:
        """End."""
        self.drop()

    def drop(self) -> None:
        """End."""
        with suppress(Exception):
            self._connection.release()


def _prepared(channel: Any, copy: Copy) -> Any:
    properties = {**copy.properties, "delivery_mode": DURABLE}
    return channel.prepare_message(
        copy.body,
        priority=properties.pop("priority", None),
        content_type="application/json",
        content_encoding="utf-8",
        headers=dict(copy.headers),
        properties=properties,
    )


def _dropped(connection: Any) -> None:
    with suppress(Exception):
        connection.collect(socket.getdefaulttimeout())
