"""Databases with an outbox for Django, each of a test's own: what Django calls it, and how others see it."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pymysql
from django.core.management import call_command
from django.db import connections
from sqlalchemy import Engine, create_engine, make_url, select

from postresponse.messaging import Outbox
from tests.services import mariadb, postgres
from tests.unit_of_work import django_project

__all__ = ["ALIAS", "OUTBOX", "Place", "made"]

ALIAS = "outbox"
OUTBOX = Outbox({"mail": ["send_receipt"]})


@dataclass
class Place:
    """One database.

    Attributes:
        kind: "sqlite", "postgresql" or "mariadb".
        url: For SQLAlchemy.
        options: What its engines are made with.
    """

    kind: str
    url: str
    options: dict[str, Any]

    def __post_init__(self) -> None:
        self.engine: Engine = self.another_engine()

    def another_engine(self) -> Engine:
        return create_engine(self.url, **self.options)

    def migrate(self, *target: str) -> None:
        call_command("migrate", "postresponse", *target, database=ALIAS, verbosity=0)

    def rows(self) -> list[Any]:
        """What waits, in order."""
        waiting = OUTBOX.tables.waiting
        with self.engine.connect() as connection:
            return list(connection.execute(select(waiting).order_by(waiting.c.id)))

    def numbers(self) -> list[int]:
        """The numbers that are the payloads of what waits."""
        return [int(row.payload.partition('"payload":')[2].rstrip("}")) for row in self.rows()]


@contextmanager
def made(kind: str, folder: Path) -> Iterator[Place]:
    """Make a database, empty, and tell Django of it as ALIAS."""
    if kind == "sqlite":
        path = folder / "outbox.sqlite3"
        with _told(django_project.sqlite(path)):
            yield Place(kind, f"sqlite:///{path}", {})
    elif kind == "postgresql":
        with postgres.schema() as name:
            path_option = f"-csearch_path={name}"
            told = django_project.postgresql()
            told["OPTIONS"] = {**told["OPTIONS"], "options": path_option, "application_name": name}
            url = make_url(postgres.url()).set(drivername="postgresql+psycopg").render_as_string(hide_password=False)
            with _told(told):
                yield Place(kind, url, {"connect_args": {"options": path_option}})
    else:
        pymysql.version_info = (2, 2, 7, "final", 0)
        sys.modules.setdefault("MySQLdb", pymysql)  # in place of mysqlclient, as its `install_as_MySQLdb` does
        with mariadb.database() as url:
            where = make_url(url)
            told = {
                "ENGINE": "django.db.backends.mysql",
                "NAME": where.database,
                "HOST": where.host or "",
                "PORT": where.port or "",
                "USER": where.username or "",
                "PASSWORD": where.password or "",
            }
            with _told(told):
                yield Place(kind, url, {})


@contextmanager
def _told(settings: dict[str, Any]) -> Iterator[None]:
    connections.settings[ALIAS] = connections.configure_settings({"default": {}, ALIAS: settings})[ALIAS]
    try:
        yield
    finally:
        connections[ALIAS].close()
        del connections[ALIAS], connections.settings[ALIAS]
