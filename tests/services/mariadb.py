"""MariaDB: where it is, whether it answers, and a database of one's own in it.

`POSTRESPONSE_MARIADB_URL` says where (default: on this machine, as root without a password).
"""

import functools
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import create_engine, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import NullPool


def url() -> str:
    """The URL of the server, through PyMySQL."""
    return os.environ.get("POSTRESPONSE_MARIADB_URL", "mysql+pymysql://root@127.0.0.1:3306/")


@functools.cache
def unreachable() -> str | None:
    """Why it cannot be used, or None."""
    try:
        create_engine(url(), poolclass=NullPool, connect_args={"connect_timeout": 3}).connect().close()
    except OperationalError as error:
        return f"no MariaDB at {url()}: {error}"
    return None


@contextmanager
def database() -> Iterator[str]:
    """Create a database with a name of its own, give its URL, and drop it at the end."""
    name = f"postresponse_{secrets.token_hex(6)}"
    server = create_engine(url(), poolclass=NullPool, isolation_level="AUTOCOMMIT")
    with server.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    try:
        yield url() + name
    finally:
        with server.connect() as connection:
            connection.execute(text(f"DROP DATABASE {name}"))
