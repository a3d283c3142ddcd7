"""What one middleware was told, checked once at construction; the same for both protocols."""

import functools
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, TypeVar, cast

from postresponse.core.lifecycle import MOVES, Action, CommitPoint, Event, State
from postresponse.core.observer import Observer, observers_given
from postresponse.core.policy import CommitPolicy, unknown
from postresponse.core.units import Manner
from postresponse.exceptions import ConfigurationError, WrongApplication

__all__ = ["Settings", "check_application", "check_callback", "known_options", "protocol_of"]

F = TypeVar("F", bound=Callable[..., None])


@dataclass(frozen=True, slots=True, eq=False)
class Settings:
    """The options of one middleware.

    Args:
        is_async: Whether the middleware speaks ASGI; then callbacks and units of work may be awaitable.
        clock: Monotonic nanoseconds.
        wall_clock: Seconds since 1970.
        retries: Whether a request may be run again, so that its body has to be recorded.
        at_once: How a method of a unit of work is called that runs to its end in one go.
        moves: The table of a request that says nothing itself.
        fixed_policy: The policy of one that says nothing itself, where it does not depend on the request.
        unheard: Whether no outcome is asked for here.
    """

    is_async: bool
    clock: Callable[[], int]
    wall_clock: Callable[[], float]
    unit_of_work: Callable[[Any], Any] | None
    policy: CommitPolicy
    choose_policy: Callable[[Any], object] | None
    error_response: Callable[[Any], Any] | None
    on_commit_failed: Callable[[Any], Any] | None
    on_finished: Callable[[Any], Any] | None
    on_error: Callable[[Any], Any] | None
    cleanup_timeout: float
    retries: bool
    at_once: Manner
    moves: dict[State, dict[Event, tuple[State, Action]]]
    fixed_policy: CommitPolicy | None
    supervisor: Any
    observers: tuple[Observer, ...]
    unheard: bool

    @classmethod
    def of(
        cls,
        *,
        is_async: bool,
        clock: Callable[[], int],
        wall_clock: Callable[[], float],
        unit_of_work: Any,
        commit: Any,
        error_response: Any,
        on_commit_failed: Any,
        on_finished: Any,
        on_error: Any,
        cleanup_timeout: Any,
        supervisor: Any = None,
        observers: Any = (),
    ) -> "Settings":
        """Check every option and return them.

        Raises:
            ConfigurationError: An option is unknown, or has a value that it cannot have.
            WrongApplication: An async unit of work or callback was given to the WSGI middleware.
        """
        for name, callback in (
            ("error_response", error_response),
            ("on_commit_failed", on_commit_failed),
            ("on_finished", on_finished),
            ("on_error", on_error),
        ):
            if callback is not None:
                check_callback(name, callback, is_async=is_async)
        if inspect.iscoroutine(commit):
            commit.close()
            raise ConfigurationError("commit: expected a function, found a coroutine object; give the function itself")
        if inspect.iscoroutinefunction(commit):
            raise ConfigurationError(f"commit: expected a plain function, found an async one: {commit!r}")
        if unit_of_work is None:
            if commit is not None:
                raise ConfigurationError(
                    f"commit={commit!r} has nothing to commit: give unit_of_work= as well, or neither to observe only"
                )
        else:
            _check_factory(unit_of_work, is_async=is_async)
        if isinstance(cleanup_timeout, bool) or not isinstance(cleanup_timeout, int | float):
            raise ConfigurationError(f"cleanup_timeout: expected seconds as a number, found {cleanup_timeout!r}")
        if not 0 < cleanup_timeout < math.inf:
            raise ConfigurationError(f"cleanup_timeout: expected seconds above zero, found {cleanup_timeout!r}")
        choose = commit if callable(commit) and not isinstance(commit, CommitPolicy) else None
        policy = CommitPolicy.of(None if choose else commit)
        observers = observers_given(observers)
        return cls(
            is_async=is_async,
            clock=clock,
            wall_clock=wall_clock,
            unit_of_work=unit_of_work,
            policy=policy,
            choose_policy=choose,
            error_response=error_response,
            on_commit_failed=on_commit_failed,
            on_finished=on_finished,
            on_error=on_error,
            cleanup_timeout=float(cleanup_timeout),
            retries=policy.retry is not None or choose is not None,
            at_once=Manner.AT_ONCE if is_async else Manner.BLOCKS,
            moves=MOVES[CommitPoint.AFTER_SEND if unit_of_work is None else policy.point],
            fixed_policy=None if choose else policy,
            supervisor=supervisor,
            observers=observers,
            unheard=on_finished is None and not observers,
        )

    def observed_by(self, observers: tuple[Observer, ...]) -> "Settings":
        """Return these with *observers* in the place of their own."""
        return replace(self, observers=observers, unheard=self.on_finished is None and not observers)


