"""Tasks, as a project has them; what they have done is in `done`."""

from typing import Any

from django.tasks import task

done: list[Any] = []


@task  # type: ignore[untyped-decorator]
def add(a: int, b: int) -> int:
    """Return the sum."""
    done.append(("add", a + b))
    return a + b


@task  # type: ignore[untyped-decorator]
async def aadd(a: int, b: int) -> int:
    """The same, async."""
    done.append(("aadd", a + b))
    return a + b


@task(takes_context=True)  # type: ignore[untyped-decorator]
def fail(context: Any, reason: str) -> None:
    """Fail."""
    done.append(("attempt", context.attempt, context.task_result.id))
    raise LookupError(reason)


@task(takes_context=True)  # type: ignore[untyped-decorator]
async def afail(context: Any, reason: str) -> None:
    """The same, async."""
    raise LookupError(reason)
