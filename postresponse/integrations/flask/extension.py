"""The extension: one object for any number of applications, configured by them or by keyword."""

from typing import Any

from flask import Flask, current_app, request, request_started
from flask.cli import AppGroup

from postresponse.core.log import ROUTE
from postresponse.extension import Extension
from postresponse.integrations.flask.rendering import rendered_by
from postresponse.wsgi import PostResponseMiddleware

__all__ = ["PostResponse"]


class PostResponse(Extension[Flask]):
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

    _application = Flask
    _entry = "wsgi_app"
    _middleware = PostResponseMiddleware
    _group = AppGroup

    def _rendered_by(self, app: Flask) -> Any:
        return rendered_by(app)

    def _tell_routes(self, app: Flask) -> None:
        request_started.connect(_tell_route, app)

    def _current(self) -> Flask:
        app: Flask = current_app._get_current_object()  # type: ignore[attr-defined]
        return app


def _tell_route(app: Flask, **signal: Any) -> None:
    if request.url_rule is not None:
        request.environ[ROUTE] = request.url_rule.rule
