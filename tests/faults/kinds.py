"""The ways in which each family of calls can fail."""

import sqlite3
from typing import Final

from postresponse.exceptions import CommitInDoubt
from tests.fakes import ConnectionLost
from tests.faults.plan import Call, Kind

__all__ = ["AppFailed", "Broken", "kinds_of"]


class AppFailed(Exception):
    """What the application raises by itself."""


class Broken(Exception):
    """The injected error of a call, which is ordinary in every way."""


class Serialization(Broken):
    """One that is gone on the next try, by its SQLSTATE."""

    sqlstate = "40001"


class ServerBroken(RuntimeError):
    """What a server raises that refuses what it is given, as uvicorn does."""


# -- what is raised ---------------------------------------------------------------------------------------------------


def broken() -> Exception:
    return Broken("injected")


def serialization() -> Exception:
    return Serialization("injected")


def application_failed() -> Exception:
    return AppFailed("injected")


def os_error() -> Exception:
    """Return an OSError of the application's own: a file that is missing says nothing of the client."""
    return FileNotFoundError("injected")


def in_doubt() -> Exception:
    return CommitInDoubt("injected")


def client_lost() -> Exception:
    return ConnectionLost("injected")


def server_broken() -> Exception:
    return ServerBroken("injected")


def timed_out() -> Exception:
    return TimeoutError("injected")


def full() -> Exception:
    """Return a definite refusal: the database says it, with a number."""
    return _numbered("database or disk is full", sqlite3.SQLITE_FULL)


def locked() -> Exception:
    """Return a transient refusal."""
    return _numbered("database is locked", sqlite3.SQLITE_BUSY)


def unanswered() -> Exception:
    """Return an error of the driver and not of the database: it has no number."""
    return sqlite3.OperationalError("the answer could not be read")


def closed() -> Exception:
    """Return what SQLAlchemy takes for a lost connection."""
    return sqlite3.ProgrammingError("Cannot operate on a closed database.")


def _numbered(message: str, code: int) -> Exception:
    error = sqlite3.OperationalError(message)
    error.sqlite_errorcode = code
    return error


# -- how it fails -----------------------------------------------------------------------------------------------------

CANCELLED: Final = Kind("cancelled before", then="request is cancelled")
CANCELLED_AFTER: Final = Kind("cancelled after", done=True, then="request is cancelled")
LEAVES: Final = Kind("client leaves", then="client leaves")
EXIT: Final = Kind("exit before", SystemExit)
EXIT_AFTER: Final = Kind("exit after", SystemExit, done=True)
INTERRUPT: Final = Kind("interrupt before", KeyboardInterrupt)
INTERRUPT_AFTER: Final = Kind("interrupt after", KeyboardInterrupt, done=True)

DRIVER: Final = (
    Kind("full before", full),
    Kind("busy before", locked),
    Kind("lost before", closed, then="connection dies"),
    Kind("lost after", closed, done=True, then="connection dies"),
    Kind("unanswered after", unanswered, done=True),
    Kind("timeout after", timed_out, done=True),
)
UNIT: Final = (
    Kind("broken before", broken),
    Kind("busy before", serialization),
    Kind("lost before", broken, then="connection dies"),
    EXIT,
    EXIT_AFTER,
)
UNIT_COMMITS: Final = (
    *UNIT,
    Kind("in doubt before", in_doubt, then="connection dies"),
    Kind("in doubt after", in_doubt, done=True, then="connection dies"),
)
UNIT_ELSE: Final = (*UNIT, Kind("broken after", broken, done=True))
HOOK: Final = (Kind("broken before", broken), Kind("busy before", serialization), EXIT)
APP: Final = (
    Kind("broken before", application_failed),
    Kind("busy before", serialization),
    Kind("OSError before", os_error),
    EXIT,
)
SENDS: Final = (
    Kind("client lost before", client_lost),
    Kind("client lost after", client_lost, done=True),
    Kind("broken before", server_broken),
)
RECEIVES: Final = (Kind("broken before", server_broken),)
CLOSES: Final = (Kind("broken after", server_broken, done=True),)


def kinds_of(call: Call, side: str) -> tuple[Kind, ...]:
    """The ways in which *call* fails on *side*: `wsgi`, `asyncio` or `trio`."""
    return _ALL[side, call.name if (side, call.name) in _ALL else call.family]


def _of_sides() -> dict[tuple[str, str], tuple[Kind, ...]]:
    families = {
        "dbapi": ((*DRIVER, EXIT_AFTER), (CANCELLED, CANCELLED_AFTER), INTERRUPT_AFTER),
        # SQLAlchemy closes one of aiosqlite in a task of its own, and an exit in a task ends asyncio's loop.
        "dbapi.close": (DRIVER, (CANCELLED, CANCELLED_AFTER), INTERRUPT_AFTER),
        "unit": (UNIT_ELSE, (CANCELLED, CANCELLED_AFTER), INTERRUPT_AFTER),
        "unit.factory": (HOOK, (CANCELLED,), INTERRUPT),
        "unit.commit": (UNIT_COMMITS, (CANCELLED, CANCELLED_AFTER, LEAVES), INTERRUPT_AFTER),
        "hook": (HOOK, (CANCELLED,), INTERRUPT),
        "option": (HOOK, (CANCELLED,), INTERRUPT),
        "app": (APP, (CANCELLED, LEAVES), INTERRUPT),
        "server": (SENDS, (CANCELLED, CANCELLED_AFTER, LEAVES), None),
        "server.close": (CLOSES, (), None),
        "server.receive": (RECEIVES, (CANCELLED, LEAVES), None),
    }
    found = {}
    for name, (kinds, on_a_loop, interrupt) in families.items():
        interrupts = (interrupt,) if interrupt is not None else ()
        found["wsgi", name] = (*kinds, *interrupts)
        found["asyncio", name] = (*kinds, *on_a_loop)
        found["trio", name] = (*kinds, *on_a_loop, *interrupts)
    return found


_ALL: Final = _of_sides()
