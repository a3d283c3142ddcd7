"""PostgreSQL: where it is, whether it answers, and a schema of one's own in it.

`POSTRESPONSE_POSTGRES_URL` says where (default: the database ``test`` on this machine, as the current user).
"""

import functools
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg import sql

Connection = psycopg.Connection[tuple[object, ...]]


def url() -> str:
    """The URL of the database, without a driver."""
    return os.environ.get("POSTRESPONSE_POSTGRES_URL", "postgresql://127.0.0.1/test")


@functools.cache
def unreachable() -> str | None:
    """Why it cannot be used, or None."""
    try:
        psycopg.connect(url(), connect_timeout=3).close()
    except psycopg.OperationalError as error:
        return f"no PostgreSQL at {url()}: {error}"
    return None


@contextmanager
def schema() -> Iterator[str]:
    """Create a schema with a name of its own and drop it, with all that is in it, at the end."""
    name = f"postresponse_{secrets.token_hex(6)}"
    with psycopg.connect(url(), autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(name)))
    try:
        yield name
    finally:
        with psycopg.connect(url(), autocommit=True) as connection:
            connection.execute("SET lock_timeout = '5s'")
            connection.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(sql.Identifier(name)))


def connect(schema: str) -> Connection:
    """Connect, in autocommit mode, with *schema* as the search path."""
    return psycopg.connect(url(), autocommit=True, options=f"-csearch_path={schema}")
