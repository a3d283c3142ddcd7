"""What only a broker does: it goes away and comes back, and others write to it."""

import secrets
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any
from uuid import uuid4

import anyio
import pytest
import redis

from postresponse.exceptions import ConfigurationError, MessageRefused, Unreachable, WrongThread
from postresponse.messaging import Delivery, Message, Receiver
from postresponse.messaging.delivery import Result, Settled
from postresponse.messaging.transports import consuming, kombu, sessions
from postresponse.messaging.transports.kombu import KombuTransport
from postresponse.testing.contracts.receiving import taken_from
from postresponse.work import TaskSupervisor
from tests.messaging.receiving import Handled, message, running
from tests.messaging.transports.places import AtBroker, AtRabbitMQ, AtRedis
from tests.services import redis as redis_service
from tests.services.blackhole import Blackhole
from tests.work.conftest import Told
from tests.work.waiting import auntil, until

pytestmark = pytest.mark.anyio

RABBITMQ = pytest.param(AtRabbitMQ, marks=pytest.mark.service("rabbitmq"))
REDIS = pytest.param(AtRedis, marks=pytest.mark.service("redis"))


@pytest.fixture
def handled() -> Handled:
    return Handled()


@pytest.fixture(params=[RABBITMQ, REDIS])
def place(request: pytest.FixtureRequest) -> Iterator[AtBroker]:
    made: AtBroker = request.param()
    yield made
    made.close()


@pytest.fixture(params=[RABBITMQ])
def rabbitmq(request: pytest.FixtureRequest) -> Iterator[AtRabbitMQ]:
    made: AtRabbitMQ = request.param()
    yield made
    made.close()


@pytest.fixture(params=[REDIS])
def at_redis(request: pytest.FixtureRequest) -> Iterator[AtRedis]:
    made: AtRedis = request.param()
    yield made
    made.close()


@contextmanager
def in_front_of(place: AtBroker) -> Iterator[tuple[Blackhole, str]]:
    """A proxy, and the URL through it."""
    host, port = place.connection.host.rpartition(":")[::2]
    proxy = Blackhole(host.split("/")[-1] if host else "127.0.0.1", int(port))
    try:
        yield proxy, place.url.replace(f":{port}", f":{proxy.port}")
    finally:
        proxy.close()


def lines(caplog: pytest.LogCaptureFixture, text: str) -> int:
    return sum(text in record.getMessage() for record in caplog.records)


def lost_and_back(caplog: pytest.LogCaptureFixture) -> tuple[int, int]:
    """How often a transport was said to be lost, and to be back."""
    said = [record.getMessage().partition(" is ")[2] for record in caplog.records]
    return said.count("lost, and is tried until it is back"), said.count("back")


# -- the broker goes away ---------------------------------------------------------------------------------------------


