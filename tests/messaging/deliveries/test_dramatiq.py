import threading
import time
from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import anyio
import dramatiq
import pytest
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.brokers.redis import RedisBroker
from dramatiq.brokers.stub import StubBroker
from dramatiq.middleware import CurrentMessage

from postresponse.exceptions import ConfigurationError, MessageRefused, UnknownVersion, Unreachable
from postresponse.messaging import Delivery
from postresponse.messaging.deliveries.destination import Destination
from postresponse.messaging.deliveries.dramatiq import DramatiqDestination
from tests.messaging.deliveries.conftest import Away, Rabbit, delivery
from tests.services import rabbitmq, redis
from tests.work.waiting import auntil

pytestmark = pytest.mark.anyio
needs_rabbitmq = pytest.mark.service("rabbitmq")
needs_redis = pytest.mark.service("redis")
KINDS = [pytest.param("rabbitmq", marks=needs_rabbitmq), pytest.param("redis", marks=needs_redis)]


class Site:
    """A broker, and an actor that keeps what it was given."""

    def __init__(self, broker: dramatiq.Broker, queue: str) -> None:
        self.broker, self.queue = broker, queue
        self.got: list[tuple[str, Any, Any, Any]] = []
        broker.add_middleware(CurrentMessage())
        dramatiq.actor(actor_name="note", queue_name=queue, broker=broker)(self._note)

    def _note(self, *args: Any, **kwargs: Any) -> None:
        message = CurrentMessage.get_current_message()
        assert message is not None
        self.got.append((message.message_id, list(args), kwargs, message.options.get("headers")))


def broker_at(kind: str, url: str) -> dramatiq.Broker:
    """A broker without middleware of its own."""
    if kind == "rabbitmq":
        return RabbitmqBroker(url=url.removesuffix("//"), confirm_delivery=True, middleware=[])  # pika has it so
    return RedisBroker(url=url, middleware=[])  # type: ignore[no-untyped-call]


@pytest.fixture
def site(kind: str, request: pytest.FixtureRequest) -> Iterator[Site]:
    if kind == "rabbitmq":
        made = Site(broker_at(kind, rabbitmq.url()), request.getfixturevalue("rabbit").queue)
    else:
        made = Site(broker_at(kind, redis.url()), f"postresponse-test-{uuid4().hex}")
    yield made
    made.broker.flush_all()
    made.broker.close()


@pytest.mark.parametrize("kind", KINDS)
async def test_a_real_worker_runs_the_actor_with_the_messages_id_and_headers(site: Site) -> None:
    destination = DramatiqDestination(site.broker)
    assert isinstance(destination, Destination)
    sent = [
        delivery("note", {"order": 5}, tenant="t1"),
        delivery("note", [1]),
        delivery("note"),
        delivery("note", 5),
    ]
    assert await destination.send(sent) == [None] * 4
    assert await destination.send([]) == []
    worker = dramatiq.Worker(site.broker, worker_threads=1, worker_timeout=50)
    worker.start()
    try:
        await auntil(lambda: len(site.got) == 4)
    finally:
        await anyio.to_thread.run_sync(worker.stop)
    assert sorted(site.got, key=lambda one: [str(each.id) for each in sent].index(one[0])) == [
        (str(sent[0].id), [], {"order": 5}, {"tenant": "t1"}),
        (str(sent[1].id), [1], {}, None),
        (str(sent[2].id), [], {}, None),
        (str(sent[3].id), [5], {}, None),
    ]
    await destination.aclose()


@pytest.mark.parametrize("kind", ["stub"])
async def test_what_cannot_be_enqueued_fails_alone(kind: str) -> None:
    broker = StubBroker(middleware=[])
    site = Site(broker, "q")
    destination = DramatiqDestination(broker, queues={"elsewhere": "q"})
    late = Delivery(uuid4(), "engine", "note", '{"version": 99, "payload": 1}')
    batch = [delivery("note"), late, delivery("unknown"), delivery("elsewhere"), delivery("note")]
    errors = await destination.send(batch)
    assert [errors[place] for place in (0, 3, 4)] == [None] * 3
    assert isinstance(errors[1], UnknownVersion)
    assert isinstance(errors[2], dramatiq.ActorNotFound)
    assert broker.queues[site.queue].qsize() == 3
    await destination.aclose()


async def test_a_message_that_the_encoder_refuses_is_dead_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    class Picky(dramatiq.JSONEncoder):
        def encode(self, data: Any) -> bytes:
            raise TypeError("not that")

    broker = StubBroker(middleware=[])
    Site(broker, "q")
    destination = DramatiqDestination(broker)
    before = dramatiq.get_encoder()
    dramatiq.set_encoder(Picky())
    try:
        (error,) = await destination.send([delivery("note")])
    finally:
        dramatiq.set_encoder(before)
    assert isinstance(error, MessageRefused)
    await destination.aclose()


