"""When the events of an engine are first listened to: before it is used, and before anybody counts on it."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Session, sessionmaker

from postresponse.unit_of_work import sqlalchemy_transaction
from postresponse.unit_of_work.sqlalchemy import AsyncSQLAlchemyUnitOfWork, SQLAlchemyUnitOfWork
from postresponse.unit_of_work.sqlalchemy_session import Use
from postresponse.unit_of_work.sqlalchemy_transaction import _LISTENERS


class Base(DeclarativeBase):
    pass


def is_heard(engine: Engine) -> bool:
    return all(event.contains(engine, name, listener) for name, listener in _LISTENERS.items())


def count_listening(monkeypatch: pytest.MonkeyPatch, before: Callable[[], object] = lambda: None) -> list[str]:
    """Note each listener that is added, and call *before* in front of it."""
    added: list[str] = []

    class Counting:
        @staticmethod
        def listen(engine: Engine, name: str, listener: Any) -> None:
            before()
            added.append(name)
            event.listen(engine, name, listener)

    monkeypatch.setattr(sqlalchemy_transaction, "event", Counting)
    return added


def test_an_engine_that_the_sessionmaker_tells_of_is_heard_before_its_first_session() -> None:
    engine = create_engine("sqlite://")
    SQLAlchemyUnitOfWork(sessionmaker(engine))
    assert is_heard(engine)
    other = create_engine("sqlite://")
    SQLAlchemyUnitOfWork(sessionmaker(binds={Base: other}))
    assert is_heard(other)


def test_an_async_engine_as_well() -> None:
    engine = create_async_engine("sqlite+aiosqlite://")
    AsyncSQLAlchemyUnitOfWork(async_sessionmaker(engine))
    assert is_heard(engine.sync_engine)


@pytest.mark.parametrize(
    "make",
    [sessionmaker(), sessionmaker(bind=None), Session, lambda: Session()],
    ids=["maker", "maker of none", "class", "function"],
)
def test_what_tells_of_none_is_taken(make: Any) -> None:
    assert SQLAlchemyUnitOfWork(make)


def test_it_is_listened_to_once(monkeypatch: pytest.MonkeyPatch) -> None:
    added = count_listening(monkeypatch)
    engine = create_engine("sqlite://")
    for _ in range(2):
        SQLAlchemyUnitOfWork(sessionmaker(engine))
    assert added == list(_LISTENERS)


def test_a_session_that_begins_while_another_thread_is_about_to_listen_is_not_unheard(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first of two first requests is in the middle of it when the second begins."""
    engine, uses = create_engine("sqlite://"), (Use(), Use())
    begun, go_on = threading.Event(), threading.Event()

    def pause() -> None:
        if threading.current_thread() is first:
            begun.set()
            assert go_on.wait(20)

    def fail(use: Use) -> None:
        with Session(engine) as session:
            event.listen(session, "after_begin", use.on_begin)
            with pytest.raises(DBAPIError):
                session.execute(text("SELECT broken"))
            heard.append(len(use.lost()))

    heard: list[int] = []
    added = count_listening(monkeypatch, pause)
    first, second = (threading.Thread(target=fail, args=(use,)) for use in uses)
    first.start()
    assert begun.wait(20)
    second.start()
    second.join(0.3)  # one that does not wait has failed by now
    go_on.set()
    for thread in (first, second):
        thread.join(20)
    assert heard == [1, 1]
    assert added == list(_LISTENERS)
