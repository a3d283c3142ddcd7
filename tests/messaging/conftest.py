"""An outbox on each database; supervisors that are closed at the end, and fail the test that leaves work behind."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, select

from postresponse.messaging import Outbox
from postresponse.messaging.message import opened
from tests.messaging.databases import DATABASES, database
from tests.work.conftest import anyio_backend, supervisor, told

__all__ = ["anyio_backend", "supervisor", "told"]

ALLOW = {"mail": ["send", "poison"], "events": ["placed"]}


@pytest.fixture(params=DATABASES)
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """An engine of an empty database."""
    with database(request.param, tmp_path) as (url, connect_args):
        made = create_engine(url, connect_args=connect_args)
        yield made
        made.dispose()


@pytest.fixture
def outbox(engine: Engine) -> Outbox:
    """An outbox whose tables are there."""
    made = Outbox(ALLOW)
    made.tables.waiting.metadata.create_all(engine)
    return made


def waiting(outbox: Outbox, engine: Engine) -> list[Any]:
    """The payloads that wait, in the order of their ids."""
    table = outbox.tables.waiting
    with engine.connect() as connection:
        return [opened(each) for each in connection.scalars(select(table.c.payload).order_by(table.c.id))]
