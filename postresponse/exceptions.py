"""Every error of the package; one leaf for each decision that a caller can take.

PostResponseError
├── ConfigurationError (ValueError)     an option is wrong: mend the line that the traceback names
│   ├── WrongApplication (TypeError)    the application, or the unit of work, speaks another protocol
│   ├── NotAFunction (TypeError)        work was given as something that cannot be called
│   ├── FlowError                       steps that cannot be put together so; where
│   └── UnknownToken                    a completion of something that this process has not suspended
├── NoExchange (RuntimeError)           called outside of a request
├── ResponseStarted (RuntimeError)      called too late: what it would have changed has left or was decided
├── MessageOrderError (RuntimeError)    the application broke the order of its protocol
├── InvalidHeader (ValueError)          a header that no server may send
├── ResponseReplaced (OSError)          the application still streams a response that was replaced by an error
├── WorkError (RuntimeError)
│   ├── TooManyTasks                    a bulkhead is full: come again later
│   ├── NotAccepted                     a source of a race returned what does not count
│   ├── TooLate (TimeoutError)          a response was not complete in the time that its tenant has
│   ├── SupervisorClosed                work was submitted after its supervisor closed
│   ├── FlowFailed                      a step of a flow failed; what came of the others
│   ├── WrongThread                     a call on a thread that it must not be made on, mostly as it waits
│   ├── StreamFull                      there is no room in a stream for all of the items
│   ├── StreamClosed                    a stream takes nothing more, or ended before its producers were done
│   │   └── StreamIdle (TimeoutError)   it ended since nothing moved in it for too long
│   └── StreamInUse                     a stream has a consumer already
├── MessagingError
│   ├── MessageRefused (ValueError)     a message cannot be sent as it is
│   ├── UnknownVersion                  a message was written by a later release: left to one that knows it
│   ├── NoTransaction (RuntimeError)    a message was enlisted where no transaction would keep it
│   ├── NoTable (RuntimeError)          the table of the outbox, or of the inbox, does not exist
│   ├── UnsupportedDatabase             an outbox cannot work on this database
│   ├── Unreachable (ConnectionError)   the engine behind a destination cannot be reached: its messages wait
│   └── AlreadyRunning (RuntimeError)   a relay was started twice in one process
└── UnitOfWorkError
    ├── BodyTooLarge                    a held body went over the policy's limit
    ├── NoUnitOfWork (RuntimeError)     there is no unit of work to hook into
    ├── CommitRefused                   the transaction can only be rolled back
    ├── PartialCommit                   of several units of work a later one failed after an earlier one had committed
    └── CommitInDoubt                   the connection was lost inside COMMIT: nobody knows
"""

from collections.abc import Sequence
from typing import Any

__all__ = [
    "AlreadyRunning",
    "BodyTooLarge",
    "CommitInDoubt",
    "CommitRefused",
    "ConfigurationError",
    "FlowError",
    "FlowFailed",
    "InvalidHeader",
    "MessageOrderError",
    "MessageRefused",
    "MessagingError",
    "NoExchange",
    "NoTable",
    "NoTransaction",
    "NoUnitOfWork",
    "NotAFunction",
    "NotAccepted",
    "PartialCommit",
    "PostResponseError",
    "ResponseReplaced",
    "ResponseStarted",
    "StreamClosed",
    "StreamFull",
    "StreamIdle",
    "StreamInUse",
    "SupervisorClosed",
    "TooLate",
    "TooManyTasks",
    "UnitOfWorkError",
    "UnknownToken",
    "UnknownVersion",
    "Unreachable",
    "UnsupportedDatabase",
    "WorkError",
    "WrongApplication",
    "WrongThread",
]


class PostResponseError(Exception):
    """The base of every error that this package raises itself."""


class ConfigurationError(PostResponseError, ValueError):
    """An option was given a value that it cannot have; raised where it is given."""


class WrongApplication(ConfigurationError, TypeError):
    """An application or a unit of work speaks another protocol than the middleware around it."""


