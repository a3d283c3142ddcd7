"""Steps that wait for somebody else: parked without a thread, and completed from anywhere in the process.

What is suspended lives and dies with its process. A step that must outlive it belongs to an engine that keeps its
state: to Celery, where the rest of the flow is a task that the other side starts, or to a durable workflow of DBOS.
"""

import hashlib
import hmac
import itertools
import os
import secrets
import threading
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from typing import Any, Final, Protocol

from postresponse.core.log import logger
from postresponse.exceptions import ConfigurationError, SupervisorClosed, UnknownToken
from postresponse.work import homes
from postresponse.work.checks import check_function, check_seconds, is_async
from postresponse.work.threads import on_thread

__all__ = ["complete", "complete_later", "parking", "suspend"]


class Parking(Protocol):
    """What is told when what runs is suspended, and when it goes on."""

    def park(self) -> None:
        """It is suspended."""

    def go_on(self) -> None:
        """It goes on."""


parking: Final[ContextVar[Parking | None]] = ContextVar("postresponse_parking", default=None)


class _Suspended:
    """What waits, on its event loop."""

    def __init__(self, home: Any, wake: Callable[[], object]) -> None:
        self.home: Any = home
        self.wake: Callable[[], object] = wake
        self.value: Any = None
        self.error: BaseException | None = None


class _Tokens:
    """Tokens of this process, signed: so nothing has to be kept of those that are over."""

    def __init__(self) -> None:
        self._secret = secrets.token_bytes(32)
        self._process = secrets.token_hex(4)
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._waiting: dict[str, _Suspended] = {}

    def issue(self, suspended: _Suspended) -> str:
        number = f"{self._process}-{next(self._numbers)}"
        token = f"{number}-{self._sign(number)}"
        self._waiting[token] = suspended
        return token

    def _sign(self, number: str) -> str:
        return hmac.new(self._secret, number.encode(), hashlib.sha256).hexdigest()[:32]

    def check(self, token: Any) -> None:
        """Refuse what was never issued here."""
        if not isinstance(token, str):
            raise UnknownToken(f"token: expected the text that suspend() gave to start=, found {token!r}")
        number, _, signature = token.rpartition("-")
        if not hmac.compare_digest(signature.encode(), self._sign(number).encode()):
            raise UnknownToken(
                f"token: {token!r} was not issued by this process: what is suspended ends with its process; a step "
                "that must outlive it belongs to Celery or to an engine that keeps its state, such as DBOS"
            )

    def waiting(self, token: str) -> _Suspended | None:
        return self._waiting.get(token)

    def take(self, token: str) -> _Suspended | None:
        """Return what waits for it, to the first who asks."""
        with self._lock:
            return self._waiting.pop(token, None)


_tokens = _Tokens()


async def suspend(start: Callable[[str], Any], timeout: float | None = None) -> Any:
    """Wait until somebody calls `complete` with the token that *start* is given; return the value of that.

    No thread is held meanwhile. It may be completed before *start* has returned.

    Args:
        start: Receives the token, and has the other side told of it; sync functions run on a thread.
        timeout: Seconds; None for as long as it takes.

    Raises:
        NotAFunction: *start* cannot be called.
        ConfigurationError: *timeout* is no number of seconds above zero.
        TimeoutError: It was not completed in time.
        BaseException: What *start* raised, or what it was completed with.
    """
    from anyio import Event, move_on_after

    check_function("suspend()", start)
    seconds = None if timeout is None else check_seconds("timeout", timeout)
    home, completed = homes.here(), Event()
    suspended = _Suspended(home, completed.set)
    token, parked = _tokens.issue(suspended), parking.get()
    try:
        if parked is not None:
            parked.park()
        with move_on_after(seconds):
            if is_async(start):
                await start(token)
            else:
                await on_thread(start, token)
            await completed.wait()
        if _tokens.take(token) is not None:
            raise TimeoutError(f"it was suspended, and not completed in {seconds:g} s")
        await completed.wait()  # completed in the last moment
    finally:
        _tokens.take(token)
        if parked is not None:
            parked.go_on()
    if suspended.error is not None:
        raise suspended.error
    return suspended.value


def complete(token: str, value: Any = None, *, error: BaseException | None = None) -> bool:
    """Have go on what was suspended, from any thread of its process.

    Args:
        token: What `suspend` gave to its *start*.
        value: What `suspend` returns.
        error: What `suspend` raises instead.

    Returns:
        False if it had gone on already: completed before, too late, or cancelled. That is logged.

    Raises:
        UnknownToken: No `suspend` of this process gave it.
        ConfigurationError: *error* is no exception, or there are both.
    """
    _check_outcome(value, error)
    _tokens.check(token)
    suspended = _tokens.take(token)
    if suspended is None:
        return _came_too_late(token)
    suspended.value, suspended.error = value, error
    return homes.wake(suspended.home, suspended.wake) or _came_too_late(token)


def complete_later(delay: float, token: str, value: Any = None, *, error: BaseException | None = None) -> None:
    """As `complete`, in *delay* seconds, on the clock of the event loop that waits; from any thread.

    What has gone on by then is left alone.

    Raises:
        UnknownToken: No `suspend` of this process gave it.
        ConfigurationError: *delay* is no number of seconds from 0 on, *error* is no exception, or there are both.
    """
    seconds = check_seconds("delay", delay, least=0.0)
    _check_outcome(value, error)
    _tokens.check(token)
    suspended = _tokens.waiting(token)
    if suspended is None:
        _came_too_late(token)
        return
    with suppress(SupervisorClosed):  # then nobody waits any more
        suspended.home.call_later(seconds, lambda: complete(token, value, error=error))


def _check_outcome(value: Any, error: Any) -> None:
    if error is not None:
        if not isinstance(error, BaseException):
            raise ConfigurationError(f"error: expected an exception, found {error!r}")
        if value is not None:
            raise ConfigurationError("value, error: give one of them")


def _came_too_late(token: str) -> bool:
    logger.warning("the completion %s comes too late: what was suspended has gone on", token.rpartition("-")[0])
    return False


def _begin_anew() -> None:
    """Issue tokens of its own, in a process that has just begun."""
    global _tokens
    _tokens = _Tokens()


os.register_at_fork(after_in_child=_begin_anew)
