"""What each server is known to do: the README's table "What a server can tell", as data.

A test holds these against the README, and `postresponse conformance` holds the servers against these.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

__all__ = ["EXPECTED", "PROMISED", "Expected"]

SEND: Final = "the last `send` returned"
STOP: Final = "StopIteration, then `close()`"
DISCONNECT: Final = "`http.disconnect`"
EARLY_CLOSE: Final = "an early `close()`"
LATE: Final = "only after the rest was sent"
"""What granian and daphne often do: the client's leaving is told of when nothing of it matters any more."""

PROMISED: Final[Mapping[str, str]] = MappingProxyType(
    {
        "failed commit, head": "an error, nothing of the original, the next request answered",
        "failed commit, buffered": "an error, nothing of the original, the next request answered",
        "failed commit, after_send": "the response as it was, the next request answered",
        "client left, head": "settled once, the next request answered",
        "client left, buffered": "settled once, the next request answered",
        "client left, after_send": "settled once, the next request answered",
    }
)
"""What the package promises on every server, whatever the application."""


@dataclass(frozen=True)
class Expected:
    """A row of the table.

    Attributes:
        row: What the README calls the server.
        taken: What shows that the end was taken.
        left: What shows that the client left.
        drained: Whether an outcome tells that all has left the server.
        code: What the README says of code after the last byte.
        facts: The same, check by check, as the kit finds them.
    """

    row: str
    taken: str
    left: str
    drained: bool
    code: str
    facts: Mapping[str, tuple[str, ...]]

    def of(self, check: str) -> tuple[str, ...]:
        """Return what may be found by *check*: one thing, or one of several."""
        if check in PROMISED:
            return (PROMISED[check],)
        known = {
            "the end was taken": (self.taken,),
            "client left": (self.left, LATE) if self.row in _TELL_LATE else (self.left,),
            "drained": ("yes" if self.drained else "no",),
        }
        return known.get(check) or self.facts.get(check, ())


_TELL_LATE: Final = ("granian, ASGI", "daphne")


def _asgi(row: str, code: str, after: str, sigterm: str, *, drained: bool = False) -> Expected:
    facts = {
        "code after the last byte": (after,),
        "next request meanwhile": ("at once",),
        "that code at SIGTERM": (sigterm,),
        "work after the response at SIGTERM": ("done",),
    }
    return Expected(row, SEND, DISCONNECT, drained, code, MappingProxyType(facts))


def _wsgi(row: str, code: str, following: str, others: str, end: str, **options: bool) -> Expected:
    facts = {
        "close() was called": ("once",),
        "next request meanwhile": (following,),
        "other connections meanwhile": (others,),
        "end without Content-Length": (end,),
        "work after the response at SIGTERM": ("done" if options.get("heeds_sigterm", True) else "killed",),
    }
    return Expected(row, STOP, EARLY_CLOSE, options.get("drained", False), code, MappingProxyType(facts))


_UVICORN: Final = _asgi("uvicorn", "runs to its end; SIGTERM waits for it", "runs to its end", "done", drained=True)
_HYPERCORN: Final = _asgi("hypercorn", "runs to its end; cancelled 3 s after SIGTERM", "runs to its end", "done")

EXPECTED: Final[Mapping[str, Expected]] = MappingProxyType(
    {
        "uvicorn-httptools": _UVICORN,
        "uvicorn-h11": _UVICORN,
        "hypercorn": _HYPERCORN,
        "hypercorn-trio": _HYPERCORN,
        "granian-asgi": _asgi(
            "granian, ASGI", "runs to its end; killed at once by SIGTERM", "runs to its end", "cut off"
        ),
        "gunicorn-asgi": _asgi("gunicorn `asgi`", "cancelled 3 s after the client closes", "cancelled", "done"),
        "daphne": _asgi("daphne", "cancelled after 10 s; killed at once by SIGTERM", "cancelled", "cut off"),
        "gunicorn-sync": _wsgi(
            "gunicorn `sync`", "every other client waits for it", "closed", "wait", "at once", drained=True
        ),
        "gunicorn-gthread": _wsgi(
            "gunicorn `gthread`", "the connection's next request waits", "waits", "at once", "at once", drained=True
        ),
        "gunicorn-gevent": _wsgi(
            "gunicorn `gevent`", "the connection's next request waits", "waits", "at once", "at once", drained=True
        ),
        "uwsgi": _wsgi("uWSGI", "without Content-Length the end waits", "closed", "at once", "waits"),
        "waitress": _wsgi(
            "waitress",
            "the connection's next request waits; without Content-Length the end waits too",
            "waits",
            "at once",
            "waits",
            heeds_sigterm=False,
        ),
        "cheroot": _wsgi(
            "cheroot",
            "the same; without Content-Length the end waits too",
            "waits",
            "at once",
            "waits",
            heeds_sigterm=False,
        ),
        "granian-wsgi": _wsgi("granian, WSGI", "without Content-Length the end waits", "at once", "at once", "waits"),
    }
)
"""By the name of the server, as `--server` takes it."""
