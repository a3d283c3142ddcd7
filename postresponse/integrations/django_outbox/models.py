"""The rows of an outbox, to be looked at: unmanaged, as the migration makes the tables that `Outbox` describes.

Nothing here is for changing them. What a relay has claimed is its own, and a message is written by `Outbox.enlist`.
"""

from typing import Any
from uuid import UUID

from django.db import models

__all__ = ["DeadMessage", "OutboxMessage", "PausedDestination"]


class _Id(models.UUIDField):  # type: ignore[misc]
    """An id as an outbox writes it: on MySQL and MariaDB its digits, also where Django knows a type for it."""

    def get_db_prep_value(self, value: Any, connection: Any, prepared: bool = False) -> Any:
        """Return what a query is given."""
        value = super().get_db_prep_value(value, connection, prepared)
        return value.hex if connection.vendor == "mysql" and isinstance(value, UUID) else value


class _Message(models.Model):  # type: ignore[misc]
    """What a message is: in the outbox and among the dead alike."""

    id: Any = models.BigAutoField(primary_key=True)
    message_id: Any = _Id()
    destination: Any = models.CharField(max_length=64)
    name: Any = models.CharField(max_length=200)
    payload: Any = models.TextField()
    headers: Any = models.TextField(null=True, blank=True)
    ordering_key: Any = models.CharField(max_length=200, null=True, blank=True)
    created_at: Any = models.DateTimeField()
    due_at: Any = models.DateTimeField()
    attempts: Any = models.IntegerField(default=0)
    outages: Any = models.IntegerField(default=0)
    first_failed_at: Any = models.DateTimeField(null=True, blank=True)
    last_error: Any = models.CharField(max_length=500, null=True, blank=True)

    class Meta:
        abstract = True

    def __str__(self) -> str:
        return f"{self.name} {self.message_id}"


class OutboxMessage(_Message):
    """A message that waits, or that a relay has claimed."""

    token: Any = _Id(null=True, blank=True)
    leased_until: Any = models.DateTimeField(null=True, blank=True)

    class Meta:
        managed = False
        db_table = "postresponse_outbox"
        ordering: Any = ("id",)


class DeadMessage(_Message):
    """A message that was given up."""

    died_at: Any = models.DateTimeField()

    class Meta:
        managed = False
        db_table = "postresponse_outbox_dead"
        ordering: Any = ("id",)


class PausedDestination(models.Model):  # type: ignore[misc]
    """A destination that no relay sends to for now."""

    destination: Any = models.CharField(max_length=64, primary_key=True)
    paused_at: Any = models.DateTimeField()

    class Meta:
        managed = False
        db_table = "postresponse_outbox_paused"

    def __str__(self) -> str:
        return str(self.destination)
