"""What waits in an outbox is read from its database; one that is away, or does not answer, is said to be so."""

import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from sqlalchemy import Engine, MetaData, NullPool, create_engine, text
from sqlalchemy.ext.asyncio import create_async_engine

from postresponse.exceptions import ConfigurationError
from postresponse.inspector import Inspector
from postresponse.inspector.outbox import OutboxView
from postresponse.messaging import Message, Outbox, Relay
from tests.inspector.asking import PAGE, ask
from tests.services.ports import free_port


@pytest.fixture
def outbox() -> Outbox:
    return Outbox({"mail": ["receipt"], "events": ["placed"]}, MetaData())


@pytest.fixture
def engine(outbox: Outbox, tmp_path: Path) -> Iterator[Engine]:
    made = create_engine(f"sqlite:///{tmp_path / 'shop.sqlite3'}")
    outbox.tables.waiting.metadata.create_all(made)
    yield made
    made.dispose()


def enlist(outbox: Outbox, engine: Engine, *messages: Message) -> list[str]:
    with engine.begin() as connection:
        return [str(outbox.enlist(each, into=connection)) for each in messages]


def look(protocol: str, source: Any, query: str = "") -> Any:
    return ask(protocol, Inspector(outbox=source), f"{PAGE}outbox", query=query).json


@pytest.mark.parametrize("protocol", ["asyncio", "trio", "wsgi"])
def test_what_waits_is_counted_by_destination_and_messages_are_found(
    protocol: str, outbox: Outbox, engine: Engine
) -> None:
    one, _, dead = enlist(
        outbox, engine, Message("mail", "receipt"), Message("mail", "receipt", delay=60), Message("events", "placed")
    )
    with engine.begin() as connection:
        row = "message_id, destination, name, payload, created_at, due_at, attempts"
        connection.execute(
            text(
                f"INSERT INTO postresponse_outbox_dead ({row}, last_error, died_at) "
                f"SELECT {row}, 'refused', due_at FROM postresponse_outbox WHERE destination = 'events'"
            )
        )
        connection.execute(text("DELETE FROM postresponse_outbox WHERE destination = 'events'"))
    gone = "00000000-0000-4000-8000-000000000000"
    relay = Relay(outbox, engine, {"mail": print})
    seen = look(protocol, relay, f"message={one}&message={dead}&message={gone}")
    assert (seen["pending"], seen["trouble"]) == (2, None)
    found = {each["destination"]: each for each in seen["destinations"]}
    assert (found["mail"]["due"], found["mail"]["delayed"], found["events"]["dead"]) == (1, 1, 1)
    assert found["mail"]["oldest"] >= 0
    assert [(each["id"], each["last_error"]) for each in seen["dead"]] == [(dead, "refused")]
    assert seen["messages"] == {one: "waits", dead: "is dead"}
    assert look(protocol, engine, "message=nonsense")["messages"] == {}
    assert look(protocol, str(engine.url))["pending"] == 2


def test_an_async_engine_is_read_under_asgi_and_said_to_be_out_of_reach_under_wsgi(
    outbox: Outbox, engine: Engine
) -> None:
    enlist(outbox, engine, Message("mail", "receipt"))
    given = create_async_engine(f"sqlite+aiosqlite:///{engine.url.database}", poolclass=NullPool)
    view = OutboxView(given)
    assert look("asyncio", given)["pending"] == 1
    assert "its engine is async, and WSGI has no event loop" in view.look()["trouble"]
    assert "cannot be read" in look("trio", given)["trouble"]  # on which SQLAlchemy does not run


@pytest.mark.parametrize("protocol", ["asyncio", "wsgi"])
def test_a_database_that_is_away_is_said_to_be_and_what_was_seen_stays(
    protocol: str, outbox: Outbox, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("postresponse.inspector.outbox.FRESH", 0.0)
    enlist(outbox, engine, Message("mail", "receipt"))
    inspector = Inspector(outbox=engine)
    path = Path(str(engine.url.database))
    assert ask(protocol, inspector, f"{PAGE}outbox").json["pending"] == 1
    engine.dispose()
    path.rename(path.with_suffix(".away"))
    path.mkdir()
    away = ask(protocol, inspector, f"{PAGE}outbox").json
    assert away["trouble"] == "the database cannot be read: unable to open database file"
    assert (away["pending"], away["destinations"][0]["due"]) == (1, 1)
    path.rmdir()
    path.with_suffix(".away").rename(path)
    assert ask(protocol, inspector, f"{PAGE}outbox").json["trouble"] is None


def test_a_server_that_refuses_and_one_that_says_nothing_hold_up_no_viewer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("postresponse.inspector.outbox.PATIENCE", 0.2)
    refusing = OutboxView(f"postgresql+psycopg://nobody@127.0.0.1:{free_port()}/shop")
    assert "the database" in refusing.look()["trouble"]
    with socket.create_server(("127.0.0.1", 0)) as silent:
        view = OutboxView(f"postgresql+psycopg://nobody@127.0.0.1:{silent.getsockname()[1]}/shop")
        assert view.look()["trouble"] == "the database does not answer"
        begin = time.monotonic()
        for _ in range(100):  # the first has waited for it, and the others do not
            assert view.look()["trouble"] == "the database does not answer"
        assert time.monotonic() - begin < 2


def test_an_async_engine_that_does_not_answer_holds_up_nobody_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("postresponse.inspector.outbox.PATIENCE", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        view = OutboxView(f"postgresql+asyncpg://nobody@127.0.0.1:{silent.getsockname()[1]}/shop")
        assert anyio.run(view.alook)["trouble"] == "the database does not answer"


def test_a_database_without_the_table_is_said_to_have_none(tmp_path: Path) -> None:
    empty = create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'empty.sqlite3'}", poolclass=NullPool)
    for protocol, source in (("wsgi", "sqlite://"), ("asyncio", empty)):
        assert look(protocol, source)["trouble"] == "there is no table postresponse_outbox in this database"


def test_viewers_share_an_answer_for_a_moment(outbox: Outbox, engine: Engine) -> None:
    view = OutboxView(engine)
    async_view = OutboxView(create_async_engine(f"sqlite+aiosqlite:///{engine.url.database}", poolclass=NullPool))

    def pending() -> list[int]:
        return [view.look()["pending"], anyio.run(async_view.alook)["pending"]]

    assert pending() == [0, 0]
    enlist(outbox, engine, Message("mail", "receipt"))
    assert pending() == [0, 0]


def test_an_outbox_alone_does_not_know_its_database(outbox: Outbox) -> None:
    with pytest.raises(ConfigurationError, match="give its Relay"):
        OutboxView(outbox)


def test_where_no_outbox_is_given_there_is_nothing_to_see() -> None:
    assert ask("wsgi", True, f"{PAGE}outbox").json is None
    assert ask("asyncio", True, f"{PAGE}outbox").json is None