@pytest.mark.parametrize("kind", ["rabbitmq", "redis"])
async def test_a_broker_that_is_away_is_told_of_at_once(kind: str, closed_port: int) -> None:
    scheme = "amqp" if kind == "rabbitmq" else "redis"
    broker = broker_at(kind, f"{scheme}://127.0.0.1:{closed_port}")
    destination = DramatiqDestination(broker, queues={"note": "q"})
    begun = time.monotonic()
    errors = await destination.send([delivery("note"), delivery("note")])
    assert time.monotonic() - begun < 5
    assert all(isinstance(error, Unreachable) for error in errors)
    await destination.aclose()
    broker.close()


@pytest.mark.parametrize("kind", KINDS)
async def test_a_connection_that_was_cut_is_opened_anew(
    kind: str, through: Callable[[str, int], Away], request: pytest.FixtureRequest
) -> None:
    if kind == "rabbitmq":
        away, queue = through(rabbitmq.url(), 5672), request.getfixturevalue("rabbit").queue
    else:
        away, queue = through(redis.url(), 6379), f"postresponse-test-{uuid4().hex}"
    broker = broker_at(kind, away.url)
    destination = DramatiqDestination(broker, queues={"note": queue})
    assert await destination.send([delivery("note")]) == [None]
    away.proxy.cut()
    errors = await destination.send([delivery("note")])
    assert errors == [None] or isinstance(errors[0], Unreachable)
    assert await destination.send([delivery("note")]) == [None]
    await destination.aclose()
    broker.flush(queue)
    broker.close()


@needs_rabbitmq
async def test_a_batch_that_hangs_is_left_behind_with_its_thread(
    rabbit: Rabbit, through: Callable[[str, int], Away]
) -> None:
    away = through(rabbitmq.url(), 5672)
    broker = RabbitmqBroker(url=away.url.removesuffix("//"), confirm_delivery=True, middleware=[])
    destination = DramatiqDestination(broker, queues={"note": rabbit.queue})
    assert await destination.send([delivery("note")]) == [None]
    away.proxy.dark.set()
    with anyio.move_on_after(0.3) as late:
        await destination.send([delivery("note")])
    assert late.cancelled_caught
    away.proxy.dark.clear()
    assert await destination.send([delivery("note")]) == [None]
    away.proxy.cut()  # or the thread would hang until a heartbeat is missed
    await destination.aclose()
    await auntil(lambda: not any(thread.name.startswith("Dramatiq") for thread in threading.enumerate()))
    assert broker.connections == set()


async def test_a_batch_that_takes_too_long_is_given_up() -> None:
    class Slow(StubBroker):
        def enqueue(self, message: Any, *, delay: int | None = None) -> Any:
            time.sleep(0.3)
            return super().enqueue(message, delay=delay)

    broker = Slow(middleware=[])
    Site(broker, "q")
    destination = DramatiqDestination(broker, timeout=1.0)
    errors = await destination.send([delivery("note") for _ in range(5)])
    assert errors[0] is None
    assert isinstance(errors[-1], Unreachable)
    await destination.aclose()
    await destination.aclose()


async def test_what_is_no_error_of_a_message_is_raised() -> None:
    class Ending(StubBroker):
        def enqueue(self, message: Any, *, delay: int | None = None) -> Any:
            raise SystemExit(3)

    broker = Ending(middleware=[])
    Site(broker, "q")
    destination = DramatiqDestination(broker)
    with pytest.raises(SystemExit):
        await destination.send([delivery("note")])
    await destination.aclose()


def test_a_broker_that_does_not_confirm_is_refused() -> None:
    broker = RabbitmqBroker(middleware=[])
    with pytest.raises(ConfigurationError, match=r"without confirms .* make it with confirm_delivery=True, or give"):
        DramatiqDestination(broker)
    assert DramatiqDestination(broker, allow_unconfirmed=True).batch == 100


def test_an_encoder_that_pickles_is_refused() -> None:
    before = dramatiq.get_encoder()
    dramatiq.set_encoder(dramatiq.PickleEncoder())
    try:
        with pytest.raises(ConfigurationError, match="never as a pickle; set another encoder"):
            DramatiqDestination(StubBroker(middleware=[]))
    finally:
        dramatiq.set_encoder(before)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"broker": "amqp://"}, "broker: expected a broker of Dramatiq, found 'amqp://'"),
        ({"queues": ["q"]}, r"queues: expected a mapping of actors' names to queues, found \['q'\]"),
        ({"queues": {"note": ""}}, "queues: expected a mapping of actors' names to queues"),
        ({"batch": 0}, "batch: expected a whole number from 1 on, found 0"),
        ({"timeout": -1}, "timeout: expected seconds above 0"),
        ({"unreachable": ValueError}, "unreachable: expected a tuple of exception classes"),
        ({"allow_unconfirmed": 1}, "allow_unconfirmed: expected True or False, found 1"),
    ],
)
def test_an_option_is_checked_where_it_is_given(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        DramatiqDestination(**{"broker": StubBroker(middleware=[]), **arguments})
