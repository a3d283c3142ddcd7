"""Litestar: a plugin that installs the middleware where it belongs, and gives handlers the request's session.

Litestar routes before it calls middlewares, and each route has a stack of its own. The plugin's stands first in all of
them: inside of CORS, of `before_send` hooks and of Litestar's last resort for exceptions, so that an error response in
the place of one that could not be committed passes these as any other does; and outside of everything else. What no
route matches never gets there.

Hooks of `before_send` get the scope that was routed, and look into it for what handlers and other plugins left there.
So the application is given that one, and not the copy that the middleware makes; of a request that is run again it has
what the last attempt left.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from copy import copy
from functools import partial
from typing import Any, Final

import click
from litestar import Litestar, asgi
from litestar.config.app import AppConfig
from litestar.di import Provide
from litestar.enums import ScopeType
from litestar.exceptions import HTTPException, NotFoundException
from litestar.exceptions.responses import create_exception_response
from litestar.middleware import DefineMiddleware
from litestar.plugins import CLIPlugin, InitPluginProtocol
from litestar.types import Receive, Scope, Send
from litestar.utils.scope.state import ScopeState

from postresponse.asgi import PostResponseMiddleware
from postresponse.cli import clicked
from postresponse.cli.loaded import Loaded
from postresponse.configuration import Origin, origins
from postresponse.core.exchange import Failure
from postresponse.core.log import ROUTE
from postresponse.error_response import ErrorResponse, asgi_response
from postresponse.exceptions import ConfigurationError, NoExchange, PostResponseError
from postresponse.stack import warn_of

__all__ = ["PostResponsePlugin", "rendered_by", "session_of"]

DEFAULT_KEY: Final = "db_session"
"""What advanced-alchemy calls its session too."""


class PostResponsePlugin(InitPluginProtocol, CLIPlugin):
    """Install `PostResponseMiddleware` in a Litestar application, with the request's session as a dependency.

    It is first in the stack of each route, whatever the order of plugins. The application's exception handlers answer
    for a commit that failed, as `rendered_by` has it; `error_response=lambda failure: None` has the package's default
    answer instead. Work that requests start is drained at the shutdown, before what other lifespan managers opened is
    closed; not before Litestar closes its stores. The log and observers name a request by the path of its route.
    `litestar postresponse config` prints the options, `doctor` what is wrong with the application, and `relay` runs
    *relay*.

    Handlers take the session by the name `db_session`, or by *session_key*. Beside advanced-alchemy's plugin it takes
    the place of that one's: for a unit of work with its `create_session_maker()`, by the `session_dependency_key` of
    its configuration. Its `before_send_handler` must not commit.

    Args:
        unit_of_work: As that of the middleware; None observes only.
        session_key: The name of the dependency that gives the session of *unit_of_work*, where that has one.
        relay: The `Relay` that `litestar postresponse relay` runs, or its name, as `"shop.web:relay"`.
        options: Any other option of `postresponse.asgi.PostResponseMiddleware`.

    Raises:
        ConfigurationError: An option is unknown, or has a value that it cannot have. As the application is made: there
            are two of these plugins, or advanced-alchemy's commits by itself.

    Example:
        >>> from sqlalchemy.ext.asyncio import async_sessionmaker
        >>> from postresponse.unit_of_work.sqlalchemy import AsyncSQLAlchemyUnitOfWork
        >>> db = AsyncSQLAlchemyUnitOfWork(async_sessionmaker())
        >>> app = Litestar(plugins=[PostResponsePlugin(unit_of_work=db)], logging_config=None)
    """

    def __init__(
        self, *, unit_of_work: Any = None, session_key: str | None = None, relay: Any = None, **options: Any
    ) -> None:
        if session_key is not None and (not isinstance(session_key, str) or not session_key.isidentifier()):
            raise ConfigurationError(f"session_key: expected the name of a parameter, found {session_key!r}")
        self._session_key = session_key
        self._unit_of_work = unit_of_work
        self._relay = relay
        self._given = {"unit_of_work": unit_of_work, **options}
        self._options = {"unit_of_work": unit_of_work, "error_response": partial(_rendered, None), **options}
        self._install(self._options)

    def _install(self, options: dict[str, Any]) -> None:
        """Make the one middleware for all routes."""
        self._options = options
        self._core = PostResponseMiddleware(_route, **options)
        self._middleware = DefineMiddleware(PostResponseRouteMiddleware, core=self._core)

    def on_app_init(self, app_config: AppConfig) -> AppConfig:
        """Install the middleware; Litestar calls it.

        Raises:
            ConfigurationError: There are two of these plugins, or advanced-alchemy's commits by itself.
        """
        if any(isinstance(plugin, PostResponsePlugin) and plugin is not self for plugin in app_config.plugins):
            raise ConfigurationError("plugins: found PostResponsePlugin more than once; keep one")
        if app_config.debug and "inspector" not in self._options:
            self._install({**self._options, "inspector": True})
        if self._core._inspector is not None:
            # Litestar calls no middleware where there is no route.
            app_config.route_handlers.append(
                asgi(self._core._inspector.path, is_mount=True, copy_scope=True, opt={_PAGE: True})(_page)
            )
        self._arrange(app_config)
        app_config.plugins.append(_Last(self))
        return app_config

    def on_cli_init(self, cli: click.Group) -> None:
        """Add the commands to `litestar`; Litestar calls it."""
        application = Loaded(
            apps=lambda: [click.get_current_context().obj.app],
            options=self._told,
            relay=lambda: self._relay,
            lacking="give PostResponsePlugin a relay=, a Relay or its name, as in 'shop.web:relay'",
        )
        cli.add_command(clicked.add_to(click.Group("postresponse", help=clicked.HELP), application))

    def _told(self) -> Sequence[Origin]:
        own = {"session_key": self._session_key, "relay": self._relay}
        return (
            *origins(self._options, self._given, {}, PostResponseMiddleware, ""),
            *(Origin(name, repr(value), "default" if value is None else "keyword") for name, value in own.items()),
        )

    def _arrange(self, app_config: AppConfig) -> None:
        """Bring everything into its place, and again behind each plugin that came later."""
        if self._unit_of_work is not None:
            _refuse_autocommit(app_config.before_send)
        _remove(app_config.middleware, self._middleware)
        app_config.middleware.insert(0, self._middleware)
        _remove(app_config.lifespan, self._lifespan)
        app_config.lifespan.append(self._lifespan)
        for key, db in _sessions(self._unit_of_work, self._session_key, app_config.plugins):
            app_config.dependencies[key] = session_of(db)

    @asynccontextmanager
    async def _lifespan(self, app: Litestar) -> AsyncIterator[None]:
        supervisor = self._core._settings.supervisor
        supervisor.open()
        warn_of(app, self._core)
        try:
            yield
        finally:
            await supervisor.aclose()


class _Last(InitPluginProtocol):
    """Arranges everything anew behind the plugins that other plugins added."""

    def __init__(self, plugin: PostResponsePlugin) -> None:
        self._plugin = plugin

    def on_app_init(self, app_config: AppConfig) -> AppConfig:
        self._plugin._arrange(app_config)
        if app_config.plugins[-1] is not self:
            app_config.plugins.append(_Last(self._plugin))
        return app_config


def _remove(items: list[Any], item: Any) -> None:
    items[:] = [each for each in items if each != item]


def session_of(db: Any) -> Provide:
    """Make a dependency that gives this request's session, for `dependencies={"audit_session": session_of(audit)}`.

    Args:
        db: A unit of work that has a `session`, as `SQLAlchemyUnitOfWork`; the application's, or a member of several.

    Raises:
        ConfigurationError: *db* has no session.
        NoExchange: The plugin is not installed, has another unit of work, or this is a WebSocket; in the request.

    Example:
        >>> from sqlalchemy.orm import sessionmaker
        >>> from postresponse.unit_of_work.sqlalchemy import SQLAlchemyUnitOfWork
        >>> dependencies = {"audit_session": session_of(SQLAlchemyUnitOfWork(sessionmaker()))}
    """
    if not _has_session(db):
        raise ConfigurationError(
            f"session_of: expected a unit of work that has a session, as SQLAlchemyUnitOfWork, found {db!r}"
        )

    def session(scope: Scope) -> Any:
        if scope["type"] == ScopeType.WEBSOCKET:
            raise NoExchange.in_websocket()
        return db.session

    return Provide(session, sync_to_thread=False)


def _has_session(db: Any) -> bool:
    return hasattr(type(db), "session")


def _sessions(unit_of_work: Any, key: str | None, plugins: list[Any]) -> Iterator[tuple[str, Any]]:
    """Give the units of work whose sessions handlers take, by the names that they take them by."""
    if key is not None:
        yield key, unit_of_work
        return
    members = [unit_of_work, *getattr(unit_of_work, "_factories", {}).values()]
    known = [
        (config.session_dependency_key, db) for config in _configs(plugins) for db in members if _is_of(db, config)
    ]
    yield from known
    if not known and _has_session(unit_of_work):
        yield DEFAULT_KEY, unit_of_work


# -- advanced-alchemy -------------------------------------------------------------------------------------------------


def _configs(plugins: list[Any]) -> Iterator[Any]:
    """Give the configurations of databases that advanced-alchemy's plugins have."""
    for plugin in plugins:
        if type(plugin).__module__.startswith("advanced_alchemy."):
            yield from getattr(plugin, "config", ())


