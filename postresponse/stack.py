"""What stands around an application, and around this package's middleware in it: found by looking, without a request.

Nothing is called, made or imported: frameworks and middlewares are known by the names of their classes, and followed
along the attributes by which each holds the next one. What hides in a closure is not found, and a wrapper that is
further out than the object that was given cannot be known: give the outermost one.
"""

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from types import FunctionType, MethodType
from typing import Any, Final, Literal

from postresponse.core.log import first_time, logger

__all__ = ["Finding", "Layer", "findings_of", "layers_of", "warn_of"]


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer that a request passes.

    Attributes:
        position: How many are further out.
        name: Of its class, or of the function that it is.
        module: Where that is defined.
        kind: Its class; None for a function, and for what is only named and not imported.
        dispatch: The function that a BaseHTTPMiddleware calls, where that is no method of its own; else empty.
    """

    position: int
    name: str
    module: str
    kind: type | None = field(default=None, repr=False, compare=False)
    dispatch: str = ""

    def __str__(self) -> str:
        name = f"{self.module}.{self.name}"
        return f"{name} of {self.dispatch}" if self.dispatch else name


@dataclass(frozen=True, slots=True)
class Finding:
    """Something about a stack that its owner should know.

    Attributes:
        code: What it is, for a program: `"below_compression"`.
        severity: `"error"` (nothing is promised), `"warning"` (a promise is weaker than it looks) or `"info"`.
        found: What was found, and what follows from it.
        where: The layers, by their positions from 0, the outermost, on.
        way_out: What to do about it.
    """

    code: str
    severity: Literal["error", "warning", "info"]
    found: str
    where: str
    way_out: str

    def __str__(self) -> str:
        return f"{self.found} ({self.where}); {self.way_out}"


def layers_of(app: Any) -> list[Layer]:
    """List the layers that a request to *app* passes, the outermost first.

    Starlette, FastAPI, Litestar, Flask, Quart and Django are looked into; other wrappers are followed along `app`,
    `application`, `wsgi_app`, `asgi_app` and `__wrapped__`. What is mounted, and what only some routes have, is left
    out.

    Args:
        app: The outermost object that the server is given.

    Example:
        >>> async def app(scope, receive, send): ...
        >>> [layer.name for layer in layers_of(app)]
        ['app']
    """
    return [Layer(position, *described) for position, described in enumerate(_walk(app, set()))]


def findings_of(app: Any, *, mounted: Any = None) -> list[Finding]:
    """Judge where this package's middleware stands in the stack of *app*, the gravest finding first.

    Args:
        app: The outermost object that the server is given.
        mounted: A middleware of this package's that is known to be somewhere inside, for where it is not found in the
            stack itself, as around something that is mounted.

    Example:
        >>> async def app(scope, receive, send): ...
        >>> [finding.code for finding in findings_of(app)]
        ['not_installed']
    """
    layers = layers_of(app)
    if mounted is not None and not any(_is_ours(layer) for layer in layers):
        layers += [replace(layer, position=len(layers) + layer.position) for layer in layers_of(mounted)]
    ours = [layer for layer in layers if _is_ours(layer)]
    if not ours:
        return [
            Finding(
                "not_installed",
                "error",
                "PostResponseMiddleware is not in the stack: nothing is committed, and nothing seen",
                _places(layers),
                "wrap the application in it, or install it by the integration of its framework",
            )
        ]
    found = [*_twice(ours), *_around(layers[: ours[0].position], ours[0]), *_inside(layers[ours[0].position + 1 :])]
    return sorted(found, key=lambda finding: ("error", "warning", "info").index(finding.severity))


def warn_of(app: Any, middleware: Any) -> None:
    """Log what is unsafe about the stack of *app*, in which *middleware* is, each thing once in this process.

    What is unsafe only for a commit behind the head is left out where that is not asked for.
    """
    settings = middleware._settings
    policy = settings.fixed_policy
    late = settings.unit_of_work is not None and (policy is None or policy.at != "head")
    try:
        found = findings_of(app, mounted=middleware)
    except Exception:  # of objects that need not be what the names of their classes say
        logger.debug("the stack of %r could not be looked into", app, exc_info=True)
        return
    for finding in found:
        if finding.severity == "info" or (finding.code == "base_http_middleware_inside" and not late):
            continue
        if first_time(str(finding)):
            logger.warning("an unsafe place in the stack: %s", finding)


# -- judging ----------------------------------------------------------------------------------------------------------

_OURS: Final = re.compile(r"postresponse\.(asgi|wsgi|integrations)\..*\bPostResponse\w*Middleware")
_BASE_HTTP: Final = "starlette.middleware.base.BaseHTTPMiddleware"
_SERVER_ERROR: Final = "starlette.middleware.errors.ServerErrorMiddleware"
_COMPRESSES: Final = re.compile(r"gzip|brotli|zstd|compress", re.IGNORECASE)
_CORS: Final = re.compile(r"cors", re.IGNORECASE)
_TRACERS: Final = frozenset({"opentelemetry", "elasticapm", "sentry_sdk", "ddtrace", "newrelic", "scout_apm"})

_OUTERMOST: Final = "make PostResponseMiddleware the outermost one: add it last, or wrap the application in it"
_PLAIN: Final = "write it as a plain ASGI middleware"


def _twice(ours: Sequence[Layer]) -> Iterator[Finding]:
    if len(ours) > 1:
        yield Finding(
            "installed_twice",
            "warning",
            "PostResponseMiddleware is installed more than once: the inner one steps aside, and its options have no "
            "effect, but for its unit_of_work where the outer one has none",
            _places(ours),
            "keep the outer one",
        )


def _around(layers: Sequence[Layer], ours: Layer) -> Iterator[Finding]:
    """Judge what is outside of our middleware, so that it has every byte after us."""
    for layer in layers:
        where = _places([layer, ours])
        if _is_a(layer, _BASE_HTTP):
            yield Finding(
                "inside_base_http_middleware",
                "warning",
                f"{layer} is outside of PostResponseMiddleware, and passes the response on from a task of its own: "
                "what was handed to it counts as sent, and a body that breaks off reaches the client as a whole one",
                where,
                f"{_OUTERMOST}; or {_PLAIN}",
            )
        elif _COMPRESSES.search(layer.name):
            yield Finding(
                "below_compression",
                "warning",
                f"{layer} is outside of PostResponseMiddleware, and holds back what it compresses: the moments and the "
                "sizes that are told are those of what goes into it",
                where,
                _OUTERMOST,
            )
        elif layer.module.partition(".")[0] in _TRACERS:
            yield Finding(
                "inside_tracer",
                "info",
                f"{layer} is outside of PostResponseMiddleware: it sees the commit as a part of the request, and "
                "counts what runs inline behind the last byte, as on_finished and a commit after_send, as its time",
                where,
                "nothing has to be done; work that is left to after_response does not count",
            )
        elif _is_a(layer, _SERVER_ERROR):
            yield Finding(
                "inside_error_middleware",
                "info",
                "PostResponseMiddleware sees an exception that nobody handles, and not the 500 that is made of it",
                where,
                "nothing has to be done, unless the outcome shall tell of that response: then wrap the application",
            )


def _inside(layers: Sequence[Layer]) -> Iterator[Finding]:
    """Judge what is inside of our middleware, so that we have what it makes of the response."""
    for layer in layers:
        if _is_a(layer, _BASE_HTTP):
            yield Finding(
                "base_http_middleware_inside",
                "warning",
                f"{layer} ends a body that breaks off as if it were whole: at 'buffered' and 'after_send' the unit of "
                "work commits in spite of the error",
                _places([layer]),
                f"{_PLAIN}; or commit at the head",
            )
        elif _CORS.search(layer.name):
            yield Finding(
                "cors_inside",
                "info",
                f"{layer} is inside of PostResponseMiddleware: an error response in the place of one that could not be "
                "committed has no CORS headers, so that a browser hides it from its page",
                _places([layer]),
                "wrap PostResponseMiddleware in it",
            )


def _places(layers: Sequence[Layer]) -> str:
    return ", ".join(f"{layer.position}: {layer}" for layer in layers) or "nothing"


def _is_ours(layer: Layer) -> bool:
    return any(_OURS.fullmatch(name) for name in _names(layer))


def _is_a(layer: Layer, name: str) -> bool:
    return name in _names(layer)


def _names(layer: Layer) -> set[str]:
    """The name of the layer, and those of the classes that it inherits from."""
    return {f"{layer.module}.{layer.name}", *(_paths(layer.kind) if layer.kind is not None else ())}


# -- walking ----------------------------------------------------------------------------------------------------------

_Described = tuple[str, str, type | None, str]
"""What makes a Layer, but for its position."""

_NEXT: Final = ("app", "application", "wsgi_app", "asgi_app", "wsgi_application", "_app", "__wrapped__")
"""Under which names wrappers hold what they wrap."""


def _walk(app: Any, seen: set[int]) -> Iterator[_Described]:
    owner = app.__self__ if isinstance(app, MethodType) else app
    if id(owner) in seen:
        return
    seen.add(id(owner))
    if owner is not app and app.__name__ != "__call__":
        # What a framework gives to be wrapped, as Flask's `wsgi_app`, is all of it: not looked into again.
        yield _described(owner)
        return
    app = owner
    if isinstance(app, partial):
        yield from _walk(app.func, seen)
        return
    yield _described(app)
    kinds = _paths(type(app))
    for kind, look in _FRAMEWORKS:
        if kind in kinds:
            yield from look(app, seen)
            return
    for name in _NEXT if not isinstance(app, FunctionType) else ("__wrapped__",):
        inner = _held(app, name)
        if callable(inner):
            yield from _walk(inner, seen)
            return


def _look_into_starlette(app: Any, seen: set[int]) -> Iterator[_Described]:
    stack = app.middleware_stack
    if stack is not None:
        yield from _walk(stack, seen)
        return
    # It is built with the first message. Until then what will be built is known from what was added.
    yield _named(_SERVER_ERROR)
    for middleware in app.user_middleware:
        yield _described(middleware.cls, middleware.kwargs.get("dispatch"))
    yield _named("starlette.middleware.exceptions.ExceptionMiddleware")
    yield _described(app.router)


def _look_into_router(app: Any, seen: set[int]) -> Iterator[_Described]:
    yield from _walk(app.middleware_stack, seen)


def _look_into_litestar(app: Any, seen: set[int]) -> Iterator[_Described]:
    yield from _walk(app.asgi_handler, seen)
    for middleware in app.middleware:
        keywords = _held(middleware, "kwargs") or {}
        yield _described(_held(middleware, "middleware") or middleware, keywords.get("dispatch"))
    if app.compression_config is not None:
        yield _described(app.compression_config.middleware_class)


def _look_into_flask(app: Any, seen: set[int]) -> Iterator[_Described]:
    yield from _walk(app.wsgi_app, seen)


def _look_into_quart(app: Any, seen: set[int]) -> Iterator[_Described]:
    yield from _walk(app.asgi_app, seen)


def _look_into_django(app: Any, seen: set[int]) -> Iterator[_Described]:
    for name in sys.modules["django.conf"].settings.MIDDLEWARE:
        yield _named(name)


_FRAMEWORKS: Final[tuple[tuple[str, Callable[[Any, set[int]], Iterator[_Described]]], ...]] = (
    ("starlette.applications.Starlette", _look_into_starlette),
    ("starlette.routing.Router", _look_into_router),
    ("litestar.app.Litestar", _look_into_litestar),
    ("flask.app.Flask", _look_into_flask),
    ("quart.app.Quart", _look_into_quart),
    ("django.core.handlers.base.BaseHandler", _look_into_django),
)


def _described(app: Any, dispatch: Any = None) -> _Described:
    """Describe a class, a function, or an object by its class."""
    if dispatch is None and _BASE_HTTP in _paths(type(app)):
        dispatch = _held(app, "dispatch_func")
        if isinstance(dispatch, MethodType) and dispatch.__self__ is app:
            dispatch = None
    told = "" if dispatch is None else str(getattr(dispatch, "__qualname__", type(dispatch).__qualname__))
    if isinstance(app, FunctionType):
        return app.__qualname__, app.__module__, None, told
    kind = app if isinstance(app, type) else type(app)
    return kind.__qualname__, kind.__module__, kind, told


def _named(path: str) -> _Described:
    """Describe what is only known by its name; its class, where somebody has imported it."""
    module, _, name = path.rpartition(".")
    found = getattr(sys.modules.get(module), name, None)
    return name, module, found if isinstance(found, type) else None, ""


def _held(app: Any, name: str) -> Any:
    try:
        return getattr(app, name, None)
    except Exception:  # noqa: BLE001 - of somebody else's property
        return None


def _paths(kind: type) -> set[str]:
    return {f"{each.__module__}.{each.__qualname__}" for each in kind.__mro__}
