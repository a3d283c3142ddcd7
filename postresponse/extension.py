"""The extension `PostResponse` of Flask, whose habits Quart has too: what is the same in both.

What differs by the framework its module tells: the application, the middleware, and where a command finds the first.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Final, Generic, TypeVar
from weakref import WeakKeyDictionary

import click

from postresponse.cli import clicked
from postresponse.cli.loaded import Loaded
from postresponse.configuration import Origin, effective, origins
from postresponse.exceptions import ConfigurationError

__all__ = ["Extension"]

PREFIX: Final = "POSTRESPONSE_"
OWN: Final = ("RELAY",)
"""Keys that are the extension's own, and no option of the middleware."""

A = TypeVar("A")


class Extension(ABC, Generic[A]):
    """Wraps applications of one framework in its middleware, with options by keyword or by `app.config`.

    Args:
        app: An application to begin with; others follow by `init_app`.
        unit_of_work: As that of the middleware; None observes only.
        commit: As that of the middleware.
        options: Any other option of the middleware.

    Raises:
        ConfigurationError: An option is unknown, or has a value that it cannot have; or the application has one of
            these already.
    """

    _application: ClassVar[type[Any]]
    """What the framework's applications are."""
    _entry: ClassVar[str]
    """Which attribute of an application the middleware wraps."""
    _middleware: ClassVar[type[Any]]
    _group: ClassVar[type[click.Group]]
    """The framework's own kind of a group of commands."""

    def __init__(self, app: A | None = None, *, unit_of_work: Any = None, commit: Any = None, **options: Any) -> None:
        self._given = {"unit_of_work": unit_of_work, "commit": commit, **options}
        self._origins: WeakKeyDictionary[A, tuple[Origin, ...]] = WeakKeyDictionary()
        self._options({})  # an option that there is not is said at once
        if app is not None:
            self.init_app(app)

    def init_app(self, app: A) -> None:
        """Wrap *app* by its `wsgi_app` or `asgi_app`; outside of what was wrapped before, and inside of what is later.

        Raises:
            ConfigurationError: An option is unknown, or has a value that it cannot have; or *app* was given already.
        """
        if not isinstance(app, self._application):
            name = self._application.__name__
            raise ConfigurationError(f"PostResponse.init_app: expected the {name} application itself, found {app!r}")
        if "postresponse" in app.extensions:
            raise ConfigurationError(
                f"{app!r} has a PostResponse already: leave out this init_app, or PostResponse(app); what is there is "
                "app.extensions['postresponse'], and may serve other applications too"
            )
        settings = app.config.get_namespace(PREFIX, lowercase=False)
        options = self._options(settings)
        if "unit_of_work" in options and "error_response" not in options:
            options["error_response"] = self._rendered_by(app)
        if app.debug:
            options.setdefault("inspector", True)
        setattr(app, self._entry, self._middleware(getattr(app, self._entry), **options))
        app.extensions["postresponse"] = self
        self._origins[app] = origins(options, self._given, settings, self._middleware, PREFIX)  # in words
        self._tell_routes(app)
        loaded = Loaded(
            apps=lambda: [self._current()],
            options=lambda: self._origins[self._current()],
            relay=lambda: self._current().config.get(f"{PREFIX}RELAY"),
            lacking=clicked.LACKING,
        )
        app.cli.add_command(clicked.add_to(self._group("postresponse", help=clicked.HELP), loaded))

    def _options(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        source = f"app.config {PREFIX}*"
        return effective(self._given, settings, self._middleware, owner="PostResponse", source=source, more=OWN)

    @abstractmethod
    def _rendered_by(self, app: A) -> Any:
        """Make an `error_response` that lets the error handlers of *app* answer."""

    @abstractmethod
    def _tell_routes(self, app: A) -> None:
        """Have the scope or environ of each request to *app* tell its URL rule."""

    @abstractmethod
    def _current(self) -> Any:
        """Return the application that a command is run for."""
