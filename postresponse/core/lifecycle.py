"""What has left, and how it ended: one table of states, events and actions.

The application speaks (a head, a part of the body, its last part, its return or its exception), the unit of work
answers (it settled, or it refused), the server answers (it took the end). Each is an `Event`. For each commit point
`MOVES` says in which `State` an event is legal, which state follows, and which `Action` the adapter then carries out.
An event without an entry is an application that breaks its protocol; nothing is ever looked up elsewhere.

               START            BODY, FINAL          settled           handed over       FINAL        taken
    PENDING ────────▶ DECIDED ────────▶ SETTLING ────────▶ READY ────────▶ SENDING ────────▶ ENDING ────────▶ SENT
                                            │ refused
                                            ├────────▶ REPLACING ────────▶ REPLACED
                                            │ again
                                            └────────▶ DISCARDED, and the request is run once more
"""

import enum
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

__all__ = ["MOVES", "Action", "CommitPoint", "Ending", "Event", "Moments", "Outcome", "State", "UnitState", "ending_of"]


class CommitPoint(enum.StrEnum):
    """When the unit of work ends, relative to the response."""

    HEAD = "head"
    BUFFERED = "buffered"
    AFTER_SEND = "after_send"


class Ending(enum.StrEnum):
    """How a response ended; each says what is known on every server, and no more."""

    HANDED_OVER = "handed_over"
    """The server took everything and asked for the end."""
    UNCONFIRMED = "unconfirmed"
    """WSGI: all declared bytes were taken, the end was never asked for."""
    INCOMPLETE = "incomplete"
    """Fewer bytes than Content-Length, or no final message."""
    ABORTED = "aborted"
    """The client left, or the request was cancelled, before the end was handed over."""
    FAILED = "failed"
    """The application raised before its response was complete."""


class UnitState(enum.StrEnum):
    """How a unit of work ended."""

    NONE = "none"
    """There is none, it has not ended yet, or the handler ended it itself."""
    COMMITTED = "committed"
    ROLLED_BACK = "rolled_back"
    FAILED = "failed"
    """It was to be committed, and the commit failed: it was rolled back instead."""
    UNKNOWN = "unknown"
    """The connection was lost inside COMMIT: nobody knows."""


class State(enum.IntEnum):
    """Where the response stands."""

    PENDING = 0
    """Nothing is known."""
    DECIDED = 1
    """Status and headers are known and withheld."""
    SETTLING = 2
    """The unit of work is being ended; nothing has left."""
    READY = 3
    """The head may leave and has not been handed over."""
    SENDING = 4
    """The head, or more, was handed to the server."""
    ENDING = 5
    """The last part is being handed over; a disconnect means nothing from here on."""
    SENT = 6
    """The server took the end; the application may still be running."""
    REPLACING = 7
    """The application's response was dropped; an error response is being handed over."""
    REPLACED = 8
    """The error response was handed over; whatever the application still says is dropped."""
    DISCARDED = 9
    """Nothing of this attempt leaves; once the application has ended, the request is run again."""
    OVER = 10
    """The application returned or raised; the outcome is known."""

    @property
    def words(self) -> str:
        """The state as the public API calls it."""
        return _WORDS[self]


_WORDS: Final = MappingProxyType(
    {
        State.PENDING: "pending",
        State.DECIDED: "decided",
        State.SETTLING: "decided, and its unit of work is being ended",
        State.READY: "decided, and its unit of work has ended",
        State.SENDING: "sending",
        State.ENDING: "sending its last part",
        State.SENT: "sent",
        State.REPLACING: "replaced by an error response",
        State.REPLACED: "replaced by an error response",
        State.DISCARDED: "discarded, and the request is run again",
        State.OVER: "over",
    }
)


class Event(enum.IntEnum):
    """What happened."""

    START = 0
    """The application gave status and headers."""
    RESTART = 1
    """It gave them again, to replace the first because of an error (WSGI: `exc_info`)."""
    BODY = 2
    """It gave a part of the body, and more follows."""
    FINAL = 3
    """It gave the last part: a final body message, trailers, a path to send; WSGI: StopIteration."""
    SETTLED = 4
    """The unit of work ended as the rules said."""
    REFUSED = 5
    """It did not, or a hook failed: the client gets an error response."""
    OVERFLOW = 6
    """The held body is over the limit."""
    HANDED = 7
    """The head is handed to the server now."""
    TAKEN = 8
    """The server took the last part."""
    RETURNED = 9
    """The application returned (WSGI: the server closed the body)."""
    RAISED = 10
    """The application raised, or was cancelled."""
    ENDLESS = 11
    """The head says that the body never ends, and its first part may be long in coming."""
    AGAIN = 12
    """The unit of work ended for a reason that passes: the request is to be run again."""


