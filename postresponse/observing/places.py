"""Where in an application something happens: by the frames of the call, the outer ones of a greenlet's included.

Under an async engine SQLAlchemy runs in a greenlet. What awaits it is found in the frames of the greenlet's parent:
while a coroutine runs, whoever awaits it stands behind it.
"""

import functools
import os
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any, Final

__all__ = ["place"]

OURS: Final = "ours"
THEIRS: Final = "the application's"
CARRIES: Final = "carries calls, and makes none of its own"

_PACKAGE: Final = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_STANDARD: Final = os.path.dirname(os.__file__) + os.sep
_INSTALLED: Final = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")
_CARRIERS: Final = frozenset({"sqlalchemy", "django", "greenlet", "gevent", "anyio", "asgiref", "trio"})


def place() -> str:
    """Name the function that this is called for, with its file and line, as `get_db (shop.py:12)`.

    The innermost one that is neither of a library, nor of the standard library, nor of this package; where the request
    has none, the innermost of a library that uses the database's, as `Plugin.end (plugin/session.py:80)`. An empty
    string where there is none either: behind a thread or a task, the frames of who waits are not to be seen.
    """
    found, inside = "", False
    for frame in _outwards(sys._getframe(1)):
        kind = _kind_of(frame.f_code.co_filename)
        if kind is OURS:
            if inside:  # the middleware: what is further out is the server's
                break
            continue
        inside = True
        if kind is THEIRS:
            if frame.f_code.co_name != "<module>":
                return _named(frame, os.path.basename(frame.f_code.co_filename))
        elif kind is not CARRIES and not found:
            found = _named(frame, kind)
    return found


def _outwards(frame: FrameType | None) -> Iterator[FrameType]:
    """Give *frame*, who called it, and so on; out of a greenlet of SQLAlchemy's as well."""
    library = sys.modules.get("greenlet")
    greenlet: Any = None if library is None else library.getcurrent()
    while frame is not None:
        yield frame
        frame = frame.f_back
        if frame is None and getattr(greenlet, "__sqlalchemy_greenlet_provider__", False):
            greenlet = greenlet.parent
            frame = greenlet.gr_frame


@functools.lru_cache(maxsize=10_000)
def _kind_of(filename: str) -> str:
    """Tell whose file it is; for one of a library, return its path from where libraries are installed."""
    if filename.startswith(_PACKAGE):
        return OURS
    if filename.startswith("<"):  # made at run time
        return CARRIES
    for installed in _INSTALLED:
        _, found, path = filename.rpartition(installed)
        if found:
            return CARRIES if path.partition(os.sep)[0] in _CARRIERS else path
    return CARRIES if filename.startswith(_STANDARD) else THEIRS


def _named(frame: FrameType, path: str) -> str:
    name = frame.f_code.co_qualname.rpartition("<locals>.")[2]
    return f"{name} ({path}:{frame.f_lineno})"
