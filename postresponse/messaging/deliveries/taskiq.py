"""taskiq as a destination: each message is a task, sent through the application's own broker."""

from collections.abc import Sequence
from typing import Any

from anyio import CapacityLimiter, Lock, create_task_group
from taskiq import AsyncBroker
from taskiq.exceptions import SendTaskError
from taskiq.kicker import AsyncKicker
from taskiq.serializers import PickleSerializer

from postresponse.exceptions import ConfigurationError, MessageRefused
from postresponse.messaging.deliveries.arguments import arguments
from postresponse.messaging.deliveries.trouble import OUTAGES, check_errors, is_trouble, unreachable
from postresponse.messaging.delivery import Delivery
from postresponse.work.checks import check_count, check_seconds

__all__ = ["TaskiqDestination"]


class TaskiqDestination:
    """Sends messages as tasks: the name is the task's, the id is the task id, and the headers are labels.

    A dictionary as payload gives keyword arguments, a list positional ones, None none, and anything else is the one
    argument. The task need not be known here; if it is, the labels count that it was declared with.

    How far a message is safe when the broker has taken it is the broker's matter: one that publishes to whoever
    listens, as `PubSubBroker` does, loses it where nobody does. taskiq runs on asyncio alone.

    Args:
        broker: The broker. Its serializer must not be pickle.
        starts: Whether the destination starts the broker before the first message and shuts it down at the end; False
            where the application does so, on the relay's event loop.
        batch: How many are taken at once.
        concurrency: How many of them are sent at once.
        timeout: Seconds that a batch may take, with starting.
        unreachable: The errors that say that the broker cannot be reached, beside those that are called
            `ConnectionError` or `TimeoutError`.

    Raises:
        ConfigurationError: A value that an option cannot have, or a broker that pickles.
    """

    def __init__(
        self,
        broker: AsyncBroker,
        *,
        starts: bool = True,
        batch: int = 100,
        concurrency: int = 8,
        timeout: float = 10.0,
        unreachable: tuple[type[BaseException], ...] = (),
    ) -> None:
        if not isinstance(broker, AsyncBroker):
            raise ConfigurationError(f"broker: expected a broker of taskiq, found {broker!r}")
        if not isinstance(starts, bool):
            raise ConfigurationError(f"starts: expected True or False, found {starts!r}")
        if isinstance(broker.serializer, PickleSerializer):
            raise ConfigurationError("broker: messages are sent as JSON, never as a pickle; give it another serializer")
        self.batch: int = check_count("batch", batch)
        self.concurrency: int = check_count("concurrency", concurrency)
        self.timeout: float = check_seconds("timeout", timeout)
        self.unreachable: tuple[type[BaseException], ...] = (*OUTAGES, *check_errors("unreachable", unreachable))
        self._broker = broker
        self._starts = starts
        self._has_started = False
        self._starting: Lock | None = None

    async def send(self, messages: Sequence[Delivery]) -> Sequence[BaseException | None]:
        """Send *messages*, several at once.

        Raises:
            Unreachable: The broker could not be started, since what it stands on cannot be reached.
        """
        await self._start()
        errors: list[BaseException | None] = [None] * len(messages)
        limiter = CapacityLimiter(self.concurrency)

        async def send_one(place: int) -> None:
            async with limiter:
                errors[place] = await self._sent(messages[place])

        async with create_task_group() as tasks:
            for place in range(len(messages)):
                tasks.start_soon(send_one, place)
        return errors

    async def aclose(self) -> None:
        """Shut the broker down, if the destination started it."""
        self._starting = None
        if self._has_started:
            self._has_started = False
            await self._broker.shutdown()

    async def _start(self) -> None:
        if self._starting is None:
            self._starting = Lock()
        async with self._starting:  # a relay has two batches under way
            if not self._starts or self._has_started:
                return
            try:
                await self._broker.startup()
            except Exception as error:
                if self._is_trouble(error):
                    raise unreachable(_name(self._broker), error) from error
                raise
            self._has_started = True

    async def _sent(self, message: Delivery) -> BaseException | None:
        try:
            task, headers = self._broker.find_task(message.name), message.headers
            labels: dict[str, Any] = dict(task.labels) if task is not None else {}
            if clash := labels.keys() & headers.keys():
                raise MessageRefused(f"headers: the task has labels of its own for {', '.join(clash)}")
            args, kwargs = arguments(message.payload)
            kicker: AsyncKicker[Any, Any] = AsyncKicker(message.name, self._broker, {**labels, **headers})
            await kicker.with_task_id(str(message.id)).kiq(*args, **kwargs)
        except SendTaskError as error:
            cause = error.__cause__ or error
            return unreachable(_name(self._broker), cause) if self._is_trouble(cause) else cause
        except Exception as error:  # noqa: BLE001 (told of by the relay)
            return error
        return None

    def _is_trouble(self, error: BaseException) -> bool:
        return isinstance(error, self.unreachable) or is_trouble(error)


def _name(broker: AsyncBroker) -> str:
    return f"the broker of taskiq ({type(broker).__name__})"
