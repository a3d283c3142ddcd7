"""What waits in an outbox, for Prometheus: its database is asked when somebody scrapes, within bounds."""

import threading
from collections.abc import Iterable, Iterator, Sequence
from time import monotonic
from typing import Final

from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from sqlalchemy import URL, Engine

from postresponse.core.log import logger
from postresponse.exceptions import ConfigurationError
from postresponse.messaging import Outbox
from postresponse.messaging.database import Database
from postresponse.messaging.store import Stats, Store
from postresponse.telemetry.prometheus import check_registry, register
from postresponse.work.checks import check_seconds
from postresponse.work.homes import here

__all__ = ["OutboxCollector"]

_STATES: Final = ("due", "delayed", "leased")


class OutboxCollector:
    """Tells of an outbox what waits, what is dead, and how long the oldest message has been due, by destination.

    The database is asked when the metrics are scraped, and what it said is good for some seconds. Where it is away the
    metrics are missing, and a line of the log says so, once until it is back: a scrape never fails for it. A scrape on
    the thread of an event loop does not wait for the database: it is told what the one before has asked for.

    Args:
        outbox: The outbox.
        engine: Of its database, or a URL, which then gets a small pool of its own; not an async one.
        max_age: Seconds that an answer is good for.
        registry: Where the metrics are registered.
        namespace: What their names begin with.

    Raises:
        ConfigurationError: A value that an option cannot have; or the registry has metrics of these names.
    """

    def __init__(
        self,
        outbox: Outbox,
        engine: Engine | URL | str,
        *,
        max_age: float = 5.0,
        registry: CollectorRegistry = REGISTRY,
        namespace: str = "postresponse",
    ) -> None:
        if not isinstance(outbox, Outbox):
            raise ConfigurationError(f"outbox: expected an Outbox, found {outbox!r}")
        check_registry(registry, namespace)
        made = Database(engine).engine
        if not isinstance(made, Engine):
            raise ConfigurationError(
                f"engine: {made!r} is async, and a scrape is not; give the URL of the database with another driver"
            )
        self._engine, self._store, self._namespace = made, Store(outbox.tables), namespace
        self._name = outbox.tables.waiting.fullname
        self._max_age = check_seconds("max_age", max_age, least=0.0)
        self._asking = threading.Lock()
        self._stats: Sequence[Stats] = ()
        self._asked: float | None = None
        self._is_away = False
        register(registry, namespace, (self,))

    def describe(self) -> Iterable[Metric]:
        """Tell the names, so that a registry refuses two of one name."""
        return self._families()

    def collect(self) -> Iterator[Metric]:
        """Ask the database, where its last answer is too old, and tell."""
        is_old = self._asked is None or monotonic() - self._asked >= self._max_age
        if is_old and self._asking.acquire(blocking=False):
            if here() is None:
                self._ask()
            else:
                threading.Thread(target=self._ask, name="postresponse-outbox-metrics", daemon=True).start()
        messages, oldest, paused = self._families()
        for each in self._stats:
            for state in (*_STATES, "dead"):
                messages.add_metric((each.destination, state), getattr(each, state))
            oldest.add_metric((each.destination,), each.oldest)
            paused.add_metric((each.destination,), int(each.paused))
        yield from (messages, oldest, paused)

    def _families(self) -> tuple[GaugeMetricFamily, GaugeMetricFamily, GaugeMetricFamily]:
        name = f"{self._namespace}_outbox"
        return (
            GaugeMetricFamily(f"{name}_messages", "Messages that wait or are dead.", labels=("destination", "state")),
            GaugeMetricFamily(
                f"{name}_oldest_seconds", "How long the oldest message has been due.", labels=("destination",)
            ),
            GaugeMetricFamily(f"{name}_paused", "Whether the destination is paused.", labels=("destination",)),
        )

    def _ask(self) -> None:
        try:
            with self._engine.begin() as connection:
                self._stats = self._store.stats(connection)
        except Exception as error:  # noqa: BLE001 (a scrape tells of much else)
            self._stats = ()
            if not self._is_away:
                self._is_away = True
                logger.warning("%s cannot be counted, and its metrics are left out: %s", self._name, error)
        else:
            if self._is_away:
                self._is_away = False
                logger.info("%s is counted again", self._name)
        finally:
            self._asked = monotonic()
            self._asking.release()
