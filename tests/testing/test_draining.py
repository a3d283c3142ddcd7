"""What an outbox holds is sent in a test, once, where the test says."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine
from sqlalchemy.orm import Session

from postresponse.exceptions import ConfigurationError
from postresponse.messaging import Delivery, Message, Outbox, Receiver, Relay
from postresponse.messaging.transports.memory import MemoryTransport
from postresponse.testing import Captured, captured
from postresponse.testing.contracts.receiving import Handled, auntil, message, running
from postresponse.work import TaskSupervisor

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def work() -> Iterator[Captured]:
    with captured() as made:
        yield made


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    made = create_engine(f"sqlite:///{tmp_path}/outbox.db")
    yield made
    made.dispose()


@pytest.fixture
def outbox(engine: Engine) -> Outbox:
    made = Outbox({"mail": ["send", "copy"], "events": ["placed"]})
    made.tables.waiting.metadata.create_all(engine)
    return made


def enlist(engine: Engine, outbox: Outbox, *messages: Message) -> None:
    with Session(engine) as session:
        for message in messages:
            outbox.enlist(message, into=session)
        session.commit()


def test_a_relay_that_was_started_is_drained_with_what_comes_of_it(
    work: Captured, engine: Engine, outbox: Outbox
) -> None:
    sent: list[Any] = []

    def send(delivery: Delivery) -> None:
        sent.append((delivery.name, delivery.payload))
        if delivery.name == "send":
            enlist(engine, outbox, Message("mail", "copy", delivery.payload))

    supervisor = TaskSupervisor(name="test")
    Relay(outbox, engine, {"mail": send}, autostart=True, supervisor=supervisor)
    relay = Relay(outbox, engine, {"mail": send}, autostart=True, supervisor=supervisor)
    enlist(engine, outbox, Message("mail", "send", "tea"), Message("events", "placed", "tea"))
    assert (sent, work.pending) == ([], ())
    assert relay.is_running
    assert [each.name for each in work.outbox.drain(relay)] == ["send", "copy"]
    assert sent == [("send", "tea"), ("copy", "tea")]
    assert work.outbox.drain(relay) == ()
    supervisor.close()


def test_what_a_destination_raises_comes_as_one_group(
    work: Captured, engine: Engine, outbox: Outbox, quiet: None
) -> None:
    def refuse(delivery: Delivery) -> None:
        raise ConnectionError(f"no {delivery.payload}")

    relay = Relay(outbox, engine, {"mail": refuse})
    relay.start()
    enlist(engine, outbox, Message("mail", "send", 1), Message("mail", "send", 2))
    with pytest.raises(ExceptionGroup, match="could not be delivered") as raised:
        work.outbox.drain()
    assert sorted(map(str, raised.value.exceptions)) == ["no 1", "no 2"]
    assert len(work.outbox.drain(outbox, engine)) == 0  # they wait for their next attempt


async def test_messages_may_go_to_nobody(work: Captured, engine: Engine, outbox: Outbox) -> None:
    def send(delivery: Delivery) -> None:
        raise AssertionError("it is only recorded")

    messages = Message("mail", "send", "tea"), Message("events", "placed", "tea")
    enlist(engine, outbox, *messages)
    (mail,) = await work.outbox.adrain(Relay(outbox, engine, {"mail": send}), record=True)
    (event,) = await work.outbox.adrain(outbox, engine)
    assert [(each.id, each.payload) for each in (mail, event)] == [(each.id, "tea") for each in messages]


def test_what_is_to_be_drained_has_to_be_said(work: Captured, engine: Engine, outbox: Outbox) -> None:
    with pytest.raises(ConfigurationError, match="has no relays that were started here: give it the Relay, or"):
        work.outbox.drain()
    with pytest.raises(ConfigurationError, match="an Outbox does not know its database"):
        work.outbox.drain(outbox)
    with pytest.raises(ConfigurationError, match="takes a Relay or an Outbox, found 'mail'"):
        work.outbox.drain("mail")  # type: ignore[arg-type]


async def test_a_receiver_is_no_work_of_the_application_and_runs(work: Captured) -> None:
    handled, queue = Handled(), MemoryTransport()
    supervisor = TaskSupervisor(name="test")
    async with running(Receiver(queue, handled, supervisor=supervisor)):
        queue.send(message("tea"))
        await auntil(lambda: handled.payloads == ["tea"])
    assert work.pending == ()
    await supervisor.aclose()
