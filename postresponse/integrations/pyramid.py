"""Pyramid: `config.include("postresponse.integrations.pyramid")`, and all is wrapped.

Pyramid lets an execution policy say what a request is answered with, and calls that as a WSGI application. Ours answers
with the middleware, whose own application is Pyramid's handling of the request. So it stands around everything: tweens,
exception views, response and finished callbacks, and the body.
"""

from collections.abc import Callable, Iterable
from typing import Any, Final

from pyramid.events import ApplicationCreated, BeforeTraversal
from pyramid.httpexceptions import HTTPNotFound
from pyramid.interfaces import IRequest, IRouteRequest, IRoutesMapper
from pyramid.settings import asbool, aslist, falsey, truthy

from postresponse.configuration import effective
from postresponse.core.exchange import Failure
from postresponse.core.log import ROUTE
from postresponse.error_response import ErrorResponse, emptied, wsgi_response
from postresponse.exceptions import ConfigurationError
from postresponse.wsgi import PostResponseMiddleware

__all__ = ["includeme"]

PREFIX: Final = "postresponse."


def includeme(config: Any) -> None:
    """Wrap the application that *config* makes in `PostResponseMiddleware`, with its options out of the settings.

    `postresponse.commit = buffered` in the `.ini` file gives the option `commit`, and so each one; an object is named
    by a text, as in `postresponse.unit_of_work = shop.models:db`, or is one where the settings are a dict. The log, and
    observers, name a request by the pattern of its route.

    With a unit of work, the exception views of the application answer for one that could not commit, and the package's
    default where there is none, where it fails, and where nobody knows what was committed (`CommitInDoubt`,
    `PartialCommit`). They get a request of their own, with no body, and with the route of the request matched; response
    callbacks of the view are not run for it.

    The execution policy is taken by this: pyramid_retry's cannot be had beside it, and is not needed; give the policy a
    `Retry`. Leave pyramid_tm out too, as it commits on its own.

    Args:
        config: The `pyramid.config.Configurator`, which calls this.

    Raises:
        ConfigurationError: An option is unknown, or has a value that it cannot have.

    Example:
        >>> from pyramid.config import Configurator
        >>> config = Configurator(settings={"postresponse.cleanup_timeout": "2.0"})
        >>> config.include("postresponse.integrations.pyramid")
        >>> app = config.make_wsgi_app()
    """
    settings = config.get_settings() or {}
    given = {
        name.removeprefix(PREFIX).upper(): _read(name, value)
        for name, value in settings.items()
        if name.startswith(PREFIX) and value != ""
    }
    options = effective({}, given, PostResponseMiddleware, owner="settings", source=f"settings {PREFIX}*")
    policy = _Policy(options)
    config.set_execution_policy(policy)
    config.add_subscriber(policy.take_router, ApplicationCreated)
    config.add_subscriber(_tell_route, BeforeTraversal)


class _Policy:
    """An execution policy that answers with the middleware, and has the request handled inside of that."""

    def __init__(self, options: dict[str, Any]) -> None:
        self._router: Any = None
        if options.get("unit_of_work") is not None:
            options.setdefault("error_response", self._rendered)
        self._middleware = PostResponseMiddleware(self._handle, **options)

    def take_router(self, event: Any) -> None:
        self._router = event.app

    def __call__(self, environ: dict[str, Any], router: Any) -> Callable[[dict[str, Any], Any], Iterable[bytes]]:
        return self._middleware

    def _handle(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        with self._router.request_context(environ) as request:
            response = self._router.invoke_request(request)
        answered: Iterable[bytes] = response(environ, start_response)
        return answered

    def _rendered(self, failure: Failure) -> ErrorResponse | None:
        error = failure.exception
        if failure.unknown or failure.partial or not isinstance(error, Exception):
            return None
        environ = emptied(failure.exchange.scope)
        with self._router.request_context(environ) as request:
            _match(request)
            try:
                response = request.invoke_exception_view((type(error), error, error.__traceback__))
            except HTTPNotFound:
                return None
        return wsgi_response(response, environ)


def _match(request: Any) -> None:
    """Let views that are registered for the route be found, as while the request was handled."""
    mapper = request.registry.queryUtility(IRoutesMapper)
    found = {"match": None, "route": None} if mapper is None else mapper(request)
    route = found["route"]
    if route is not None:
        request.matchdict, request.matched_route = found["match"], route
        request.request_iface = request.registry.queryUtility(IRouteRequest, name=route.name, default=IRequest)


def _tell_route(event: Any) -> None:
    route = getattr(event.request, "matched_route", None)
    if route is not None:
        event.request.environ[ROUTE] = route.pattern


def _read(name: str, value: Any) -> Any:
    """Read what an `.ini` file can only say as a text."""
    if not isinstance(value, str):
        return value
    if name == f"{PREFIX}observers":
        return aslist(value)
    if name == f"{PREFIX}inspector" and value.lower() in truthy | falsey:
        return asbool(value)
    if name == f"{PREFIX}cleanup_timeout":
        try:
            return float(value)
        except ValueError:
            raise ConfigurationError(f"{name}: expected seconds, found {value!r}") from None
    return value