def _is_of(db: Any, config: Any) -> bool:
    made = getattr(config, "session_maker", None)
    return made is not None and getattr(db, "_make", None) is made


def _refuse_autocommit(before_send: list[Any]) -> None:
    for hook in before_send:
        if getattr(hook, "__module__", "").startswith("advanced_alchemy.") and "autocommit" in hook.__qualname__:
            raise ConfigurationError(
                "advanced-alchemy commits by itself, by its before_send_handler, when the response has begun already, "
                "and a commit that fails is told to nobody: leave out before_send_handler='autocommit', so that "
                "PostResponsePlugin commits; which statuses it commits, its commit=CommitPolicy(commit_if=...) says"
            )


# -- the middleware of one route --------------------------------------------------------------------------------------

_PAGE: Final = "postresponse_inspector"
"""Marks the route of the inspector's page."""

_routed: ContextVar[tuple[Any, Any]] = ContextVar("postresponse_litestar")
"""The scope that Litestar has routed, and the rest of the stack of its route."""


class PostResponseRouteMiddleware:
    """What stands in the stack of one route: it tells the route, and asks the one middleware of the application."""

    def __init__(self, app: Any, core: PostResponseMiddleware) -> None:
        self.app = app
        self._core = core

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if _PAGE in scope["route_handler"].opt:
            # Before any guard, as everywhere; of a mount Litestar cuts the path.
            whole = {**scope, "path": scope["raw_path"].decode("latin-1").partition("?")[0]}
            if not await self._core._inspector.answers(whole, receive, send):
                raise NotFoundException  # Litestar takes a mount for what only begins like it too
            return
        token = _routed.set((scope, self.app))
        try:
            await self._core({**scope, ROUTE: scope.get("path_template")}, receive, send)
        finally:
            _routed.reset(token)