def known_options(init: F) -> F:
    """Let *init* refuse an option that it does not have by naming the one that was probably meant.

    A decorator, because a `**others` in the signature would not fit the types by which frameworks take a middleware.
    """
    known = [
        name
        for name, parameter in inspect.signature(init).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    ]

    @functools.wraps(init)
    def checked(self: Any, *args: Any, **options: Any) -> None:
        unknown((name for name in options if name != "app"), known, type(self).__name__)
        init(self, *args, **options)

    return cast("F", checked)


def _check_factory(factory: Any, *, is_async: bool) -> None:
    if inspect.iscoroutine(factory):
        factory.close()
        raise ConfigurationError("unit_of_work: expected a function, found a coroutine object")
    if not callable(factory):
        raise ConfigurationError(
            f"unit_of_work: expected a function that makes one from the exchange, found {factory!r}"
        )
    if inspect.iscoroutinefunction(factory):
        raise ConfigurationError(
            "unit_of_work: expected a plain function, found an async one; open what takes time in begin()"
        )
    if not is_async and getattr(factory, "is_async", False):
        raise WrongApplication(
            f"unit_of_work: {type(factory).__name__} is async and cannot run under WSGI; use its sync twin"
        )


def check_callback(name: str, callback: Any, *, is_async: bool) -> None:
    """Refuse what cannot be called here.

    Raises:
        ConfigurationError: *callback* is no function, or a coroutine object (which is closed), or async under WSGI.
    """
    if inspect.iscoroutine(callback):
        callback.close()
        raise ConfigurationError(f"{name}: expected a function, found a coroutine object; give the function itself")
    if not callable(callback):
        raise ConfigurationError(f"{name}: expected a function, found {callback!r}")
    if not is_async and (inspect.iscoroutinefunction(callback) or inspect.isasyncgenfunction(callback)):
        raise ConfigurationError(f"{name}: {callback!r} is async, and there is no event loop under WSGI")


_PROTOCOLS: Final = {3: ("ASGI", "scope, receive and send"), 2: ("WSGI", "environ and start_response")}


def check_application(app: Any, arguments: int, option: str = "app", *, twin: str = "") -> None:
    """Refuse what is no application of the protocol that calls it with so many *arguments*, as far as can be told.

    Args:
        option: What it was given as: the `app` of the middleware, or what its `error_response` returned.
        twin: The middleware for applications of the other protocol.

    Raises:
        WrongApplication: *app* cannot be called that way.
    """
    protocol, names = _PROTOCOLS[arguments]
    wanted = f"{'an' if arguments == 3 else 'a'} {protocol} application"
    if option != "app":
        wanted = f"an ErrorResponse or {wanted}"
    if inspect.iscoroutine(app):
        app.close()
    if not callable(app):
        raise WrongApplication(f"{option}: expected {wanted}, found {app!r}")
    try:
        signature = inspect.signature(app, follow_wrapped=False)
    except (TypeError, ValueError):
        return
    if _takes(signature, arguments):
        return
    name = getattr(app, "__name__", None) or type(app).__name__
    other, _ = _PROTOCOLS[5 - arguments]
    if _takes(signature, 5 - arguments):
        way_out = f"use {twin}" if twin else f"return {wanted}"
        raise WrongApplication(
            f"{option}: {name} takes {5 - arguments} arguments, as {other} applications do; {way_out}"
        )
    raise WrongApplication(f"{option}: {name}{signature} cannot be called with {names}")


def protocol_of(app: Any) -> Literal["asgi", "wsgi"]:
    """Tell whether *app* is called with scope, receive and send, or with environ and start_response.

    One that can be called both ways, or does not tell what it takes, counts as ASGI.

    Raises:
        WrongApplication: It can be called neither way.
    """
    try:
        check_application(app, 3)
    except WrongApplication as error:
        try:
            check_application(app, 2)
        except WrongApplication:
            raise WrongApplication(f"app: expected an ASGI or a WSGI application, found {app!r}") from error
        return "wsgi"
    return "asgi"


def _takes(signature: inspect.Signature, count: int) -> bool:
    try:
        signature.bind(*[None] * count)
    except TypeError:
        return False
    return True
