"""When to commit, and whether: `CommitPolicy`, and the order of the rules."""

import difflib
import enum
import functools
import inspect
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from typing import Any, Final, Literal, cast

from postresponse.core.lifecycle import CommitPoint
from postresponse.exceptions import ConfigurationError

__all__ = ["CommitPolicy", "Head", "Retry", "Verdict", "did_you_mean", "is_transient", "never_ends", "verdict_of"]

MiB: Final = 1024 * 1024
MAX_PAUSE: Final = 1.0
"""Seconds between two attempts at most."""


@dataclass(frozen=True, slots=True)
class Head:
    """Status and headers of a response, as a policy sees them.

    Attributes:
        status: The status code.
        headers: Names and values, in order; names as the application wrote them.
    """

    status: int
    headers: tuple[tuple[str, str], ...] = ()

    def get(self, name: str, default: str | None = None) -> str | None:
        """Return the first value of the header *name*, whatever its case."""
        wanted = name.lower()
        return next((value for key, value in self.headers if key.lower() == wanted), default)


@functools.lru_cache(maxsize=256)
def head_of(status: int) -> Head:
    """Return a head of which nothing but the status is wanted."""
    return Head(status)


def below_400(head: Head) -> bool:
    """Commit below 400: a redirect commits (post/redirect/get), an error does not."""
    return head.status < 400


