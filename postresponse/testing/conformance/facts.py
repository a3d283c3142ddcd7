"""What a server does by itself: each function asks one thing, and says in words what was found."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from postresponse.testing.client import ConnectionEnded
from postresponse.testing.conformance.expected import DISCONNECT, EARLY_CLOSE, LATE, SEND, STOP
from postresponse.testing.conformance.place import Place

__all__ = ["AT_THE_END", "FACTS", "Findings"]

Findings = Iterator[tuple[str, str]]
"""Each check with what was found."""

GOES_ON: Final = 3.0
"""Seconds of code behind the last byte: longer than any server here lets it go on that cancels it."""
DRAINED: Final = 30
"""How many responses are looked at for one that is known to have left."""
PIECES: Final = 600
"""Of 64 KiB: more than any server and kernel take for a client that reads nothing, but for those that take all."""


def ends(place: Place) -> Findings:
    """Look at how a response ends that is read to its end."""
    outcome = _whole(place)
    ending = str(outcome.get("ending", "nothing was told"))
    raw = place.asked("bare", bare=1, length=1)
    with place.connection() as connection:
        connection.request("GET", "/", raw.headers)
    place.wait_for(raw.key, "done", patience=3.0)
    order = [each["event"] for each in place.events(raw.key)]
    if place.server.kind.protocol == "asgi":
        yield "the end was taken", SEND if (ending, order[:1]) == ("handed_over", ["sent"]) else f"{ending}, {order}"
    else:
        as_said = ending == "handed_over" and order == ["stopped", "close", "done"]
        yield "the end was taken", STOP if as_said else f"{ending}, {order}"
        yield "close() was called", {0: "never", 1: "once"}.get(order.count("close"), "more than once")
    # It is told where the kernel has been told by the client's, which may come a moment later.
    drained = bool(outcome) and (outcome["drained"] or any(_whole(place).get("drained") for _ in range(DRAINED)))
    yield "drained", "yes" if drained else "no"


def _whole(place: Place) -> dict[str, Any]:
    """Read a response to its end, and return what is told of it."""
    asked = place.asked("whole")
    with place.connection() as connection:
        place.ask(connection, asked)
    return place.wait_for(asked.key, "finished", patience=3.0) or {}


def leaves(place: Place) -> Findings:
    """Leave in the middle of a large body."""
    asked = place.asked("left", at="head", pieces=PIECES)
    with place.connection() as connection:
        place.send(connection, asked)
        connection.read_some(1024)
        connection.reset()
    outcome = place.wait_for(asked.key, "finished", patience=20.0)
    ending = "nothing was told" if outcome is None else str(outcome["ending"])
    told = DISCONNECT if place.server.kind.protocol == "asgi" else EARLY_CLOSE
    yield "client left", {"aborted": told, "handed_over": LATE}.get(ending, ending)


def after_the_last_byte(place: Place) -> Findings:
    """See what becomes of code behind the last `send`, and of the next request, while the client goes away."""
    long, following = place.asked("long", bare=1, seconds=GOES_ON), place.asked("next", bare=1)
    with place.connection() as connection:
        connection.request("GET", "/", long.headers)
        try:
            answered = connection.request("GET", "/", following.headers).first_byte
        except (ConnectionEnded, OSError):
            answered = 0
    ended = place.wait_for(long.key, "done", "cancelled") or {"event": "killed", "at": 0}
    meanwhile = "closed" if not answered else "at once" if answered < ended["at"] else "waits"
    yield "code after the last byte", {"done": "runs to its end"}.get(ended["event"], ended["event"])
    yield "next request meanwhile", meanwhile


def inside_close(place: Place) -> Findings:
    """See who waits for code in `close()`: the next request on the connection, others, and the end of a response."""
    slow, following = place.asked("slow", bare=1, length=1, seconds=1), place.asked("next", bare=1, length=1)
    with place.connection() as connection:
        head = connection.request("GET", "/", slow.headers).head
        with _meanwhile(place) as others:
            closed = not head.keeps_alive
            answered = 0
            try:
                answered = 0 if closed else connection.request("GET", "/", following.headers).first_byte
            except (ConnectionEnded, OSError):
                closed = True
    done = (place.wait_for(slow.key, "done") or {"at": 0})["at"]
    yield "next request meanwhile", "closed" if closed else "waits" if answered > done else "at once"
    yield "other connections meanwhile", "wait" if others[0] > done else "at once"
    endless = place.asked("endless", bare=1, seconds=1)
    with place.connection() as connection:
        last = connection.request("GET", "/", endless.headers).last_byte
    done = (place.wait_for(endless.key, "done") or {"at": 0})["at"]
    yield "end without Content-Length", "waits" if last > done else "at once"


@contextmanager
def _meanwhile(place: Place) -> Iterator[list[int]]:
    """Ask on another connection; the list holds when its answer began, once the block is over."""
    answered: list[int] = []

    def ask() -> None:
        with place.connection() as connection:
            answered.append(connection.request("GET", "/", place.asked("other", bare=1, length=1).headers).first_byte)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield answered
    finally:
        thread.join(30)
        if not answered:
            answered.append(0)


def told_to_end(place: Place) -> Findings:
    """Tell the server to end while code behind a response runs, and work of the package's; nothing runs behind this."""
    asgi = place.server.kind.protocol == "asgi"
    code, work = place.asked("code", bare=1, seconds=0.5), place.asked("work", work=0.4)
    with place.connection() as connection:
        place.ask(connection, work)
        place.wait_for(work.key, "work began")
    with place.connection() as connection:
        if asgi:
            connection.request("GET", "/", code.headers)
        place.server.stop(timeout=20)
    if asgi:
        yield "that code at SIGTERM", "done" if place.events(code.key, "done") else "cut off"
    lost = "lost, and reported" if "is lost" in place.server.log() else "killed"
    yield "work after the response at SIGTERM", "done" if place.events(work.key, "work done") else lost


FACTS: Final[dict[str, tuple[Callable[[Place], Any], ...]]] = {
    "asgi": (ends, leaves, after_the_last_byte),
    "wsgi": (ends, leaves, inside_close),
}
AT_THE_END: Final = (told_to_end,)
