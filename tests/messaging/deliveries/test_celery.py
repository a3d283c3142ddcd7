import json
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from celery.exceptions import CDeprecationWarning
from celery.signals import before_task_publish
from kombu import Connection
from kombu.transport.virtual import Transport
from redis import Redis
from sqlalchemy import create_engine, func, select
from sqlalchemy.orm import Session

from postresponse.exceptions import ConfigurationError, MessageRefused, MessagingError, UnknownVersion, Unreachable
from postresponse.messaging import Delivery, Message, Outbox, Relay
from postresponse.messaging.deliveries import celery as module
from postresponse.messaging.deliveries.celery import CeleryDestination
from postresponse.messaging.deliveries.destination import Destination
from postresponse.work import TaskSupervisor
from tests.messaging.deliveries.conftest import Away, Rabbit, delivery
from tests.services import rabbitmq, redis
from tests.work.waiting import until

pytestmark = pytest.mark.anyio
needs_rabbitmq = pytest.mark.service("rabbitmq")
needs_redis = pytest.mark.service("redis")
ROOT = Path(__file__).parents[3]


def application(broker: str, queue: str, **settings: Any) -> Celery:
    """An application whose tasks go to *queue*."""
    app = Celery("shop", broker=broker, set_as_current=False)
    app.conf.update(task_default_queue=queue, **settings)
    return app


class Pile:
    """A list of Redis's that Celery uses as a queue."""

    def __init__(self, queue: str) -> None:
        self.queue = queue

    def all(self) -> list[Any]:
        """Take what is in it."""
        with Connection(redis.url()) as connection:
            queue = connection.SimpleQueue(self.queue)
            found: list[Any] = []
            while True:
                try:
                    message = queue.get(block=False)
                except queue.Empty:
                    queue.clear()
                    return found
                message.ack()
                found.append(message)


@pytest.fixture
def pile() -> Iterator[Pile]:
    made = Pile(f"postresponse-test-{os.urandom(8).hex()}")
    yield made
    with Redis.from_url(redis.url()) as client:
        client.delete(*client.keys(f"*{made.queue}*"), made.queue)


@needs_rabbitmq
async def test_a_message_arrives_as_a_task_with_its_id_its_name_and_its_headers(rabbit: Rabbit) -> None:
    destination = CeleryDestination(application(rabbitmq.url(), rabbit.queue))
    sent = [
        delivery("shop.note", {"order": 5}, tenant="t1"),
        delivery("shop.note", ["a", {"b": None}]),
        delivery("shop.note", None),
        delivery("shop.note", "ä"),
    ]
    assert isinstance(destination, Destination)
    assert await destination.send(sent) == [None] * 4
    expected: list[tuple[list[Any], dict[str, Any]]] = [
        ([], {"order": 5}),
        (["a", {"b": None}], {}),
        ([], {}),
        (["ä"], {}),
    ]
    for message, (args, kwargs) in zip(sent, expected, strict=True):
        got = rabbit.get()
        headers = got.properties["application_headers"]
        assert (headers["id"], headers["task"]) == (str(message.id), "shop.note")
        assert headers.get("tenant") == message.headers.get("tenant")
        assert got.properties["content_type"] == "application/json"
        assert got.properties["delivery_mode"] == 2
        assert json.loads(got.body)[:2] == [args, kwargs]
    await destination.aclose()