class NotAFunction(ConfigurationError, TypeError):
    """Work was given as something that cannot be called; a coroutine object was closed."""


class FlowError(ConfigurationError):
    """Steps cannot be put together so.

    Attributes:
        position: Where in the text of the flow, or in the list of steps, from 0 on; None where it has no place.
    """

    def __init__(self, message: str, position: int | None = None) -> None:
        super().__init__(message)
        self.position: int | None = position

    @classmethod
    def at(cls, text: str, position: int, message: str) -> "FlowError":
        """Make one that shows the place in *text*."""
        before, line = text[:position].rpartition("\n")[2], text[position:].partition("\n")[0]
        return cls(f"{message}, at character {position + 1}:\n  {before}{line}\n  {' ' * len(before)}^", position)


class UnknownToken(ConfigurationError):
    """A completion names something that was not suspended by this process."""


class NoExchange(PostResponseError, RuntimeError):
    """There is no current exchange: the call was made outside of a request, or the middleware is not installed."""

    @classmethod
    def in_websocket(cls) -> "NoExchange":
        """Make the one for a session that a WebSocket asks for."""
        return cls(
            "a WebSocket has no response, and so no session whose commit could be tied to one: enter a block of its "
            "own for each thing that it does, `async with postresponse.scope(name, unit_of_work=db):`"
        )


class ResponseStarted(PostResponseError, RuntimeError):
    """The call came too late to have an effect.

    Attributes:
        state: Where the response stood.
        call: What was called.
    """

    def __init__(self, call: str, state: str, way_out: str) -> None:
        super().__init__(f"{call} came too late: the response is {state}; {way_out}")
        self.call = call
        self.state = state


class MessageOrderError(PostResponseError, RuntimeError):
    """The application sent something that its protocol does not allow at this point."""


class InvalidHeader(PostResponseError, ValueError):
    """A response header holds a character that would let it forge another one (RFC 9110, section 5.5)."""


class ResponseReplaced(PostResponseError, OSError):
    """The response was replaced by an error response, and the application still sends parts of it.

    An `OSError`, because that is what the ASGI specification has `send` raise when nobody takes the bytes: a
    stream that would never end stops here.
    """


class WorkError(PostResponseError, RuntimeError):
    """Work that accompanies or outlives a response could not be taken, or waited for."""


class TooManyTasks(WorkError):
    """A bulkhead is full: no slot is free, and no room to wait for one.

    Attributes:
        bulkhead: Its name.
        running: How many have a slot.
        waiting: How many wait.
    """

    def __init__(self, bulkhead: str, *, running: int, waiting: int) -> None:
        super().__init__(f"the bulkhead {bulkhead!r} is full: {running} run and {waiting} wait; come again later")
        self.bulkhead: str = bulkhead
        self.running: int = running
        self.waiting: int = waiting


class TooLate(WorkError, TimeoutError):
    """A response that had begun was not complete in the time that its tenant's limits give; it is cut off."""


class SupervisorClosed(WorkError):
    """Work was submitted to a supervisor that is closed, or whose event loop is."""


class NotAccepted(WorkError):
    """A source of a race returned something that its `accept` does not count."""


class FlowFailed(WorkError):
    """A step of a flow failed; its error is the cause, or a group of them where several did.

    Attributes:
        result: The `FlowResult`: what came of every step.
    """

    def __init__(self, flow: str, result: Any, failures: Sequence[tuple[str, BaseException]]) -> None:
        (name, error), *others = failures
        more = f", and {len(others)} more failed" if others else ""
        super().__init__(f"the flow {flow} failed: {name} raised {error!r}{more}")
        self.result: Any = result
        cause: BaseException = error
        if others:
            cause = BaseExceptionGroup(f"steps of {flow}", [each for _, each in failures])
        self.__cause__: BaseException | None = cause


class WrongThread(WorkError):
    """A call was made on a thread that it must not be made on: mostly one that would have to go on meanwhile."""


