"""The migration of the Django application makes the very tables that an outbox describes, and drops them."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from django.core.management import call_command
from django.db import connections, router, transaction
from sqlalchemy import Engine, inspect

from postresponse.messaging import Message
from tests.messaging.django_places import ALIAS, OUTBOX, Place, made
from tests.unit_of_work import django_project


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The Django project of the units of work."""
    django_project.configure_once(tmp_path_factory)
    yield
    connections.close_all()


KINDS = [
    "sqlite",
    pytest.param("postgresql", marks=pytest.mark.service("postgresql")),
    pytest.param("mariadb", marks=pytest.mark.service("mariadb")),
]


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, project: None, tmp_path: Path) -> Iterator[Place]:
    """Each kind of database in turn, empty."""
    with made(request.param, tmp_path) as place:
        yield place
        place.engine.dispose()


def described(engine: Engine) -> dict[str, Any]:
    """What the database says of the outbox's tables."""
    found = inspect(engine)
    return {
        table: {
            "columns": [{**column, "type": repr(column["type"])} for column in found.get_columns(table)],
            "key": found.get_pk_constraint(table),
            "indexes": sorted(map(_index, found.get_indexes(table)), key=lambda index: str(index["name"])),
            "checks": found.get_check_constraints(table),
            "unique": found.get_unique_constraints(table),
        }
        for table in sorted(found.get_table_names())
        if table.startswith("postresponse_")
    }


def _index(index: Any) -> dict[str, Any]:
    options = {name: str(option) for name, option in index.get("dialect_options", {}).items()}  # a condition is no text
    return {**index, "dialect_options": options}


def test_it_makes_the_tables_that_the_outbox_describes(place: Place) -> None:
    OUTBOX.tables.waiting.metadata.create_all(place.engine)
    expected = described(place.engine)
    OUTBOX.tables.waiting.metadata.drop_all(place.engine)
    assert described(place.engine) == {}
    place.migrate()
    assert described(place.engine) == expected
    assert len(expected) == 3
    indexes = expected["postresponse_outbox"]["indexes"]
    assert len(indexes) == 4
    partial = [index for index in indexes if any("where" in option for option in index["dialect_options"])]
    assert len(partial) == (0 if place.kind == "mariadb" else 3)


def test_it_can_be_taken_back_and_made_again(place: Place) -> None:
    place.migrate()
    place.migrate("zero")
    assert described(place.engine) == {}
    place.migrate("0001")
    assert len(described(place.engine)) == 3


def test_its_statements_can_be_printed(place: Place) -> None:
    up, down = io.StringIO(), io.StringIO()
    call_command("sqlmigrate", "postresponse", "0001", database=ALIAS, stdout=up)
    call_command("sqlmigrate", "postresponse", "0001", database=ALIAS, backwards=True, stdout=down)
    assert described(place.engine) == {}
    assert up.getvalue().count("CREATE TABLE") == 3
    assert ";;" not in up.getvalue()
    assert down.getvalue().count("DROP TABLE") == 3
    statements = [line for line in up.getvalue().split(";\n") if "CREATE" in line]
    with connections[ALIAS].cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)
    assert len(described(place.engine)) == 3


def test_the_models_and_the_migration_do_not_drift_apart(project: None) -> None:
    call_command("makemigrations", "postresponse", check=True, dry_run=True, verbosity=0)


def test_the_models_read_what_waits(place: Place) -> None:
    from postresponse.integrations.django_outbox.models import DeadMessage, OutboxMessage, PausedDestination

    place.migrate()
    message = Message("mail", "send_receipt", {"order": 1}, headers={"tenant": "a"}, ordering_key="1")
    with transaction.atomic(ALIAS):
        OUTBOX.enlist(message, into=connections[ALIAS])
    (row,) = place.rows()
    found = OutboxMessage.objects.using(ALIAS).get(message_id=message.id)
    assert (found.id, found.message_id, found.payload, found.headers) == (row.id, message.id, row.payload, row.headers)
    assert (found.due_at, found.created_at, found.token) == (row.due_at, row.created_at, None)
    assert str(found) == f"send_receipt {message.id}"
    assert not OutboxMessage.objects.using(ALIAS).filter(message_id=uuid4()).exists()
    assert not DeadMessage.objects.using(ALIAS).exists()
    assert not PausedDestination.objects.using(ALIAS).exists()
    assert str(PausedDestination(destination="mail")) == "mail"


def test_a_router_keeps_them_out_of_a_database(project: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Elsewhere:
        def allow_migrate(self, db: str, app_label: str, **hints: Any) -> bool:
            return (db, app_label) != (ALIAS, "postresponse")

    monkeypatch.setattr(router, "routers", [Elsewhere()])
    with made("sqlite", tmp_path) as place:
        place.migrate()
        assert described(place.engine) == {}
        place.migrate("zero")
        place.engine.dispose()


def test_what_it_does_is_said_in_a_plan(project: None, tmp_path: Path) -> None:
    told = io.StringIO()
    with made("sqlite", tmp_path):
        call_command("migrate", "postresponse", plan=True, database=ALIAS, stdout=told, no_color=True)
    assert "Make the tables of the outbox" in told.getvalue()
