"""What the inspector answers, whatever the protocol: the page, and what it asks for.

All of it is one file. The browser is told, by a Content-Security-Policy, to run the script and the style that have the
hashes of those in the file, to load nothing, and to talk to this server alone; what a path or an exception has in it
is text.
"""

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Final
from urllib.parse import parse_qs
from uuid import UUID

from postresponse.core.log import first_time, logger
from postresponse.core.settings import Settings
from postresponse.inspector.inspector import Inspector
from postresponse.inspector.ring import Changes

__all__ = ["NOT_FOUND", "Answer", "Asked", "Pages", "asked", "changes_json", "mark_in", "page", "set_up"]


class Pages:
    """What a middleware has of its inspector.

    Args:
        inspector: Whose page it is.
    """

    def __init__(self, inspector: Inspector) -> None:
        self._inspector = inspector
        self.path: str = inspector.path

    def steps_aside(self, outer: Settings) -> None:
        """Say once that there is no page, where a middleware further out, with *outer*, has the request."""
        inspector = self._inspector
        if inspector.is_on and inspector not in outer.observers and first_time(f"inspector inside {inspector.path}"):
            logger.warning(
                "the inspector at %s/ shows nothing: its middleware is inside of another PostResponseMiddleware, which "
                "has the requests; give inspector= to that one",
                inspector.path,
            )


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole response."""

    status: int
    content_type: str
    body: bytes
    more: tuple[tuple[str, str], ...] = ()

    @property
    def headers(self) -> list[tuple[str, str]]:
        """Its headers, those that keep others out among them."""
        return [
            ("Content-Type", self.content_type),
            ("Content-Length", str(len(self.body))),
            *_ALWAYS,
            *self.more,
        ]


_ALWAYS: Final = (
    ("Cache-Control", "no-store"),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("X-Frame-Options", "DENY"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
)
_TEXT: Final = "text/plain; charset=utf-8"
NOT_FOUND: Final = Answer(404, _TEXT, b"Not Found\n")
_ONLY_GET: Final = Answer(405, _TEXT, b"Method Not Allowed\n", (("Allow", "GET, HEAD"),))
_PLACES: Final = ("", "changes", "events", "outbox", "set-up")


@dataclass(frozen=True, slots=True)
class Asked:
    """A request for something of the inspector's.

    Attributes:
        place: What it is for: one of `""`, `"changes"`, `"events"`, `"outbox"` and `"set-up"`.
        query: Of its URL.
    """

    place: str
    query: Mapping[str, Sequence[str]]

    @property
    def since(self) -> str:
        """What the page has seen already."""
        return self.query.get("since", ("",))[0]

    @property
    def ids(self) -> list[UUID]:
        """The messages whose whereabouts are asked for."""
        try:
            return [UUID(each) for each in self.query.get("message", ())]
        except ValueError:
            return []


def asked(inspector: Inspector, scope: Any, method: str, path: str, query: str) -> Asked | Answer:
    """Tell what is asked for at *path*, which is what follows the inspector's own; or answer at once."""
    if not inspector.is_on or not inspector.allows(scope):
        return NOT_FOUND
    if method not in ("GET", "HEAD"):
        return _ONLY_GET
    if not path:  # the links on the page are relative
        return Answer(308, _TEXT, b"", (("Location", f"{inspector.path.rpartition('/')[2]}/"),))
    if path[1:] not in _PLACES:
        return NOT_FOUND
    return Asked(path[1:], parse_qs(query))


def mark_in(inspector: Inspector, since: str) -> int:
    """Return the mark that a page has seen, as it was told it; 0 where it comes from another process."""
    process, _, mark = since.rpartition(":")
    return int(mark) if process == _keeper(inspector) and mark.isascii() and mark.isdigit() else 0


def _keeper(inspector: Inspector) -> str:
    """Whose marks they are: this process's, or those of the store that all have in common."""
    return "store" if inspector.shares else inspector.process


def changes_json(inspector: Inspector, changes: Changes, *, live: str, several: bool = False) -> str:
    """Return what is new as JSON.

    Args:
        live: How a page hears of more: `"events"` or `"polling"`.
        several: Whether the server says that there are other processes.
    """
    told = {
        "process": inspector.process,
        "since": f"{_keeper(inspector)}:{changes.until}",
        "size": inspector.size,
        "live": live,
        "several": several,
        "shared": inspector.shares,
        "outbox": inspector.outbox is not None,
        "carries": changes.carries,
    }
    lists = ((name, ",".join(getattr(changes, name))) for name in ("requests", "jobs", "carried"))
    return ",".join([json.dumps(told)[:-1], *(f'"{name}":[{each}]' for name, each in lists)]) + "}"


def set_up(inspector: Inspector) -> Answer:
    """Return what is known of the set-up."""
    options, findings, is_looked_for = inspector.set_up()
    return as_json({"options": options, "findings": [asdict(each) for each in findings], "looked": is_looked_for})


def as_json(told: Any) -> Answer:
    """Return *told* as JSON."""
    return Answer(200, "application/json", json.dumps(told).encode())


@cache
def page() -> Answer:
    """Return the page."""
    html = files("postresponse.inspector").joinpath("page.html").read_text(encoding="utf-8")
    policy = (
        f"default-src 'none'; script-src {_hash(html, 'script')}; style-src {_hash(html, 'style')}; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'"
    )
    return Answer(200, "text/html; charset=utf-8", html.encode(), (("Content-Security-Policy", policy),))


def _hash(html: str, tag: str) -> str:
    """The hash of what stands between the one <tag> and its end (CSP Level 3, section 2.3.1)."""
    (inside,) = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()}'"
