"""Quart: the extension `PostResponse`, and error handlers that answer where a unit of work could not commit."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from weakref import WeakKeyDictionary

import click
from quart import Quart, got_request_exception, request, request_started
from quart.cli import AppGroup, ScriptInfo

from postresponse.asgi import PostResponseMiddleware
from postresponse.cli import clicked
from postresponse.cli.loaded import Loaded
from postresponse.configuration import Origin, effective, origins
from postresponse.core.exchange import Failure
from postresponse.core.log import ROUTE
from postresponse.error_response import ErrorResponse, asgi_response
from postresponse.exceptions import ConfigurationError

__all__ = ["PostResponse", "rendered_by"]

PREFIX: Final = "POSTRESPONSE_"
OWN: Final = ("RELAY",)
"""Keys that are the extension's own, and no option of the middleware."""
RENDERED: Final = "postresponse.rendered"
"""Where the scope of a request that Quart is given once more has what its error handlers are to answer."""


class PostResponse:
    """Wrap Quart applications in `PostResponseMiddleware`, with options by keyword or by `app.config`.

    `app.config["POSTRESPONSE_COMMIT"] = "buffered"` gives the option `commit`, and so each one; an object may be named
    by a text, as `"shop.web:db"`. What is given by keyword is for every application, and wins. The configuration is
    read by `init_app`, and not looked at again.

    With a unit of work, the `errorhandler`s of the application answer for one that could not commit, as `rendered_by`
    has it; `error_response=lambda failure: None` has the package's default answer instead. The log, and observers, name
    a request by its URL rule. `quart postresponse config` prints the options, `quart postresponse doctor` what is wrong
    with the application, and `quart postresponse relay` runs the `Relay` that `POSTRESPONSE_RELAY` names.

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
        if "unit_of_work" in options and "error_response" not in options:
            options["error_response"] = rendered_by(app)
        if app.debug:
            options.setdefault("inspector", True)
        app.asgi_app = PostResponseMiddleware(app.asgi_app, **options)  # type: ignore[method-assign]
        app.extensions["postresponse"] = self
        self._origins[app] = origins(options, self._given, settings, PostResponseMiddleware, PREFIX)  # in words
        request_started.connect(_tell_route, app)
        group = AppGroup("postresponse", help=clicked.HELP)
        application = Loaded(
            apps=lambda: [_app()],
            options=lambda: self._origins[_app()],
            relay=lambda: _app().config.get(f"{PREFIX}RELAY"),
            lacking=clicked.LACKING,
        )
        app.cli.add_command(clicked.add_to(group, application))

    def _options(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        source = f"app.config {PREFIX}*"
        return effective(self._given, settings, PostResponseMiddleware, owner="PostResponse", source=source, more=OWN)


def rendered_by(app: Quart) -> Callable[[Failure], Awaitable[ErrorResponse | None]]:
    """Make an `error_response` that lets the `errorhandler`s of *app* answer.

    Quart is given the request once more, with no body, and with the exception in the place of the view: what follows is
    as if the view had raised it. A handler is found by class, of the request's blueprint before the application's, then
    that of 500; without one there is Quart's own page. `before_request` functions do not run again, and `g` is empty;
    `after_request` and teardown functions run for this response too.

    The package's default answers where nobody knows what was committed (`CommitInDoubt`, `PartialCommit`), because a
    general page would say that nothing was; and where TESTING, PROPAGATE_EXCEPTIONS or debug mode would have Quart let
    out, or show, what no handler took.

    Args:
        app: The Quart application itself, before its `asgi_app` is wrapped.

    Raises:
        ConfigurationError: *app* is something else.

    Example:
        >>> from quart import Quart
        >>> from postresponse.asgi import PostResponseMiddleware
        >>> app = Quart("shop")
        >>> app.asgi_app = PostResponseMiddleware(app.asgi_app, error_response=rendered_by(app))
    """
    _check(app, "rendered_by")
    inner = app.asgi_app
    request_started.connect(_raise_failed, app)
    got_request_exception.connect(_note_unhandled, app)

    async def error_response(failure: Failure) -> ErrorResponse | None:
        error = failure.exception
        if failure.unknown or failure.partial or not isinstance(error, Exception):
            return None
        traceback = error.__traceback__
        rendered = _Rendered(error)
        response: ErrorResponse | None = None
        try:
            response = await asgi_response(inner, {**failure.exchange.scope, RENDERED: rendered})
        except Exception:
            if rendered.unhandled is None:
                raise
        finally:
            error.__traceback__ = traceback  # or it would hold the frames of this call
        if rendered.unhandled is None or not _propagates(app):
            return response
        if rendered.unhandled is not error:
            raise rendered.unhandled  # of a handler
        return None

    return error_response


@dataclass(slots=True)
class _Rendered:
    """What is given to the error handlers of one request, and what was left to Quart in spite of them."""

    error: Exception
    unhandled: Exception | None = None


async def _raise_failed(app: Quart, **signal: Any) -> None:
    scope: Any = request.scope
    rendered: _Rendered | None = scope.get(RENDERED)
    if rendered is not None:
        raise rendered.error


async def _note_unhandled(app: Quart, *, exception: Exception, **signal: Any) -> None:
    scope: Any = request.scope
    rendered: _Rendered | None = scope.get(RENDERED)
    if rendered is not None:
        rendered.unhandled = exception


def _propagates(app: Quart) -> bool:
    """Whether Quart lets out what no handler took, and shows it in debug mode."""
    asked: bool | None = app.config["PROPAGATE_EXCEPTIONS"]
    return app.testing or app.debug if asked is None else asked


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
