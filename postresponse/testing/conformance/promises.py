"""What the package promises on every server, asked of the application that is served."""

from collections.abc import Callable
from typing import Any, Final

from postresponse.testing.client import ConnectionEnded, Response
from postresponse.testing.conformance.facts import Findings
from postresponse.testing.conformance.place import Place

__all__ = ["MODES", "PROMISES"]

MODES: Final = ("head", "buffered", "after_send")
OF_THE_ORIGINAL: Final = ("set-cookie", "etag", "location", "content-encoding")
"""Headers that stand for what was not stored."""


def failed_commit(place: Place) -> Findings:
    """Have the commit fail in each mode, and ask on."""
    for at in MODES:
        yield f"failed commit, {at}", _failed_commit(place, at)


def _failed_commit(place: Place, at: str) -> str:
    sound, failing, following = (
        place.asked("sound", at=at),
        place.asked("failing", at=at, fail=1 if place.own else None, refuse=None if place.own else 1),
        place.asked("following", at=at),
    )
    with place.connection() as connection:
        original = place.ask(connection, sound)
    connection = place.connection()
    try:
        response = place.ask(connection, failing)
        if response.head.keeps_alive:
            following_response = place.ask(connection, following)
        else:
            connection.close()
            connection = place.connection()
            following_response = place.ask(connection, following)
    except (ConnectionEnded, OSError) as error:
        return f"the next request failed: {error}"
    finally:
        connection.close()
    began = bool(place.events(failing.key))  # else no middleware has seen it
    outcome = place.wait_for(failing.key, "finished", patience=10.0 if began else 0.2) or {}
    if outcome.get("unit_of_work") != "failed":
        return f"the commit was not asked for: unit of work {outcome.get('unit_of_work', 'unknown')}"
    said = _replaced(response, failing.key) if at != "after_send" else _as_it_was(response, original)
    well = following_response.status == original.status
    return f"{said}, {'the next request answered' if well else f'the next request {following_response.status}'}"


def _replaced(response: Response, key: str) -> str:
    if response.status < 500:
        return f"{response.status}, as if it had been stored"
    left = [name for name in OF_THE_ORIGINAL if response.head.get(name) is not None]
    if key.encode() in response.body:
        left.append("the body")
    return f"an error with {', '.join(left)} of the original" if left else "an error, nothing of the original"


def _as_it_was(response: Response, original: Response) -> str:
    same = response.status == original.status
    return "the response as it was" if same else f"{response.status} in the place of {original.status}"


def client_left(place: Place) -> Findings:
    """Leave at once, in each mode, and ask on."""
    for at in MODES:
        yield f"client left, {at}", _client_left(place, at)


def _client_left(place: Place, at: str) -> str:
    leaving, following = place.asked("leaving", at=at, pieces=40), place.asked("following", at=at)
    connection = place.connection()
    place.send(connection, leaving)
    place.wait_for(leaving.key, "began")
    connection.reset()
    place.wait_for(leaving.key, "finished", patience=20.0)
    with place.connection() as connection:
        answered = place.ask(connection, following).status < 500
    told = [each["unit_of_work"] for each in place.events(leaving.key, "finished")]
    once = len(told) == 1 and told[0] in ("committed", "rolled_back")
    settled = "settled once" if once else f"settled as {told or 'nothing'}"
    return f"{settled}, the next request {'answered' if answered else 'failed'}"


PROMISES: Final[tuple[Callable[[Place], Any], ...]] = (failed_commit, client_left)
