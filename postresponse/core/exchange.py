"""One request and its response, and what a handler can say about it."""

import itertools
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from logging import INFO
from typing import Any, Final, Literal

from postresponse.core.lifecycle import (
    MOVES,
    CommitPoint,
    Outcome,
    State,
    UnitState,
)
from postresponse.core.log import access, first_time, logger, route_of
from postresponse.core.observer import Observer
from postresponse.core.policy import (
    CommitPolicy,
    Head,
    Verdict,
    never_ends,
)
from postresponse.core.settings import Settings, check_callback
from postresponse.core.trace import EnlistedMessage, ObservedCommit
from postresponse.core.units import UnitKind
from postresponse.core.work import Work, start_due, tell_due
from postresponse.exceptions import (
    ConfigurationError,
    NoExchange,
    NoUnitOfWork,
    ResponseStarted,
)

__all__ = ["KEY", "Exchange", "Failure"]

KEY: Final = "postresponse.exchange"
"""Where the exchange is found in an ASGI scope and in a WSGI environ."""

# A member of an enum is dear to look up before Python 3.12, and these are on every request's way.
PENDING: Final = State.PENDING
NONE: Final = UnitState.NONE

_numbers: Final = itertools.count(1)

Stage = Literal[
    "begin",
    "on_start",
    "commit_if",
    "overflow",
    "no end",
    "before_commit",
    "commit",
    "after_commit",
    "after_rollback",
    "on_finished",
    "on_commit_failed",
]


@dataclass(frozen=True, slots=True)
class Failure:
    """Something that failed around a response: what `error_response`, `on_commit_failed` and `on_error` receive.

    Attributes:
        exchange: The exchange that it happened in.
        stage: Where it happened.
        exception: What was raised.
        transient: Whether the same request may succeed when it is sent again.
        unknown: Whether nobody knows if the transaction committed.
        partial: Whether one of several units of work committed before another could not.
    """

    exchange: "Exchange"
    stage: Stage
    exception: BaseException
    transient: bool
    unknown: bool = False
    partial: bool = False

    @property
    def status(self) -> int:
        """The status of the default error response: 503 where it is worth trying again or the end is unknown."""
        return 503 if self.transient or self.unknown else 500


