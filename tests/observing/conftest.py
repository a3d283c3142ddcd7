"""A shop for each test, and nothing counted before it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine, event

from postresponse.observing.late import tally

TABLES = (
    "PRAGMA foreign_keys = ON",
    "CREATE TABLE customers (id INTEGER PRIMARY KEY)",
    "CREATE TABLE orders (customer INTEGER REFERENCES customers DEFERRABLE INITIALLY DEFERRED)",
)


@pytest.fixture(autouse=True)
def _nothing_counted() -> Iterator[None]:
    tally.begin_anew()
    yield
    tally.begin_anew()


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = create_engine(f"sqlite:///{tmp_path / 'shop.sqlite3'}")
    event.listen(engine, "connect", lambda driver, record: driver.execute(TABLES[0]))
    with engine.begin() as connection:
        for table in TABLES[1:]:
            connection.exec_driver_sql(table)
    yield engine
    engine.dispose()
