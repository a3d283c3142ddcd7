"""A flow as a canvas of Celery's."""

from functools import reduce
from operator import or_
from typing import Any

from celery import Celery, group
from celery.app.task import Task

from postresponse.exceptions import ConfigurationError, FlowError

__all__ = ["canvas"]


def canvas(flow: Any, app: Any, ctx: Any) -> Any:
    """Return *flow* as a chain, a group or a chord, in which each task is called with *ctx*.

    Raises:
        FlowError: The application has no task for a step, or the flow goes on after an error.
    """
    if not isinstance(app, Celery):
        raise ConfigurationError(f"to_celery() takes a Celery application, found {app!r}")
    app.finalize(auto=True)
    missing = sorted({each.name for each in flow.steps() if _task_of(each, app) is None})
    if missing:
        raise FlowError(
            f"the application has no task for {', '.join(missing)}; make a task of the function, by @app.task, or one "
            "of that name"
        )
    return _signature(flow, app, ctx)


def _signature(flow: Any, app: Any, ctx: Any) -> Any:
    if flow.kind == "step":
        task: Any = _task_of(flow, app)
        return task.si(ctx).set(soft_time_limit=flow.timeout) if flow.timeout else task.si(ctx)
    if flow.on_error != "stop":
        raise FlowError(f"{flow.name!r} goes on after an error (on_error='continue'), which no canvas of Celery's does")
    parts = [_signature(each, app, ctx) for each in flow.children]
    if flow.kind == "par":
        return group(parts, app=app)
    return reduce(or_, parts)  # which makes a chord of a group with something behind it


def _task_of(each: Any, app: Any) -> Any:
    """The task that its function is, the one that was made of it, or the one of its name."""
    fn: Any = each.fn
    if isinstance(fn, Task):
        return fn
    own = getattr(fn, "__name__", None)
    names = ([] if own is None else [app.gen_task_name(own, fn.__module__)]) + [each.name]
    return next((app.tasks[name] for name in names if name in app.tasks), None)