class Exchange:
    """One request and its response, from the moment that the request reached the middleware.

    A handler gets it from `current_exchange()`, or from the scope or environ under `"postresponse.exchange"`. What a
    call would change must not have left yet: one that comes too late raises `ResponseStarted`.
    """

    # What every request looks at has a slot and is set from the start; what few change has its default on the class.
    __slots__ = (
        "__dict__",
        "__weakref__",
        "_after_commit",
        "_again",
        "_at_end",
        "_before_commit",
        "_began",
        "_body_sent",
        "_bytes",
        "_decided",
        "_failure",
        "_given",
        "_head_sent",
        "_headers",
        "_held",
        "_kind",
        "_left",
        "_loop",
        "_moves",
        "_on_finished",
        "_on_start",
        "_policy",
        "_raised",
        "_receiving",
        "_room",
        "_scope",
        "_server_receive",
        "_server_send",
        "_settings",
        "_settled",
        "_settling",
        "_state",
        "_status",
        "_trailers",
        "_unheard",
        "_unit",
        "_unit_ended",
        "_unit_state",
        "_verdict",
        "_watch",
    )
    _attempt = 1
    _units: dict[object, Any] | None = None
    _declared: int | None = None
    _needs_no_body = False
    _counted = True
    _tallied = True
    _exception: BaseException | None = None
    _drained: bool | None = None
    _after_rollback: list[Callable[[], Any]] | None = None
    _silenced = False
    _work: deque[Work] | None = None
    _telling: deque[Callable[[], object]] | None = None
    _expects_work = False
    """Whether work may come at any time, so that the outcome is kept for it."""
    _told: Outcome | None = None
    _number = 0
    _doomed: str | None = None
    _was_idle = False
    """Whether nothing was asked of the unit of work, so that there was nothing to commit; told to observers."""
    _begun: Sequence[object] = ()
    """What each observer returned when the exchange began."""
    _first_byte: int | None = None
    """WSGI: when the first bytes left; the head waits for them."""
    _commits: list[ObservedCommit] | None = None
    """The commits that nobody here manages, where one was seen: then the outcome is told, and nothing else changes."""
    _messages: list[EnlistedMessage] | None = None
    _more_observers: tuple[Observer, ...] = ()
    """Who looks on besides those of the middleware, since something was seen."""
    _passing: BaseException | None = None
    """What ends a process or a task, kept until the settlement is done."""

    def __init__(self, settings: Settings, scope: Any, began: int, receive: Any = None, send: Any = None) -> None:
        self._settings = settings
        self._scope: Any = scope
        self._began = began
        # The server's: WSGI's `start_response` is its `send`, and it has no `receive`.
        self._server_receive: Any = receive
        self._server_send: Any = send
        # Whether nobody wants the outcome: then what only it would tell is not looked at.
        self._unheard = settings.unheard and not access.isEnabledFor(INFO)
        self._moves = settings.moves
        self._policy: CommitPolicy | None = settings.fixed_policy
        self._state = PENDING
        self._status: int | None = None
        self._headers: list[tuple[str, str]] | None = None
        self._bytes = 0
        self._unit: Any = None
        self._kind: UnitKind | None = None
        self._unit_ended = False
        self._unit_state = NONE
        self._verdict: Verdict | None = None
        self._left = False
        self._raised = False
        self._failure: Failure | None = None
        self._again = False
        self._decided: int | None = None
        self._settling: int | None = None
        self._settled: int | None = None
        self._head_sent: int | None = None
        self._body_sent: int | None = None
        self._on_start: list[Callable[[Exchange], Any]] | None = None
        self._before_commit: list[Callable[[], Any]] | None = None
        self._after_commit: list[Callable[[], Any]] | None = None
        self._on_finished: list[Callable[[Outcome], Any]] | None = None
        # What a unit of work has to let go of, for a discarded attempt as well.
        self._at_end: list[Callable[[], Any]] | None = None
        # What the adapters keep: the head as it was given, what is held behind it, and how far a stream may pass.
        self._given: Any = None
        self._held: Any = None
        self._room = 0
        self._trailers = False
        self._receiving = 0
        self._watch: Any = None
        # The event loop that the request is handled on, where it is one.
        self._loop: Any = None

    # -- what a handler sees ------------------------------------------------------------------------------------

    @property
    def scope(self) -> Any:
        """The ASGI scope or WSGI environ of the request; empty once the exchange is over."""
        return self._scope

    @property
    def attempt(self) -> int:
        """The number of this attempt at the request, from 1."""
        return self._attempt

    @property
    def is_last_attempt(self) -> bool:
        """Whether the request is not run again, whatever happens: no `Retry`, no attempt left, or too large a body."""
        retry = self.policy.retry if self._settings.retries else None
        return retry is None or self._attempt >= retry.attempts or not self._replayable()

    @property
    def state(self) -> str:
        """Where the response stands, in words: pending, decided, sending, sent, replaced or over."""
        return self._state.words

    @property
    def unit_of_work(self) -> UnitState:
        """How the unit of work ended; `none` as long as it has not."""
        return self._unit_state

    @property
    def status(self) -> int | None:
        """The status code of the response, once known; an `on_start` hook may set it."""
        return self._status

    @status.setter
    def status(self, status: int) -> None:
        self._in_time("setting the status", State.READY, "do it in an on_start hook")
        if self._status is None:
            raise NoExchange("the response has no status yet; register an on_start hook, which runs when it has")
        if isinstance(status, bool) or not isinstance(status, int) or not 100 <= status <= 599:
            raise ValueError(f"status: expected a code from 100 to 599, found {status!r}")
        self._status = status

    @property
    def headers(self) -> list[tuple[str, str]]:
        """The headers of the response as names and values, in order; an `on_start` hook may change the list.

        Raises:
            NoExchange: The application has not given them yet.
        """
        if self._headers is None:
            if self._status is None:
                raise NoExchange("the response has no headers yet; register an on_start hook, which runs when it has")
            self._headers = self._read_headers()
        return self._headers

    @property
    def policy(self) -> CommitPolicy:
        """When and whether this request's unit of work commits; may be set until the head leaves.

        Raises:
            ResponseStarted: Set after the head has left, or while the unit of work is being ended.
        """
        if self._policy is None:
            chosen = self._settings.choose_policy(self._scope) if self._settings.choose_policy else None
            self._policy = CommitPolicy.of(chosen, self._settings.policy)
        return self._policy

    @policy.setter
    def policy(self, policy: CommitPolicy | str) -> None:
        self._in_time("setting the commit policy", State.DECIDED, "set it in the view, before it answers")
        changed = CommitPolicy.of(policy, self._settings.policy)
        if changed.retry is not None and not self._settings.retries:
            raise ConfigurationError(
                "retry: the body of this request is not recorded; give the Retry to the outermost middleware, in its "
                "commit=, and turn it off where a view may not run twice: commit_policy(retry=None)"
            )
        self._policy = changed
        if self._unit is not None:
            self._moves = MOVES[self._policy.point]
            if self._state is State.DECIDED:
                self._streams(never_ends((self._head() or Head(0)).get("content-type") or ""))

    def on_start(self, callback: Callable[["Exchange"], Any]) -> None:
        """Call *callback* with this exchange when the head is known and about to leave, before any commit.

        It may change `status` and `headers`. Last registered first, each once. One that raises is like an error of the
        application: roll back, and a 500 instead of the response.

        Raises:
            ResponseStarted: The head has left or is being decided.
            ConfigurationError: *callback* is not a function, or async under WSGI.
        """
        check_callback("on_start", callback, is_async=self._settings.is_async)
        self._in_time("on_start()", State.DECIDED, "register it before the response starts")
        if self._on_start is None:
            self._on_start = []
        self._on_start.append(callback)

    def before_commit(self, callback: Callable[[], Any]) -> None:
        """Call *callback* right before the commit, inside the transaction, in the order of registration.

        Not called for a rollback. One that raises is like a failed commit: roll back, and an error response where
        nothing has left.

        Raises:
            ResponseStarted: The unit of work is being ended or has ended.
            NoUnitOfWork: The middleware only observes.
            ConfigurationError: *callback* is not a function, or async under WSGI.
        """
        self._check_unit_hook("before_commit", callback)
        if self._before_commit is None:
            self._before_commit = []
        self._before_commit.append(callback)

    def after_commit(self, callback: Callable[[], Any]) -> None:
        """Call *callback* once the unit of work has committed, in the order of registration.

        It runs in the request's own flow, in head and buffered mode before the response leaves: keep it short. One that
        raises is logged, the others run, and the response stands.

        Raises:
            ResponseStarted: The unit of work is being ended or has ended.
            NoUnitOfWork: The middleware only observes.
            ConfigurationError: *callback* is not a function, or async under WSGI.
        """
        self._check_unit_hook("after_commit", callback)
        if self._after_commit is None:
            self._after_commit = []
        self._after_commit.append(callback)

    def after_rollback(self, callback: Callable[[], Any]) -> None:
        """Call *callback* once the unit of work was rolled back, also after a failed commit; else as `after_commit`."""
        self._check_unit_hook("after_rollback", callback)
        if self._after_rollback is None:
            self._after_rollback = []
        self._after_rollback.append(callback)

    def on_finished(self, callback: Callable[[Outcome], Any]) -> None:
        """Call *callback* with the `Outcome` once per exchange, whatever happened; last registered first.

        One that raises is logged and the others run. Under WSGI the server's next request on the connection waits for
        it: keep it short.

        Raises:
            ResponseStarted: The exchange is over.
            ConfigurationError: *callback* is not a function, or async under WSGI.
        """
        check_callback("on_finished", callback, is_async=self._settings.is_async)
        self._in_time("on_finished()", State.REPLACED, "register it while the request is handled")
        if self._on_finished is None:
            self._on_finished = []
            self._unheard = False
        self._on_finished.append(callback)

    def _register(self, work: Work) -> None:
        """Start *work* when the response is over; at once where it is."""
        registered = self._work
        if registered is None:
            if self._state is State.OVER and not self._expects_work:
                raise ResponseStarted(
                    "after_response()", self.state, "nothing kept its outcome; launch() the work instead"
                )
            self._expect_work()
            registered = self._work = self.__dict__.setdefault("_work", deque())  # by one of two threads
        registered.append(work)
        if self._told is not None:
            start_due(self, self._told)

    def _tell_behind(self, tell: Callable[[], object]) -> None:
        """Call *tell* when the response is over, or is not to come because the request is run again."""
        self._expect_work()
        telling = self._telling
        if telling is None:
            telling = self._telling = self.__dict__.setdefault("_telling", deque())  # by one of two threads
        telling.append(tell)
        if self._told is not None or self._again:
            tell_due(self)

    def _note(self, message: EnlistedMessage) -> None:
        """Keep *message* for the observers; once they were told, this may be the context of work that never ends."""
        if self._state is State.OVER:
            return
        if self._messages is None:
            self._messages = []
        self._messages.append(message)

    def _expect_work(self) -> None:
        self._expects_work, self._unheard = True, False

    def doom(self, reason: str = "") -> None:
        """Roll back whatever the status says; the response itself stands. A later `force_commit` takes it back.

        Args:
            reason: Said in the log.

        Raises:
            ResponseStarted: The unit of work is being ended or has ended.
        """
        self._check_undecided("doom()")
        self._verdict, self._doomed = Verdict.ROLL_BACK, reason
        logger.debug("%s: doomed: %s", self.route, reason or "no reason given")

    def force_commit(self) -> None:
        """Commit whatever the status says, unless the application raises. A later `doom` takes it back.

        Raises:
            ResponseStarted: The unit of work is being ended or has ended.
        """
        self._check_undecided("force_commit()")
        self._verdict, self._doomed = Verdict.COMMIT, None

    @property
    def route(self) -> str:
        """Method and route, for a log line: the route's template where the framework says it, else the path."""
        return route_of(self._scope)

    @property
    def number(self) -> int:
        """Counts the exchanges of this process that somebody asked it of, from 1; an observer's `Trace` has it too."""
        if not self._number:
            self._number = next(_numbers)
        return self._number

    @property
    def units(self) -> dict[object, Any]:
        """The units of work that ready-made factories made for this exchange, by factory."""
        if self._units is None:
            self._units = {}
        return self._units

    # -- what is in time ----------------------------------------------------------------------------------------

    def _in_time(self, call: str, last: State, way_out: str) -> None:
        if self._state > last:
            raise ResponseStarted(call, self.state, way_out)

    def _check_undecided(self, call: str) -> None:
        if self._settling is not None or self._state is State.OVER:
            raise ResponseStarted(call, self.state, "call it before the unit of work ends")

    def _check_unit_hook(self, name: str, callback: Any) -> None:
        check_callback(name, callback, is_async=self._settings.is_async)
        if self._unit is None:
            raise NoUnitOfWork(
                f"{name}() needs a unit of work, and this middleware only observes; "
                "give it unit_of_work=, or use on_finished()"
            )
        self._check_undecided(f"{name}()")

    @property
    def _left_at(self) -> int | None:
        """When the head had really left; None as long as nothing has."""
        return self._head_sent

    # -- what its head says --------------------------------------------------------------------------------------

    def _read_headers(self) -> list[tuple[str, str]]:
        """Return the headers that the application gave; each protocol writes them its own way."""
        return []

    def _head(self) -> Head | None:
        return None if self._status is None else Head(self._status, tuple(self.headers))

    def _streams(self, endless: bool) -> bool:
        """Fall back from buffered to head where the policy says so; True where there is no end to wait for at all."""
        policy = self.policy
        if (endless or policy.stream_if is not None) and policy.point is CommitPoint.BUFFERED:
            head = self._head()
            if endless or (policy.stream_if is not None and head is not None and policy.stream_if(head)):
                self._moves = MOVES[CommitPoint.HEAD]
                if first_time(self.route):
                    logger.info("%s: streams, so its unit of work commits at the head and not buffered", self.route)
        return endless

    def _replayable(self) -> bool:
        """Whether all that was read of the request's body can be given again."""
        return True
