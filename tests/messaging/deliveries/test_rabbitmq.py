import json
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anyio
import pytest
from kombu import Connection
from kombu.transport.pyamqp import Channel
from sqlalchemy import create_engine, func, select
from sqlalchemy.orm import Session

from postresponse.exceptions import ConfigurationError, MessageRefused, MessagingError, Unreachable
from postresponse.messaging import Delivery, Message, Outbox, Relay
from postresponse.messaging.deliveries.confirms import let_go
from postresponse.messaging.deliveries.destination import Destination
from postresponse.messaging.deliveries.rabbitmq import RabbitMQDestination
from postresponse.messaging.message import opened
from postresponse.work import TaskSupervisor
from tests.messaging.deliveries.conftest import Away, Rabbit, delivery
from tests.services import rabbitmq
from tests.services.blackhole import Blackhole
from tests.work.waiting import until

pytestmark = pytest.mark.anyio
needs_rabbitmq = pytest.mark.service("rabbitmq")


@needs_rabbitmq
async def test_a_message_arrives_with_its_id_its_name_and_its_headers(rabbit: Rabbit) -> None:
    rabbit.declare()
    destination = RabbitMQDestination(rabbitmq.url(), routing_key=rabbit.queue)
    sent = delivery("mail.send", {"to": "ä"}, tenant="t1")
    assert isinstance(destination, Destination)
    assert await destination.send([sent]) == [None]
    got = rabbit.get()
    assert (got.properties["message_id"], got.properties["type"]) == (str(sent.id), "mail.send")
    assert got.properties["application_headers"] == {"tenant": "t1"}
    assert (got.properties["content_type"], got.properties["delivery_mode"]) == ("application/json", 2)
    assert opened(got.body) == {"to": "ä"}
    assert json.loads(got.body)["version"] == 1
    await destination.aclose()


@needs_rabbitmq
async def test_a_batch_arrives_in_order_over_one_connection_that_is_kept(rabbit: Rabbit) -> None:
    rabbit.declare()
    destination = RabbitMQDestination(rabbitmq.url(), routing_key=rabbit.queue)
    batches = [[delivery(payload=[first + number]) for number in range(300)] for first in (0, 300)]
    for batch in batches:
        assert await destination.send(batch) == [None] * 300
        (line,) = [line for line, _ in destination._lines._idle]
    assert line is destination._lines._idle[0][0]
    assert [opened(rabbit.get().body) for _ in range(600)] == [[number] for number in range(600)]
    await destination.aclose()
    assert await destination.send(batches[0][:1]) == [None]
    await destination.aclose()


@needs_rabbitmq
async def test_a_message_that_no_queue_takes_fails_alone(rabbit: Rabbit) -> None:
    rabbit.declare()
    wanted = rabbit.queue.replace("-", "_")
    rabbit.channel.queue_bind(rabbit.queue, "amq.topic", wanted)
    destination = RabbitMQDestination(rabbitmq.url(), exchange="amq.topic")
    first, second, third = await destination.send(
        [delivery("nobody.takes"), delivery(wanted), delivery("nobody.takes")]
    )
    assert second is None
    for error in (first, third):
        assert type(error) is MessagingError
        assert "no queue takes it: exchange 'amq.topic', routing key 'nobody.takes' (NO_ROUTE)" in str(error)
    assert rabbit.count() == 1
    await destination.aclose()


@needs_rabbitmq
async def test_a_routing_key_that_amqp_has_no_room_for_is_refused_alone(rabbit: Rabbit) -> None:
    rabbit.declare()

    def routing_key(message: Delivery) -> Any:
        return {"good": rabbit.queue, "long": "x" * 256, "odd": None}[message.name]

    destination = RabbitMQDestination(rabbitmq.url(), routing_key=routing_key)
    errors = await destination.send([delivery("good"), delivery("long"), delivery("odd"), delivery("good")])
    assert [type(error) for error in errors] == [type(None), MessageRefused, MessageRefused, type(None)]
    errors = await destination.send([delivery("no such key"), delivery("good")])
    assert [type(error) for error in errors] == [KeyError, type(None)]
    assert rabbit.count() == 3
    await destination.aclose()