@contextmanager
def worker(broker: str, queue: str, file: Path) -> Iterator[None]:
    """A real worker, in a process of its own."""
    program = [sys.executable, "-m", "celery", "-A", "tests.messaging.deliveries.celery_app", "worker"]
    environment = {**os.environ, "SHOP_BROKER": broker, "SHOP_QUEUE": queue, "SHOP_FILE": str(file)}
    options = ["-P", "solo", "-l", "warning", "--without-gossip", "--without-mingle", "--without-heartbeat"]
    process = subprocess.Popen([*program, *options], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.kill()  # a warm shutdown takes ten seconds once a task has run
        process.wait(20)


@pytest.mark.parametrize(
    "kind", [pytest.param("rabbitmq", marks=needs_rabbitmq), pytest.param("redis", marks=needs_redis)]
)
async def test_a_real_worker_runs_the_task(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    if kind == "rabbitmq":
        broker, queue = rabbitmq.url(), request.getfixturevalue("rabbit").queue
    else:
        broker, queue = redis.url(), request.getfixturevalue("pile").queue
    file = tmp_path / "notes"
    destination = CeleryDestination(application(broker, queue))
    sent = delivery("shop.note", {"order": 5}, tenant="t1")
    assert await destination.send([sent]) == [None]
    with worker(broker, queue, file):
        until(lambda: file.exists() and file.read_text().endswith("\n"))
    id, args, kwargs, headers = json.loads(file.read_text())
    assert (id, args, kwargs) == (str(sent.id), [], {"order": 5})
    assert headers["tenant"] == "t1"
    await destination.aclose()


@needs_redis
async def test_redis_takes_tasks_too(pile: Pile) -> None:
    destination = CeleryDestination(application(redis.url(), pile.queue))
    sent = [delivery("shop.note", {"order": number}, tenant="t1") for number in range(3)]
    assert await destination.send(sent) == [None] * 3
    got = pile.all()
    assert [message.headers["id"] for message in got] == [str(message.id) for message in sent]
    assert [message.headers["tenant"] for message in got] == ["t1"] * 3
    await destination.aclose()


async def test_arguments_are_shown_to_monitors_as_far_as_celery_shows_them() -> None:
    app = application("memory://", f"postresponse-test-{os.urandom(8).hex()}")
    destination = CeleryDestination(app)
    assert await destination.send([delivery("shop.note", {"a": "x" * 5000}), delivery("shop.note", [1])]) == [None] * 2
    with app.connection_for_read() as connection:
        queue = connection.SimpleQueue(app.conf.task_default_queue)
        long, short = (queue.get(block=False).headers for _ in range(2))
    assert long["kwargsrepr"] == "{'a': '" + "x" * (1024 - 7 - 3) + "..."
    assert (short["argsrepr"], short["kwargsrepr"]) == ("[1]", "{}")
    await destination.aclose()


@needs_rabbitmq
async def test_the_routes_of_the_application_and_the_options_of_a_task_are_kept(rabbit: Rabbit) -> None:
    app = application(rabbitmq.url(), rabbit.queue, task_routes={"shop.routed": {"queue": f"{rabbit.queue}.other"}})

    @app.task(  # type: ignore[untyped-decorator]
        name="shop.slow", shared=False, queue=f"{rabbit.queue}.other", time_limit=7, expires=60
    )
    def slow() -> None: ...

    with warnings.catch_warnings():  # of an attribute for the queue, in later versions
        warnings.simplefilter("ignore", CDeprecationWarning)
        app.finalize()
    destination = CeleryDestination(app)
    sent = [delivery("shop.routed"), delivery("shop.slow"), delivery("shop.note")]
    assert await destination.send(sent) == [None] * 3
    assert rabbit.get().properties["correlation_id"] == str(sent[2].id)
    assert rabbit.get(".other").properties["correlation_id"] == str(sent[0].id)
    got = rabbit.get(".other").properties
    assert got["correlation_id"] == str(sent[1].id)
    assert got["application_headers"]["timelimit"] == [7, None]
    assert got["application_headers"]["expires"]
    await destination.aclose()


@needs_rabbitmq
async def test_the_older_protocol_of_celery_works_too(rabbit: Rabbit) -> None:
    destination = CeleryDestination(application(rabbitmq.url(), rabbit.queue, task_protocol=1))
    sent = delivery("shop.note", {"order": 5}, tenant="t1")
    assert await destination.send([sent]) == [None]
    got = rabbit.get()
    body = json.loads(got.body)
    assert (body["id"], body["task"], body["kwargs"]) == (str(sent.id), "shop.note", {"order": 5})
    assert got.properties["application_headers"] == {"tenant": "t1"}
    await destination.aclose()


@needs_rabbitmq
async def test_events_of_tasks_that_were_sent_do_not_confuse_the_confirms(rabbit: Rabbit) -> None:
    destination = CeleryDestination(application(rabbitmq.url(), rabbit.queue, task_send_sent_event=True))
    for _ in range(2):
        assert await destination.send([delivery("shop.note") for _ in range(20)]) == [None] * 20
    assert rabbit.count() == 40
    await destination.aclose()


@needs_rabbitmq
async def test_a_task_that_no_queue_takes_fails_alone(rabbit: Rabbit) -> None:
    routes = {"shop.lost": {"exchange": "amq.direct", "routing_key": "nobody"}}
    destination = CeleryDestination(application(rabbitmq.url(), rabbit.queue, task_routes=routes))
    errors = await destination.send([delivery("shop.note"), delivery("shop.lost"), delivery("shop.note")])
    assert (errors[0], errors[2]) == (None, None)
    assert type(errors[1]) is MessagingError
    assert "no queue takes it: exchange 'amq.direct', routing key 'nobody'" in str(errors[1])
    assert rabbit.count() == 2
    await destination.aclose()


@needs_rabbitmq
async def test_a_task_that_closes_the_channel_fails_alone(rabbit: Rabbit) -> None:
    routes = {
        "shop.lost": {"exchange": "postresponse-no-such-exchange", "routing_key": "nobody"},
        "shop.forged": {"user_id": "somebody else"},
    }
    destination = CeleryDestination(application(rabbitmq.url(), rabbit.queue, task_routes=routes))
    batch = [delivery(f"shop.{name}") for name in ("note", "lost", "note", "forged", "note")]
    errors = await destination.send(batch)
    assert [errors[place] for place in (0, 2, 4)] == [None] * 3
    assert "no exchange" in str(errors[1])
    assert not isinstance(errors[1], (MessageRefused, Unreachable))
    assert isinstance(errors[3], MessageRefused)
    assert "user_id property" in str(errors[3])
    assert rabbit.count() >= 3
    assert await destination.send(batch[:1]) == [None]
    await destination.aclose()


@needs_rabbitmq
async def test_a_queue_that_is_deleted_is_declared_anew(rabbit: Rabbit) -> None:
    destination = CeleryDestination(application(rabbitmq.url(), rabbit.queue))
    assert await destination.send([delivery("shop.note")]) == [None]
    rabbit.channel.queue_delete(rabbit.queue)
    assert isinstance((await destination.send([delivery("shop.note")]))[0], MessagingError)
    assert await destination.send([delivery("shop.note")]) == [None]
    assert rabbit.count() == 1
    await destination.aclose()


@pytest.mark.parametrize(
    "kind", [pytest.param("rabbitmq", marks=needs_rabbitmq), pytest.param("redis", marks=needs_redis)]
)
async def test_what_cannot_be_a_task_is_refused_alone(kind: str, request: pytest.FixtureRequest) -> None:
    if kind == "rabbitmq":
        broker, queue = rabbitmq.url(), request.getfixturevalue("rabbit").queue
    else:
        broker, queue = redis.url(), request.getfixturevalue("pile").queue
    destination = CeleryDestination(
        application(broker, queue, task_routes={"shop.odd": {"queue": "none"}}, task_create_missing_queues=False)
    )
    late = Delivery(delivery().id, "engine", "shop.note", '{"version": 99, "payload": 1}')
    batch = [
        delivery("shop.note"),
        delivery("shop.note", id="forged"),
        late,
        delivery("shop.odd"),
        delivery("shop.note"),
    ]
    errors = await destination.send(batch)
    assert (errors[0], errors[4]) == (None, None)
    assert isinstance(errors[1], MessageRefused)
    assert "Celery has a meaning of its own for id" in str(errors[1])
    assert isinstance(errors[2], UnknownVersion)
    assert "'none' missing from task_queues" in str(errors[3])
    await destination.aclose()


@pytest.mark.parametrize("scheme", ["amqp", "redis"])
async def test_a_broker_that_is_away_is_told_of_at_once(scheme: str, closed_port: int) -> None:
    app = application(f"{scheme}://guest:secret@127.0.0.1:{closed_port}/", "q")
    destination = CeleryDestination(app)
    begun = time.monotonic()
    errors = await destination.send([delivery("shop.note"), delivery("shop.note")])
    assert time.monotonic() - begun < 3
    assert all(isinstance(error, Unreachable) for error in errors)
    assert "secret" not in str(errors[0])
    await destination.aclose()


@pytest.mark.parametrize(
    "kind", [pytest.param("rabbitmq", marks=needs_rabbitmq), pytest.param("redis", marks=needs_redis)]
)
async def test_a_broker_that_goes_dark_is_given_up_in_time_and_used_again_when_it_is_back(
    kind: str, through: Callable[[str, int], Away], request: pytest.FixtureRequest
) -> None:
    if kind == "rabbitmq":
        away, queue = through(rabbitmq.url(), 5672), request.getfixturevalue("rabbit").queue
    else:
        away, queue = through(redis.url(), 6379), request.getfixturevalue("pile").queue
    destination = CeleryDestination(application(away.url, queue), timeout=4.0)
    assert await destination.send([delivery("shop.note")]) == [None]
    away.proxy.cut()
    assert await destination.send([delivery("shop.note")]) == [None]
    away.proxy.dark.set()
    begun = time.monotonic()
    errors = await destination.send([delivery("shop.note") for _ in range(5)])
    assert time.monotonic() - begun < 6
    assert all(isinstance(error, Unreachable) for error in errors)
    away.proxy.cut()
    away.proxy.dark.clear()
    assert await destination.send([delivery("shop.note")]) == [None]
    await destination.aclose()


async def test_a_batch_that_takes_too_long_is_given_up() -> None:
    def slow(**told: Any) -> None:
        time.sleep(0.3)

    destination = CeleryDestination(application("memory://", f"postresponse-test-{os.urandom(8).hex()}"), timeout=1.0)
    before_task_publish.connect(slow, sender="shop.slow")
    try:
        errors = await destination.send([delivery("shop.slow") for _ in range(5)])
    finally:
        before_task_publish.disconnect(slow, sender="shop.slow")
    assert errors[0] is None
    assert isinstance(errors[-1], Unreachable)
    await destination.aclose()


@needs_redis
async def test_a_connection_that_is_lost_before_it_is_ready_is_an_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(*_: Any, **options: Any) -> None:
        raise OSError("reset")

    monkeypatch.setattr(module, "_Tasks", lost)
    destination = CeleryDestination(application(redis.url(), "q"))
    (error,) = await destination.send([delivery("shop.note")])
    assert isinstance(error, Unreachable)
    await destination.aclose()


@needs_rabbitmq
async def test_without_confirms_it_sends_only_if_it_is_told_to(rabbit: Rabbit) -> None:
    app = application(rabbitmq.url(), rabbit.queue, broker_transport_options={"confirm_publish": False})
    with pytest.raises(
        ConfigurationError, match=r"without confirms .* leave confirm_publish out, or give allow_unconfirmed"
    ):
        CeleryDestination(app)
    destination = CeleryDestination(app, allow_unconfirmed=True)
    assert await destination.send([delivery("shop.note")]) == [None]
    await destination.aclose()
    until(lambda: rabbit.count() == 1)


class Unconfirming(Transport):  # type: ignore[misc]
    """A library that speaks AMQP and knows no confirms, as librabbitmq did."""

    driver_type = "amqp"


def test_a_library_that_knows_no_confirms_is_refused() -> None:
    app = application("amqp://", "q", broker_transport=Unconfirming)
    with pytest.raises(ConfigurationError, match=r"test_celery knows none; use pyamqp:// as broker_url, or give"):
        CeleryDestination(app)
    assert CeleryDestination(app, allow_unconfirmed=True).batch == 100


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"app": "shop"}, "app: expected a Celery application, found 'shop'"),
        ({"app": application("no-such-scheme://", "q")}, "app: its broker_url is of no use: "),
        ({"app": application("memory://", "q", accept_content=["pickle"])}, "its workers take pickle; add 'json'"),
        ({"batch": 0}, "batch: expected a whole number from 1 on, found 0"),
        ({"timeout": -1}, "timeout: expected seconds above 0"),
        ({"allow_unconfirmed": 1}, "allow_unconfirmed: expected True or False, found 1"),
    ],
)
def test_an_option_is_checked_where_it_is_given(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        CeleryDestination(**{"app": application("memory://", "q"), **arguments})


@needs_rabbitmq
def test_a_relay_waits_for_a_broker_that_is_away_and_spends_no_attempt(
    rabbit: Rabbit, through: Callable[[str, int], Away], tmp_path: Path
) -> None:
    away = through(rabbitmq.url(), 5672)
    outbox = Outbox({"shop": ["shop.note"]})
    engine = create_engine(f"sqlite:///{tmp_path / 'outbox.db'}")
    with engine.begin() as connection:
        for table in outbox.tables.all:
            table.create(connection)
    supervisor = TaskSupervisor(name="relay")
    destination = CeleryDestination(application(away.url, rabbit.queue), timeout=1.0)
    relay = Relay(outbox, engine, {"shop": destination}, supervisor=supervisor, attempts=1)
    job = relay.start()
    away.proxy.dark.set()
    sent = [Message("shop", "shop.note", {"order": number}) for number in range(10)]
    waiting = outbox.tables.waiting
    with Session(engine) as session:
        for message in sent:
            outbox.enlist(message, into=session)
        session.commit()

    def outages() -> Any:
        with engine.connect() as connection:
            return connection.scalar(select(func.max(waiting.c.outages)))

    until(outages)
    rabbit.declare()
    assert rabbit.count() == 0
    away.proxy.cut()
    away.proxy.dark.clear()
    until(lambda: rabbit.count() >= 10)
    got = {rabbit.get().properties["correlation_id"] for _ in range(rabbit.count())}
    assert got == {str(message.id) for message in sent}
    relay.stop()
    job.result(10)
    with engine.connect() as connection:
        assert connection.scalar(select(func.count()).select_from(waiting)) == 0
        assert connection.scalar(select(func.count()).select_from(outbox.tables.dead)) == 0
    supervisor.close(5)
    engine.dispose()
