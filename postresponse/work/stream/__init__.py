"""Bounded streams: producers that wait for room, and one consumer."""

from postresponse.work.stream.events import ServerSentEvent
from postresponse.work.stream.stream import Stream

__all__ = ["ServerSentEvent", "Stream"]
