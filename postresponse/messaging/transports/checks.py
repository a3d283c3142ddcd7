"""What may be put on a queue."""

from typing import Any

from postresponse.exceptions import MessageRefused
from postresponse.messaging.message import Message

__all__ = ["check_message"]


def check_message(message: Any) -> Message:
    """Return *message*, to be put on a queue now.

    Raises:
        MessageRefused: It is no message, or one that is due later.
    """
    if not isinstance(message, Message):
        raise MessageRefused(f"send() takes a Message, found {message!r}")
    if message.delay or message.due is not None:
        raise MessageRefused("delay, due: a queue has a message at once; an Outbox has it wait")
    return message
