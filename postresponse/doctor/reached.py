"""The objects that an application is made of, where a look at classes is not enough."""

import functools
import sys
from collections import deque
from collections.abc import Iterator, Mapping
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any, Final, TypeVar

from postresponse.exceptions import ConfigurationError

__all__ = ["middlewares_of", "reached"]

T = TypeVar("T")

MOST: Final = 50_000
"""Objects that are looked at: an application may hold all of its data."""

_PLAIN: Final = (str, bytes, int, float, complex, type(None), type, ModuleType, BuiltinFunctionType)


def reached(app: Any, kind: type[T]) -> Iterator[T]:
    """Give each instance of *kind* that *app* holds, along attributes, closures and containers; the nearest first.

    Nothing is called: a property, or an object that is made when it is asked for, is not found.

    Example:
        >>> list(reached(functools.partial(print, [7]), int))
        [7]
    """
    seen: set[int] = set()
    waiting: deque[Any] = deque([app])
    while waiting and len(seen) < MOST:
        found = waiting.popleft()
        if id(found) in seen:
            continue
        seen.add(id(found))
        if issubclass(type(found), kind):  # not isinstance, which asks a proxy for the class of what it stands for
            yield found
        waiting.extend(_held(found))


def middlewares_of(app: Any, *, make: bool = False) -> list[Any]:
    """Return each `PostResponseMiddleware` that *app* holds, the outermost first.

    Args:
        app: The outermost object that the server is given.
        make: Whether those are made, and forgotten, that a Starlette application makes with its first message; with
            them all of its other middlewares are made too.

    Raises:
        ConfigurationError: One cannot be made.
    """
    from postresponse.asgi import PostResponseMiddleware as AroundASGI
    from postresponse.wsgi import PostResponseMiddleware as AroundWSGI

    whole = [app, *(_made(app) if make else ())]
    return [*reached(whole, AroundASGI), *reached(whole, AroundWSGI)]


def _made(app: Any) -> Iterator[Any]:
    """For each Starlette application in *app* that has not been called yet the stack that it would have."""
    starlette: Any = sys.modules.get("starlette.applications")
    for each in () if starlette is None else tuple(reached(app, starlette.Starlette)):
        if each.middleware_stack is None:
            try:
                yield each.build_middleware_stack()
            except Exception as error:
                raise ConfigurationError(
                    f"a middleware raised {type(error).__name__} while it was made: {error}"
                ) from error


def _held(found: Any) -> Iterator[Any]:
    if issubclass(type(found), _PLAIN):
        return
    if issubclass(type(found), Mapping):
        yield from found.values() if isinstance(found, dict) else ()
    elif issubclass(type(found), list | tuple | set | frozenset):
        yield from found
    elif type(found) is MethodType:
        yield found.__self__
    elif issubclass(type(found), functools.partial):
        yield from (found.func, found.args, found.keywords)
    elif type(found) is FunctionType:
        yield from _closed_over(found)
    else:
        yield from _attributes(found)


def _closed_over(function: FunctionType) -> Iterator[Any]:
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # not set yet
            continue
    yield from vars(function).values()


def _attributes(found: Any) -> Iterator[Any]:
    try:
        yield from tuple(vars(found).values())
    except TypeError:
        for kind in type(found).__mro__:
            names = vars(kind).get("__slots__", ())
            for name in (names,) if isinstance(names, str) else names:
                try:
                    yield object.__getattribute__(found, name)
                except AttributeError:
                    continue
    except RuntimeError:  # of a proxy, as Flask's `request`, for what is not there now
        return
