"""Quart: the extension `PostResponse`, and error handlers that answer where a unit of work could not commit."""

import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final
from weakref import WeakKeyDictionary

import click
from quart import Quart, request, request_started
from quart.cli import AppGroup, ScriptInfo
from werkzeug.exceptions import InternalServerError

from postresponse.asgi import PostResponseMiddleware
from postresponse.cli import clicked
from postresponse.configuration import Origin, effective, origins
from postresponse.core.exchange import Failure
from postresponse.core.log import ROUTE
from postresponse.error_response import ErrorResponse, asgi_response
from postresponse.exceptions import ConfigurationError

__all__ = ["PostResponse", "rendered_by"]

PREFIX: Final = "POSTRESPONSE_"
OWN: Final = ("RELAY",)
"""Keys that are the extension's own, and no option of the middleware."""


class PostResponse:
    """Wrap Quart applications in `PostResponseMiddleware`, with options by keyword or by `app.config`.

    `app.config["POSTRESPONSE_COMMIT"] = "buffered"` gives the option `commit`, and so each one; an object may be named
    by a text, as `"shop.web:db"`. What is given by keyword is for every application, and wins. The configuration is
    read by `init_app`, and not looked at again.

    With a unit of work, the `errorhandler`s of the application answer for one that could not commit, as `rendered_by`
    has it; `error_response=lambda failure: None` has the package's default answer instead. The log, and observers, name
    a request by its URL rule. `quart postresponse config` prints the options, and `quart postresponse relay` runs the
    `Relay` that `POSTRESPONSE_RELAY` names.

    Args:
        app: An application to begin with; others follow by `init_app`.
        unit_of_work: As that of the middleware; None observes only.
        commit: As that of the middleware.
        options: Any other option of `postresponse.asgi.PostResponseMiddleware`.

    Raises:
        ConfigurationError: An option is unknown, or has a value that it cannot have; or the application has one of
            these already.

    Example:
        >>> from quart import Quart
        >>> extension = PostResponse()
        >>> app = Quart("shop")
        >>> app.config["POSTRESPONSE_CLEANUP_TIMEOUT"] = 2.0
        >>> extension.init_app(app)
    """

    def __init__(
        self, app: Quart | None = None, *, unit_of_work: Any = None, commit: Any = None, **options: Any
    ) -> None:
        self._given = {"unit_of_work": unit_of_work, "commit": commit, **options}
        self._origins: WeakKeyDictionary[Quart, tuple[Origin, ...]] = WeakKeyDictionary()
        self._options({})  # an option that there is not is said at once
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Quart) -> None:
        """Wrap *app* by its `asgi_app`; outside of what was wrapped before, and inside of what is later.

        Raises:
            ConfigurationError: An option is unknown, or has a value that it cannot have; or *app* was given already.
        """
        _check(app, "PostResponse.init_app")
        if "postresponse" in app.extensions:
            raise ConfigurationError(
                f"{app!r} has a PostResponse already: leave out this init_app, or PostResponse(app); what is there is "
                "app.extensions['postresponse'], and may serve other applications too"
            )
        settings = app.config.get_namespace(PREFIX, lowercase=False)
        options = self._options(settings)
        if options.get("unit_of_work") is not None:
            options.setdefault("error_response", rendered_by(app))
        # What the framework's debug mode turns on belongs here: app.debug.
        app.asgi_app = PostResponseMiddleware(app.asgi_app, **options)  # type: ignore[method-assign]
        app.extensions["postresponse"] = self
        self._origins[app] = origins(options, self._given, settings, PostResponseMiddleware, PREFIX)  # in words
        request_started.connect(_tell_route, app)
        app.cli.add_command(
            clicked.add_to(
                AppGroup("postresponse", help="What the middleware does here, and the relay of the outbox."),
                lambda: self._origins[_app()],
                lambda: _app().config.get(f"{PREFIX}RELAY"),
            )
        )

    def _options(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        source = f"app.config {PREFIX}*"
        return effective(self._given, settings, PostResponseMiddleware, owner="PostResponse", source=source, more=OWN)


def rendered_by(app: Quart) -> Callable[[Failure], Awaitable[ErrorResponse | None]]:
    """Make an `error_response` that lets the `errorhandler`s of *app* answer.

    They run in a request context of their own, with no body: the request's own is gone by then. A handler is found as
    for an exception that a view raises: by class, of the request's blueprint before the application's, then that of
    500. TESTING, PROPAGATE_EXCEPTIONS and debug mode change nothing: the exception stays here. `before_request`
    functions do not run again, and `g` is empty; `after_request` and teardown functions run for this response too.

    The package's default answers where no handler is found, or one fails; and where nobody knows what was committed
    (`CommitInDoubt`, `PartialCommit`), because a general page would say that nothing was.

    Args:
        app: The Quart application itself, and not its `asgi_app`.

    Raises:
        ConfigurationError: *app* is something else.

    Example:
        >>> from quart import Quart
        >>> from postresponse.asgi import PostResponseMiddleware
        >>> app = Quart("shop")
        >>> app.asgi_app = PostResponseMiddleware(app.asgi_app, error_response=rendered_by(app))
    """
    _check(app, "rendered_by")

    async def error_response(failure: Failure) -> ErrorResponse | None:
        error = failure.exception
        if failure.unknown or failure.partial or not isinstance(error, Exception):
            return None
        traceback = error.__traceback__
        rendering = _Rendering(app, error)
        try:
            response = await asgi_response(rendering.answer, failure.exchange.scope)
            if rendering.unhandled is not None and rendering.unhandled is not error:
                raise rendering.unhandled  # of a handler
            return None if rendering.unhandled is not None else response
        finally:
            error.__traceback__ = traceback  # or it would hold the frames of this call

    return error_response


class _Rendering:
    """The application, for Quart's handling of one request; but what its handling gives are the error handlers.

    Attributes:
        unhandled: What no handler took, or one raised.
    """

    def __init__(self, app: Quart, error: Exception) -> None:
        self._app = app
        self._error = error
        self.unhandled: Exception | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._app, name)

    async def answer(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer as an ASGI application."""
        handling: Any = self._app.asgi_http_class
        await handling(self, scope)(receive, send)

    async def handle_request(self, request: Any) -> Any:
        async with self._app.request_context(request):
            try:
                return await self._handled()
            except Exception as error:  # noqa: BLE001 (told by `unhandled`: Quart shows it, in debug mode)
                self.unhandled = error
                return await self._app.make_response("")

    async def _handled(self) -> Any:
        app = self._app
        try:
            try:
                raise self._error
            except Exception as raised:  # noqa: BLE001 (Quart's own rules)
                answer: Any = await app.handle_user_exception(raised)
        except Exception as unhandled:
            app.log_exception(sys.exc_info())
            server_error = InternalServerError(original_exception=unhandled)
            answer = await app.handle_http_exception(server_error)
            if answer is server_error:
                raise
        return await app.finalize_request(answer, from_error_handler=True)


# Async, though it waits for nothing: Quart has a plain function called on a thread.
async def _tell_route(app: Quart, **signal: Any) -> None:
    scope: Any = request.scope
    if request.url_rule is not None:
        scope[ROUTE] = request.url_rule.rule


def _check(app: Any, owner: str) -> None:
    if not isinstance(app, Quart):
        raise ConfigurationError(f"{owner}: expected the Quart application itself, found {app!r}")


def _app() -> Quart:
    """The application of a command."""
    # Not current_app: Quart has a command that wants it run on an event loop, and a relay brings its own.
    app: Quart = click.get_current_context().ensure_object(ScriptInfo).load_app()
    return app
