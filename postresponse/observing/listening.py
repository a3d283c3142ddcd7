"""Whose commits are heard: SQLAlchemy's and Django's, once they are loaded; never loaded for it.

A middleware looks what is loaded when it is made, which for nearly every application is enough: that is there by then,
and its models and engines with it. What is not there yet is looked for at the beginning of each of the first hundred
requests, for applications that import it in their lifespan or in a view; from then on nothing is spent on it.
"""

import sys
import threading
from typing import Final

from postresponse.observing.commits import harmless

__all__ = ["LOOKS", "look", "looks_left"]

LOOKS: Final = 100
"""Requests of a middleware at which it looks whether a library was loaded meanwhile."""

_lock: Final = threading.Lock()
_heard: Final[set[str]] = set()


def looks_left() -> int:
    """Hear what is loaded, and return how many requests are to `look` again: none where all is heard."""
    _listen()
    return 0 if _heard >= _LIBRARIES.keys() else LOOKS


def look(left: int) -> int:
    """Hear what was loaded meanwhile, and return how many of *left* are left."""
    _listen()
    return left - 1


def _listen() -> None:
    if not any(name in sys.modules and name not in _heard for name in _LIBRARIES):
        return
    with _lock:
        for name, listen in _LIBRARIES.items():
            if name in sys.modules and name not in _heard:
                _heard.add(name)
                listen()


@harmless
def _sqlalchemy() -> None:
    from postresponse.observing import sqlalchemy

    sqlalchemy.listen()


@harmless
def _django() -> None:
    from postresponse.observing import django

    django.listen()


_LIBRARIES: Final = {"sqlalchemy.engine": _sqlalchemy, "django.db": _django}
"""What is in `sys.modules` once a library is loaded, and what then listens to it."""
