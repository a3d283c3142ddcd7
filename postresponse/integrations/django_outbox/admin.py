"""The outbox in Django's admin: to be looked at, and what an operator does to it; nothing can be edited.

Each action is the one of `postresponse outbox`, in one transaction with the admin's own. Who may *change* messages may
let them be sent again, who may *delete* them may forget the dead, and what a message says only those see who may *view*
it.
"""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar, Final
from uuid import UUID

from django.contrib import admin, messages
from django.contrib.auth import get_permission_codename
from django.db import connections, transaction
from django.utils.timesince import timesince
from sqlalchemy import MetaData

from postresponse.integrations.django_outbox.models import DeadMessage, OutboxMessage, PausedDestination
from postresponse.messaging.django_store import Borrowed
from postresponse.messaging.store import Store, Which
from postresponse.messaging.tables import Tables

__all__ = ["DeadMessageAdmin", "OutboxMessageAdmin", "PausedDestinationAdmin"]

CHUNK: Final = 500
"""Messages that are moved, or forgotten, by one statement."""
SECRET: Final = ("payload", "headers")
"""What only those see who may view the messages."""

_store: Final = Store(Tables(MetaData(), "postresponse_outbox", None))


if TYPE_CHECKING:
    _ModelAdmin = admin.ModelAdmin[Any]
else:
    _ModelAdmin = admin.ModelAdmin  # which takes no parameter when it runs


class _ReadOnly(_ModelAdmin):  # type: ignore[misc, valid-type]
    """Rows that nobody adds, changes or deletes here, but by an action."""

    show_full_result_count: Any = False
    list_per_page: Any = 50

    def has_add_permission(self, request: Any) -> bool:
        """Nobody: messages are enlisted."""
        return False

    def has_change_permission(self, request: Any, obj: Any = None) -> bool:
        """Nobody: what a relay has claimed is its own."""
        return False

    def has_delete_permission(self, request: Any, obj: Any = None) -> bool:
        """Nobody, but by an action."""
        return False

    def has_view_permission(self, request: Any, obj: Any = None) -> bool:
        """Whoever may do something with them, or look at them."""
        return any(self._may(request, what) for what in ("view", "change", "delete"))

    def has_operate_permission(self, request: Any) -> bool:
        """Whoever may change them."""
        return self._may(request, "change")

    def has_purge_permission(self, request: Any) -> bool:
        """Whoever may delete them."""
        return self._may(request, "delete")

    def _may(self, request: Any, what: str) -> bool:
        codename = get_permission_codename(what, self.opts)
        return bool(request.user.has_perm(f"{self.opts.app_label}.{codename}"))

    def get_fields(self, request: Any, obj: Any = None) -> list[str]:
        """All there is, but for what a message says, unless the user may view it."""
        fields = [field.name for field in self.opts.fields]
        return fields if self._may(request, "view") else [name for name in fields if name not in SECRET]

    def _change(self, request: Any, queryset: Any, change: Callable[[Any, list[UUID]], int], done: str) -> None:
        """Make *change* to the messages of *queryset*, in one transaction, and tell how many there were."""
        with transaction.atomic(using=queryset.db):
            borrowed = Borrowed(connections[queryset.db])
            count = sum(change(borrowed, ids) for ids in _in_chunks(queryset))
        level = messages.SUCCESS if count else messages.WARNING
        self.message_user(request, f"{count} {done}.", level)


def _in_chunks(queryset: Any) -> Iterator[list[UUID]]:
    ids = list(queryset.order_by("id").values_list("message_id", flat=True))
    for start in range(0, len(ids), CHUNK):
        yield ids[start : start + CHUNK]


class _MessageAdmin(_ReadOnly):
    """Messages, the oldest first."""

    list_filter: Any = ("destination",)
    search_fields: Any = ("name", "last_error")

    def get_search_results(self, request: Any, queryset: Any, search_term: str) -> tuple[Any, bool]:
        """Find one by its id as well."""
        try:
            return queryset.filter(message_id=UUID(search_term.strip())), False
        except ValueError:
            found, may_repeat = super().get_search_results(request, queryset, search_term)
            return found, bool(may_repeat)

    @admin.display(description="age", ordering="created_at")  # type: ignore[untyped-decorator]
    def age(self, obj: Any) -> str:
        """How long ago it was enlisted."""
        return str(timesince(obj.created_at, _now_like(obj.created_at, obj._state.db)))


def _now_like(moment: datetime, alias: str) -> datetime:
    """Return this moment as the database of *alias* has its own: where it has no time zones, that of UTC."""
    if moment.tzinfo is not None:
        return datetime.now(UTC)
    if connections[alias].vendor == "postgresql":
        return datetime.now()
    return datetime.now(UTC).replace(tzinfo=None)


@admin.register(OutboxMessage)
class OutboxMessageAdmin(_MessageAdmin):
    """What waits."""

    list_display: Any = ("message_id", "destination", "name", "age", "due_at", "attempts", "leased_until", "last_error")
    actions: ClassVar[Any] = ("retry",)

    @admin.action(description="Let them be due now", permissions=["operate"])  # type: ignore[untyped-decorator]
    def retry(self, request: Any, queryset: Any) -> None:
        """Let messages that wait for their time, or for their next attempt, be due now; none that a relay has."""

        def hurry(connection: Any, ids: list[UUID]) -> int:
            return sum(_store.hurry(connection, each) for each in ids)

        self._change(request, queryset, hurry, "due now")


@admin.register(DeadMessage)
class DeadMessageAdmin(_MessageAdmin):
    """What was given up."""

    list_display: Any = ("message_id", "destination", "name", "age", "died_at", "attempts", "last_error")
    actions: ClassVar[Any] = ("retry", "purge")

    @admin.action(description="Let them wait again", permissions=["operate"])  # type: ignore[untyped-decorator]
    def retry(self, request: Any, queryset: Any) -> None:
        """Let them be sent again."""

        def replay(connection: Any, ids: list[UUID]) -> int:
            return _store.replay(connection, len(ids), Which(among=tuple(ids)))

        self._change(request, queryset, replay, "wait again")

    @admin.action(description="Forget them", permissions=["purge"])  # type: ignore[untyped-decorator]
    def purge(self, request: Any, queryset: Any) -> None:
        """Forget them for good."""

        def purge(connection: Any, ids: list[UUID]) -> int:
            return _store.purge(connection, len(ids), Which(among=tuple(ids)))

        self._change(request, queryset, purge, "forgotten")


@admin.register(PausedDestination)
class PausedDestinationAdmin(_ReadOnly):
    """Destinations that no relay sends to."""

    list_display: Any = ("destination", "paused_at")
    actions: ClassVar[Any] = ("resume",)

    @admin.action(description="Have relays send to them again", permissions=["operate"])  # type: ignore[untyped-decorator]
    def resume(self, request: Any, queryset: Any) -> None:
        """Have relays send to them again."""
        with transaction.atomic(using=queryset.db):
            borrowed: Any = Borrowed(connections[queryset.db])
            count = sum(_store.resume(borrowed, each.destination) for each in queryset)
        self.message_user(request, f"{count} resumed.", messages.SUCCESS)
