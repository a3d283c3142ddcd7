"""What a relay relies on, of every destination: an answer for each message, in their order, and an end that is none."""

from collections.abc import Callable, Sequence
from typing import Any, Final
from uuid import uuid4

import pytest
from celery import Celery
from dramatiq.brokers.stub import StubBroker
from taskiq import InMemoryBroker

from postresponse.exceptions import UnknownVersion
from postresponse.messaging import Delivery, Function
from postresponse.messaging.deliveries.celery import CeleryDestination
from postresponse.messaging.deliveries.destination import Destination
from postresponse.messaging.deliveries.dramatiq import DramatiqDestination
from postresponse.messaging.deliveries.rabbitmq import RabbitMQDestination
from postresponse.messaging.deliveries.taskiq import TaskiqDestination
from tests.messaging.deliveries.conftest import Rabbit, delivery
from tests.services import rabbitmq

pytestmark = pytest.mark.anyio
needs_rabbitmq = pytest.mark.service("rabbitmq")

Make = Callable[[Callable[[], str]], Destination]


def function(queue: Callable[[], str]) -> Destination:
    return Function(lambda message: message.payload)


def to_rabbitmq(queue: Callable[[], str]) -> Destination:
    return RabbitMQDestination(rabbitmq.url(), routing_key=queue())


def to_celery_on_rabbitmq(queue: Callable[[], str]) -> Destination:
    app = Celery("shop", broker=rabbitmq.url(), set_as_current=False)
    app.conf.task_default_queue = queue()
    return CeleryDestination(app)


def to_celery_in_memory(queue: Callable[[], str]) -> Destination:
    app = Celery("shop", broker="memory://", set_as_current=False)
    app.conf.task_default_queue = f"postresponse-test-{uuid4().hex}"
    return CeleryDestination(app)


def to_dramatiq(queue: Callable[[], str]) -> Destination:
    broker = StubBroker(middleware=[])
    broker.declare_queue("q")
    return DramatiqDestination(broker, queues={"note": "q"})


def to_taskiq(queue: Callable[[], str]) -> Destination:
    broker = InMemoryBroker()

    @broker.task("note")
    async def note(*args: Any) -> None: ...

    return TaskiqDestination(broker)


MAKERS: Final[Sequence[Any]] = [
    function,
    pytest.param(to_rabbitmq, marks=needs_rabbitmq),
    pytest.param(to_celery_on_rabbitmq, marks=needs_rabbitmq),
    to_celery_in_memory,
    to_dramatiq,
    to_taskiq,
]


@pytest.fixture(params=MAKERS)
def destination(request: pytest.FixtureRequest) -> Destination:
    def queue() -> str:
        rabbit: Rabbit = request.getfixturevalue("rabbit")
        return rabbit.declare()

    if request.param is to_taskiq and "trio" in request.node.name:
        pytest.skip("taskiq runs on asyncio alone")
    make: Make = request.param
    return make(queue)


async def test_it_says_what_a_relay_asks(destination: Destination) -> None:
    assert isinstance(destination, Destination)
    assert destination.batch >= 1
    assert destination.concurrency >= 1
    assert destination.timeout > 0
    assert issubclass(ConnectionResetError, destination.unreachable)


async def test_it_answers_for_each_message_in_their_order(destination: Destination) -> None:
    late = Delivery(uuid4(), "engine", "note", '{"version": 99, "payload": 1}')
    assert await destination.send([]) == []
    first, second, third = await destination.send([delivery("note", [1]), late, delivery("note", [2])])
    assert (first, third) == (None, None)
    if isinstance(destination, RabbitMQDestination):
        assert second is None  # who opens a document looks at its version, and this is its receiver
    else:
        assert isinstance(second, UnknownVersion)
    await destination.aclose()


async def test_it_can_be_closed_twice_and_used_again(destination: Destination) -> None:
    await destination.aclose()
    for _ in range(2):
        assert await destination.send([delivery("note", [1])]) == [None]
        await destination.aclose()
    await destination.aclose()