@needs_rabbitmq
async def test_a_missing_exchange_fails_each_message_and_not_the_broker(rabbit: Rabbit) -> None:
    rabbit.declare()
    destination = RabbitMQDestination(rabbitmq.url(), exchange="postresponse-no-such-exchange")
    errors = await destination.send([delivery(), delivery(), delivery()])
    assert ["no exchange" in str(error) for error in errors] == [True] * 3
    assert not any(isinstance(error, (Unreachable, MessageRefused)) for error in errors)
    (line,) = [line for line, _ in destination._lines._idle]
    assert line.is_sound
    await destination.aclose()


@needs_rabbitmq
async def test_a_queue_that_is_full_fails_what_it_does_not_take(rabbit: Rabbit) -> None:
    rabbit.declare(arguments={"x-max-length": 2, "x-overflow": "reject-publish"})
    destination = RabbitMQDestination(rabbitmq.url(), routing_key=rabbit.queue)
    errors = await destination.send([delivery() for _ in range(5)])
    assert errors[:2] == [None, None]
    refused = [error for error in errors if error is not None]
    assert refused
    assert all(type(error) is MessagingError and "did not take it" in str(error) for error in refused)
    await destination.aclose()


async def test_a_broker_that_is_away_is_told_of_at_once(closed_port: int) -> None:
    destination = RabbitMQDestination(f"amqp://guest:secret@127.0.0.1:{closed_port}//", routing_key="q")
    begun = time.monotonic()
    errors = await destination.send([delivery(), delivery()])
    assert time.monotonic() - begun < 2
    assert all(isinstance(error, Unreachable) for error in errors)
    assert "secret" not in str(errors[0])
    await destination.aclose()


async def test_a_broker_that_accepts_and_says_nothing_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"amqp://127.0.0.1:{listener.getsockname()[1]}//"
        destination = RabbitMQDestination(url, routing_key="q", timeout=1.0)
        begun = time.monotonic()
        (error,) = await destination.send([delivery()])
        assert time.monotonic() - begun < 1.5
        assert isinstance(error, Unreachable)
    await destination.aclose()


@needs_rabbitmq
async def test_wrong_credentials_cost_no_attempt(rabbit: Rabbit) -> None:
    host = rabbitmq.url().rpartition("@")[2]
    destination = RabbitMQDestination(f"amqp://nobody:wrong@{host}", routing_key=rabbit.queue)
    (error,) = await destination.send([delivery()])
    assert isinstance(error, Unreachable)
    await destination.aclose()


@needs_rabbitmq
async def test_a_connection_that_was_cut_while_idle_is_no_outage(
    rabbit: Rabbit, through: Callable[[str, int], Away]
) -> None:
    rabbit.declare()
    away = through(rabbitmq.url(), 5672)
    destination = RabbitMQDestination(away.url, routing_key=rabbit.queue)
    assert await destination.send([delivery()]) == [None]
    away.proxy.cut()
    assert await destination.send([delivery()] * 20) == [None] * 20
    assert rabbit.count() == 21
    await destination.aclose()


@needs_rabbitmq
async def test_a_network_that_goes_dark_is_given_up_in_time_and_used_again_when_it_is_back(
    rabbit: Rabbit, through: Callable[[str, int], Away]
) -> None:
    rabbit.declare()
    away = through(rabbitmq.url(), 5672)
    destination = RabbitMQDestination(away.url, routing_key=rabbit.queue, timeout=1.0)
    assert await destination.send([delivery()]) == [None]
    away.proxy.dark.set()
    begun = time.monotonic()
    errors = await destination.send([delivery() for _ in range(20)])
    assert time.monotonic() - begun < 2
    assert all(isinstance(error, Unreachable) for error in errors)
    assert "did not confirm in time" in str(errors[0])
    away.proxy.cut()
    away.proxy.dark.clear()
    assert await destination.send([delivery()]) == [None]
    await destination.aclose()


@needs_rabbitmq
async def test_a_batch_that_is_cut_half_way_tells_what_was_confirmed(
    rabbit: Rabbit, through: Callable[[str, int], Away]
) -> None:
    rabbit.declare()
    away = through(rabbitmq.url(), 5672)

    def routing_key(message: Delivery) -> str:
        if message.name == "cut":
            until(lambda: rabbit.count() == 10)
            time.sleep(0.1)  # the confirms have arrived by then, or they have not: both are tried
            away.proxy.dark.set()
            away.proxy.cut()
        return rabbit.queue

    destination = RabbitMQDestination(away.url, routing_key=routing_key)
    batch = [delivery() for _ in range(10)] + [delivery("cut")] + [delivery() for _ in range(10)]
    errors = await destination.send(batch)
    assert all(isinstance(error, Unreachable) for error in errors[10:])
    assert all(error is None or isinstance(error, Unreachable) for error in errors[:10])
    away.proxy.dark.clear()
    assert await destination.send([delivery()]) == [None]
    await destination.aclose()


