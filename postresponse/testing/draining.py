"""What an outbox holds, sent in a test: once, until nothing is due, through the relay's destinations or to a list."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from postresponse.exceptions import ConfigurationError, WrongThread
from postresponse.work import homes

if TYPE_CHECKING:
    from postresponse.messaging import Delivery, Outbox, Relay

__all__ = ["Outboxes"]


class Outboxes:
    """The outboxes of an application under test.

    Args:
        relays: Tells the relays that were started, and held back.
    """

    def __init__(self, relays: Callable[[], list[Any]]) -> None:
        self._relays = relays

    def drain(
        self,
        outbox: "Relay | Outbox | None" = None,
        engine: Any = None,
        *,
        record: bool = False,
    ) -> "Sequence[Delivery]":
        """Send what is due, and what comes of it, until nothing is due any more; return it, in order.

        Args:
            outbox: A `Relay`, whose destinations receive the messages; or an `Outbox`, whose messages are only taken.
                None for the relay that the application has started.
            engine: Of the database of an `Outbox`: an Engine, an AsyncEngine or a URL.
            record: Take the messages of a relay, and give them to no destination.

        Raises:
            ExceptionGroup: What destinations raised, all messages having been tried once.
            ConfigurationError: It is not said what to send, or where it is.
            WrongThread: Called on the thread of an event loop: await `adrain()` there.
        """
        if homes.here() is not None:
            raise WrongThread("drain() waits, and this is the thread of an event loop: await adrain()")
        import anyio

        return anyio.run(self.adrain, outbox, engine, record)

    async def adrain(
        self, outbox: "Relay | Outbox | None" = None, engine: Any = None, record: bool = False
    ) -> "Sequence[Delivery]":
        """As `drain`, awaited."""
        from anyio import create_task_group

        from postresponse.messaging import Relay
        from postresponse.messaging.store import Store

        given, database, destinations = self._of(outbox, engine, record)
        taken: list[Delivery] = []
        failures: list[Exception] = []
        through = {name: _Recording(each, taken, failures) for name, each in destinations.items()}
        relay = Relay(given, database.engine, through, polls=(0.001, 0.02))
        store = Store(given.tables)

        async def stop_when_empty() -> None:
            from anyio import sleep

            moves = True
            while moves:
                await sleep(0.005)
                moves = any(_moves(each) for each in await database.run(store.stats) if each.destination in through)
            relay.stop(0)

        async with create_task_group() as tasks:
            tasks.start_soon(stop_when_empty)
            await relay.run()
        if failures:
            raise ExceptionGroup("messages could not be delivered", failures)
        return tuple(taken)

    def _of(self, outbox: Any, engine: Any, record: bool) -> tuple[Any, Any, Mapping[str, Any]]:
        """Whose messages are sent, where they are, and what to; nothing to be sent to is None."""
        from postresponse.messaging import Outbox, Relay
        from postresponse.messaging.database import Database

        if outbox is None:
            relays = {id(each): each for each in self._relays()}
            if len(relays) != 1:
                raise ConfigurationError(
                    f"drain() has {len(relays) or 'no'} relays that were started here: give it the Relay, or the "
                    "Outbox and its engine"
                )
            (outbox,) = relays.values()
        if isinstance(outbox, Relay):
            destinations = {name: None if record else each for name, each in outbox._destinations.items()}
            return outbox.outbox, outbox._database, destinations
        if not isinstance(outbox, Outbox):
            raise ConfigurationError(f"drain() takes a Relay or an Outbox, found {outbox!r}")
        if engine is None:
            raise ConfigurationError("engine: an Outbox does not know its database; give its engine, or the Relay")
        return outbox, Database(engine), dict.fromkeys(outbox.allow)


class _Recording:
    """A destination that keeps what it sends on, one message at a time and in order, or sends it nowhere."""

    batch = 1
    concurrency = 1

    def __init__(self, inner: Any, taken: "list[Delivery]", failures: list[Exception]) -> None:
        self.timeout: float = 30.0 if inner is None else inner.timeout
        self.unreachable: tuple[type[BaseException], ...] = ()  # an outage would be tried again and again
        self._inner = inner
        self._taken = taken
        self._failures = failures

    async def send(self, messages: "Sequence[Delivery]") -> Sequence[BaseException | None]:
        self._taken.extend(messages)
        if self._inner is None:
            return [None] * len(messages)
        try:
            errors: Sequence[BaseException | None] = await self._inner.send(messages)
        except Exception as error:  # noqa: BLE001 (raised by the drain)
            errors = [error] * len(messages)
        self._failures.extend(error for error in errors if isinstance(error, Exception))
        return errors

    async def aclose(self) -> None:
        if self._inner is not None:
            await self._inner.aclose()


def _moves(stats: Any) -> bool:
    """Whether something is due that a relay may take, or under way."""
    return bool(stats.leased or (stats.due and not stats.paused))
