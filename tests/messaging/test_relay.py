import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from sqlalchemy import Engine, create_engine, select, text, update
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import Session

from postresponse.exceptions import (
    AlreadyRunning,
    ConfigurationError,
    MessageRefused,
    NotAFunction,
    Unreachable,
)
from postresponse.messaging import Backoff, Delivery, Function, Message, Outbox, Relay
from postresponse.messaging.store import Stats, Store
from postresponse.messaging.transports.table import TableTransport
from postresponse.work import TaskSupervisor
from tests.messaging.conftest import waiting
from tests.services import postgres
from tests.services.blackhole import Blackhole

SOON = Backoff(0.02, 0.1)


class Ledger:
    """What was delivered, and how it fails."""

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.ids: list[Any] = []
        self.error: BaseException | None = None
        self.entered = threading.Event()
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, delivery: Delivery) -> None:
        self.entered.set()
        self.gate.wait(10)
        if self.error is not None:
            raise self.error
        self.seen.append(delivery.payload)
        self.ids.append(delivery.id)


@pytest.fixture
def supervisor() -> Iterator[TaskSupervisor]:
    made = TaskSupervisor(name="relay", grace=5)
    yield made
    assert not made.close(5)


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


@pytest.fixture(autouse=True)
def all_is_said(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is said once in a process is said once in each test."""
    caplog.set_level(logging.INFO, "postresponse")
    monkeypatch.setattr("postresponse.core.log._told", set())


def until(holds: Callable[[], Any], timeout: float = 10.0) -> Any:
    deadline = time.monotonic() + timeout
    while not (value := holds()):
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.005)
    return value


@contextmanager
def relaying(
    outbox: Outbox, engine: Any, destinations: Any, supervisor: TaskSupervisor, **options: Any
) -> Iterator[Relay]:
    relay = Relay(
        outbox, engine, destinations, **{"backoff": SOON, "polls": (0.02, 0.1), "supervisor": supervisor, **options}
    )
    job = relay.start()
    try:
        yield relay
    finally:
        relay.stop()
        job.result(10)


def enlist(
    engine: Engine, outbox: Outbox, *payloads: Any, name: str = "send", to: str = "mail", **options: Any
) -> list[Any]:
    with Session(engine) as session:
        ids = [outbox.enlist(Message(to, name, payload, **options), into=session) for payload in payloads]
        session.commit()
    return ids


def rows(engine: Engine, table: Any) -> list[Any]:
    with engine.connect() as connection:
        return list(connection.execute(select(table).order_by(table.c.id)))


def stats(engine: Engine, outbox: Outbox) -> list[Stats]:
    with engine.connect() as connection:
        return Store(outbox.tables).stats(connection)


# -- delivering -------------------------------------------------------------------------------------------------------


def test_each_message_goes_to_its_destination_under_its_id_and_is_gone_then(
    engine: Engine, outbox: Outbox, supervisor: TaskSupervisor, ledger: Ledger
) -> None:
    events: list[Any] = []

    async def placed(delivery: Delivery) -> None:
        await anyio.lowlevel.checkpoint()
        events.append((delivery.name, delivery.payload, dict(delivery.headers)))

    with relaying(outbox, engine, {"mail": ledger, "events": placed}, supervisor, polls=(5.0, 5.0)):
        time.sleep(0.1)
        began = time.monotonic()
        ids = enlist(engine, outbox, *range(30))
        enlist(engine, outbox, "x", name="placed", to="events", headers={"tenant": "a"})
        until(lambda: len(ledger.seen) == 30 and events)
        assert time.monotonic() - began < 4  # it was woken, and did not wait for its next look
        until(lambda: stats(engine, outbox) == [])
    assert sorted(ledger.seen) == list(range(30))
    assert set(ledger.ids) == set(ids)
    assert events == [("placed", "x", {"tenant": "a"})]


def test_what_was_there_before_it_started_is_delivered(
    engine: Engine, outbox: Outbox, supervisor: TaskSupervisor, ledger: Ledger
) -> None:
    enlist(engine, outbox, 1, 2)
    with relaying(outbox, engine, {"mail": ledger}, supervisor):
        until(lambda: len(ledger.seen) == 2)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_it_runs_on_the_loop_of_an_application(
    backend: str, engine: Engine, outbox: Outbox, supervisor: TaskSupervisor, ledger: Ledger
) -> None:
    async def main() -> None:
        relay = Relay(outbox, engine, {"mail": ledger}, supervisor=supervisor, polls=(0.02, 0.1))
        job = relay.start()
        await anyio.to_thread.run_sync(lambda: enlist(engine, outbox, 1, 2, 3))
        await anyio.to_thread.run_sync(lambda: until(lambda: len(ledger.seen) == 3))
        relay.stop()
        await job

    anyio.run(main, backend=backend)
    assert waiting(outbox, engine) == []


def test_an_async_engine_will_do(engine: Engine, outbox: Outbox, supervisor: TaskSupervisor, ledger: Ledger) -> None:
    drivers = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+psycopg"}
    if engine.dialect.name not in drivers:
        pytest.skip("no async driver of MariaDB's is among the tests' own")
    options: dict[str, Any] = {}
    if engine.dialect.name == "postgresql":
        with engine.connect() as connection:
            options = {"options": f"-csearch_path={connection.scalar(text('SELECT current_schema()'))}"}

    async def main() -> None:
        made = create_async_engine(engine.url.set(drivername=drivers[engine.dialect.name]), connect_args=options)
        relay = Relay(outbox, made, {"mail": ledger}, supervisor=supervisor, polls=(0.02, 0.1))
        job = relay.start()
        await asyncio.to_thread(enlist, engine, outbox, 1, 2, 3)
        await asyncio.to_thread(until, lambda: len(ledger.seen) == 3)
        relay.stop()
        await job
        await made.dispose()

    asyncio.run(main())
    assert waiting(outbox, engine) == []


def test_a_url_gives_it_a_pool_of_its_own(outbox: Outbox, engine: Engine) -> None:
    if engine.dialect.name != "sqlite":
        pytest.skip("one database will do")
    made = Relay(outbox, str(engine.url), {"mail": print})._database.engine
    assert isinstance(made, Engine)
    assert made.pool.size() == 2  # type: ignore[attr-defined]
    made.dispose()


def test_two_relays_deliver_each_message_once(
    engine: Engine, outbox: Outbox, supervisor: TaskSupervisor, ledger: Ledger
) -> None:
    with (
        relaying(outbox, engine, {"mail": ledger}, supervisor),
        relaying(outbox, engine, {"mail": ledger}, supervisor),
    ):
        for first in range(0, 200, 20):
            enlist(engine, outbox, *range(first, first + 20))
        until(lambda: len(ledger.seen) >= 200 and stats(engine, outbox) == [])
    assert sorted(ledger.seen) == list(range(200))


def test_messages_of_one_ordering_key_are_delivered_in_order(
    engine: Engine, outbox: Outbox, supervisor: TaskSupervisor, ledger: Ledger
) -> None:
    with relaying(outbox, engine, {"mail": ledger}, supervisor), relaying(outbox, engine, {"mail": ledger}, supervisor):
        enlist(engine, outbox, *range(12), ordering_key="a")
        until(lambda: len(ledger.seen) == 12)
    assert ledger.seen == list(range(12))


# -- failing ----------------------------------------------------------------------------------------------------------


def test_a_message_that_always_fails_holds_up_nobody_and_is_dead_behind_its_last_attempt(
    engine: Engine, outbox: Outbox, supervisor: TaskSupervisor, ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    def handle(delivery: Delivery) -> None:
        if delivery.name == "poison":
            raise ValueError(f"cannot send {delivery.payload['note']} by postgres://me:secret@db/x")
        ledger(delivery)

    with relaying(outbox, engine, {"mail": handle}, supervisor, attempts=3):
        (poison,) = enlist(engine, outbox, {"note": "a private note"}, name="poison")
        enlist(engine, outbox, *range(20))
        until(lambda: len(ledger.seen) == 20)
        until(lambda: stats(engine, outbox) == [Stats("mail", dead=1)])
    (row,) = rows(engine, outbox.tables.dead)
    assert (row.message_id, row.attempts) == (poison, 3)
    assert row.last_error == "ValueError: cannot send … by postgres://***@db/x"
    assert row.first_failed_at <= row.died_at
    assert "mail: poison" in caplog.text
    assert "is dead: ValueError" in caplog.text


def test_a_message_that_fails_for_a_while_is_delivered_in_the_end(
    engine: Engine, outbox: Outbox, supervisor: TaskSupervisor, ledger: Ledger
) -> None:
    attempts: list[int] = []

    def handle(delivery: Delivery) -> None:
        attempts.append(delivery.attempts)
        if delivery.attempts < 2:
            raise ValueError
        ledger(delivery)

    with relaying(outbox, engine, {"mail": handle}, supervisor):
        enlist(engine, outbox, 1)
        until(lambda: ledger.seen == [1])
    assert attempts == [0, 1, 2]


def test_a_message_that_is_refused_is_dead_at_once(
    engine: Engine, outbox: Outbox, supervisor: TaskSupervisor, ledger: Ledger
) -> None:
    ledger.error = MessageRefused("no such account")
    with relaying(outbox, engine, {"mail": ledger}, supervisor):
        enlist(engine, outbox, 1)
        until(lambda: stats(engine, outbox) == [Stats("mail", dead=1)])
    assert rows(engine, outbox.tables.dead)[0].attempts == 1


def test_an_engine_that_is_away_costs_no_attempt_and_holds_up_no_other(
    engine: Engine,
    outbox: Outbox,
    supervisor: TaskSupervisor,
    ledger: Ledger,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("postresponse.messaging.relay.AWAY", Backoff(0.1, 0.3))
    other = Ledger()
    ledger.error = Unreachable("connection refused")
    tried: list[Any] = []

    def handle(delivery: Delivery) -> None:
        tried.append(delivery.id)
        ledger(delivery)

    with relaying(outbox, engine, {"mail": handle, "events": other}, supervisor, attempts=1):
        enlist(engine, outbox, *range(50))
        until(lambda: len(tried) >= 11)  # as many as there are at once, and then one at a time
        enlist(engine, outbox, *range(20), name="placed", to="events")
        until(lambda: len(other.seen) == 20)
        time.sleep(0.5)
        assert len(tried) < 20
        assert {row.attempts for row in rows(engine, outbox.tables.waiting)} == {0}
        ledger.error = None
        until(lambda: len(ledger.seen) == 50)
        until(lambda: stats(engine, outbox) == [])
    assert rows(engine, outbox.tables.dead) == []
    said = [record.getMessage() for record in caplog.records if "reached" in record.getMessage()]
    assert said == [
        "the outbox for mail cannot be reached, and its messages wait: Unreachable: connection refused",
        "the outbox for mail is reached again",
    ]


@pytest.mark.parametrize("concurrency", [1, 4])
def test_one_message_that_always_looks_like_an_outage_does_not_hold_up_the_others_for_ever(
    engine: Engine,
    outbox: Outbox,
    supervisor: TaskSupervisor,
    ledger: Ledger,
    monkeypatch: pytest.MonkeyPatch,
    concurrency: int,
) -> None:
    monkeypatch.setattr("postresponse.messaging.relay.AWAY", Backoff(0.05, 0.1))

    def handle(delivery: Delivery) -> None:
        if delivery.payload == "nobody listens there":
            raise ConnectionRefusedError
        time.sleep(0.02)  # longer than it takes to be refused
        ledger(delivery)

    enlist(engine, outbox, "nobody listens there", *range(10))
    with relaying(outbox, engine, {"mail": Function(handle, concurrency=concurrency)}, supervisor):
        until(lambda: len(ledger.seen) == 10)
        enlist(engine, outbox, 10)
        until(lambda: len(ledger.seen) == 11)
    (row,) = rows(engine, outbox.tables.waiting)
    assert (row.attempts, row.outages > 0) == (0, True)


def test_a_call_that_takes_too_long_costs_an_attempt(
    engine: Engine, outbox: Outbox, supervisor: TaskSupervisor, ledger: Ledger
) -> None:
    ledger.gate.clear()
    try:
        with relaying(outbox, engine, {"mail": Function(ledger, timeout=0.1)}, supervisor, attempts=1):
            enlist(engine, outbox, 1)
            until(lambda: stats(engine, outbox) == [Stats("mail", dead=1)])
    finally:
        ledger.gate.set()
    assert rows(engine, outbox.tables.dead)[0].last_error.startswith("TimeoutError")


def test_what_a_later_release_wrote_and_what_is_not_allowed_here_is_left_alone(
    engine: Engine, outbox: Outbox, supervisor: TaskSupervisor, ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    later = Outbox({"mail": ["send", "brand_new"], "pigeons": ["fly"]})
    enlist(engine, later, 1, name="brand_new")
    enlist(engine, later, 2, name="fly", to="pigeons")
    enlist(engine, later, 3)
    table = outbox.tables.waiting
    with engine.begin() as connection:
        connection.execute(update(table).where(table.c.name == "send").values(payload='{"version":2,"payload":3}'))
    with relaying(outbox, engine, {"mail": ledger}, supervisor):
        enlist(engine, outbox, 4)
        until(lambda: ledger.seen == [4])
        until(lambda: [each.delayed for each in stats(engine, outbox)] == [2, 0])
    left = [(row.name, row.attempts, row.outages, row.token) for row in rows(engine, table)]
    assert left == [("brand_new", 0, 0, None), ("fly", 0, 0, None), ("send", 0, 0, None)]
    assert "mail takes no brand_new: left to a relay whose outbox allows it" in caplog.text
    assert "is left alone: UnknownVersion: a message of version 2, and this release knows 1" in caplog.text


def test_a_row_that_nobody_can_read_is_dead_and_harms_no_other(
    engine: Engine, outbox: Outbox, supervisor: TaskSupervisor, ledger: Ledger
) -> None:
    enlist(engine, outbox, 1)
    with engine.begin() as connection:
        connection.execute(update(outbox.tables.waiting).values(payload="{", headers="["))
    enlist(engine, outbox, 2)
    with relaying(outbox, engine, {"mail": ledger}, supervisor):
        until(lambda: stats(engine, outbox) == [Stats("mail", dead=1)])
    assert ledger.seen == [2]


# -- leases -----------------------------------------------------------------------------------------------------------


def test_a_relay_that_wakes_up_behind_its_lease_changes_nothing(
    engine: Engine, outbox: Outbox, supervisor: TaskSupervisor, ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    """One that was stopped for a while: its message was delivered by another, which failed with it meanwhile."""
    enlist(engine, outbox, 1)
    ledger.gate.clear()
    with relaying(outbox, engine, {"mail": ledger}, supervisor):
        assert ledger.entered.wait(10)
        with engine.begin() as connection:  # its lease is over, and another relay has it
            connection.execute(update(outbox.tables.waiting).values(leased_until=None, token=None))
            (taken,) = Store(outbox.tables).claim(connection, "mail", 1, 60)
        ledger.gate.set()
        until(lambda: "1 of 1 came back after their lease had expired, and somebody else has them" in caplog.text)
    (row,) = rows(engine, outbox.tables.waiting)
    assert row.token == taken.handle.token


def test_a_relay_that_was_paused_before_it_sent_sends_nothing_that_may_be_anothers(
    engine: Engine, outbox: Outbox, supervisor: TaskSupervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    paused: list[Delivery] = []
    sent: list[Delivery] = []

    def claim(self: Store, *args: Any) -> list[Delivery]:
        taken = claims(self, *args)
        if not paused:
            for each in taken:
                each.handle = each.handle._replace(until=time.monotonic())
            paused.extend(taken)
        return taken

    claims = Store.claim
    monkeypatch.setattr(Store, "claim", claim)
    enlist(engine, outbox, 1)
    with relaying(outbox, engine, {"mail": sent.append}, supervisor):
        until(lambda: sent and not rows(engine, outbox.tables.waiting))
    assert [each.payload for each in (*paused, *sent)] == [1, 1]
    assert sent[0] is not paused[0]


def test_what_a_dead_relay_had_claimed_is_delivered_when_its_lease_is_over(
    engine: Engine, outbox: Outbox, supervisor: TaskSupervisor, ledger: Ledger
) -> None:
    enlist(engine, outbox, 1)
    with engine.begin() as connection:
        assert Store(outbox.tables).claim(connection, "mail", 1, 0.3)
    with relaying(outbox, engine, {"mail": Function(ledger, timeout=0.5)}, supervisor, lease=5.6):
        until(lambda: ledger.seen == [1])


# -- ending -----------------------------------------------------------------------------------------------------------


def test_when_told_to_stop_it_finishes_what_is_under_way_and_takes_nothing_more(
    engine: Engine, outbox: Outbox, supervisor: TaskSupervisor, ledger: Ledger
) -> None:
    ledger.gate.clear()
    relay = Relay(outbox, engine, {"mail": Function(ledger, concurrency=1)}, supervisor=supervisor)
    job = relay.start()
    enlist(engine, outbox, 1)
    assert ledger.entered.wait(10)
    relay.stop()
    enlist(engine, outbox, 2)
    ledger.gate.set()
    job.result(10)
    assert ledger.seen == [1]
    assert waiting(outbox, engine) == [2]
    assert not relay.is_running


def test_what_does_not_end_in_time_is_handed_back_and_due_at_once(
    engine: Engine, outbox: Outbox, supervisor: TaskSupervisor, ledger: Ledger
) -> None:
    async def hang(delivery: Delivery) -> None:
        ledger.entered.set()
        await anyio.sleep_forever()

    relay = Relay(outbox, engine, {"mail": hang}, supervisor=supervisor, drain=30)
    job = relay.start()
    enlist(engine, outbox, 1, 2)
    assert ledger.entered.wait(10)
    relay.stop()
    time.sleep(0.1)
    relay.stop(0.1)  # said again, it cuts that short
    job.result(5)
    (first, second) = rows(engine, outbox.tables.waiting)
    for row in (first, second):
        assert (row.token, row.attempts, row.outages) == (None, 0, 0)
    assert stats(engine, outbox)[0].due == 2


def test_its_supervisor_ends_it_before_it_waits_for_what_runs(engine: Engine, outbox: Outbox, ledger: Ledger) -> None:
    supervisor = TaskSupervisor(grace=10)
    relay = Relay(outbox, engine, {"mail": ledger}, supervisor=supervisor, autostart=True)
    supervisor.open()
    assert relay.is_running
    enlist(engine, outbox, 1)
    until(lambda: ledger.seen == [1])
    began = time.monotonic()
    assert not supervisor.close()
    assert time.monotonic() - began < 5
    assert not relay.is_running
    supervisor.open()
    assert relay.is_running
    supervisor.close()


def test_with_autostart_the_first_message_starts_it(
    engine: Engine, outbox: Outbox, supervisor: TaskSupervisor, ledger: Ledger
) -> None:
    relay = Relay(outbox, engine, {"mail": ledger}, supervisor=supervisor, autostart=True)
    assert not relay.is_running
    enlist(engine, outbox, 1)
    until(lambda: ledger.seen == [1])
    assert relay.is_running


def test_behind_a_close_it_does_not_start_and_says_so(
    engine: Engine, outbox: Outbox, ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    supervisor = TaskSupervisor()
    relay = Relay(outbox, engine, {"mail": ledger}, supervisor=supervisor, autostart=True)
    supervisor.close()
    enlist(engine, outbox, 1)
    assert "the relay does not start: " in caplog.text
    assert not relay.is_running
    assert waiting(outbox, engine) == [1]


def test_a_relay_runs_once_in_a_process(
    engine: Engine, outbox: Outbox, supervisor: TaskSupervisor, ledger: Ledger
) -> None:
    with (
        relaying(outbox, engine, {"mail": ledger}, supervisor) as relay,
        pytest.raises(AlreadyRunning, match="runs in this process already"),
    ):
        relay.start()
    relay.start()
    relay.stop()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_child_has_a_relay_that_is_to_be_started(
    engine: Engine, outbox: Outbox, supervisor: TaskSupervisor, ledger: Ledger
) -> None:
    with relaying(outbox, engine, {"mail": ledger}, supervisor) as relay:
        child = os.fork()
        if not child:
            os._exit(1 if relay.is_running else 0)
        assert os.waitpid(child, 0)[1] == 0
        assert relay.is_running


# -- its database -----------------------------------------------------------------------------------------------------


@pytest.mark.service("postgresql")
def test_a_database_that_goes_away_ends_nothing_and_is_told_of_twice(
    outbox_behind_a_proxy: tuple[Outbox, Engine, Engine, Blackhole],
    supervisor: TaskSupervisor,
    ledger: Ledger,
    caplog: pytest.LogCaptureFixture,
) -> None:
    outbox, engine, proxied, proxy = outbox_behind_a_proxy
    with relaying(outbox, proxied, {"mail": ledger}, supervisor) as relay:
        enlist(engine, outbox, 1)
        until(lambda: ledger.seen == [1])
        proxy.refuses = True
        proxy.cut()
        until(lambda: "is lost, and is tried until it is back" in caplog.text)
        enlist(engine, outbox, 2)
        spent = time.process_time()
        time.sleep(1.0)
        assert time.process_time() - spent < 0.5  # it does not spin
        assert relay.is_running
        proxy.refuses = False
        until(lambda: ledger.seen == [1, 2])
        until(lambda: waiting(outbox, engine) == [])
    told = [record.getMessage() for record in caplog.records if record.levelname in ("ERROR", "INFO")]
    assert [line for line in told if "the outbox for mail" in line] == [
        "the outbox for mail is lost, and is tried until it is back",
        "the outbox for mail is back",
    ]


@pytest.fixture
def outbox_behind_a_proxy() -> Iterator[tuple[Outbox, Engine, Engine, Blackhole]]:
    from sqlalchemy import make_url

    url = make_url(postgres.url()).set(drivername="postgresql+psycopg")
    proxy = Blackhole(url.host or "127.0.0.1", url.port or 5432)
    with postgres.schema() as schema:
        options = {"options": f"-csearch_path={schema}"}
        engine = create_engine(url, connect_args=options)
        proxied = create_engine(url.set(host="127.0.0.1", port=proxy.port), connect_args=options)
        outbox = Outbox({"mail": ["send"]})
        outbox.tables.waiting.metadata.create_all(engine)
        yield outbox, engine, proxied, proxy
        for each in (engine, proxied):
            each.dispose()
    proxy.close()


def test_a_table_that_is_not_there_is_waited_for(
    engine: Engine, supervisor: TaskSupervisor, ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    outbox = Outbox({"mail": ["send"]})
    with relaying(outbox, engine, {"mail": ledger}, supervisor):
        until(lambda: "postresponse outbox sql" in caplog.text)
        outbox.tables.waiting.metadata.create_all(engine)
        enlist(engine, outbox, 1)
        until(lambda: ledger.seen == [1])


# -- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"outbox": "mail"}, ConfigurationError, "outbox: expected an Outbox, found 'mail'"),
        ({"engine": 5}, ConfigurationError, "engine: expected an Engine, an AsyncEngine or a URL, found 5"),
        ({"destinations": {}}, ConfigurationError, "destinations: expected where messages go, by name"),
        ({"destinations": [print]}, ConfigurationError, "destinations: expected"),
        ({"destinations": {"mial": print}}, ConfigurationError, "the outbox has no 'mial'.*did you mean 'mail'"),
        ({"destinations": {"mail": 5}}, NotAFunction, "expected a function, found 5"),
        ({"attempts": 0}, ConfigurationError, "attempts: expected a whole number from 1 on, found 0"),
        ({"attempts": True}, ConfigurationError, "attempts: "),
        ({"backoff": 1.0}, ConfigurationError, "backoff: expected a Backoff, found 1.0"),
        ({"lease": 34.9}, ConfigurationError, "lease: 34.9 s are too short for 'mail': a batch may take 30 s"),
        ({"lease": 0}, ConfigurationError, "lease: expected seconds above 0"),
        ({"drain": -1}, ConfigurationError, "drain: expected seconds from 0"),
    ],
)
def test_every_option_is_looked_at(options: dict[str, Any], error: type[Exception], says: str) -> None:
    given = {"outbox": Outbox({"mail": ["send"]}), "engine": "sqlite://", "destinations": {"mail": print}, **options}
    with pytest.raises(error, match=says):
        Relay(**given)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"destination": "post"}, "this outbox has no 'post'"),
        ({"lease": -1.0}, "lease: "),
        ({"polls": (1.0, 0.5)}, "polls: expected the least seconds first"),
        ({"polls": (0, 0.5)}, "polls: expected seconds above 0"),
    ],
)
def test_every_option_of_the_transport_is_looked_at(options: dict[str, Any], says: str) -> None:
    given = {"destination": "mail", **options}
    with pytest.raises(ConfigurationError, match=says):
        TableTransport(Outbox({"mail": ["send"]}), create_engine("sqlite://"), given.pop("destination"), **given)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"function": "send"}, NotAFunction),
        ({"concurrency": 0}, ConfigurationError),
        ({"concurrency": 1.5}, ConfigurationError),
        ({"timeout": 0}, ConfigurationError),
    ],
)
def test_every_option_of_a_function_is_looked_at(options: dict[str, Any], error: type[Exception]) -> None:
    given = {"function": print, **options}
    with pytest.raises(error):
        Function(given.pop("function"), **given)
