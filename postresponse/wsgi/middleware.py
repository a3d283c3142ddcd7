"""The middleware for WSGI applications."""

from collections.abc import Callable, Iterable, Sequence
from time import monotonic_ns, time
from typing import TYPE_CHECKING, Any, Literal

from postresponse.core.current import current
from postresponse.core.exchange import KEY, Exchange, Failure
from postresponse.core.lifecycle import Outcome, State
from postresponse.core.observer import Observer
from postresponse.core.policy import CommitPolicy
from postresponse.core.settings import Settings, check_application, known_options
from postresponse.observing.listening import look, looks_left
from postresponse.onlookers import take_in
from postresponse.typing import UnitOfWork, WSGIApplication
from postresponse.work.current import supervisor_given
from postresponse.work.supervisor import TaskSupervisor
from postresponse.wsgi.exchange import WSGIExchange

if TYPE_CHECKING:
    from postresponse.inspector.inspector import Inspector

__all__ = ["PostResponseMiddleware"]


class PostResponseMiddleware:
    """Wrap a WSGI application; know when each response leaves, and tie a unit of work to that moment.

    Installed twice, or around a mounted application, the inner one steps aside.

    Args:
        app: The WSGI application.
        unit_of_work: Makes the unit of work of one attempt at a request, from its `Exchange`; None observes only.
        commit: When it commits and whether: `"head"` (default), `"buffered"`, `"after_send"`, a `CommitPolicy`, or a
            function of the environ that returns one of these.
        error_response: Makes the response that replaces one whose unit of work could not commit, from a `Failure`: an
            `ErrorResponse`, or any WSGI application such as a Werkzeug response; None leaves it to the default.
            One that fails, or returns anything else, is logged, and the default answers.
        on_commit_failed: Receives the `Failure` of each failed commit, after the rollback.
        on_finished: Receives the `Outcome` of each exchange.
        on_error: Receives the `Failure` of each failed hook.
        cleanup_timeout: Seconds that a rollback or a close may take before its connection is given up.
        supervisor: Carries the work that requests start; None for the one of this process.
        observers: Are told of each exchange, and of the work that it starts.
        inspector: True, or an `Inspector`, shows them on a page at `/__postresponse__/`, to clients on this machine.

    Raises:
        ConfigurationError: An option is unknown or has a value that it cannot have.
        WrongApplication: *app* is an ASGI application, or the unit of work is async.

    Example:
        >>> def app(environ, start_response): ...
        >>> app = PostResponseMiddleware(app)
    """

    @known_options
    def __init__(
        self,
        app: WSGIApplication,
        *,
        unit_of_work: Callable[[Exchange], UnitOfWork] | None = None,
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
        check_application(app, 2, twin="postresponse.asgi.PostResponseMiddleware")
        self.app = app
        self._inspector: Any = None
        self._settings = Settings.of(
            is_async=False,
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
        if inspector is not None and inspector is not False:
            from postresponse.inspector.opening import opened
            from postresponse.inspector.wsgi_pages import WSGIPages

            shown, self._settings = opened(inspector, self._settings)
            self._inspector = WSGIPages(shown)
        self._looks = looks_left()
        take_in(self)

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """Handle one request (PEP 3333)."""
        if KEY in environ:
            return self._step_aside(environ, start_response)
        inspector = self._inspector
        if inspector is not None and environ.get("PATH_INFO", "").startswith(inspector.path):
            answer: Iterable[bytes] | None = inspector.answer(environ, start_response)
            if answer is not None:
                return answer
        if self._looks:
            self._looks = look(self._looks)
        settings = self._settings
        given = environ if not settings.retries else environ.copy()
        exchange = WSGIExchange(settings, given, monotonic_ns(), None, start_response)
        while True:
            given[KEY] = exchange
            outer: Any = current.get()
            if outer is not None and (outer._scope is None or getattr(outer, "_inner", None) is None):
                # Not one whose call has returned: this request is not inside of it, and nobody may ever close it.
                exchange._outer = outer
            current.set(exchange)
            if settings.observers:
                exchange._begin_observed(settings.observers)
            try:
                if settings.unit_of_work is not None and not exchange._open():
                    return exchange._replaced()
                return exchange._take(self.app(given, exchange.start_response))
            except BaseException as error:
                if exchange._state is State.REPLACED and exchange._swallows(error):
                    return exchange._replaced()  # which has still to be sent
                exchange._ended_by(error)
                if not exchange._again:
                    raise
            given = environ.copy()
            exchange = exchange._following(given)

    def _step_aside(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """Leave the exchange to the outer middleware; lend it our unit of work where it has none."""
        outer: WSGIExchange = environ[KEY]
        if self._inspector is not None:
            self._inspector.steps_aside(outer._settings)
        if self._settings.unit_of_work is not None and outer._settings.unit_of_work is None:
            outer._adopt(self._settings)
            if not outer._open():
                return ()  # the outer one answers in our place
        return self.app(environ, start_response)
