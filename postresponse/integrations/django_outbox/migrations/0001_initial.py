"""Make the tables that `Outbox` describes, by its own statements for the database at hand."""

from typing import Any, ClassVar, Final

from django.db import migrations, models, router
from django.db.migrations.operations.base import Operation
from sqlalchemy import MetaData

from postresponse.messaging.django_connection import statements_for
from postresponse.messaging.tables import Tables

__all__ = ["Migration"]

_NAME: Final = "postresponse_outbox"


class MakeTables(Operation):  # type: ignore[misc]
    """Makes the tables, and drops them again."""

    reversible = True
    reduces_to_sql = True

    def state_forwards(self, app_label: str, state: Any) -> None:
        """Nothing: the models are unmanaged, and told of by the operations beside this one."""

    def database_forwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        """Run the statements that make them, or collect them for `sqlmigrate`."""
        connection = schema_editor.connection
        if router.allow_migrate(connection.alias, app_label):
            for statement in statements_for(Tables(MetaData(), _NAME, None), connection):
                schema_editor.execute(statement, params=None)

    def database_backwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        """Drop them, with the messages that still wait."""
        if router.allow_migrate(schema_editor.connection.alias, app_label):
            for table in reversed(Tables(MetaData(), _NAME, None).all):
                schema_editor.execute(f"DROP TABLE {schema_editor.quote_name(table.name)}", params=None)

    def describe(self) -> str:
        """Say what it does, for `migrate --plan`."""
        return "Make the tables of the outbox"


def _message(*more: tuple[str, Any]) -> list[tuple[str, Any]]:
    """What a message is: in the outbox and among the dead alike."""
    return [
        ("id", models.BigAutoField(primary_key=True, serialize=False)),
        ("message_id", models.UUIDField()),
        ("destination", models.CharField(max_length=64)),
        ("name", models.CharField(max_length=200)),
        ("payload", models.TextField()),
        ("headers", models.TextField(null=True, blank=True)),
        ("ordering_key", models.CharField(max_length=200, null=True, blank=True)),
        ("created_at", models.DateTimeField()),
        ("due_at", models.DateTimeField()),
        ("attempts", models.IntegerField(default=0)),
        ("outages", models.IntegerField(default=0)),
        ("first_failed_at", models.DateTimeField(null=True, blank=True)),
        ("last_error", models.CharField(max_length=500, null=True, blank=True)),
        *more,
    ]


class Migration(migrations.Migration):  # type: ignore[misc]
    """The outbox, its dead, and who is paused."""

    initial: Any = True
    dependencies: ClassVar[list[Any]] = []
    operations: ClassVar[list[Any]] = [
        migrations.CreateModel(
            name="OutboxMessage",
            fields=_message(
                ("token", models.UUIDField(null=True, blank=True)),
                ("leased_until", models.DateTimeField(null=True, blank=True)),
            ),
            options={"managed": False, "db_table": _NAME, "ordering": ("id",)},
        ),
        migrations.CreateModel(
            name="DeadMessage",
            fields=_message(("died_at", models.DateTimeField())),
            options={"managed": False, "db_table": f"{_NAME}_dead", "ordering": ("id",)},
        ),
        migrations.CreateModel(
            name="PausedDestination",
            fields=[
                ("destination", models.CharField(max_length=64, primary_key=True, serialize=False)),
                ("paused_at", models.DateTimeField()),
            ],
            options={"managed": False, "db_table": f"{_NAME}_paused"},
        ),
        MakeTables(),
    ]
