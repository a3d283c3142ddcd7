"""Whose commits are heard: SQLAlchemy's and Django's, once they are loaded; never loaded for it.

A middleware looks what is loaded when it is made, which for nearly every application is enough: that is there by then,
and its models and engines with it. What is not there yet is looked for at the beginning of each of the first hundred
requests, for applications that import it in their lifespan or in a view; from then on nothing is spent on it.
"""

import sys
import threading
from typing import Final

__all__ = ["LOOKS", "look", "looks_left"]

LOOKS: Final = 100
"""Requests of a middleware at which it looks whether a library was loaded meanwhile."""

_lock: Final = threading.Lock()
_heard: Final[set[str]] = set()
_ALL: Final = frozenset({"sqlalchemy.engine", "django.db"})


def looks_left() -> int:
    """Hear what is loaded, and return how many requests are to `look` again: none where all is heard."""
    _listen()
    return 0 if _heard >= _ALL else LOOKS


def look(left: int) -> int:
    """Hear what was loaded meanwhile, and return how many of *left* are left."""
    _listen()
    return left - 1


def _listen() -> None:
    if not any(name in sys.modules for name in _ALL - _heard):
        return
    with _lock:
        if "sqlalchemy.engine" in sys.modules and "sqlalchemy.engine" not in _heard:
            from postresponse.observing import sqlalchemy

            sqlalchemy.listen()
            _heard.add("sqlalchemy.engine")
        if "django.db" in sys.modules and "django.db" not in _heard:
            from postresponse.observing import django

            django.listen()
            _heard.add("django.db")