def is_transient(error: BaseException | None) -> bool:
    """Tell whether the database refused for a reason that is gone on the next try.

    SQLSTATE class 40 (serialization failure, deadlock), MySQL and MariaDB 1020, 1205 and 1213 ("try restarting
    transaction"), SQLite busy and locked; looked for on the error, on the driver's error behind it (SQLAlchemy's
    `orig`) and along its causes.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if _transient(error):
            return True
        error = getattr(error, "orig", None) or error.__cause__ or error.__context__
    return False


def _transient(error: BaseException) -> bool:
    state = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
    if isinstance(state, str) and state.startswith("40"):
        return state != "40003"  # which says that nobody knows
    code = getattr(error, "sqlite_errorcode", None)
    if isinstance(code, int):
        return code & 0xFF in (5, 6)  # SQLITE_BUSY, SQLITE_LOCKED
    first = error.args[0] if error.args else None
    return first in (1020, 1205, 1213) and not isinstance(error, OSError)


@dataclass(frozen=True, slots=True)
class Retry:
    """Run a request again from its start, with the same body, while it fails for a reason that passes.

    Only where nothing has left, nothing was committed, the outcome of the commit is known, and the whole request body
    is recorded. Each attempt has an exchange, a unit of work and a scope or environ of its own. Of one that is
    discarded the hooks `on_start` and `before_commit` may have run, which come before the commit; no other does. The
    failure may come from a statement or from the commit.

    Args:
        attempts: How often the request is run at most.
        on: Receives the exception; True runs the request again. By default what databases call transient: SQLSTATE
            class 40, MySQL 1020, 1205 and 1213, SQLite busy and locked.
        max_request_body: Bytes of a request body that are kept to be replayed; a request with more is not run again.
        backoff: Seconds before the second attempt at most; twice that before each further one, up to a second, and a
            random part of it is waited (full jitter). Or a function of the number of the attempt that failed, whose
            seconds are waited as they are.

    Raises:
        ConfigurationError: A value is not one of those.

    Example:
        >>> CommitPolicy("buffered", retry=Retry(attempts=5)).retry.attempts
        5
    """

    attempts: int = 3
    on: Callable[[BaseException], object] = is_transient
    max_request_body: int = MiB
    backoff: float | Callable[[int], float] = 0.05

    def __post_init__(self) -> None:
        if isinstance(self.attempts, bool) or not isinstance(self.attempts, int) or self.attempts < 1:
            raise ConfigurationError(f"attempts: expected a number above zero, found {self.attempts!r}")
        _callable("on", self.on)
        limit = self.max_request_body
        if isinstance(limit, bool) or not isinstance(limit, int) or limit < 0:
            raise ConfigurationError(f"max_request_body: expected a number of bytes, zero or more, found {limit!r}")
        if callable(self.backoff):
            _callable("backoff", self.backoff)
        else:
            _seconds("backoff", self.backoff)

    def pause(self, failed: int, chance: float) -> float:
        """Return the seconds to wait before the next attempt.

        Args:
            failed: The number of the attempt that failed, from 1.
            chance: A random number from 0 to 1.

        Raises:
            ConfigurationError: The function *backoff* returned no number of seconds.
        """
        if callable(self.backoff):
            return _seconds("backoff", self.backoff(failed))
        return min(MAX_PAUSE, self.backoff * 2.0 ** min(failed - 1, 30)) * chance


def _seconds(name: str, found: object) -> float:
    if isinstance(found, bool) or not isinstance(found, int | float) or not 0 <= found < math.inf:
        raise ConfigurationError(f"{name}: expected seconds, zero or more, found {found!r}")
    return float(found)


@dataclass(frozen=True, slots=True)
class CommitPolicy:
    """When the unit of work ends relative to the response, and whether it commits.

    Args:
        at: `"head"` commits when the head is about to leave, `"buffered"` when the whole body is known and held,
            `"after_send"` after the server took the last byte.
        commit_if: Receives the `Head`; True commits. Asked only where no stronger rule applies: an exception, `doom`,
            `force_commit`, a unit of work that the handler ended. One that raises rolls back and answers 500.
        stream_if: Receives the `Head` of a response in buffered mode; True lets it fall back to `"head"`. Content types
            that never end (`text/event-stream`, `multipart/x-mixed-replace`) always do.
        on_disconnect: Whether a client that left before the decision changes it: `"commit"` (no) or `"rollback"`.
        on_overflow: What happens to a held body over *max_body*: `"error"` rolls back and answers 500, `"head"`
            commits and streams from there on.
        max_memory: Bytes of a held body kept in memory; the rest goes to a temporary file.
        max_body: Bytes of a held body at most; None for no limit.
        retry: Whether a request that fails for a reason that passes is run again; None never does. A view that may not
            run twice turns it off: `commit_policy(retry=None)`.

    Raises:
        ConfigurationError: A value is not one of those.

    Example:
        >>> CommitPolicy(at="buffered", commit_if=lambda head: head.status < 300).at.value
        'buffered'
    """

    at: CommitPoint | Literal["head", "buffered", "after_send"] = CommitPoint.HEAD
    commit_if: Callable[[Head], object] = below_400
    stream_if: Callable[[Head], object] | None = None
    on_disconnect: Literal["commit", "rollback"] = "commit"
    on_overflow: Literal["error", "head"] = "error"
    max_memory: int = MiB
    max_body: int | None = 64 * MiB
    retry: Retry | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "at", CommitPoint(_one_of("at", self.at, [point.value for point in CommitPoint])))
        _one_of("on_disconnect", self.on_disconnect, ["commit", "rollback"])
        _one_of("on_overflow", self.on_overflow, ["error", "head"])
        _callable("commit_if", self.commit_if)
        if self.stream_if is not None:
            _callable("stream_if", self.stream_if)
        _positive("max_memory", self.max_memory)
        if self.max_body is not None:
            _positive("max_body", self.max_body)
        if self.retry is not None:
            _check_retry(self.retry, self.point)

    @property
    def point(self) -> CommitPoint:
        """*at*, as the enum that it has become."""
        return cast("CommitPoint", self.at)

    def but(self, changes: dict[str, Any]) -> "CommitPolicy":
        """Return this policy with *changes*; a name that no option has is refused with the nearest one."""
        unknown(changes, [field.name for field in fields(self)], "CommitPolicy")
        return replace(self, **changes)

    @classmethod
    def of(cls, short: object, otherwise: "CommitPolicy | None" = None) -> "CommitPolicy":
        """Return the policy that *short* stands for: a policy, the name of a commit point, or None for *otherwise*."""
        if isinstance(short, CommitPolicy):
            return short
        if short is None:
            return otherwise or DEFAULT_POLICY
        if isinstance(short, str):
            return (otherwise or DEFAULT_POLICY).but({"at": short})
        _close(short)
        raise ConfigurationError(
            f"commit: expected 'head', 'buffered', 'after_send' or a CommitPolicy, found {short!r}"
        )


def did_you_mean(found: str, known: Iterable[str]) -> str:
    """Say which of *known* was probably meant, and all of them."""
    names = list(known)
    near = difflib.get_close_matches(found, names, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"{hint} (there are: {', '.join(names)})"


def unknown(options: Iterable[str], known: Iterable[str], owner: str) -> None:
    """Refuse an option that *owner* does not have."""
    names = list(known)
    for name in options:
        if name not in names:
            raise ConfigurationError(f"{owner} has no option {name!r}{did_you_mean(name, names)}")


def _one_of(name: str, found: object, known: list[str]) -> str:
    if isinstance(found, str) and found in known:
        return found
    if not isinstance(found, str):
        raise ConfigurationError(f"{name}: expected one of {', '.join(map(repr, known))}, found {found!r}")
    raise ConfigurationError(f"{name}: there is no {found!r}{did_you_mean(found, known)}")


def _callable(name: str, found: object) -> None:
    if _close(found) or not callable(found):
        raise ConfigurationError(f"{name}: expected a function, found {found!r}")
    if inspect.iscoroutinefunction(found):
        raise ConfigurationError(f"{name}: expected a plain function, found an async one: {found!r}")


def _close(found: object) -> bool:
    """Whether *found* is a coroutine object, where a function or its answer was meant; nobody will await it."""
    if inspect.iscoroutine(found):
        found.close()
        return True
    return False


def _check_retry(found: object, at: CommitPoint) -> None:
    if not isinstance(found, Retry):
        raise ConfigurationError(f"retry: expected a Retry or None, found {found!r}")
    if at is CommitPoint.AFTER_SEND:
        raise ConfigurationError(
            "retry: a response that has left cannot be taken back, so at='after_send' is never run again; "
            "give retry=None with it, or commit at the head or buffered"
        )


def _positive(name: str, found: object) -> None:
    if isinstance(found, bool) or not isinstance(found, int) or found <= 0:
        raise ConfigurationError(f"{name}: expected a number of bytes above zero, found {found!r}")


DEFAULT_POLICY: Final = CommitPolicy()

_NEVER_END: Final = ("text/event-stream", "multipart/x-mixed-replace")


@functools.lru_cache(maxsize=256)
def never_ends(content_type: str) -> bool:
    """Tell whether a response of this content type has no end that could be waited for."""
    return content_type.partition(";")[0].strip().lower() in _NEVER_END


class Verdict(enum.Enum):
    """What becomes of a unit of work."""

    COMMIT = "commit"
    ROLL_BACK = "roll back"
    LEAVE = "leave alone"


# A member of an enum is dear to look up before Python 3.12.
COMMIT: Final = Verdict.COMMIT
ROLL_BACK: Final = Verdict.ROLL_BACK


def verdict_of(
    raised: bool, wanted: Verdict | None, active: bool, left: bool, policy: CommitPolicy, head: Head | None
) -> Verdict:
    """Decide by the first rule that applies.

    1. The application raised, or never gave a head: roll back.
    2. `doom` or `force_commit` was called (the last call is *wanted*): as it says.
    3. The handler ended the unit of work itself: leave it alone.
    4. The client left and the policy says `on_disconnect="rollback"`: roll back.
    5. The policy's `commit_if`; what it raises goes to the caller.
    """
    if raised or head is None:
        return ROLL_BACK
    if wanted is not None:
        return wanted
    if not active:
        return Verdict.LEAVE
    if left and policy.on_disconnect == "rollback":
        return ROLL_BACK
    answer = policy.commit_if(head)
    if answer is True:
        return COMMIT
    if _close(answer):  # which is true, and would commit whatever it was about to say
        raise ConfigurationError(f"commit_if: expected a plain function, {policy.commit_if!r} returned a coroutine")
    return COMMIT if answer else ROLL_BACK
