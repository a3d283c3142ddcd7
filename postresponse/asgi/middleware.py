"""The middleware for ASGI applications."""

from asyncio import _get_running_loop
from collections.abc import Callable, Sequence
from time import monotonic_ns, time
from typing import TYPE_CHECKING, Any, Literal

from postresponse.asgi.exchange import ASGIExchange
from postresponse.asgi.lifespan import answer_lifespan
from postresponse.core.current import current
from postresponse.core.exchange import KEY, Exchange, Failure
from postresponse.core.lifecycle import Outcome
from postresponse.core.observer import Observer
from postresponse.core.policy import CommitPolicy
from postresponse.core.settings import Settings, check_application, known_options
from postresponse.exceptions import WrongApplication
from postresponse.observing.listening import look, looks_left
from postresponse.onlookers import take_in
from postresponse.stack import warn_of
from postresponse.typing import ASGIApplication, AsyncUnitOfWork, UnitOfWork
from postresponse.work.current import supervisor_given
from postresponse.work.homes import trio_token
from postresponse.work.supervisor import TaskSupervisor

if TYPE_CHECKING:
    from postresponse.inspector.inspector import Inspector

__all__ = ["PostResponseMiddleware"]


class PostResponseMiddleware:
    """Wrap an ASGI application; know when each response leaves, and tie a unit of work to that moment.

    Websocket and unknown scopes pass untouched. Lifespan is answered here where the application does not. Installed
    twice, or around a mounted application, the inner one steps aside.

    Args:
        app: The ASGI application.
        unit_of_work: Makes the unit of work of one attempt at a request, from its `Exchange`; None observes only.
        commit: When it commits and whether: `"head"` (default), `"buffered"`, `"after_send"`, a `CommitPolicy`, or a
            function of the scope that returns one of these.
        error_response: Makes the response that replaces one whose unit of work could not commit, from a `Failure`: an
            `ErrorResponse`, or any ASGI application such as a Starlette response; None leaves it to the default.
            One that fails, or returns anything else, is logged, and the default answers.
        on_commit_failed: Receives the `Failure` of each failed commit, after the rollback.
        on_finished: Receives the `Outcome` of each exchange.
        on_error: Receives the `Failure` of each failed hook.
        cleanup_timeout: Seconds that a rollback or a close may take before its connection is given up.
        supervisor: Carries the work that requests start; None for the one of this process.
        observers: Are told of each exchange, and of the work that it starts.
        inspector: True, or an `Inspector`, shows them on a page at `/__postresponse__/`, to clients on this machine;
            None does where *app* itself, or the `scope["app"]` of the first call, has a `debug` that is True, as
            Starlette and FastAPI have, and `POSTRESPONSE_ENV` does not say production.

    Raises:
        ConfigurationError: An option is unknown or has a value that it cannot have.
        WrongApplication: *app* is a WSGI application.

    Example:
        >>> async def app(scope, receive, send): ...
        >>> app = PostResponseMiddleware(app)
    """

    @known_options
    def __init__(
        self,
        app: ASGIApplication,
        *,
        unit_of_work: Callable[[Exchange], UnitOfWork | AsyncUnitOfWork] | None = None,
        commit: CommitPolicy
        | Literal["head", "buffered", "after_send"]
        | Callable[[Any], CommitPolicy | str | None]
        | None = None,
        error_response: Callable[[Failure], Any] | None = None,
        on_commit_failed: Callable[[Failure], Any] | None = None,
        on_finished: Callable[[Outcome], Any] | None = None,
        on_error: Callable[[Failure], Any] | None = None,
        cleanup_timeout: float = 5.0,
        supervisor: TaskSupervisor | None = None,
        observers: Sequence[Observer] = (),
        inspector: "bool | Inspector | None" = None,
    ) -> None:
        check_application(app, 3, twin="postresponse.wsgi.PostResponseMiddleware")
        self.app = app
        self._inspector: Any = None
        self._settings = Settings.of(
            is_async=True,
            clock=monotonic_ns,
            wall_clock=time,
            unit_of_work=unit_of_work,
            commit=commit,
            error_response=error_response,
            on_commit_failed=on_commit_failed,
            on_finished=on_finished,
            on_error=on_error,
            cleanup_timeout=cleanup_timeout,
            supervisor=supervisor_given(supervisor),
            observers=observers,
        )
        self._shows_in_debug = inspector is None
        if inspector is not None and inspector is not False:
            self._show(inspector)
        self._looks = looks_left()
        # What type of scope has an exchange: none, until the first call of any type has looked at the stack.
        self._handles = ""
        take_in(self)

    def _show(self, inspector: "Literal[True] | Inspector") -> None:
        """Have the page, and keep what it shows."""
        from postresponse.inspector.asgi_pages import ASGIPages
        from postresponse.inspector.opening import opened

        shown, self._settings = opened(inspector, self._settings)
        self._inspector = ASGIPages(shown)

    def _show_in_debug(self, app: Any) -> None:
        """Have the page where *app*, or what is wrapped, is in debug mode; in production neither that nor a word."""
        if any(getattr(each, "debug", None) is True for each in (self.app, app)):
            from postresponse.inspector.inspector import is_production

            if not is_production():
                self._show(True)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Handle one connection (ASGI 3.0)."""
        if scope["type"] != self._handles or KEY in scope:
            await self._pass_on(scope, receive, send)
            return
        inspector = self._inspector
        if inspector is not None and inspector.path in scope["path"] and await inspector.answers(scope, receive, send):
            return
        if self._looks:
            self._looks = look(self._looks)
        settings = self._settings
        given = _copied(scope) if settings.retries else {**scope}
        exchange = ASGIExchange(settings, given, monotonic_ns(), receive, send)
        exchange._loop = _get_running_loop() or trio_token()
        while True:
            given[KEY] = exchange
            token = current.set(exchange)
            running: Any = None
            if settings.observers:
                exchange._begin_observed(settings.observers)
            try:
                opening = None if settings.unit_of_work is None else exchange._opening()
                if opening is None or await opening:
                    running = self.app(given, exchange.receive, exchange.send)
                    await running
                done = exchange._is_done()
                if not done:
                    await exchange._ended()
            except BaseException as error:
                named = _named(error, running)
                if not await exchange._ended_by(named):
                    if named is error:
                        raise
                    raise named from None
            else:
                if not done:
                    await exchange._finish()
            finally:
                current.reset(token)
                exchange._scope = None
            if not exchange._again:
                return
            given = _copied(scope)
            exchange = exchange._following(given)

    async def _pass_on(self, scope: Any, receive: Any, send: Any) -> None:
        """Handle what is no request, or is one that a middleware further out handles already; or the first of all."""
        if not self._handles:
            self._handles = "http"
            if KEY not in scope:
                app = scope.get("app")
                warn_of(app or self, self)
                if self._shows_in_debug:  # whose stack this is in, a call alone tells
                    self._show_in_debug(app)
                if scope["type"] == "http":
                    await PostResponseMiddleware.__call__(self, scope, receive, send)
                    return
        if scope["type"] == "http":
            await self._step_aside(scope, receive, send)
        elif scope["type"] == "lifespan":
            await answer_lifespan(self.app, scope, receive, send, self._settings.supervisor)
        else:
            await self.app(scope, receive, send)

    async def _step_aside(self, scope: Any, receive: Any, send: Any) -> None:
        """Leave the exchange to the outer middleware; lend it our unit of work where it has none."""
        outer: ASGIExchange = scope[KEY]
        if self._inspector is not None and not self._shows_in_debug:
            self._inspector.steps_aside(outer._settings)
        if self._settings.unit_of_work is not None and outer._settings.unit_of_work is None:
            outer._adopt(self._settings)
            opening = outer._opening()
            if opening is not None and not await opening:
                return
        await self.app(scope, receive, send)


def _named(error: BaseException, running: Any) -> BaseException:
    """Name the likely reason of an *error* from awaiting what an application returned."""
    if not isinstance(error, TypeError) or running is None or hasattr(running, "__await__"):
        return error
    return WrongApplication(
        f"app: it returned {running!r}, which cannot be awaited, as WSGI applications do; "
        "use postresponse.wsgi.PostResponseMiddleware"
    )


def _copied(scope: Any) -> dict[str, Any]:
    """A scope of its own for one attempt; what a server gives as a dict or list of the request's own is copied too."""
    copy = dict(scope)
    for name in ("headers", "state", "extensions"):
        if isinstance(copy.get(name), dict | list):
            copy[name] = copy[name].copy()
    return copy
