"""A shop on an SQLite file in the working directory, whose COMMIT refuses orders of a customer who does not exist."""

from pathlib import Path
from typing import Any, Final

from sqlalchemy import Engine, create_engine, event, text

__all__ = ["ASYNC_URL", "READ", "WRITE", "customer_of", "engine"]

FILE: Final = Path.cwd() / "shop.sqlite3"
ASYNC_URL: Final = f"sqlite+aiosqlite:///{FILE}"
TABLES: Final = (
    "CREATE TABLE IF NOT EXISTS customers (id INTEGER PRIMARY KEY)",
    "CREATE TABLE IF NOT EXISTS orders (customer INTEGER REFERENCES customers DEFERRABLE INITIALLY DEFERRED)",
)
WRITE: Final = text("INSERT INTO orders VALUES (:customer)")
READ: Final = text("SELECT count(*) FROM orders")


def customer_of(refused: bool) -> dict[str, Any]:
    """The parameters of an order that COMMIT takes, or does not."""
    return {"customer": 404 if refused else None}


@event.listens_for(Engine, "connect")
def _check_customers(connection: Any, record: object) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


engine: Final = create_engine(f"sqlite:///{FILE}")
with engine.begin() as _connection:
    for _table in TABLES:
        _connection.exec_driver_sql(_table)
