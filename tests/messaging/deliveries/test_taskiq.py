import json
import time
from typing import Annotated, Any
from uuid import uuid4

import anyio
import anyio.lowlevel
import pytest
from redis import Redis
from taskiq import AsyncBroker, Context, InMemoryBroker, TaskiqDepends
from taskiq.exceptions import TaskiqError
from taskiq.message import BrokerMessage
from taskiq.serializers import PickleSerializer
from taskiq_redis import ListQueueBroker

from postresponse.exceptions import ConfigurationError, MessageRefused, UnknownVersion, Unreachable
from postresponse.messaging import Delivery
from postresponse.messaging.deliveries.destination import Destination
from postresponse.messaging.deliveries.taskiq import TaskiqDestination
from tests.messaging.deliveries.conftest import delivery
from tests.services import redis
from tests.work.waiting import auntil

pytestmark = pytest.mark.anyio
needs_redis = pytest.mark.service("redis")


@pytest.fixture
def anyio_backend() -> str:
    """taskiq knows no other loop."""
    return "asyncio"


async def nothing() -> None:
    """A task."""


class Failing(InMemoryBroker):
    """A broker that fails as it is told to."""

    error: Exception | None = None

    async def kick(self, message: BrokerMessage) -> None:
        if self.error is not None:
            raise self.error
        await super().kick(message)

    async def startup(self) -> None:
        await anyio.lowlevel.checkpoint()
        if self.error is not None:
            raise self.error
        await super().startup()


async def test_a_task_runs_with_the_messages_id_and_headers() -> None:
    broker = InMemoryBroker()
    got: list[tuple[str, Any, Any, Any]] = []

    @broker.task("note", queue_name="slow")
    async def note(*args: Any, context: Annotated[Context, TaskiqDepends()], **kwargs: Any) -> None:
        got.append((context.message.task_id, list(args), kwargs, context.message.labels))

    destination = TaskiqDestination(broker)
    assert isinstance(destination, Destination)
    sent = [
        delivery("note", {"order": 5}, tenant="t1"),
        delivery("note", [1]),
        delivery("note", 5),
        delivery("note"),
    ]
    assert await destination.send(sent) == [None] * 4
    await auntil(lambda: len(got) == 4)
    assert sorted(got, key=lambda each: [str(one.id) for one in sent].index(each[0])) == [
        (str(sent[0].id), [], {"order": 5}, {"queue_name": "slow", "tenant": "t1"}),
        (str(sent[1].id), [1], {}, {"queue_name": "slow"}),
        (str(sent[2].id), [5], {}, {"queue_name": "slow"}),
        (str(sent[3].id), [], {}, {"queue_name": "slow"}),
    ]
    await anyio.wait_all_tasks_blocked()
    await destination.aclose()


@needs_redis
async def test_a_message_arrives_on_redis() -> None:
    queue = f"postresponse-test-{uuid4().hex}"
    destination = TaskiqDestination(ListQueueBroker(redis.url(), queue_name=queue))
    sent = [delivery("note", {"order": number}, tenant="t1") for number in range(20)]
    assert await destination.send(sent) == [None] * 20
    await anyio.wait_all_tasks_blocked()
    await destination.aclose()
    with Redis.from_url(redis.url()) as client:
        got = [json.loads(each) for each in client.lrange(queue, 0, -1)]
        client.delete(queue)
    assert {each["task_id"] for each in got} == {str(each.id) for each in sent}
    assert {(each["task_name"], each["labels"]["tenant"]) for each in got} == {("note", "t1")}


async def test_a_broker_that_is_away_is_told_of_at_once(closed_port: int) -> None:
    destination = TaskiqDestination(ListQueueBroker(f"redis://127.0.0.1:{closed_port}"))
    begun = time.monotonic()
    errors = await destination.send([delivery(), delivery()])
    assert time.monotonic() - begun < 8
    assert all(isinstance(error, Unreachable) for error in errors)
    assert "the broker of taskiq (ListQueueBroker) cannot be reached" in str(errors[0])
    await anyio.wait_all_tasks_blocked()
    await destination.aclose()


async def test_what_cannot_be_sent_fails_alone() -> None:
    broker = InMemoryBroker()
    broker.register_task(nothing, "note", tenant="own")
    destination = TaskiqDestination(broker)
    late = Delivery(uuid4(), "engine", "note", '{"version": 99, "payload": 1}')
    errors = await destination.send([delivery("note"), late, delivery("unknown"), delivery("note", tenant="t1")])
    assert errors[0] is None
    assert isinstance(errors[1], UnknownVersion)
    assert isinstance(errors[2], TaskiqError)
    assert isinstance(errors[3], MessageRefused)
    assert "the task has labels of its own for tenant" in str(errors[3])
    await anyio.wait_all_tasks_blocked()
    await destination.aclose()


async def test_an_error_of_ones_own_may_say_that_the_broker_is_away() -> None:
    class Asleep(Exception):
        pass

    broker = Failing()
    broker.register_task(nothing, "note")
    destination = TaskiqDestination(broker, unreachable=(Asleep,))
    broker.error = Asleep("zzz")
    with pytest.raises(Unreachable, match="the broker of taskiq \\(Failing\\) cannot be reached: zzz"):
        await destination.send([delivery("note")])
    broker.error = ValueError("no")
    with pytest.raises(ValueError, match="no"):
        await destination.send([delivery("note")])
    broker.error = None
    assert await destination.send([delivery("note")]) == [None]
    broker.error = Asleep("zzz")
    (error,) = await destination.send([delivery("note")])
    assert isinstance(error, Unreachable)
    await anyio.wait_all_tasks_blocked()
    await destination.aclose()


@pytest.mark.parametrize("starts", [True, False])
async def test_the_broker_is_started_once_and_shut_down_unless_the_application_does(starts: bool) -> None:
    broker = Failing()
    broker.register_task(nothing, "note")
    calls: list[str] = []
    startup, shutdown = broker.startup, broker.shutdown

    async def started() -> None:
        await startup()
        calls.append("started")

    async def shut_down() -> None:
        await shutdown()
        calls.append("shut down")

    broker.startup, broker.shutdown = started, shut_down  # type: ignore[method-assign]
    destination = TaskiqDestination(broker, starts=starts)
    async with anyio.create_task_group() as tasks:
        for _ in range(2):
            tasks.start_soon(destination.send, [delivery("note")])
    await anyio.wait_all_tasks_blocked()
    await destination.aclose()
    await anyio.wait_all_tasks_blocked()
    await destination.aclose()
    assert calls == (["started", "shut down"] if starts else [])
    if not starts:
        await broker.shutdown()


def pickling() -> AsyncBroker:
    return InMemoryBroker().with_serializer(PickleSerializer())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"broker": "redis://"}, "broker: expected a broker of taskiq, found 'redis://'"),
        ({"broker": pickling()}, "never as a pickle; give it another serializer"),
        ({"starts": 1}, "starts: expected True or False, found 1"),
        ({"batch": 0}, "batch: expected a whole number from 1 on, found 0"),
        ({"concurrency": 0}, "concurrency: expected a whole number from 1 on, found 0"),
        ({"timeout": -1}, "timeout: expected seconds above 0"),
        ({"unreachable": [OSError]}, "unreachable: expected a tuple of exception classes"),
    ],
)
def test_an_option_is_checked_where_it_is_given(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        TaskiqDestination(**{"broker": InMemoryBroker(), **arguments})
