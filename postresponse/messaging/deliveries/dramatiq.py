"""Dramatiq as a destination: each message is one for an actor, enqueued with the application's own broker."""

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from time import monotonic
from typing import Any

from anyio import Event, move_on_after
from dramatiq import Broker, Message, get_encoder
from dramatiq.encoder import PickleEncoder
from dramatiq.errors import ConnectionClosed, ConnectionFailed

from postresponse.exceptions import ConfigurationError, SupervisorClosed
from postresponse.messaging.deliveries.arguments import arguments
from postresponse.messaging.deliveries.confirms import refused
from postresponse.messaging.deliveries.lines import SHARE, Errors
from postresponse.messaging.deliveries.trouble import OUTAGES, check_errors, is_trouble, unreachable
from postresponse.messaging.delivery import Delivery
from postresponse.work import homes
from postresponse.work.checks import check_count, check_seconds
from postresponse.work.threads import Threads

__all__ = ["DramatiqDestination"]

GOOD_BYE = 2.0
"""Seconds that closing a connection may take."""


class DramatiqDestination:
    """Enqueues messages for actors: the name is the actor's, the id is the message id.

    A dictionary as payload gives keyword arguments, a list positional ones, None none, and anything else is the one
    argument. Headers are found in `message.options["headers"]`, as `CurrentMessage` has it.

    A batch that hangs is left behind with its thread. For RabbitMQ, make the broker with a short `heartbeat` and
    `blocked_connection_timeout`, which end that thread; what it still sends arrives twice, under one id.

    Args:
        broker: The broker. One for RabbitMQ must have been made with `confirm_delivery=True`.
        queues: The queue of each actor that is not declared here; a declared one has its own, unless it is named, too.
        batch: How many are enqueued before their outcome is told.
        timeout: Seconds that a batch may take, with connecting.
        unreachable: The errors that say that the broker cannot be reached, beside Dramatiq's own and those that are
            called `ConnectionError` or `TimeoutError`.
        allow_unconfirmed: Enqueue without confirms: what RabbitMQ loses is lost then, and nobody is told.

    Raises:
        ConfigurationError: A value that an option cannot have; Dramatiq's encoder pickles; a broker that does not
            confirm, without *allow_unconfirmed*.
    """

    concurrency: int = 1

    def __init__(
        self,
        broker: Broker,
        *,
        queues: Mapping[str, str] | None = None,
        batch: int = 100,
        timeout: float = 10.0,
        unreachable: tuple[type[BaseException], ...] = (),
        allow_unconfirmed: bool = False,
    ) -> None:
        if not isinstance(broker, Broker):
            raise ConfigurationError(f"broker: expected a broker of Dramatiq, found {broker!r}")
        if not isinstance(allow_unconfirmed, bool):
            raise ConfigurationError(f"allow_unconfirmed: expected True or False, found {allow_unconfirmed!r}")
        if isinstance(get_encoder(), PickleEncoder):
            raise ConfigurationError("broker: messages are sent as JSON, never as a pickle; set another encoder")
        if not getattr(broker, "confirm_delivery", True) and not allow_unconfirmed:
            raise ConfigurationError(
                "broker: without confirms a broker that fails loses messages, and nobody is told; make it with "
                "confirm_delivery=True, or give allow_unconfirmed=True"
            )
        self.batch: int = check_count("batch", batch)
        self.timeout: float = check_seconds("timeout", timeout)
        given = check_errors("unreachable", unreachable)
        self.unreachable: tuple[type[BaseException], ...] = (*OUTAGES, ConnectionClosed, ConnectionFailed, *given)
        self._broker = broker
        self._queues = _checked_queues(queues)
        self._desk = _Desk(self._hang_up)

    async def send(self, messages: Sequence[Delivery]) -> Sequence[BaseException | None]:
        """Enqueue *messages*, one after the other, until the broker cannot be reached."""
        deadline = monotonic() + self.timeout * SHARE
        sent: Sequence[BaseException | None] = await self._desk.run(lambda: self._send(messages, deadline))
        return sent

    async def aclose(self) -> None:
        """Close the connection that was opened for sending; sending opens a new one."""
        await self._desk.aclose()

    # -- on the thread ------------------------------------------------------------------------------------------------

    def _send(self, messages: Sequence[Delivery], deadline: float) -> Errors:
        errors: Errors = []
        for message in messages:
            try:
                if monotonic() >= deadline:
                    raise TimeoutError("it was too slow")
                self._broker.enqueue(self._made(message))
            except Exception as error:  # noqa: BLE001 (told of by the relay)
                if isinstance(error, self.unreachable) or is_trouble(error):
                    lost = unreachable(f"the broker of Dramatiq ({type(self._broker).__name__})", error)
                    return errors + [lost] * (len(messages) - len(errors))
                errors.append(refused(error))
            else:
                errors.append(None)
        return errors

    def _made(self, message: Delivery) -> "Message[Any]":
        args, kwargs = arguments(message.payload)
        queue = self._queues.get(message.name) or self._broker.get_actor(message.name).queue_name
        headers = message.headers
        options = {"headers": dict(headers)} if headers else {}
        return Message(queue, message.name, tuple(args), kwargs, options, message_id=str(message.id))

    def _hang_up(self) -> None:
        """Close this thread's connection: a broker for RabbitMQ keeps one for each thread that sends."""
        if hasattr(type(self._broker), "connection"):
            del self._broker.connection  # type: ignore[attr-defined] # RabbitmqBroker alone has one


def _checked_queues(queues: Any) -> Mapping[str, str]:
    if queues is None:
        return {}
    if not isinstance(queues, Mapping) or not all(
        isinstance(name, str) and isinstance(queue, str) and queue for name, queue in queues.items()
    ):
        raise ConfigurationError(f"queues: expected a mapping of actors' names to queues, found {queues!r}")
    return dict(queues)


class _Desk:
    """One thread that everything is sent from; left behind for another one when it hangs.

    Args:
        last: What it does before it ends.
    """

    def __init__(self, last: Callable[[], object]) -> None:
        self._last = last
        self._threads = Threads(1, "Dramatiq")
        self._is_used = threading.Event()

    async def run(self, work: Callable[[], Any]) -> Any:
        """Return what *work* returns there."""
        home, done, outcome = homes.here(), Event(), _Outcome()
        assert home is not None

        def worked() -> None:
            outcome.of(work)
            with suppress(SupervisorClosed):  # nobody waits any more
                home.call_soon(done.set)

        self._is_used.set()
        self._threads.put(worked)
        try:
            await done.wait()
        finally:
            if not done.is_set():
                self._leave()
        return outcome.told()

    async def aclose(self) -> None:
        """End the thread."""
        if self._is_used.is_set():
            with move_on_after(GOOD_BYE):
                await self.run(self._last)
            self._leave()

    def _leave(self) -> None:
        threads, self._threads = self._threads, Threads(1, "Dramatiq")
        self._is_used.clear()
        threads.put(lambda: _Outcome().of(self._last))
        threads.end()


class _Outcome:
    """What a call returned or raised."""

    def __init__(self) -> None:
        self._result: Any = None
        self._error: BaseException | None = None

    def of(self, call: Callable[[], Any]) -> None:
        """Call it."""
        try:
            self._result = call()
        except BaseException as error:  # noqa: BLE001 (raised where it is waited for)
            self._error = error

    def told(self) -> Any:
        """Return, or raise."""
        if self._error is not None:
            raise self._error
        return self._result
