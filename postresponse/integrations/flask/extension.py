"""The extension: one object for any number of applications, configured by them or by keyword."""

from collections.abc import Mapping
from typing import Any, Final
from weakref import WeakKeyDictionary

from flask import Flask, current_app, request, request_started
from flask.cli import AppGroup

from postresponse.cli import clicked
from postresponse.cli.loaded import Loaded
from postresponse.configuration import Origin, effective, origins
from postresponse.core.log import ROUTE
from postresponse.exceptions import ConfigurationError
from postresponse.integrations.flask.rendering import rendered_by
from postresponse.wsgi import PostResponseMiddleware

__all__ = ["PostResponse"]

PREFIX: Final = "POSTRESPONSE_"
OWN: Final = ("RELAY",)
"""Keys that are the extension's own, and no option of the middleware."""


class PostResponse:
    """Wrap Flask applications in `PostResponseMiddleware`, with options by keyword or by `app.config`.

    `app.config["POSTRESPONSE_COMMIT"] = "buffered"` gives the option `commit`, and so each one; an object may be named
    by a text, as `"shop.web:db"`. What is given by keyword is for every application, and wins. The configuration is
    read by `init_app`, and not looked at again.

    With a unit of work, the `errorhandler`s of the application answer for one that could not commit, as `rendered_by`
    has it; `error_response=lambda failure: None` has the package's default answer instead. The log, and observers, name
    a request by its URL rule. `flask postresponse config` prints the options, `flask postresponse doctor` what is wrong
    with the application, and `flask postresponse relay` runs the `Relay` that `POSTRESPONSE_RELAY` names.

    Args:
        app: An application to begin with; others follow by `init_app`.
        unit_of_work: As that of the middleware, `FlaskSQLAlchemyUnitOfWork(db)` among others; None observes only.
        commit: As that of the middleware.
        options: Any other option of `postresponse.wsgi.PostResponseMiddleware`.

    Raises:
        ConfigurationError: An option is unknown, or has a value that it cannot have; or the application has one of
            these already.

    Example:
        >>> from flask import Flask
        >>> extension = PostResponse()
        >>> app = Flask("shop")
        >>> app.config["POSTRESPONSE_CLEANUP_TIMEOUT"] = 2.0
        >>> extension.init_app(app)
    """

    def __init__(
        self, app: Flask | None = None, *, unit_of_work: Any = None, commit: Any = None, **options: Any
    ) -> None:
        self._given = {"unit_of_work": unit_of_work, "commit": commit, **options}
        self._origins: WeakKeyDictionary[Flask, tuple[Origin, ...]] = WeakKeyDictionary()
        self._options({})  # an option that there is not is said at once
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Wrap *app* by its `wsgi_app`; outside of what was wrapped before, and inside of what is later.

        Raises:
            ConfigurationError: An option is unknown, or has a value that it cannot have; or *app* was given already.
        """
        if not isinstance(app, Flask):
            raise ConfigurationError(f"PostResponse.init_app: expected the Flask application itself, found {app!r}")
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
        app.wsgi_app = PostResponseMiddleware(app.wsgi_app, **options)  # type: ignore[method-assign]
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


def _app() -> Flask:
    """The application of a command."""
    app: Flask = current_app._get_current_object()  # type: ignore[attr-defined]
    return app


def _tell_route(app: Flask, **signal: Any) -> None:
    if request.url_rule is not None:
        request.environ[ROUTE] = request.url_rule.rule
