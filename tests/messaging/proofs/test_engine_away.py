"""An engine that is away for half a minute, and a relay that sends to another one meanwhile."""

import statistics
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from kombu import Connection

from postresponse.messaging import Message
from postresponse.messaging.relay import AWAY
from tests.conftest import Scale
from tests.messaging.proofs.processes import Place, place, relay, until
from tests.services.blackhole import Blackhole
from tests.services.own_rabbitmq import Broker

QUEUE = "placed"
BATCHES = 2
"""What a relay has under way, and finds out about an outage with."""


class Queue:
    """A durable queue, and which messages were found in it.

    Attributes:
        found: How often each was, by its id.
    """

    def __init__(self, url: str) -> None:
        self.found: Counter[str] = Counter()
        self._url = url
        with self._channel() as channel:
            channel.queue_declare(queue=QUEUE, durable=True, auto_delete=False)
            channel.queue_purge(QUEUE)

    @contextmanager
    def _channel(self) -> Iterator[Any]:
        with Connection(self._url) as connection:
            yield connection.channel()

    def look(self) -> "Counter[str]":
        """Take what is in it."""
        with self._channel() as channel:
            while message := channel.basic_get(QUEUE, no_ack=True):
                self.found[message.properties["message_id"]] += 1
        return self.found


@pytest.fixture
def proxy(rabbitmq: Broker) -> Iterator[Blackhole]:
    """The way to the engine."""
    made = Blackhole("127.0.0.1", rabbitmq.port)
    yield made
    made.cut()
    made.close()


def most_tries(seconds: float) -> int:
    """How often a breaker lets an engine be tried in so many *seconds*, with the shortest pauses there are."""
    tries, passed = 1, 0.0
    while (passed := passed + AWAY.seconds(tries, 0.0)) <= seconds:
        tries += 1
    return tries


def send_mail(outbox: Place, seconds: float) -> int:
    """Enlist messages for the other engine, one after the other; how many there were."""
    began, count = time.monotonic(), 0
    while time.monotonic() < began + seconds:
        outbox.enlist(Message("mail", "send", time.time()))
        count += 1
        time.sleep(0.25)
    return count


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.service("own rabbitmq")
@pytest.mark.parametrize(
    ("database", "how"),
    [("sqlite", "stopped"), pytest.param("postgresql", "dark", marks=pytest.mark.service("postgresql"))],
)
def test_an_engine_that_is_away_is_tried_seldom_costs_nothing_and_nobody_else_and_has_all_when_it_is_back(
    database: str, how: str, rabbitmq: Broker, proxy: Blackhole, scale: Scale, tmp_path: Path
) -> None:
    seconds = scale.of(off=0, short=6, full=30)
    queue = Queue(rabbitmq.url)
    url = rabbitmq.url.replace(str(rabbitmq.port), str(proxy.port))
    with place(database, tmp_path) as outbox, relay(outbox, "two_engines", PROOF_BROKER=url) as relaying:

        def said(what: str) -> int:
            return sum(what in line for line in relaying.log)

        outbox.enlist(Message("queue", "placed"))
        until(queue.look, "it is there", every=0.2)
        if how == "stopped":
            rabbitmq.stop()
        else:
            proxy.dark.set()
        began = time.monotonic()
        bad = outbox.enlist(Message("queue", "poison"), Message("mail", "poison"))
        placed = outbox.enlist(*(Message("queue", "placed", number) for number in range(100)))
        until(lambda: said("cannot be reached"), "the relay has met the outage")

        tries, since = proxy.connections, time.monotonic()
        count = send_mail(outbox, seconds)
        tries, since = proxy.connections - tries, time.monotonic() - since
        waits = [row for row in outbox.rows() if row.destination == "queue"]
        assert tries <= most_tries(since) + BATCHES
        assert {str(row.message_id) for row in waits} == {bad[0], *placed}
        assert {row.attempts for row in waits} == {0}
        assert max(row.outages for row in waits) > 0

        if how == "stopped":
            rabbitmq.start()
        else:
            proxy.cut()
            proxy.dark.clear()
        away, back = time.monotonic() - began, time.monotonic()
        until(lambda: queue.look().keys() >= set(placed), "all has arrived", every=0.2)
        recovery = time.monotonic() - back
        assert recovery < AWAY.cap + 10
        until(lambda: outbox.rows() == [], "nothing waits")
        relaying.stop()
        dead = outbox.rows(dead=True)

    late = [float(at) - float(of) for of, at in (line.split() for line in outbox.lines("mail"))]
    twice = queue.found.total() - len(queue.found)
    print(
        f"{database}, {how} for {away:.1f} s: tried {tries} times in {since:.1f} s, all there {recovery:.1f} s behind "
        f"its return, {twice} of them once more; {len(late)} others were late by {statistics.median(late):.2f} s, "
        f"{max(late):.2f} s at most"
    )
    assert len(late) == count
    assert statistics.median(late) < 2
    assert max(late) < 5
    assert twice <= BATCHES * 25
    assert [(str(row.message_id), row.attempts) for row in sorted(dead, key=lambda row: row.destination)] == [
        (bad[1], 3),
        (bad[0], 3),
    ]
    assert (said("cannot be reached"), said("is reached again")) == (1, 1)
