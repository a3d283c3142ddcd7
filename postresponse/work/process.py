"""What a process is to its supervisors: a child of it begins with none of their work, and none ends unclosed."""

import atexit
import os
import sys
from collections.abc import Callable
from typing import Final, Protocol
from weakref import WeakSet

__all__ = ["as_child_ends", "begin_with", "close_all", "open_again"]


class Supervisor(Protocol):
    """A supervisor, as its process sees it."""

    _closed: bool
    _users: int

    def close(self) -> object:
        """End what runs."""

    def _begin_anew(self) -> None: ...


_supervisors: Final[WeakSet[Supervisor]] = WeakSet()


def begin_with(supervisor: Supervisor) -> None:
    """Have *supervisor* begin anew in a child of this process, and end with the process."""
    _supervisors.add(supervisor)


def open_again() -> None:
    """Have those take work that were closed: by an application of the same process, for a test of the next one."""
    for supervisor in list(_supervisors):
        supervisor._closed = False


def close_all() -> None:
    """Close every supervisor, whoever uses it."""
    for supervisor in list(_supervisors):
        supervisor._users = 0
        supervisor.close()


def as_child_ends(call: Callable[[], object]) -> bool:
    """Have *call* called as this process ends, if it is a child of multiprocessing, which leaves out `atexit`."""
    multiprocessing = sys.modules.get("multiprocessing.util")  # which a child of it has loaded
    if multiprocessing is None or sys.modules["multiprocessing"].parent_process() is None:
        return False
    multiprocessing.Finalize(None, call, exitpriority=0)
    return True


def _after_fork() -> None:
    for supervisor in list(_supervisors):
        supervisor._begin_anew()


atexit.register(close_all)
os.register_at_fork(after_in_child=_after_fork)
