"""Every error of the package; one leaf for each decision that a caller can take.

PostResponseError
├── ConfigurationError (ValueError)     an option is wrong: mend the line that the traceback names
│   ├── WrongApplication (TypeError)    the application, or the unit of work, speaks another protocol
│   └── NotAFunction (TypeError)        work was given as something that cannot be called
├── NoExchange (RuntimeError)           called outside of a request
├── ResponseStarted (RuntimeError)      called too late: what it would have changed has left or was decided
├── MessageOrderError (RuntimeError)    the application broke the order of its protocol
├── InvalidHeader (ValueError)          a header that no server may send
├── ResponseReplaced (OSError)          the application still streams a response that was replaced by an error
├── WorkError (RuntimeError)
│   ├── TooManyTasks                    a bulkhead is full: come again later
│   ├── NotAccepted                     a source of a race returned what does not count
│   ├── SupervisorClosed                work was submitted after its supervisor closed
│   └── WrongThread                     a call that waits, on the thread that would have to go on
└── UnitOfWorkError
    ├── BodyTooLarge                    a held body went over the policy's limit
    ├── NoUnitOfWork (RuntimeError)     there is no unit of work to hook into
    ├── CommitRefused                   the transaction can only be rolled back
    ├── PartialCommit                   of several units of work a later one failed after an earlier one had committed
    └── CommitInDoubt                   the connection was lost inside COMMIT: nobody knows
"""

__all__ = [
    "BodyTooLarge",
    "CommitInDoubt",
    "CommitRefused",
    "ConfigurationError",
    "InvalidHeader",
    "MessageOrderError",
    "NoExchange",
    "NoUnitOfWork",
    "NotAFunction",
    "NotAccepted",
    "PartialCommit",
    "PostResponseError",
    "ResponseReplaced",
    "ResponseStarted",
    "SupervisorClosed",
    "TooManyTasks",
    "UnitOfWorkError",
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


class NoExchange(PostResponseError, RuntimeError):
    """There is no current exchange: the call was made outside of a request, or the middleware is not installed."""


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


class SupervisorClosed(WorkError):
    """Work was submitted to a supervisor that is closed, or whose event loop is."""


class NotAccepted(WorkError):
    """A source of a race returned something that its `accept` does not count."""


class WrongThread(WorkError):
    """A call that waits was made on the thread that would have to go on meanwhile."""


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
