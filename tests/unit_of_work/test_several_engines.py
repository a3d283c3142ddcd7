"""One session on two databases: what is told where one of them commits and the other refuses."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, event, exc, text
from sqlalchemy.orm import sessionmaker
from werkzeug.test import create_environ, run_wsgi_app

from postresponse import wsgi
from postresponse.core.lifecycle import Outcome
from postresponse.exceptions import PartialCommit
from postresponse.unit_of_work.sqlalchemy import SQLAlchemyUnitOfWork
from tests.services import postgres

pytestmark = pytest.mark.service("postgresql")

REFUSED = text("INSERT INTO item VALUES (1, 404)")
"""By its constraint, which is deferred: not before COMMIT."""


@pytest.fixture
def engines() -> Iterator[list[Engine]]:
    """Two, with a table each, and a function that writes to it."""
    with postgres.schema() as first, postgres.schema() as second:
        made = []
        for schema in (first, second):
            with postgres.connect(schema) as connection:
                connection.execute("CREATE TABLE customer (id integer PRIMARY KEY)")
                connection.execute(
                    "CREATE TABLE item (id integer, customer integer REFERENCES customer DEFERRABLE INITIALLY DEFERRED)"
                )
                connection.execute(
                    "CREATE FUNCTION put() RETURNS integer LANGUAGE sql AS 'INSERT INTO item VALUES (1) RETURNING id'"
                )
            url = postgres.url().replace("postgresql:", "postgresql+psycopg:")
            made.append(create_engine(f"{url}?options=-csearch_path%3D{schema}"))
        yield made
        for engine in made:
            engine.dispose()


def count(engine: Engine) -> int:
    with engine.connect() as connection:
        return int(connection.scalar(text("SELECT count(*) FROM item")) or 0)


def until(found: Callable[[], bool]) -> None:
    """Call *found* until it is true: SQLAlchemy commits the connections of a session in no order."""
    assert any(found() for _ in range(100)), "always in the same order"


def outcome_of(engines: list[Engine], statement: str) -> Outcome:
    """Send *statement* to the first and what is refused to the second."""
    db = SQLAlchemyUnitOfWork(sessionmaker(engines[0]))
    outcomes: list[Outcome] = []

    def app(environ: Any, start_response: Any) -> list[bytes]:
        db.session.execute(text(statement))
        db.session.execute(REFUSED, bind_arguments={"bind": engines[1]})
        start_response("201 Created", [])
        return [b"done"]

    wrapped = wsgi.PostResponseMiddleware(app, unit_of_work=db, on_finished=outcomes.append)
    _, status, _ = run_wsgi_app(wrapped, create_environ("/"), buffered=True)
    assert status.startswith("500")
    return outcomes[0]


@pytest.mark.parametrize("statement", ["INSERT INTO item VALUES (1)", "SELECT put()"])
def test_what_one_committed_is_told_where_the_other_refuses(engines: list[Engine], statement: str) -> None:
    """Also where it was written by what looks as if it only read."""

    def committed() -> bool:
        before = count(engines[0])
        told = outcome_of(engines, statement).exception
        stored = count(engines[0]) > before
        assert isinstance(told, PartialCommit if stored else exc.IntegrityError)
        return stored

    until(committed)
    assert count(engines[1]) == 0


def test_one_that_only_read_is_not_said_to_have_committed(engines: list[Engine]) -> None:
    first: list[object] = []

    def committed() -> bool:
        told = outcome_of(engines, "SELECT count(*) FROM item").exception
        assert isinstance(told, exc.IntegrityError)
        return bool(first)

    @event.listens_for(engines[0], "commit")
    def committing(connection: Any) -> None:
        first.append(connection)

    until(committed)