@needs_rabbitmq
async def test_a_batch_that_is_cancelled_leaves_its_thread_and_the_next_one_has_another(
    rabbit: Rabbit, through: Callable[[str, int], Away]
) -> None:
    rabbit.declare()
    away = through(rabbitmq.url(), 5672)
    destination = RabbitMQDestination(away.url, routing_key=rabbit.queue, timeout=3.0)
    away.proxy.dark.set()
    begun = time.monotonic()
    with anyio.move_on_after(0.1):
        await destination.send([delivery()])
    assert time.monotonic() - begun < 1
    away.proxy.dark.clear()
    assert await destination.send([delivery()]) == [None]
    await destination.aclose()
    away.proxy.cut()


@needs_rabbitmq
async def test_a_broker_that_blocks_publishers_is_told_of(rabbit: Rabbit, through: Callable[[str, int], Away]) -> None:
    rabbit.declare()
    away = through(rabbitmq.url(), 5672)
    destination = RabbitMQDestination(away.url, routing_key=rabbit.queue, timeout=0.5)
    assert await destination.send([delivery()]) == [None]
    away.proxy.dark.set()
    line: Any = destination._lines._idle[0][0]
    line._wire.on_blocked("low on memory")  # as py-amqp calls it when RabbitMQ says so
    (error,) = await destination.send([delivery()])
    assert isinstance(error, Unreachable)
    assert "it takes nothing at present: low on memory" in str(error)
    line._wire.on_unblocked()
    assert line._blocked_by == ""
    away.proxy.cut()
    await destination.aclose()


class Deaf(Blackhole):
    """A proxy that at a word reads nothing any more from whoever connected, so that writing to it comes to a halt."""

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        source.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        try:
            while not self.dark.is_set() and (data := source.recv(4096)):
                sink.sendall(data)
            self.dark.wait(10)
        except OSError:
            return


@needs_rabbitmq
async def test_a_broker_that_reads_nothing_is_given_up_in_time(rabbit: Rabbit) -> None:
    rabbit.declare()
    parts = urlsplit(rabbitmq.url())
    proxy = Deaf(parts.hostname or "", parts.port or 5672)
    try:
        destination = RabbitMQDestination(
            f"amqp://{parts.username}:{parts.password}@127.0.0.1:{proxy.port}//", routing_key=rabbit.queue, timeout=2.0
        )
        assert await destination.send([delivery()]) == [None]
        proxy.dark.set()
        begun = time.monotonic()
        errors = await destination.send([delivery(payload="x" * 1_000_000) for _ in range(30)])
        assert time.monotonic() - begun < 3
        assert all(isinstance(error, Unreachable) for error in errors)
        await destination.aclose()
    finally:
        proxy.cut()
        proxy.close()


@needs_rabbitmq
@pytest.mark.parametrize("slow", ["each", "last"])
async def test_a_batch_that_takes_too_long_is_given_up(rabbit: Rabbit, slow: str) -> None:
    rabbit.declare()

    def routing_key(message: Delivery) -> str:
        time.sleep({"each": 0.2, "last": 0.6 * (message.name == "last")}[slow])
        return rabbit.queue

    destination = RabbitMQDestination(rabbitmq.url(), routing_key=routing_key, timeout=0.5)
    errors = await destination.send([delivery(), delivery(), delivery(), delivery("last")])
    assert isinstance(errors[-1], Unreachable)
    assert "did not confirm in time" in str(errors[-1])
    await destination.aclose()


@needs_rabbitmq
async def test_whatever_a_lost_connection_raises_is_an_outage(rabbit: Rabbit) -> None:
    rabbit.declare()
    lines: list[Any] = []

    def routing_key(message: Delivery) -> str:
        if lines:
            lines.pop()._wire.collect()
            raise AttributeError("NoneType has no attribute, as py-amqp has it at times")
        return rabbit.queue

    destination = RabbitMQDestination(rabbitmq.url(), routing_key=routing_key)
    assert await destination.send([delivery()]) == [None]
    lines.append(line := destination._lines._idle[0][0])
    assert await destination.send([delivery(), delivery()]) == [None, None]
    assert not line.is_sound
    await destination.aclose()