class Action(enum.IntEnum):
    """What the adapter does about it."""

    NOTHING = 0
    HOLD = 1
    """Keep what the application said."""
    SETTLE = 2
    """End the unit of work by the rules, and report SETTLED, REFUSED or AGAIN."""
    REFUSE = 3
    """Roll back, and report REFUSED or AGAIN."""
    RELEASE = 4
    """Run the start hooks that have not run, hand over the head (HANDED) and all that is held."""
    FORWARD = 5
    """Hand over this part."""
    REPLACE = 6
    """Drop the application's response and hand over the error response (then TAKEN)."""
    DROP = 7
    """Drop what the application said."""
    STOP = 8
    """Drop it, and tell the application that nobody takes more (`ResponseReplaced`)."""
    FINISH = 9
    """Settle what is not settled, and report the outcome; an exception passes through."""
    SWALLOW = 10
    """The same, but log the exception: the connection is still good for the next request."""


_SPOKEN: Final = (Event.START, Event.RESTART, Event.BODY, Event.FINAL)
_Row = dict[Event, tuple[State, Action]]

# What is the same whenever the commit is: from the moment that the head may leave.
_TAIL: Final[dict[State, _Row]] = {
    State.READY: {
        Event.HANDED: (State.SENDING, Action.NOTHING),
        Event.REFUSED: (State.REPLACING, Action.REPLACE),
        Event.RETURNED: (State.OVER, Action.FINISH),
        Event.RAISED: (State.OVER, Action.FINISH),
    },
    State.SENDING: {
        Event.BODY: (State.SENDING, Action.FORWARD),
        Event.FINAL: (State.ENDING, Action.FORWARD),
        # PEP 3333: the server raises it again, unless its headers have not left yet.
        Event.RESTART: (State.SENDING, Action.FORWARD),
        Event.RETURNED: (State.OVER, Action.FINISH),
        Event.RAISED: (State.OVER, Action.FINISH),
    },
    State.ENDING: {
        Event.TAKEN: (State.SENT, Action.NOTHING),
        Event.RETURNED: (State.OVER, Action.FINISH),
        Event.RAISED: (State.OVER, Action.FINISH),
    },
    State.SENT: {
        # "Further messages will be ignored", says ASGI; some servers raise. It is theirs to say.
        **dict.fromkeys(_SPOKEN, (State.SENT, Action.FORWARD)),
        Event.RETURNED: (State.OVER, Action.FINISH),
        Event.RAISED: (State.OVER, Action.FINISH),
    },
    State.REPLACING: {
        **dict.fromkeys(_SPOKEN, (State.REPLACING, Action.DROP)),
        Event.TAKEN: (State.REPLACED, Action.NOTHING),
        Event.RETURNED: (State.OVER, Action.FINISH),
        Event.RAISED: (State.OVER, Action.FINISH),
    },
    State.REPLACED: {
        **dict.fromkeys(_SPOKEN, (State.REPLACED, Action.DROP)),
        Event.BODY: (State.REPLACED, Action.STOP),
        Event.RETURNED: (State.OVER, Action.FINISH),
        Event.RAISED: (State.OVER, Action.SWALLOW),
    },
    State.OVER: {},
}

# What the two points that withhold the head share.
_WITHHELD: Final[dict[State, _Row]] = {
    State.PENDING: {
        Event.START: (State.DECIDED, Action.HOLD),
        Event.REFUSED: (State.REPLACING, Action.REPLACE),
        Event.AGAIN: (State.DISCARDED, Action.STOP),
        Event.RETURNED: (State.OVER, Action.FINISH),
        Event.RAISED: (State.OVER, Action.FINISH),
    },
    State.SETTLING: {
        Event.SETTLED: (State.READY, Action.RELEASE),
        Event.REFUSED: (State.REPLACING, Action.REPLACE),
        Event.AGAIN: (State.DISCARDED, Action.STOP),
        Event.RAISED: (State.OVER, Action.FINISH),
    },
    State.DISCARDED: {
        # Stopped, and not dropped: work that a framework does behind the last part must not run for each attempt.
        **dict.fromkeys(_SPOKEN, (State.DISCARDED, Action.STOP)),
        Event.RETURNED: (State.OVER, Action.FINISH),
        Event.RAISED: (State.OVER, Action.SWALLOW),
    },
}

