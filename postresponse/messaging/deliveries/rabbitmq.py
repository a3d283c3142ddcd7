"""RabbitMQ as a destination: messages as they were written down, for receivers that read the envelope."""

from collections.abc import Callable, Sequence
from typing import Any, Final

from kombu import Connection
from kombu.transport.pyamqp import Transport

from postresponse.exceptions import ConfigurationError, MessageRefused
from postresponse.messaging.deliveries.confirms import ConfirmedLine
from postresponse.messaging.deliveries.lines import Lines
from postresponse.messaging.deliveries.trouble import OUTAGES
from postresponse.messaging.delivery import Delivery
from postresponse.work.checks import check_count, check_seconds

__all__ = ["RabbitMQDestination", "amqp_options"]

CONNECTING: Final = 4.0
"""How many answers connecting waits for: each has its part of a batch's time."""
LONGEST: Final = 255
"""Bytes of a name in AMQP."""
PERSISTENT: Final = 2


class RabbitMQDestination:
    """Publishes messages to an exchange of RabbitMQ, with publisher confirms.

    The body is the message's document, JSON with a version, as `Delivery.document` holds it; `message_id` is the
    message's id and `type` its name, its headers are the headers, and it is persistent. A batch is published at once
    and its confirms are awaited together. A message that no queue takes fails, and costs an attempt. A document is
    never opened: one of a later release is for its receiver to know.

    Exchanges, queues and bindings are yours: nothing is declared here.

    Args:
        url: `amqp://` or `amqps://`; several, separated by semicolons, for a cluster. Or a `kombu.Connection`, for what
            a URL cannot say, such as the certificates of TLS; it is copied, and never connected itself.
        exchange: Which; the empty one takes the name of a queue as its routing key.
        routing_key: Which; None for the name of each message, or a function that receives a `Delivery`.
        batch: How many are published at once.
        timeout: Seconds that a batch may take, with connecting. What is not confirmed by then comes again.

    Raises:
        ConfigurationError: A value that an option cannot have, or a broker that does not speak AMQP.
    """

    concurrency: int = 1
    unreachable: tuple[type[BaseException], ...] = OUTAGES

    def __init__(
        self,
        url: str | Connection,
        *,
        exchange: str = "",
        routing_key: str | Callable[[Delivery], str] | None = None,
        batch: int = 100,
        timeout: float = 10.0,
    ) -> None:
        self.batch: int = check_count("batch", batch)
        self.timeout: float = check_seconds("timeout", timeout)
        self._exchange = _short("exchange", exchange)
        self._routing_key = (
            routing_key if routing_key is None or callable(routing_key) else _short("routing_key", routing_key)
        )
        self._given = _checked(url)
        self._lines = Lines(self._connect, self.timeout)

    async def send(self, messages: Sequence[Delivery]) -> Sequence[BaseException | None]:
        """Publish *messages*, and wait until RabbitMQ has confirmed each.

        Raises:
            Unreachable: RabbitMQ cannot be reached.
        """
        return await self._lines.send(messages)

    async def aclose(self) -> None:
        """Close the connections; sending opens new ones."""
        await self._lines.aclose()

    def _connect(self) -> ConfirmedLine:
        seconds = self.timeout / CONNECTING
        options = {**amqp_options(seconds), **(self._given.transport_options or {}), "confirm_publish": False}
        connection = self._given.clone(connect_timeout=seconds, transport_options=options)
        return ConfirmedLine(connection, lambda channel: _Documents(channel, self._exchange, self._routing_key))


def amqp_options(seconds: float) -> dict[str, Any]:
    """Return the transport options with which no single read or write of py-amqp's takes longer than *seconds*."""
    return {"read_timeout": seconds, "write_timeout": seconds}


class _Documents:
    """Publishes documents on one channel."""

    def __init__(self, channel: Any, exchange: str, routing_key: str | Callable[[Delivery], str] | None) -> None:
        self.published: int = 0
        self._channel = channel
        self._exchange = exchange
        self._routing_key = routing_key

    def send(self, message: Delivery) -> None:
        document, routing_key = message.document, self._routing_key
        if routing_key is None:
            routing_key = message.name
        elif not isinstance(routing_key, str):
            routing_key = _fitting(routing_key(message))
        channel = self._channel
        prepared = channel.prepare_message(
            document.encode() if isinstance(document, str) else document,
            content_type="application/json",
            content_encoding="utf-8",
            headers=dict(message.headers),
            properties={"message_id": str(message.id), "type": message.name, "delivery_mode": PERSISTENT},
        )
        channel.basic_publish(prepared, exchange=self._exchange, routing_key=routing_key, mandatory=True)
        self.published += 1


def _checked(url: Any) -> Any:
    try:
        connection = url if isinstance(url, Connection) else Connection(url) if isinstance(url, str) and url else None
        speaks_amqp = connection is not None and issubclass(connection.get_transport_cls(), Transport)
    except (ValueError, KeyError, ImportError) as error:
        raise ConfigurationError(f"url: expected amqp://user:password@host:port/vhost: {error}") from error
    if not speaks_amqp:
        found = repr(url) if connection is None else connection.as_uri()
        raise ConfigurationError(f"url: expected amqp:// or amqps://, found {found}; py-amqp alone confirms messages")
    return connection


def _short(option: str, value: Any) -> str:
    if not isinstance(value, str) or len(value.encode()) > LONGEST:
        raise ConfigurationError(f"{option}: expected a text of at most {LONGEST} bytes, found {value!r:.80}")
    return value


def _fitting(routing_key: Any) -> str:
    if not isinstance(routing_key, str) or len(routing_key.encode()) > LONGEST:
        raise MessageRefused(
            f"routing_key: expected a text of at most {LONGEST} bytes, its function gave {routing_key!r:.80}"
        )
    return routing_key
