"""Who is served, who waits, and who is sent away: a gate for each tenant, made when one comes, gone with its last."""

import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Generic, Literal, TypeAlias, TypeVar

from postresponse.core.log import TENANT, logger, route_of
from postresponse.core.settings import check_application, known_options
from postresponse.exceptions import ConfigurationError, NotAFunction, SupervisorClosed, TooManyTasks
from postresponse.work.bulkhead import BulkheadLimits
from postresponse.work.checks import check_function, check_seconds, is_async
from postresponse.work.gate import Gate

__all__ = ["LIMITS", "Admission", "Limits", "Load", "Refusal", "TenantLimits", "Turn"]

A = TypeVar("A", bound=Callable[..., Any])

LIMITS: Final = BulkheadLimits()
"""What a tenant has where nothing else is said."""

Limits: TypeAlias = BulkheadLimits | Callable[[Any], BulkheadLimits]
Views: TypeAlias = Mapping[str, Limits | None]


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request is not served.

    Attributes:
        status: The status to answer with.
        detail: A sentence for its client.
        retry_after: Seconds after which it may come again; None does not invite to that.
    """

    status: int
    detail: str
    retry_after: float | None


@dataclass(frozen=True, slots=True)
class Load:
    """What one tenant has in this process, at one view that has limits of its own.

    Attributes:
        tenant: As the key function named it; None where all requests share one bound.
        view: The path that its limits stand for, or None.
        running: How many of its requests are served.
        waiting: How many wait.
    """

    tenant: Hashable
    view: str | None
    running: int
    waiting: int


class Turn:
    """A request at its gate: it has a slot or waits for one, until it leaves.

    Attributes:
        waits: Whether it had to wait when it came.
        timeout: Seconds that it may take, waiting included; None for as long as it takes.
    """

    __slots__ = ("_admission", "_admit", "_gate", "_place", "timeout", "waits")

    def __init__(
        self, admission: "Admission", place: tuple[Hashable, str | None], admit: Callable[[], object], limits: Any
    ) -> None:
        self._admission = admission
        self._admit = admit
        self._place = place
        self._gate: Gate[Turn] | None = None
        self.timeout: float | None = limits.timeout
        self.waits: bool = False

    def name_in(self, request: Any) -> None:
        """Tell whoever comes further in, in the scope or environ *request*, whose request it is."""
        if self._place[0] is not None:
            request[TENANT] = str(self._place[0])

    def leave(self) -> None:
        """Give back what it has, a slot or a place in the queue; once, whoever calls."""
        self._admission._leave(self)

    def late(self) -> Refusal:
        """Why it is sent away where its seconds are over before its turn came."""
        return Refusal(503, "The request waited too long to be served.", self._admission._retry_after)

    def overdue(self) -> Refusal:
        """Why it is answered like this where its seconds are over before it was served to the end."""
        return Refusal(503, "The request took too long.", None)


class Admission:
    """Gates for the requests of one middleware, on any thread.

    Args:
        key: Names the tenant of a request, by anything that can be hashed; None where all share one bound.
        limits: Those of each tenant, or a function of the tenant, asked at each request.
        views: Limits of their own for paths, and what is below them; None for none at all.
        on_key_error: The status where *key* or *limits* raises, or names nobody; `"admit"` serves it unbounded.
        retry_after: Seconds that a client is told to wait before it comes again.

    Raises:
        ConfigurationError: A value that an option cannot have.
    """

    def __init__(
        self,
        *,
        key: Callable[[Any], Hashable] | None,
        limits: Limits,
        views: Views | None,
        on_key_error: int | Literal["admit"],
        retry_after: float,
    ) -> None:
        if key is not None:
            _check_plain("key", key)
        if on_key_error != "admit" and (
            isinstance(on_key_error, bool) or not isinstance(on_key_error, int) or not 400 <= on_key_error <= 599
        ):
            raise ConfigurationError(
                f'on_key_error: expected a status from 400 to 599, or "admit", found {on_key_error!r}'
            )
        self._key = key
        self._limits = _check_limits("limits", limits)
        self._views = _check_views({} if views is None else views)
        self._on_key_error = on_key_error
        self._retry_after = check_seconds("retry_after", retry_after, least=0.0)
        self._lock = threading.Lock()
        self._gates: dict[tuple[Hashable, str | None], Gate[Turn]] = {}

    def enter(self, request: Any, path: str, admit: Callable[[], object]) -> Turn | Refusal | None:
        """Take a slot or a place in the queue; None for a request without limits.

        Args:
            request: What the key function gets.
            path: Where it goes, as the client wrote it.
            admit: Called once if it has to wait, on any thread, when its turn has come.
        """
        view, limits = self._view_of(path)
        if limits is None:
            return None
        try:
            place = self._tenant_of(request), view
            found = limits if isinstance(limits, BulkheadLimits) else _given(limits(place[0]))
        except (Exception, SystemExit) as error:
            logger.error("%s: its tenant or its limits cannot be told", route_of(request), exc_info=error)
            if self._on_key_error == "admit":
                return None
            return Refusal(int(self._on_key_error), "It cannot be told for whom the request is.", None)
        return self._take(Turn(self, place, admit, found), found)

    def _tenant_of(self, request: Any) -> Hashable:
        if self._key is None:
            return None
        tenant = self._key(request)
        if tenant is None:
            raise ConfigurationError(
                "key: it returned None; return what names the tenant, the same one for all who have none if need be, "
                'or let on_key_error="admit" serve them unbounded'
            )
        hash(tenant)
        return tenant

    def _take(self, turn: Turn, limits: BulkheadLimits) -> Turn | Refusal:
        following: Sequence[Turn] = ()
        try:
            with self._lock:
                gate = self._gates.get(turn._place)
                if gate is None:
                    gate = Gate("", limits.max_concurrency, limits.max_queue)
                    self._gates[turn._place] = gate
                elif (gate.max_concurrency, gate.max_queue) != (limits.max_concurrency, limits.max_queue):
                    following = gate.resize(limits.max_concurrency, limits.max_queue)
                turn.waits = not gate.enter(turn)
                turn._gate = gate
        except TooManyTasks:
            if self._key is None:
                return Refusal(503, "Too many requests are served, and wait to be.", self._retry_after)
            return Refusal(429, "Too many of your requests are served, and wait to be.", self._retry_after)
        finally:
            _admit(following)
        return turn

    def _leave(self, turn: Turn) -> None:
        with self._lock:
            gate, turn._gate = turn._gate, None
            if gate is None:
                return
            following = () if gate.give_up(turn) else gate.leave()
            if gate.idle:
                del self._gates[turn._place]
        _admit(following)

    def _view_of(self, path: str) -> tuple[str | None, Limits | None]:
        for view, limits in self._views:
            if path == view or path.startswith(view if view.endswith("/") else f"{view}/"):
                return view, limits
        return None, self._limits

    def load(self) -> list[Load]:
        """Tell who is served and who waits, in this process and at this moment."""
        with self._lock:
            return [Load(tenant, view, gate.running, len(gate.waiting)) for (tenant, view), gate in self._gates.items()]


class TenantLimits(Generic[A]):
    """What the middleware of both protocols has: its options, checked, and who is served.

    Attributes:
        app: The application.
    """

    _arguments: ClassVar[int]
    """How many an application of the protocol takes."""
    _twin: ClassVar[str]
    """The middleware of the other protocol."""

    @known_options
    def __init__(
        self,
        app: A,
        *,
        key: Callable[[Any], Hashable] | None,
        limits: Limits = LIMITS,
        views: Views | None = None,
        on_key_error: int | Literal["admit"] = 500,
        retry_after: float = 1.0,
    ) -> None:
        check_application(app, self._arguments, twin=self._twin)
        self.app: A = app
        self._admission = Admission(
            key=key, limits=limits, views=views, on_key_error=on_key_error, retry_after=retry_after
        )

    def load(self) -> list[Load]:
        """Tell who is served and who waits, in this process and at this moment."""
        return self._admission.load()


def _admit(turns: Sequence[Turn]) -> None:
    """Tell those whose turn has come."""
    for turn in turns:
        try:
            turn._admit()
        except SupervisorClosed:  # the event loop that it waited on is over
            turn.leave()


def _check_plain(option: str, function: Any) -> None:
    try:
        check_function(option, function)
    except NotAFunction as error:
        raise ConfigurationError(str(error)) from None
    if is_async(function):
        raise ConfigurationError(
            f"{option}: expected a plain function, found an async one, {function!r}: it is asked before anybody waits"
        )


def _check_limits(option: str, limits: Any) -> Limits:
    if isinstance(limits, BulkheadLimits):
        return limits
    if not callable(limits):
        raise ConfigurationError(f"{option}: expected BulkheadLimits, or a function that gives some, found {limits!r}")
    _check_plain(option, limits)
    return limits  # type: ignore[no-any-return]


def _check_views(views: Any) -> tuple[tuple[str, Limits | None], ...]:
    """Check them, and put the longer path before the one that it is below."""
    if not isinstance(views, Mapping):
        raise ConfigurationError(f"views: expected a dict of paths and their limits, found {views!r}")
    found = []
    for view, limits in views.items():
        if not isinstance(view, str) or not view.startswith("/"):
            raise ConfigurationError(f"views: expected a path that begins with /, found {view!r}")
        found.append((view, None if limits is None else _check_limits(f"views[{view!r}]", limits)))
    return tuple(sorted(found, key=lambda pair: len(pair[0]), reverse=True))


def _given(limits: Any) -> BulkheadLimits:
    if isinstance(limits, BulkheadLimits):
        return limits
    raise ConfigurationError(f"limits: expected BulkheadLimits from the function, found {limits!r}")
