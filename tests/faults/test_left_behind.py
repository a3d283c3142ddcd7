"""A thread that runs on after its request was cancelled, as any does that a native `Task.cancel()` leaves behind."""

import asyncio
import threading
from pathlib import Path
from typing import Any

from anyio import to_thread
from sqlalchemy import create_engine, event, text
from sqlalchemy.orm import sessionmaker

from postresponse import Outcome
from postresponse.asgi import PostResponseMiddleware
from postresponse.core.lifecycle import UnitState
from postresponse.unit_of_work.sqlalchemy import SQLAlchemyUnitOfWork
from tests.fakes import BODY, START, StrictASGIServer


def test_what_a_handler_writes_after_its_cancellation_is_committed_by_nobody(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'orders.sqlite3'}")
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE orders (item TEXT)"))
    waiting, over, ended = threading.Event(), threading.Event(), threading.Event()
    outcomes: list[Outcome] = []
    db = SQLAlchemyUnitOfWork(sessionmaker(engine))

    @event.listens_for(engine, "before_cursor_execute")
    def wait(connection: object, cursor: object, statement: str, *_: object) -> None:
        if "'late'" in statement:
            waiting.set()
            over.wait(20)

    def order(item: str) -> None:
        try:
            db.session.execute(text(f"INSERT INTO orders VALUES ('{item}')"))
        finally:
            ended.set()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await to_thread.run_sync(order, "late" if scope["method"] == "PUT" else "next")
        await send({"type": START, "status": 201, "headers": []})
        await send({"type": BODY, "body": b""})

    wrapped = PostResponseMiddleware(app, unit_of_work=db, on_finished=outcomes.append)

    async def main() -> None:
        late = asyncio.create_task(StrictASGIServer("PUT").run(wrapped))
        await asyncio.to_thread(waiting.wait, 20)
        late.cancel()
        await asyncio.wait((late,))
        over.set()
        await asyncio.to_thread(ended.wait, 20)
        await StrictASGIServer("POST").run(wrapped)

    try:
        asyncio.run(main())
        with engine.connect() as connection:
            stored = list(connection.scalars(text("SELECT item FROM orders")))
    finally:
        engine.dispose()
    assert [outcome.unit_of_work for outcome in outcomes] == [UnitState.ROLLED_BACK, UnitState.COMMITTED]
    assert stored == ["next"]