async def test_a_receiver_goes_on_when_its_broker_is_back_and_says_so_once(
    place: AtBroker,
    handled: Handled,
    supervisor: TaskSupervisor,
    told: Told,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    with in_front_of(place) as (proxy, url):
        receiver = Receiver(KombuTransport(url, place.queue), handled, supervisor=supervisor)
        async with running(receiver):
            await place.send(message(1))
            await auntil(lambda: handled.payloads == [1] and receiver.in_flight == 0)
            proxy.refuses = True
            proxy.cut()
            await auntil(lambda: lines(caplog, "is lost, and is tried"))
            await place.send(message(2))
            await anyio.sleep(0.5)
            assert (handled.payloads, lost_and_back(caplog)) == ([1], (1, 0))
            proxy.refuses = False
            await auntil(lambda: 2 in handled.payloads)  # the first may come again
        assert lost_and_back(caplog) == (1, 1)
    assert place.waiting() == 0


async def test_a_receiver_starts_before_its_broker(
    place: AtBroker,
    handled: Handled,
    supervisor: TaskSupervisor,
    told: Told,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    await place.send(message(1))
    with in_front_of(place) as (proxy, url):
        proxy.refuses = True
        async with running(Receiver(KombuTransport(url, place.queue), handled, supervisor=supervisor)):
            await auntil(lambda: lines(caplog, "is lost, and is tried"))
            await anyio.sleep(0.3)
            proxy.refuses = False
            await auntil(lambda: handled.payloads == [1])
    assert lost_and_back(caplog) == (1, 1)


async def test_a_receiver_stops_while_its_broker_is_away(
    place: AtBroker,
    handled: Handled,
    supervisor: TaskSupervisor,
    told: Told,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with in_front_of(place) as (proxy, url):
        receiver = Receiver(KombuTransport(url, place.queue), handled, supervisor=supervisor)
        receiver.start()
        await place.send(message(1))
        await auntil(lambda: handled.payloads == [1] and receiver.in_flight == 0)
        proxy.refuses = True
        proxy.cut()
        await auntil(lambda: lines(caplog, "is lost, and is tried"))
        with anyio.fail_after(3):
            await receiver.astop()
    assert receiver.state == "stopped"


async def test_a_paused_receiver_stays_paused_when_its_broker_is_back(
    place: AtBroker, handled: Handled, supervisor: TaskSupervisor, told: Told
) -> None:
    with in_front_of(place) as (proxy, url):
        receiver = Receiver(KombuTransport(url, place.queue), handled, concurrency=1, supervisor=supervisor)
        async with running(receiver):
            await place.send(message(0))
            await auntil(lambda: handled.payloads == [0])
            receiver.pause()
            await anyio.sleep(0.1)
            connected = len(proxy.sockets)
            proxy.cut()
            if isinstance(place, AtRabbitMQ):  # nobody speaks to Redis while nothing is to be done there
                await auntil(lambda: len(proxy.sockets) > connected)
            for number in (1, 2):
                await place.send(message(number))
            await anyio.sleep(0.3)
            assert (handled.payloads, place.waiting()) == ([0], 2)
            receiver.resume()
            await auntil(lambda: handled.payloads == [0, 1, 2])


async def test_what_rabbitmq_was_not_told_of_comes_again(
    rabbitmq: AtRabbitMQ,
    handled: Handled,
    supervisor: TaskSupervisor,
    told: Told,
    caplog: pytest.LogCaptureFixture,
) -> None:
    sent = message("tea")
    await rabbitmq.send(sent)
    release = handled.hold()
    with in_front_of(rabbitmq) as (proxy, url):
        receiver = Receiver(KombuTransport(url, rabbitmq.queue), handled, concurrency=1, supervisor=supervisor)
        async with running(receiver):
            await auntil(lambda: handled.deliveries)
            connected = len(proxy.sockets)
            proxy.cut()
            await auntil(lambda: len(proxy.sockets) > connected)
            release()
            await auntil(lambda: handled.payloads == ["tea", "tea"])
            await auntil(lambda: receiver.in_flight == 0)
    assert [each.id for each in handled.deliveries] == [sent.id] * 2
    assert lines(caplog, "the connection was lost before 1 of 1 could be acknowledged") == 1
    assert rabbitmq.waiting() == 0


async def test_what_redis_was_not_told_of_is_told_when_it_is_back(
    at_redis: AtRedis, handled: Handled, supervisor: TaskSupervisor, told: Told
) -> None:
    place = at_redis
    await place.send(message("tea"))
    release = handled.hold()
    with in_front_of(place) as (proxy, url):
        receiver = Receiver(KombuTransport(url, place.queue), handled, supervisor=supervisor)
        async with running(receiver):
            await auntil(lambda: handled.deliveries)
            proxy.refuses = True
            proxy.cut()
            release()
            await anyio.sleep(0.3)
            proxy.refuses = False
            await auntil(lambda: receiver.in_flight == 0)
    assert (handled.payloads, place.waiting()) == (["tea"], 0)
    with redis.Redis.from_url(redis_service.url()) as client:
        assert not [key for key in client.hkeys("unacked") if str(handled.deliveries[0].id).encode() in key]


async def test_a_copy_that_got_lost_in_the_dark_leaves_the_original(place: AtBroker) -> None:
    sent = message("tea")
    await place.send(sent)
    with in_front_of(place) as (proxy, url):
        transport = KombuTransport(url, place.queue, timeout=0.3)
        await transport.open(lambda: None)
        (taken,) = await taken_from(transport, 1)
        proxy.dark.set()
        if isinstance(place, AtRabbitMQ):
            await transport.settle([Settled(taken, Result.DEFERRED)])
        else:  # it can still be said, when Redis is back
            with pytest.raises(Unreachable):
                await transport.settle([Settled(taken, Result.DEFERRED)])
        proxy.cut()
        proxy.dark.clear()
        with anyio.fail_after(10):
            while True:
                try:
                    if isinstance(place, AtRedis):
                        await transport.settle([Settled(taken, Result.DEFERRED)])
                    (again,) = await taken_from(transport, 1)
                    break
                except Unreachable:
                    await anyio.sleep(0.05)
        assert (again.id, again.deferrals) == (sent.id, 0 if isinstance(place, AtRabbitMQ) else 1)
        await transport.settle([Settled(again, Result.DONE)])
        await transport.aclose()
    assert place.waiting() == 0


async def test_a_pause_in_the_dark_loses_nothing(place: AtBroker) -> None:
    for number in range(3):
        await place.send(message(number))
    with in_front_of(place) as (proxy, url):
        transport = KombuTransport(url, place.queue, timeout=0.3)
        await transport.open(lambda: None)
        (first,) = await taken_from(transport, 1)
        await auntil(lambda: place.waiting() == 0)
        proxy.dark.set()
        await transport.pause()
        proxy.cut()
        proxy.dark.clear()
        await transport.resume()
        came: dict[int, Delivery] = {first.payload: first}
        with anyio.fail_after(10):
            while len(came) < 3 or (isinstance(place, AtRabbitMQ) and came[0] is first):
                with suppress(Unreachable):
                    came |= {each.payload: each for each in await transport.take(3)}
                await anyio.sleep(0.01)
            while not all(each.handle.is_settled for each in came.values()):
                with suppress(Unreachable):
                    await transport.settle([Settled(each, Result.DONE) for each in came.values()])
                await anyio.sleep(0.01)
        await transport.aclose()
    assert place.waiting() == 0


async def test_a_transport_is_closed_in_the_dark(place: AtBroker) -> None:
    await place.send(message("tea"))
    with in_front_of(place) as (proxy, url):
        transport = KombuTransport(url, place.queue, timeout=0.3)
        await transport.open(lambda: None)
        (taken,) = await taken_from(transport, 1)
        await transport.settle([Settled(taken, Result.FAILED, "ValueError", 60.0)])
        proxy.dark.set()
        with anyio.fail_after(3):
            await transport.aclose()
        proxy.cut()
    if isinstance(place, AtRabbitMQ):
        await auntil(lambda: place.waiting() == 1)


async def test_who_sends_on_a_connection_that_was_cut_is_told_and_sends_again(place: AtBroker) -> None:
    sent = message("tea")
    with in_front_of(place) as (proxy, url):
        sender = KombuTransport(url, place.queue, timeout=0.3)
        await sender.asend(message("milk"))
        proxy.dark.set()
        with pytest.raises(Unreachable, match="the broker cannot be reached: "):
            await sender.asend(sent)
        proxy.cut()
        proxy.dark.clear()
        with anyio.fail_after(10):
            while True:
                try:
                    await sender.asend(sent)
                    break
                except Unreachable:
                    await anyio.sleep(0.05)
        await sender.aclose()
    assert place.waiting() == 2


async def test_a_queue_that_was_deleted_is_made_again(
    rabbitmq: AtRabbitMQ,
    handled: Handled,
    supervisor: TaskSupervisor,
    told: Told,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with running(Receiver(rabbitmq.transport(), handled, supervisor=supervisor)):
        await rabbitmq.send(message(1))
        await auntil(lambda: handled.payloads == [1])
        rabbitmq.delete(rabbitmq.queue)
        await auntil(lambda: lines(caplog, "is lost, and is tried"))
        await auntil(lambda: _exists(rabbitmq))
        await rabbitmq.send(message(2))
        await auntil(lambda: handled.payloads == [1, 2])


def _exists(place: AtRabbitMQ) -> bool:
    with place.connection.clone() as connection:
        try:
            connection.channel().queue_declare(place.queue, passive=True)
        except connection.channel_errors:
            return False
    return True


# -- putting back, and giving up --------------------------------------------------------------------------------------


async def test_a_copy_that_rabbitmq_refuses_leaves_the_original(
    rabbitmq: AtRabbitMQ, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(consuming, "REFUSED", 0.1)
    full = {"x-max-length": 1, "x-overflow": "reject-publish"}
    transport = KombuTransport(rabbitmq.url, rabbitmq.queue, prefetch=1, arguments=full)
    await transport.open(lambda: None)
    sent = [message(number) for number in range(3)]
    await transport.asend(sent[0])
    (first,) = await taken_from(transport, 1)
    await transport.asend(sent[1])
    with pytest.raises(Unreachable, match="the broker did not take it"):
        await transport.asend(message(3))
    await transport.settle([Settled(first, Result.DEFERRED)])
    first = await next_of(transport, sent[0])
    assert (first.deferrals, first.attempts) == (0, 0)
    await transport.asend(sent[1])
    await transport.settle([Settled(first, Result.FAILED, "ValueError", 0.2)])
    (second,) = await taken_from(transport, 1)  # which makes room for it, and for one more
    await transport.asend(sent[2])
    await auntil(lambda: lines(caplog, "could not be put back: the broker did not take it for") == 2)
    await transport.settle([Settled(second, Result.DONE)])
    first = await next_of(transport, sent[0])
    assert (first.deferrals, first.attempts) == (0, 0)
    await transport.aclose()


async def next_of(transport: KombuTransport, sent: Message) -> Delivery:
    """Deal with what comes, up to *sent*."""
    while True:
        (taken,) = await taken_from(transport, 1)
        if taken.id == sent.id:
            return taken
        await transport.settle([Settled(taken, Result.DONE)])


async def test_a_copy_that_redis_refuses_leaves_the_original(
    at_redis: AtRedis, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(consuming, "REFUSED", 0.1)
    place, user = at_redis, f"postresponse{secrets.token_hex(4)}"
    sent = message("tea")
    await place.send(sent)
    with redis.Redis.from_url(redis_service.url()) as client:
        client.acl_setuser(user, enabled=True, passwords=["+secret"], keys=["*"], commands=["+@all", "-lpush"])
        try:
            transport = KombuTransport(place.url.replace("://", f"://{user}:secret@"), place.queue)
            await transport.open(lambda: None)
            (taken,) = await taken_from(transport, 1)
            await transport.settle([Settled(taken, Result.DEFERRED)])
            (taken,) = await taken_from(transport, 1)
            assert (taken.id, taken.deferrals) == (sent.id, 0)
            await transport.settle([Settled(taken, Result.DONE)])
            await transport.aclose()
        finally:
            client.acl_deluser(user)
    assert lines(caplog, "could not be put back: Redis did not take it") == 1
    assert place.waiting() == 0


async def test_without_a_queue_for_it_the_copy_leaves_the_original(
    rabbitmq: AtRabbitMQ, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(consuming, "REFUSED", 0.1)
    transport = rabbitmq.transport()
    await rabbitmq.send(message("tea"))
    await transport.open(lambda: None)
    (taken,) = await taken_from(transport, 1)
    rabbitmq.delete(rabbitmq.dead_letters)
    await transport.settle([Settled(taken, Result.DEAD, "ValueError")])
    (taken,) = await taken_from(transport, 1)
    assert lines(caplog, f"could not be put back: there is no queue {rabbitmq.dead_letters}") == 1
    await transport.settle([Settled(taken, Result.DONE)])
    await transport.aclose()


async def test_what_is_given_up_goes_to_the_dead_letter_exchange_of_the_queue(rabbitmq: AtRabbitMQ) -> None:
    rabbitmq.channel.queue_declare(rabbitmq.dead_letters, durable=True, auto_delete=False)
    arguments = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": rabbitmq.dead_letters}
    transport = KombuTransport(rabbitmq.url, rabbitmq.queue, arguments=arguments)
    sent = message("tea")
    await transport.asend(sent)
    await transport.open(lambda: None)
    (taken,) = await taken_from(transport, 1)
    await transport.settle([Settled(taken, Result.DEAD, "ValueError")])
    await transport.aclose()
    assert rabbitmq.dead() == [sent.id]


async def test_what_is_given_up_is_gone_from_redis_without_a_queue_for_it(at_redis: AtRedis) -> None:
    place = at_redis
    transport = KombuTransport(place.url, place.queue)
    await transport.asend(message("tea"))
    await transport.open(lambda: None)
    (taken,) = await taken_from(transport, 1)
    await transport.settle([Settled(taken, Result.DEAD, "ValueError")])
    await transport.aclose()
    assert (place.waiting(), place.dead()) == (0, [])


async def test_a_copy_says_why_it_was_given_up_and_keeps_what_it_had(place: AtBroker) -> None:
    id = uuid4()
    published(place, b'{"version":1,"payload":7}', message_id=str(id), type="book", correlation_id="c", headers=HEADERS)
    transport = place.transport()
    await transport.open(lambda: None)
    (taken,) = await taken_from(transport, 1)
    assert dict(taken.headers) == {"tenant": "a"}
    await transport.settle([Settled(taken, Result.FAILED, "ValueError", 0.01)])
    (taken,) = await taken_from(transport, 1)
    await transport.settle([Settled(taken, Result.DEAD, "ValueError: no")])
    await transport.aclose()
    (dead,) = place.got(place.dead_letters)
    assert (dead.properties["message_id"], dead.properties["type"]) == (str(id), "book")
    assert dead.properties["correlation_id"] == "c"
    assert bytes(dead.body if isinstance(dead.body, bytes) else dead.body.encode()) == b'{"version":1,"payload":7}'
    reason = {"postresponse-reason": "ValueError: no", "postresponse-attempts": "1"}
    assert dead.headers == {"tenant": "a", "number": 3} | reason


HEADERS = {"tenant": "a", "number": 3}


async def test_an_attempt_that_waits_when_the_transport_is_closed_is_counted(place: AtBroker) -> None:
    for number in range(2):
        await place.send(message(number))
    transport, another = place.transport(), place.transport()
    await transport.open(lambda: None)
    taken = await taken_from(transport, 2)
    await transport.settle([Settled(taken[0], Result.FAILED, "ValueError", 60.0)])
    await transport.settle([Settled(taken[1], Result.BACK, "UnknownVersion", 60.0)])
    await transport.aclose()
    await another.open(lambda: None)
    again = sorted(await taken_from(another, 2), key=lambda each: int(each.payload))
    assert [each.attempts for each in again] == [1, 0]
    await another.settle([Settled(each, Result.DONE) for each in again])
    await another.aclose()


# -- what others wrote ------------------------------------------------------------------------------------------------


def published(place: AtBroker, body: bytes, *, headers: dict[str, Any] | None = None, **properties: Any) -> None:
    place.channel.queue_declare(place.queue, durable=True, auto_delete=False)
    prepared = place.channel.prepare_message(
        body,
        headers=headers or {},
        properties=properties,
        content_type="application/json",
        content_encoding="utf-8",
    )
    place.channel.basic_publish(prepared, exchange="", routing_key=place.queue)


@pytest.mark.parametrize(
    ("body", "properties", "reason"),
    [
        (b"{}", {}, "it has no UUID as its message_id"),
        (b"{}", {"message_id": "7", "type": "book"}, "it has no UUID as its message_id"),
        (b"{}", {"message_id": str(uuid4())}, "or no name as its type"),
        (b"{}", {"message_id": str(uuid4()), "type": "a\nname"}, "or no name as its type"),
        (b"", {"message_id": str(uuid4()), "type": "book"}, "a message that is no JSON"),
        (b"\xff\xfe\x00", {"message_id": str(uuid4()), "type": "book"}, "a message that is no JSON"),
        (b"[1, 2]", {"message_id": str(uuid4()), "type": "book"}, "a message without a version"),
    ],
)
async def test_a_message_that_is_not_ours_is_given_up_and_the_next_one_handled(
    place: AtBroker,
    handled: Handled,
    supervisor: TaskSupervisor,
    told: Told,
    body: bytes,
    properties: dict[str, Any],
    reason: str,
) -> None:
    published(place, body, **properties)
    receiver = Receiver(place.transport(), handled, on_dead_letter=handled.on_dead_letter, supervisor=supervisor)
    async with running(receiver):
        await place.send(message("tea"))
        await auntil(lambda: handled.payloads == ["tea"] and handled.dead)
    ((dead, found),) = handled.dead
    assert reason in found
    assert dead.document == body
    assert place.waiting() == 0
    assert len(place.got(place.dead_letters)) == 1


async def test_headers_that_lie_count_as_none(place: AtBroker) -> None:
    lies = {"postresponse-attempts": "9" * 5000, "postresponse-deferrals": "-1", "other": [1]}
    published(place, b'{"version":1,"payload":7}', message_id=str(uuid4()), type="book", headers=lies)
    transport = place.transport()
    await transport.open(lambda: None)
    (taken,) = await taken_from(transport, 1)
    assert (taken.attempts, taken.deferrals, taken.payload) == (0, 0, 7)
    await transport.settle([Settled(taken, Result.DEFERRED)])
    (taken,) = await taken_from(transport, 1)
    assert taken.deferrals == 1
    await transport.settle([Settled(taken, Result.DONE)])
    await transport.aclose()


# -- sending, and ending ----------------------------------------------------------------------------------------------


def test_send_waits_until_the_broker_has_it(place: AtBroker) -> None:
    sender = place.transport()
    assert isinstance(sender, KombuTransport)
    sender.send(message("tea"))
    assert place.waiting() == 1
    sender.close()
    sender.send(message("milk"))
    sender.close()
    sender.close()
    assert place.waiting() == 2
    until(lambda: not [each for each in threading.enumerate() if each.name == f"postresponse {place.queue}"])


def test_a_child_of_a_process_that_has_sent_has_a_connection_of_its_own(place: AtBroker) -> None:
    program = f"""
import os
from postresponse.messaging import Message
from postresponse.messaging.transports.kombu import KombuTransport
sender = KombuTransport({place.url!r}, {place.queue!r})
sender.send(Message("orders", "book", "parent"))
child = os.fork()
sender.send(Message("orders", "book", "child" if child == 0 else "parent"))
if child == 0:
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
sender.send(Message("orders", "book", "parent"))
sender.close()
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", program], check=True, timeout=30)
    assert place.waiting() == 4


async def test_send_is_refused_on_an_event_loop() -> None:
    sender = KombuTransport("amqp://127.0.0.1:1", "orders")
    with pytest.raises(WrongThread, match="await asend"):
        sender.send(message())
    with pytest.raises(WrongThread, match="await aclose"):
        sender.close()
    await sender.aclose()


@pytest.mark.parametrize("given", ["tea", message(delay=3.0)])
async def test_only_a_message_that_is_due_is_sent(given: Any) -> None:
    with pytest.raises(MessageRefused):
        await KombuTransport("amqp://127.0.0.1:1", "orders").asend(given)


@pytest.mark.parametrize("url", ["amqp://me:secret@127.0.0.1:1", "redis://me:secret@127.0.0.1:1"])
async def test_a_broker_that_is_not_there_is_unreachable(url: str) -> None:
    sender = KombuTransport(url, "orders", timeout=0.5)
    for _ in range(2):
        with pytest.raises(Unreachable, match="the broker cannot be reached") as raised:
            await sender.asend(message())
        assert "secret" not in str(raised.value)
    await sender.aclose()


@pytest.mark.parametrize("scheme", ["amqp", "redis"])
async def test_a_broker_that_hangs_up_is_tried_more_and_more_seldom(scheme: str) -> None:
    def hang_up() -> None:
        with suppress(OSError):
            while True:
                listener.accept()[0].close()
                calls.append(time.monotonic())

    calls: list[float] = []
    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=hang_up, daemon=True).start()
    transport = KombuTransport(f"{scheme}://127.0.0.1:{listener.getsockname()[1]}", "orders", timeout=0.5)
    with pytest.raises(Unreachable):
        await transport.open(lambda: None)
    with pytest.raises(Unreachable):
        await transport.take(1)
    await anyio.sleep(1.5)
    await transport.aclose()
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    assert 4 <= len(calls) <= 20
    assert calls[-1] - calls[0] > 0.5


async def test_a_queue_that_is_not_declared_has_to_be_there(rabbitmq: AtRabbitMQ) -> None:
    transport = KombuTransport(rabbitmq.url, rabbitmq.queue, declare=False)
    with pytest.raises(Unreachable, match="NotFound"):
        await transport.open(lambda: None)
    await rabbitmq.send(message("tea"))
    with anyio.fail_after(5):
        while True:
            try:
                (taken,) = await taken_from(transport, 1)
                break
            except Unreachable:
                await anyio.sleep(0.01)
    assert taken.payload == "tea"
    await transport.settle([Settled(taken, Result.DONE)])
    await transport.aclose()


async def test_two_receivers_share_a_queue(
    place: AtBroker, handled: Handled, supervisor: TaskSupervisor, told: Told
) -> None:
    by: list[set[str]] = [set(), set()]

    async def first(delivery: Delivery) -> None:
        by[0].add(str(delivery.id))
        await anyio.sleep(0.002)

    async def second(delivery: Delivery) -> None:
        by[1].add(str(delivery.id))
        await anyio.sleep(0.002)

    one, other = (
        Receiver(KombuTransport(place.url, place.queue, prefetch=1), handler, concurrency=1, supervisor=supervisor)
        for handler in (first, second)
    )
    async with running(one), running(other):
        for number in range(30):
            await place.send(message(number))
        await auntil(lambda: len(by[0]) + len(by[1]) == 30)
    assert by[0]
    assert by[1]
    assert not by[0] & by[1]


async def test_what_a_killed_receiver_had_taken_from_redis_comes_again(
    at_redis: AtRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "RESTORE", 0.05)
    place = at_redis
    keys = {f"unacked{each}_key": f"{place.queue}-unacked{each}" for each in ("", "_index", "_mutex")}
    options = {"visibility_timeout": 0.2, "unacked_mutex_expire": 1, **keys}
    killed, another = (KombuTransport(place.url, place.queue, transport_options=options) for _ in range(2))
    await place.send(message("tea"))
    await killed.open(lambda: None)
    await taken_from(killed, 1)
    await another.open(lambda: None)
    (again,) = await taken_from(another, 1)
    assert again.payload == "tea"
    await another.settle([Settled(again, Result.DONE)])
    killed._consumer._taken.clear()  # as if it had been killed
    for each in (killed, another):
        await each.aclose()


# -- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"url": 7}, "url: expected one that begins with amqp://.*, found int"),
        ({"url": "localhost"}, "url: expected one that begins with .*, found str"),
        ({"url": "http://me:secret@here"}, r"url: .*, found http://\.\.\.$"),
        ({"queue": ""}, "queue: expected a name of at most 200 .*, found ''"),
        ({"queue": None}, "queue: expected a name"),
        ({"queue": "amq.mine"}, "queue: expected a name"),
        ({"queue": "or ders"}, "queue: expected a name"),
        ({"dead_letters": 7}, "dead_letters: expected a name"),
        ({"dead_letters": "orders"}, "dead_letters: what is given up would come again from 'orders'"),
        ({"prefetch": 0}, "prefetch: expected a whole number from 1 to 65535, found 0"),
        ({"prefetch": True}, "prefetch: expected"),
        ({"prefetch": 1.5}, "prefetch: expected"),
        ({"timeout": 0}, "timeout: expected seconds above 0, found 0"),
        ({"timeout": "5"}, "timeout: expected seconds as a number"),
        ({"declare": "no"}, "declare: expected True or False, found 'no'"),
        ({"arguments": ["x"]}, "arguments: expected a mapping"),
        ({"arguments": {"x-max-length": 1}, "declare": False}, "arguments: a queue that is not declared has none"),
        ({"transport_options": 3}, "transport_options: expected a mapping"),
    ],
)
def test_an_option_that_cannot_be_is_refused(options: dict[str, Any], found: str) -> None:
    given: dict[str, Any] = {"url": "amqp://", "queue": "orders", **options}
    with pytest.raises(ConfigurationError, match=found) as raised:
        KombuTransport(**given)
    assert "secret" not in str(raised.value)


def test_redis_needs_its_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kombu, "find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match="pip install redis"):
        KombuTransport("redis://", "orders")