class StreamFull(WorkError):
    """There is no room in a stream for all of the items; none of them was put.

    Attributes:
        stream: Its name.
        maxsize: How many items may wait in it.
        waiting: How many do.
        items: How many there was to be room for.
    """

    def __init__(self, stream: str, *, maxsize: int, waiting: int, items: int) -> None:
        super().__init__(
            f"the stream {stream!r} has no room for {items} more: {waiting} of {maxsize} wait in it; "
            "come again later, or wait for room with put()"
        )
        self.stream: str = stream
        self.maxsize: int = maxsize
        self.waiting: int = waiting
        self.items: int = items


class StreamClosed(WorkError):
    """A stream takes nothing more; its consumer is told so where it ended before its producers were done.

    Attributes:
        stream: Its name.
        reason: Why.
    """

    def __init__(self, stream: str, reason: str) -> None:
        super().__init__(f"the stream {stream!r} is closed: {reason}")
        self.stream: str = stream
        self.reason: str = reason


class StreamIdle(StreamClosed, TimeoutError):
    """A stream ended since nothing was put into it or taken out of it for too long."""


class StreamInUse(WorkError):
    """A stream has one consumer at a time, and has it already.

    Attributes:
        stream: Its name.
    """

    def __init__(self, stream: str) -> None:
        super().__init__(f"the stream {stream!r} has a consumer, and takes no second one until that has ended")
        self.stream: str = stream


class MessagingError(PostResponseError):
    """A message could not be taken, sent or handled."""


class MessageRefused(MessagingError, ValueError):
    """A message cannot be sent as it is; raised by a delivery, it goes to the dead at once."""


class UnknownVersion(MessagingError):
    """A message was written by a later release, and is left to a relay or receiver that knows it.

    Attributes:
        found: The version that it has.
    """

    def __init__(self, found: object, known: int) -> None:
        super().__init__(f"a message of version {found!r}, and this release knows {known}; it is left alone")
        self.found: object = found


class NoTransaction(MessagingError, RuntimeError):
    """A message was enlisted where there is no transaction that could keep it, or that it would die with."""


class NoTable(MessagingError, RuntimeError):
    """The table of an outbox, or of an inbox, does not exist."""


class UnsupportedDatabase(MessagingError):
    """An outbox cannot work on this database, or on this version of it."""


class Unreachable(MessagingError, ConnectionError):
    """The engine behind a destination cannot be reached: nothing is wrong with the message, and it waits."""


class AlreadyRunning(MessagingError, RuntimeError):
    """A relay was started twice in one process."""


class UnitOfWorkError(PostResponseError):
    """The unit of work could not be made, or could not end as asked."""


class BodyTooLarge(UnitOfWorkError):
    """A body held in buffered mode went over `CommitPolicy.max_body`."""


class NoUnitOfWork(UnitOfWorkError, RuntimeError):
    """There is no unit of work in this exchange: the middleware only observes."""


class CommitRefused(UnitOfWorkError):
    """The transaction was rolled back: a failed statement was swallowed, or the connection was lost inside COMMIT."""


class PartialCommit(UnitOfWorkError):
    """Of several units of work one could not commit after others had; what raised it is the `__cause__`.

    Attributes:
        committed: The names of those that committed, in order.
        failed: The name of the one that did not.
        rolled_back: The names of those behind it, which are rolled back.
    """

    def __init__(self, committed: tuple[str, ...], failed: str, rolled_back: tuple[str, ...] = ()) -> None:
        super().__init__(f"{failed} could not commit after {', '.join(committed)} had; TwoPhase prepares all first")
        self.committed = committed
        self.failed = failed
        self.rolled_back = rolled_back


class CommitInDoubt(UnitOfWorkError):
    """The connection was lost inside COMMIT and nobody can tell whether the transaction committed.

    A unit of work raises it from `commit`; the outcome is then `unknown` and the client is told so.
    """
