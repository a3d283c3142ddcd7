"""A connection to RabbitMQ on which a whole batch is published before its confirms are awaited, together.

RabbitMQ confirms each message by its number on the channel, alone or with all before it; one that no queue takes it
returns first, and confirms it then all the same. py-amqp by itself waits for the confirm of each message before the
next one may go, which costs a round trip each.

A message that the broker has an error for (a missing exchange, too large a body) closes the channel, and with it goes
the word about all others: these are then sent once more, one after the other, so that only the one at fault fails. Some
of them may arrive twice, under one id.
"""

from collections.abc import Callable, Sequence
from struct import error as PackError
from time import monotonic
from typing import Any, Final, Protocol

from amqp.exceptions import ChannelError, PreconditionFailed
from kombu import Connection
from kombu.exceptions import EncodeError, OperationalError

from postresponse.exceptions import MessageRefused, MessagingError, UnknownVersion, Unreachable
from postresponse.messaging.deliveries.lines import Errors
from postresponse.messaging.deliveries.trouble import unreachable
from postresponse.messaging.delivery import Delivery

__all__ = ["ConfirmedLine", "Sender", "connected", "connection_errors", "let_go", "refused"]

PUBLISH: Final = (60, 40)
"""AMQP's number of basic.publish."""
_OPEN: Final = Unreachable("not confirmed")
"""Stands for a message whose fate is open."""


class Sender(Protocol):
    """What puts messages on a channel."""

    @property
    def published(self) -> int:
        """How many messages went out on the channel, of whatever kind: RabbitMQ counts the same."""

    def send(self, message: Delivery) -> None:
        """Publish *message*, before anything else."""


def connection_errors(connection: Any) -> tuple[type[BaseException], ...]:
    """Return the errors that say that the broker of a kombu *connection* cannot be reached; it need not be open."""
    # For Redis a KeyError is among them, which is also what Celery says of a queue that it does not know.
    told = (kind for kind in connection.connection_errors if kind is not KeyError)
    return (OSError, OperationalError, *told)


def connected(connection: Any) -> Any:
    """Connect a kombu *connection*, to whichever of its hosts answers, and return it.

    Raises:
        Unreachable: None does.
    """
    try:
        connection.ensure_connection(max_retries=max(len(connection.alt) - 1, 0))
    except (*connection_errors(connection), *connection.channel_errors) as error:  # AMQP refuses a login by the latter
        uri = connection.as_uri()
        connection.collect()
        raise unreachable(uri, error) from error
    return connection


def let_go(connection: Any, is_sound: bool) -> None:
    """Say good-bye on a kombu *connection* that is sound, and just close any other."""
    try:
        if is_sound:
            connection.release()
            return
    except Exception:  # noqa: BLE001 (there is nothing else to be done with it)
        pass
    connection.collect()


def refused(error: Exception) -> Exception:
    """Return what a message fails with that could not be published because of *error*."""
    if isinstance(error, EncodeError | TypeError | ValueError | PackError) and not isinstance(error, MessageRefused):
        made = MessageRefused(f"it cannot be encoded: {error}")
        made.__cause__ = error
        return made
    return error