@needs_rabbitmq
async def test_a_connection_that_is_lost_before_it_is_ready_is_an_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(self: Any) -> None:
        raise OSError("reset")

    monkeypatch.setattr(Channel, "confirm_select", lost)
    destination = RabbitMQDestination(rabbitmq.url())
    (error,) = await destination.send([delivery()])
    assert isinstance(error, Unreachable)
    assert "cannot be reached: reset" in str(error)
    await destination.aclose()


def test_a_connection_that_cannot_say_good_bye_is_closed_all_the_same() -> None:
    class Mute:
        is_closed = False

        def release(self) -> None:
            raise ValueError

        def collect(self) -> None:
            self.is_closed = True

    let_go(mute := Mute(), is_sound=True)
    assert mute.is_closed


@needs_rabbitmq
async def test_of_several_hosts_one_that_answers_is_enough(rabbit: Rabbit, closed_port: int) -> None:
    rabbit.declare()
    url = f"amqp://127.0.0.1:{closed_port}//;{rabbitmq.url()}"
    destination = RabbitMQDestination(url, routing_key=rabbit.queue)
    assert await destination.send([delivery()]) == [None]
    await destination.aclose()
    destination = RabbitMQDestination(f"amqp://127.0.0.1:{closed_port}//;amqp://127.0.0.1:{closed_port}/x", timeout=2)
    begun = time.monotonic()
    (error,) = await destination.send([delivery()])
    assert isinstance(error, Unreachable)
    assert time.monotonic() - begun < 2
    await destination.aclose()


@needs_rabbitmq
async def test_a_connection_of_ones_own_making_is_copied_and_not_used(rabbit: Rabbit) -> None:
    rabbit.declare()
    given = Connection(rabbitmq.url(), transport_options={"client_properties": {"name": "mine"}})
    destination = RabbitMQDestination(given, routing_key=rabbit.queue)
    assert await destination.send([delivery()]) == [None]
    assert not given.connected
    await destination.aclose()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"url": "redis://h"}, "url: expected amqp:// or amqps://, found redis://.*; py-amqp alone confirms"),
        ({"url": "http://h"}, "url: expected amqp://user:password@host:port/vhost"),
        ({"url": ""}, "url: expected amqp:// or amqps://, found ''"),
        ({"url": 5}, "url: expected amqp:// or amqps://, found 5"),
        ({"exchange": 5}, "exchange: expected a text of at most 255 bytes, found 5"),
        ({"routing_key": "x" * 256}, "routing_key: expected a text of at most 255 bytes"),
        ({"routing_key": 5}, "routing_key: expected a text"),
        ({"batch": 0}, "batch: expected a whole number from 1 on, found 0"),
        ({"batch": True}, "batch: expected a whole number from 1 on, found True"),
        ({"timeout": 0}, "timeout: expected seconds above 0"),
        ({"timeout": "1"}, "timeout: expected seconds as a number"),
    ],
)
def test_an_option_is_checked_where_it_is_given(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        RabbitMQDestination(**{"url": "amqp://", **arguments})


@needs_rabbitmq
def test_a_relay_sends_what_was_committed(rabbit: Rabbit, tmp_path: Path) -> None:
    rabbit.declare()
    outbox = Outbox({"shop": ["order.placed"]})
    engine = create_engine(f"sqlite:///{tmp_path / 'outbox.db'}")
    with engine.begin() as connection:
        for table in outbox.tables.all:
            table.create(connection)
    supervisor = TaskSupervisor(name="relay")
    destination = RabbitMQDestination(rabbitmq.url(), routing_key=rabbit.queue)
    relay = Relay(outbox, engine, {"shop": destination}, supervisor=supervisor)
    job = relay.start()
    sent = [Message("shop", "order.placed", {"order": number}, headers={"tenant": "t"}) for number in range(250)]
    with Session(engine) as session:
        for message in sent:
            outbox.enlist(message, into=session)
        assert rabbit.count() == 0
        session.commit()
    until(lambda: rabbit.count() == 250)
    got = [rabbit.get() for _ in sent]
    assert sorted(each.properties["message_id"] for each in got) == sorted(str(each.id) for each in sent)
    assert sorted(opened(each.body)["order"] for each in got) == list(range(250))
    relay.stop()
    job.result(10)
    with engine.connect() as connection:
        assert connection.scalar(select(func.count()).select_from(outbox.tables.waiting)) == 0
    supervisor.close(5)
    engine.dispose()
