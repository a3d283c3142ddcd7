"""Messages in the form of kombu's: what is written, what comes, and what is put back.

The document is the body; the id is the `message_id` and the name the `type` (AMQP 0-9-1, section 1.8.3). How often a
message was tried, and put back, stands in its headers, so that it is known to whoever receives it next.
"""

import re
from typing import Any, Final
from uuid import UUID, uuid4

from postresponse.messaging.delivery import DEFERRALS, Delivery, Result, Settled, number_in
from postresponse.messaging.message import Message
from postresponse.messaging.transports.sessions import Copy

__all__ = ["copy_of", "delivery_of", "written"]

ATTEMPTS: Final = "postresponse-attempts"
REASON: Final = "postresponse-reason"
LONGEST_REASON: Final = 500
_NAME: Final = re.compile(r"[\x21-\x7e]{1,200}")
_KEPT: Final = ("priority", "correlation_id", "reply_to", "app_id")
"""Properties that a copy has from the original, beside its id and its type."""
_OF_KOMBU: Final = ("compression", "redelivered", ATTEMPTS)


def written(message: Message, queue: str) -> Copy:
    """Return *message* as it is put on *queue*."""
    return Copy(queue, message.document.encode(), dict(message.headers), _identity(message.id, message.name))


def delivery_of(message: Any, queue: str, handle: Any) -> Delivery:
    """Make a delivery of kombu's *message*; of one that somebody else wrote, one that is to be given up."""
    headers = {name: value for name, value in message.headers.items() if isinstance(value, str)}
    attempts = number_in(headers.pop(ATTEMPTS, None))
    id, name = _id_in(message), message.properties.get("type")
    is_named = isinstance(name, str) and _NAME.fullmatch(name) is not None
    made = Delivery(
        id or uuid4(),
        queue,
        str(name) if is_named else "unknown",
        _bytes(message.body),
        headers,
        attempts=attempts,
        handle=handle,
    )
    if id is None or not is_named:
        made.bury("it has no UUID as its message_id, or no name as its type: it was not sent by this package")
    return made


def copy_of(settled: Settled, queue: str, dead_letters: str | None) -> Copy:
    """Return the copy that is put on *queue*, or on that for *dead_letters*, instead of the original."""
    delivery, message = settled.delivery, settled.delivery.handle.message
    headers = {name: value for name, value in message.headers.items() if _can_be_kept(name, value)}
    attempts = delivery.attempts
    if settled.result is Result.DEFERRED:
        headers[DEFERRALS] = delivery.deferred_headers[DEFERRALS]
    elif settled.result is Result.FAILED:
        attempts += 1
    else:
        queue, headers[REASON] = dead_letters or queue, settled.error[:LONGEST_REASON]
    if attempts:
        headers[ATTEMPTS] = str(attempts)
    properties = {name: message.properties[name] for name in _KEPT if message.properties.get(name) is not None}
    return Copy(queue, _bytes(message.body), headers, properties | _identity(delivery.id, delivery.name))


def _id_in(message: Any) -> UUID | None:
    try:
        return UUID(str(message.properties.get("message_id")))
    except ValueError:
        return None


def _identity(id: UUID, name: str) -> dict[str, str]:
    return {"message_id": str(id), "type": name}


def _bytes(body: Any) -> bytes:
    return body.encode("utf-8", "surrogateescape") if isinstance(body, str) else bytes(body or b"")


def _can_be_kept(name: Any, value: Any) -> bool:
    """Whether a header goes with a copy; what the broker or kombu wrote does not."""
    return isinstance(name, str) and name not in _OF_KOMBU and isinstance(value, str | int | float)