async def _page(scope: Scope, receive: Receive, send: Send) -> None:
    """Stand for the inspector's page, which the middleware in front answers."""


async def _route(given: Any, receive: Any, send: Any) -> None:
    """Call the rest of the stack with the scope that Litestar has routed, as one attempt at the request has it."""
    scope, app = _routed.get()
    state = given["state"]
    if state is not scope["state"]:  # a copy, since the request may be run again
        state.update((name, _anew(value)) for name, value in state.items() if isinstance(value, ScopeState))
    scope.clear()
    scope.update(given)
    await app(scope, receive, send)


def _anew(state: ScopeState) -> ScopeState:
    """Copy what Litestar knows of a connection, so that an attempt does not find what one before it has left."""
    made = copy(state)
    for name in ScopeState.__slots__:
        value = getattr(made, name)
        if isinstance(value, list | dict):
            setattr(made, name, value.copy())
    return made


# -- the exception handlers -------------------------------------------------------------------------------------------


def rendered_by(app: Litestar) -> Callable[[Failure], Awaitable[ErrorResponse | None]]:
    """Make an `error_response` that lets the exception handlers of *app* answer; the plugin does so by itself.

    A handler is found as for an exception that a route handler raises: those of the route, its controller and routers
    come before those of the application; by class along the MRO, then the one of 500. The `after_exception` hooks are
    told first. An `HTTPException` that a hook raised and nobody handles is answered as Litestar does. Debug mode
    changes nothing: no traceback is shown. The request's body has been read, and is empty here.

    The package's default answers where no handler is found, or one fails. It also answers where nobody knows what was
    committed (`CommitInDoubt`, `PartialCommit`), unless a handler is registered for that class, or for another one of
    `postresponse.exceptions`: a general page would say that nothing was.

    Args:
        app: The application itself, and not one that is wrapped around it.

    Raises:
        ConfigurationError: *app* is something else.

    Example:
        >>> app = Litestar(logging_config=None)
        >>> application = PostResponseMiddleware(app, error_response=rendered_by(app))
    """
    if not isinstance(app, Litestar):
        raise ConfigurationError(f"rendered_by: expected the Litestar application itself, found {app!r}")
    return partial(_rendered, app)


async def _rendered(outermost: Litestar | None, failure: Failure) -> ErrorResponse | None:
    """Answer by the application that has routed the request, or by the *outermost* where it did not get so far."""
    error = failure.exception
    app: Litestar | None = failure.exchange.scope.get("litestar_app", outermost)
    if app is None or not isinstance(error, Exception):
        return None
    scope: Any = {**failure.exchange.scope, "app": app, "litestar_app": app}
    route = scope.get("route_handler")
    handlers = app.exception_handlers if route is None else route.resolve_exception_handlers()
    handler = _handler_of(handlers, error, own=failure.unknown or failure.partial)
    if handler is None:
        return None
    for hook in app.after_exception:
        await hook(error, scope)

    async def answering(scope: Any, receive: Any, send: Any) -> None:
        request: Any = app.request_class(scope, receive, send)
        encoders = app.type_encoders if route is None else route.resolve_type_encoders()
        response = handler(request, error).to_asgi_response(app=None, request=request, type_encoders=encoders)
        await response(scope, receive, send)

    return await asgi_response(answering, scope)


def _handler_of(handlers: Mapping[Any, Any], error: Exception, *, own: bool) -> Any:
    """Find the handler that Litestar would; or one of this package's own classes, and no other."""
    classes = [kind for kind in type(error).__mro__ if not own or issubclass(kind, PostResponseError)]
    by_class = next((handlers[kind] for kind in classes if kind in handlers), None)
    if own:
        return by_class
    if isinstance(error, HTTPException):
        return handlers.get(error.status_code) or by_class or create_exception_response
    return by_class or handlers.get(500)
