"""What a middleware was told, in words: every option, its value, and whether that is the default."""

import functools
import inspect
import os
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any, Final, NamedTuple

from postresponse.core.policy import DEFAULT_POLICY, CommitPolicy, Retry
from postresponse.core.settings import Settings

__all__ = ["Option", "options_of"]

_CALLBACKS: Final = ("error_response", "on_commit_failed", "on_finished", "on_error")
CLEANUP_TIMEOUT: Final = 5.0
"""The default, on both middleware classes."""


class Option(NamedTuple):
    """One option.

    Attributes:
        name: As it is given; one of several parts has a dot, as `commit.at`.
        value: In words.
        is_default: Whether it was left as it is.
    """

    name: str
    value: str
    is_default: bool


def options_of(middleware: Any) -> Iterator[Option]:
    """Give the options of *middleware*, in the order of the signature; of a database no password."""
    settings: Settings = middleware._settings
    unit = settings.unit_of_work
    yield Option("unit_of_work", "none, it observes only" if unit is None else _unit(unit), unit is None)
    if unit is not None:
        yield from _commit(settings)
    for name in _CALLBACKS:
        callback = getattr(settings, name)
        yield Option(name, "none" if callback is None else _named(callback), callback is None)
    timeout = settings.cleanup_timeout
    yield Option("cleanup_timeout", f"{timeout:g} s", timeout == CLEANUP_TIMEOUT)
    yield from _supervisor(settings.supervisor)
    names = ", ".join(_named(type(each)) for each in settings.observers)
    yield Option("observers", names or "none", not settings.observers)
    pages = middleware._inspector
    off = "on in debug mode alone" if getattr(middleware, "_shows_in_debug", False) else "off"
    yield Option("inspector", off if pages is None else f"at {pages.path}/", pages is None)


def _commit(settings: Settings) -> Iterator[Option]:
    if settings.choose_policy is not None:
        yield Option("commit", f"by the request: {_named(settings.choose_policy)}", False)
        return
    for field in fields(CommitPolicy):
        value, default = getattr(settings.policy, field.name), getattr(DEFAULT_POLICY, field.name)
        if isinstance(value, Retry):
            for part in fields(Retry):
                chosen = getattr(value, part.name)
                yield Option(f"commit.retry.{part.name}", _value(chosen), chosen == part.default)
        else:
            yield Option(f"commit.{field.name}", _value(value), value == default)


def _supervisor(supervisor: Any) -> Iterator[Option]:
    from postresponse.work.current import default_supervisor

    own = supervisor is default_supervisor()
    yield Option("supervisor", "of this process" if own else f"its own, {supervisor.name!r}", own)
    given = inspect.signature(type(supervisor)).parameters
    for name in ("max_threads", "grace"):
        value = getattr(supervisor, f"_{name}")
        yield Option(f"supervisor.{name}", _value(value), value == given[name].default)
    for gate in supervisor._gates.values():
        limits = f"{gate.max_concurrency} at once, {gate.max_queue} waiting"
        timeout = supervisor._timeouts[gate.name]
        more = "" if timeout is None else f", {timeout:g} s each"
        yield Option(f"supervisor.bulkhead {gate.name}", limits + more, False)


def _value(value: Any) -> str:
    if value is None:
        return "none"
    if callable(value):
        return _named(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _named(function: Any) -> str:
    """Name *function* by where it is defined; not by its repr, which may hold what it was bound to."""
    while isinstance(function, functools.partial):
        function = function.func
    named = function if hasattr(function, "__qualname__") else type(function)
    text = f"{named.__module__}.{named.__qualname__}"
    code = getattr(inspect.unwrap(function), "__code__", None) if "<" in text else None
    return text if code is None else f"{text} ({os.path.basename(code.co_filename)}:{code.co_firstlineno})"


def _unit(factory: Any) -> str:
    members: Mapping[str, Any] | None = getattr(factory, "_factories", None)
    if members:
        return f"{type(factory).__name__}({', '.join(f'{name}={_unit(each)}' for name, each in members.items())})"
    engine = _engine(factory)
    if engine is not None:
        return f"{type(factory).__name__} on {engine.url.set(query={}).render_as_string(hide_password=True)}"
    alias = getattr(factory, "_using", None)
    return f"{type(factory).__name__} on {alias!r}" if isinstance(alias, str) else _named(factory)


def _engine(factory: Any) -> Any:
    """The engine of the sessions that *factory* hands out, where they have one."""
    bind = getattr(getattr(factory, "_make", None), "kw", {}).get("bind")
    return bind if hasattr(bind, "url") else getattr(bind, "engine", None)