_HEAD: Final[dict[State, _Row]] = {
    **_WITHHELD,
    State.DECIDED: {
        Event.RESTART: (State.DECIDED, Action.HOLD),
        Event.ENDLESS: (State.SETTLING, Action.SETTLE),
        Event.BODY: (State.SETTLING, Action.SETTLE),
        Event.FINAL: (State.SETTLING, Action.SETTLE),
        Event.RETURNED: (State.SETTLING, Action.SETTLE),
        Event.RAISED: (State.OVER, Action.FINISH),
    },
    **_TAIL,
}

_BUFFERED: Final[dict[State, _Row]] = {
    **_WITHHELD,
    State.DECIDED: {
        Event.RESTART: (State.DECIDED, Action.HOLD),
        Event.ENDLESS: (State.SETTLING, Action.SETTLE),
        Event.BODY: (State.DECIDED, Action.HOLD),
        Event.FINAL: (State.SETTLING, Action.SETTLE),
        Event.OVERFLOW: (State.SETTLING, Action.REFUSE),
        # Half a body is no response: not a byte of it has left, so the client can still be told.
        Event.RETURNED: (State.SETTLING, Action.REFUSE),
        Event.RAISED: (State.OVER, Action.FINISH),
    },
    **_TAIL,
}

_AFTER_SEND: Final[dict[State, _Row]] = {
    State.PENDING: {
        Event.START: (State.READY, Action.RELEASE),
        Event.REFUSED: (State.REPLACING, Action.REPLACE),
        Event.RETURNED: (State.OVER, Action.FINISH),
        Event.RAISED: (State.OVER, Action.FINISH),
    },
    # Only where the policy was set after the head was given, and before it left.
    State.DECIDED: {
        Event.RESTART: (State.DECIDED, Action.HOLD),
        Event.BODY: (State.READY, Action.RELEASE),
        Event.FINAL: (State.READY, Action.RELEASE),
        Event.RETURNED: (State.READY, Action.RELEASE),
        Event.RAISED: (State.OVER, Action.FINISH),
    },
    **_TAIL,
    State.ENDING: {**_TAIL[State.ENDING], Event.TAKEN: (State.SENT, Action.SETTLE)},
}

MOVES: Final = MappingProxyType(
    {CommitPoint.HEAD: _HEAD, CommitPoint.BUFFERED: _BUFFERED, CommitPoint.AFTER_SEND: _AFTER_SEND}
)
"""The table. Without a unit of work the row of `after_send` is used, with nothing to settle."""


@dataclass(frozen=True, slots=True)
class Moments:
    """When each moment was, in nanoseconds of the monotonic clock; None for one that did not come."""

    began: int
    """The request reached the middleware."""
    decided: int | None
    """The application gave status and headers."""
    settling: int | None
    """The unit of work began to end."""
    settled: int | None
    """The unit of work had ended and its connection was released."""
    head_sent: int | None
    """The head left: it was handed to the server, under WSGI with the first bytes of the body, for which it waits."""
    body_sent: int | None
    """The server took the end."""
    ended: int
    """The outcome was known."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one exchange ended: what is known of the response, and of its unit of work."""

    ending: Ending
    unit_of_work: UnitState
    status: int | None
    """The status that was handed over, or would have been; None if the application gave none."""
    bytes_sent: int | None
    """Body bytes handed to the server; None where nothing counts them: sendfile, WSGI without Content-Length, and a
    stream that had begun before anybody asked for the outcome."""
    exception: BaseException | None
    """What the application raised, at whatever time; or the failure that replaced its response."""
    drained: bool | None
    """True if the server showed its buffer empty with the connection still up; None where it does not say."""
    attempt: int
    moments: Moments

    @property
    def sent(self) -> bool:
        """Whether the response was `handed_over` or `unconfirmed`; never that the client has it."""
        return self.ending is Ending.HANDED_OVER or self.ending is Ending.UNCONFIRMED


def ending_of(*, taken: bool, raised: bool, left: bool, missing: bool, ended: bool) -> Ending:
    """Tell the ending from the evidence.

    Args:
        taken: The server took the end, or needed no body (HEAD, 204, 304) and closed.
        raised: The application raised before that.
        left: The client left, or the request was cancelled, before the final send began.
        missing: Fewer bytes than Content-Length were handed over.
        ended: The application gave its last part, or all declared bytes were taken.
    """
    if left:
        return Ending.ABORTED
    if raised:
        return Ending.FAILED
    if missing or not ended:
        return Ending.INCOMPLETE
    return Ending.HANDED_OVER if taken else Ending.UNCONFIRMED