class ConfirmedLine:
    """One connection with one channel.

    Args:
        connection: A kombu Connection to RabbitMQ, through py-amqp, that does not confirm by itself.
        sender: Makes what publishes on a channel.

    Raises:
        Unreachable: The broker cannot be reached.
    """

    def __init__(self, connection: Connection, sender: Callable[[Any], Sender]) -> None:
        self.is_sound: bool = True
        self._connection = connected(connection)
        self._uri: str = connection.as_uri()
        self._lost: tuple[type[BaseException], ...] = connection_errors(connection)
        # Not asked for again: kombu's Connection would silently connect anew, without what is still to be confirmed.
        self._wire = connection.connection
        self._wire.on_blocked, self._wire.on_unblocked = self._blocked, self._unblocked
        self._blocked_by = ""
        self._make_sender = sender
        self._waiting: dict[int, int] = {}
        self._messages: Sequence[Delivery] = ()
        self._errors: Errors = []
        try:
            self._open_channel()
        except self._lost as error:
            self.is_sound = False
            self.close()
            raise unreachable(self._uri, error) from error

    def _open_channel(self) -> None:
        self._channel = self._wire.channel()
        self._channel.confirm_select()
        self._channel.events["basic_ack"].add(self._acked)
        self._channel.events["basic_nack"].add(self._nacked)
        self._channel.events["basic_return"].add(self._returned)
        self._sender = self._make_sender(self._channel)
        self._waiting.clear()

    def close(self) -> None:
        """Let it go."""
        let_go(self._connection, self.is_sound)

    # -- sending ------------------------------------------------------------------------------------------------------

    def send(self, messages: Sequence[Delivery], deadline: float) -> Errors:
        """Publish *messages*, and wait for the word about each until *deadline*."""
        self._messages, self._errors = messages, [_OPEN] * len(messages)
        try:
            self._send(range(len(messages)), deadline)
            # The channel is gone, and nobody can say because of which.
            for place in self._open():
                self._send((place,), deadline)
        except self._lost as error:
            self._give_up(error)
        return self._errors

    def _open(self) -> list[int]:
        return [place for place, error in enumerate(self._errors) if error is _OPEN]

    def _send(self, places: Sequence[int], deadline: float) -> None:
        try:
            for place in places:
                if monotonic() >= deadline:
                    raise self._late()
                self._publish(place)
            while self._waiting:
                self._drain(deadline)
        except ChannelError as error:
            if len(places) == 1:
                is_its_own = isinstance(error, PreconditionFailed) and tuple(error.method_sig) == PUBLISH
                self._errors[places[0]] = MessageRefused(str(error)) if is_its_own else error
            self._connection.maybe_close_channel(self._channel)
            self._connection.declared_entities.clear()
            self._open_channel()

    def _publish(self, place: int) -> None:
        number = self._sender.published + 1
        self._waiting[number] = place  # first, for its confirm may be read while something is published behind it
        try:
            self._sender.send(self._messages[place])
        except (ChannelError, *self._lost):
            raise
        except (MessageRefused, UnknownVersion) as error:
            self._errors[place] = error
        except Exception as error:
            if not self._wire.connected:  # py-amqp is known to raise AttributeError then
                raise OSError(f"the connection was lost: {error!r}") from error
            self._errors[place] = refused(error)
        if self._sender.published < number:
            del self._waiting[number]

    def _drain(self, deadline: float) -> None:
        seconds = deadline - monotonic()
        if seconds <= 0:
            raise self._late()
        try:
            self._wire.drain_events(timeout=seconds)
        except TimeoutError:
            raise self._late() from None

    def _late(self) -> TimeoutError:
        why = f"; it takes nothing at present: {self._blocked_by}" if self._blocked_by else ""
        return TimeoutError(f"it did not confirm in time{why}")

    def _give_up(self, error: BaseException) -> None:
        self.is_sound = False
        lost = unreachable(self._uri, error)
        for place in self._open():
            self._errors[place] = lost

    # -- told by the broker -------------------------------------------------------------------------------------------

    def _acked(self, number: int, multiple: bool) -> None:
        for place in self._told(number, multiple):
            if self._errors[place] is _OPEN:
                self._errors[place] = None

    def _nacked(self, number: int, multiple: bool) -> None:
        for place in self._told(number, multiple):
            self._errors[place] = MessagingError("the broker did not take it: a queue is full, or had to stop")

    def _told(self, number: int, multiple: bool) -> list[int]:
        if not multiple:
            place = self._waiting.pop(number, None)
            return [] if place is None else [place]
        numbers = [each for each in self._waiting if each <= number]
        return [self._waiting.pop(each) for each in numbers]

    def _returned(self, error: Any, exchange: str, routing_key: str, message: Any) -> None:
        """Note, before it is confirmed, that no queue takes a message."""
        told = message.properties.get("message_id") or message.properties.get("correlation_id")
        for place, each in enumerate(self._messages):
            if str(each.id) == told:
                self._errors[place] = MessagingError(
                    f"no queue takes it: exchange {exchange!r}, routing key {routing_key!r} ({error.reply_text})"
                )
        self._connection.declared_entities.clear()  # a queue that was deleted is declared anew

    def _blocked(self, reason: str) -> None:
        self._blocked_by = reason

    def _unblocked(self) -> None:
        self._blocked_by = ""
