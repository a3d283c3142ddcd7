"""Messages that must not be lost: an outbox in the caller's transaction, a relay that sends them, and receivers."""

from postresponse.messaging.deliveries.function import Function
from postresponse.messaging.delivery import Delivery
from postresponse.messaging.filters import DegradedFilter
from postresponse.messaging.inbox import Inbox, once
from postresponse.messaging.message import Message
from postresponse.messaging.outbox import Outbox
from postresponse.messaging.receiver import Receiver
from postresponse.messaging.relay import Relay
from postresponse.messaging.retrying import Backoff

__all__ = [
    "Backoff",
    "DegradedFilter",
    "Delivery",
    "Function",
    "Inbox",
    "Message",
    "Outbox",
    "Receiver",
    "Relay",
    "once",
]
