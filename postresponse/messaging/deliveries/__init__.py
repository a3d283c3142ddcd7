"""Where a relay sends messages to: engines, by their public means of sending, and functions."""

from postresponse.messaging.deliveries.function import Function

__all__ = ["Function"]
