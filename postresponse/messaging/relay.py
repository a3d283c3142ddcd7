"""The relay: it sends what an outbox holds, each destination for itself."""

import os
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from time import monotonic
from typing import Any, Final

from anyio import create_task_group, fail_after
from sqlalchemy import URL, Engine
from sqlalchemy.ext.asyncio import AsyncEngine

from postresponse.core.log import first_time, logger
from postresponse.core.policy import did_you_mean
from postresponse.exceptions import AlreadyRunning, ConfigurationError, SupervisorClosed
from postresponse.messaging.database import Database
from postresponse.messaging.deliveries.destination import Destination
from postresponse.messaging.deliveries.function import Function
from postresponse.messaging.delivery import Delivery, Result, Settled
from postresponse.messaging.judging import UNKNOWN, Judge
from postresponse.messaging.outbox import Outbox
from postresponse.messaging.pump import Pump
from postresponse.messaging.retrying import Backoff, Breaker, chance
from postresponse.messaging.transports.table import TableTransport
from postresponse.work.checks import check_count, check_seconds
from postresponse.work.current import supervisor_given
from postresponse.work.job import Job
from postresponse.work.supervisor import TaskSupervisor

__all__ = ["Relay"]

SLACK: Final = 5.0
"""Seconds of a lease that are left for claiming and settling."""
RECONNECT: Final = Backoff(0.1, 5.0)
"""How long a relay waits for its database."""
AWAY: Final = Backoff(1.0, 30.0)
"""How long it waits for an engine that cannot be reached."""


class Relay:
    """Sends the messages of an outbox to their destinations: each at least once, under its one id.

    Any number of relays may work on one table, in any number of processes. Each destination is served by itself: one
    that cannot be reached, or that is slow, holds up no other. A message that always fails waits longer each time, and
    is dead behind its last attempt; so are messages that a destination refuses.

    It runs in the web process under its supervisor, from `start()`, or from the lifespan or the first message on with
    *autostart*; or alone, by `postresponse outbox relay`.

    Args:
        outbox: Whose messages.
        engine: Of its database: an Engine or an AsyncEngine, best one of its own, or a URL.
        destinations: What the messages of each go to: an engine's `Destination`, or a function that receives a
            `Delivery`. Messages for others are left to other relays.
        attempts: How often a message is tried.
        backoff: How long it waits in between, by default from 1 second to 5 minutes.
        lease: Seconds for which a message is claimed; longer than a batch can take.
        polls: Least and most seconds between two looks into an empty table. A message enlisted in this process wakes
            the relay at once.
        drain: Seconds that what is under way has when it is told to stop; what is left then is handed back.
        autostart: Whether it starts when its supervisor opens, and with the first message enlisted in this process.
        supervisor: Whose work it is; None for the process's.

    Raises:
        ConfigurationError: A value that an option cannot have; a destination that the outbox does not know; a lease
            that is shorter than a batch can take.
    """

    def __init__(
        self,
        outbox: Outbox,
        engine: Engine | AsyncEngine | URL | str,
        destinations: Mapping[str, Destination | Callable[[Delivery], Any]],
        *,
        attempts: int = 10,
        backoff: Backoff | None = None,
        lease: float = 60.0,
        polls: tuple[float, float] = (0.05, 5.0),
        drain: float = 5.0,
        autostart: bool = False,
        supervisor: TaskSupervisor | None = None,
    ) -> None:
        if not isinstance(outbox, Outbox):
            raise ConfigurationError(f"outbox: expected an Outbox, found {outbox!r}")
        if not isinstance(destinations, Mapping) or not destinations:
            raise ConfigurationError(f"destinations: expected where messages go, by name, found {destinations!r}")
        check_count("attempts", attempts)
        if backoff is not None and not isinstance(backoff, Backoff):
            raise ConfigurationError(f"backoff: expected a Backoff, found {backoff!r}")
        self.outbox: Outbox = outbox
        self._attempts = attempts
        self._backoff = backoff or Backoff()
        self._lease = check_seconds("lease", lease)
        self._drain = check_seconds("drain", drain, least=0.0)
        self._polls = polls
        self._database = Database(engine)
        self._destinations = {name: self._checked(name, each) for name, each in destinations.items()}
        self._supervisor = supervisor_given(supervisor)
        self._lock = threading.Lock()
        self._pumps: dict[str, Pump] = {}
        self._job: Job[Any] | None = None
        self._limit: float | None = None
        self._pid = os.getpid()
        if autostart:
            outbox.wakes(self)
            self._supervisor.attach(self)

    def _checked(self, name: str, given: Any) -> Destination:
        if name not in self.outbox.allow:
            known = self.outbox.allow
            raise ConfigurationError(
                f"destinations: the outbox has no {name!r}{did_you_mean(str(name), known)}; "
                f"it has {', '.join(map(repr, known))}"
            )
        destination: Destination = given if isinstance(given, Destination) else Function(given)
        if destination.timeout + SLACK > self._lease:
            raise ConfigurationError(
                f"lease: {self._lease:g} s are too short for {name!r}: a batch may take {destination.timeout:g} s, and "
                f"{SLACK:g} s go for claiming and settling; give a longer lease, or a shorter timeout"
            )
        return destination

    # -- from any thread ----------------------------------------------------------------------------------------------

    def start(self) -> Job[None]:
        """Send from now on, under the supervisor; on the event loop of the caller, or on the supervisor's own.

        Raises:
            AlreadyRunning: It runs in this process.
            SupervisorClosed: The supervisor was closed.
        """
        with self._lock:
            if self.is_running:
                raise AlreadyRunning("this relay runs in this process already, which is enough; more may run in others")
            self._pid, self._limit = os.getpid(), None
            self._job = self._supervisor.launch(self.run, name="the relay")
            return self._job

    @property
    def destinations(self) -> Sequence[str]:
        """The names of its destinations."""
        return tuple(self._destinations)

    @property
    def is_running(self) -> bool:
        """Whether it runs in this process."""
        return self._job is not None and not self._job.done() and self._pid == os.getpid()

    @property
    def counts(self) -> Mapping[str, int]:
        """What became of messages since it started: how many were delivered, failed, met an outage, or died."""
        counted = Counter[Result]()
        for pump in self._pumps.values():
            counted.update(pump.counts)
        names = {"delivered": Result.DONE, "failed": Result.FAILED, "outages": Result.OUTAGE, "dead": Result.DEAD}
        return {name: counted[result] for name, result in names.items()}

    def wake(self) -> None:
        """There may be messages."""
        if not self.is_running:
            self.opened()

    def stop(self, limit: float | None = None) -> None:
        """Take nothing more, finish what is under way, and end; does not wait for that.

        Args:
            limit: Seconds for what is under way; None for the relay's own, `drain`. Said again, it cuts that short.
        """
        self._limit = self._drain if limit is None else limit
        for pump in self._pumps.values():
            pump.stop(self._limit)

    def opened(self) -> None:
        """Its supervisor takes work: start, unless it runs."""
        try:
            self.start()
        except AlreadyRunning:
            return
        except SupervisorClosed as error:
            logger.warning("the relay does not start: %s", error)

    def closing(self) -> None:
        """Its supervisor is about to close: end."""
        self.stop()

    # -- running ------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Send until `stop`."""
        breakers: dict[int, Breaker] = {}  # of each engine one, however many destinations it is
        pumps: dict[str, Pump] = {}
        for name, destination in self._destinations.items():
            breaker = breakers.setdefault(id(destination), Breaker(AWAY, monotonic, chance))
            pumps[name] = Pump(
                TableTransport(self.outbox, self._database, name, lease=self._lease, polls=self._polls),
                partial(self._deliver, name, destination, self._judge_for(destination)),
                capacity=destination.concurrency if destination.batch == 1 else destination.batch * 2,
                batch=destination.batch,
                breaker=breaker,
                backoff=RECONNECT,
            )
        self._pumps = pumps
        if self._limit is not None:  # it was told to end before it began
            self.stop(self._limit)
        try:
            async with create_task_group() as tasks:
                for pump in pumps.values():
                    tasks.start_soon(pump.run)
        finally:
            for destination in {id(each): each for each in self._destinations.values()}.values():
                await destination.aclose()

    def _judge_for(self, destination: Destination) -> Judge:
        return Judge(self._attempts, self._backoff, destination.unreachable, chance)

    async def _deliver(
        self,
        name: str,
        destination: Destination,
        judge: Judge,
        messages: Sequence[Delivery],
        settle: Callable[[Settled], None],
    ) -> None:
        allowed = self.outbox.allow[name]
        # A process that was paused may have lost what it holds: what is not settled is handed back, if it is its own.
        messages = [message for message in messages if monotonic() < message.handle.until]
        known = [message for message in messages if message.name in allowed]
        for message in messages:
            if message.name not in allowed:
                if first_time(f"{name} {message.name}"):
                    logger.warning("%s takes no %s: left to a relay whose outbox allows it", name, message.name)
                settle(Settled(message, Result.BACK, delay=UNKNOWN))
        if not known:
            return
        try:
            with fail_after(destination.timeout):
                errors: Sequence[BaseException | None] = await destination.send(known)
        except Exception as failed:  # noqa: BLE001 (told of below)
            errors = [failed] * len(known)
        for message, error in zip(known, errors, strict=True):
            settled = judge.settled(message, error)
            self._tell(name, settled, error)
            settle(settled)

    def _tell(self, name: str, settled: Settled, error: BaseException | None) -> None:
        message = settled.delivery
        if settled.result is Result.DEAD:
            logger.error("%s: %r is dead: %s", name, message, settled.error, exc_info=error)
        elif settled.result is Result.FAILED:
            logger.warning("%s: %r failed, and comes again in %.1f s: %s", name, message, settled.delay, settled.error)
        elif settled.result is Result.BACK and first_time(f"{name} {settled.error}"):
            logger.warning("%s: %r is left alone: %s", name, message, settled.error)
