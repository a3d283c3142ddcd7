"""Who stands around an ASGI application: two written by hand for the minimum, other packages, and this one.

None of the others does the same: asgi-background tracks nothing where there is no task, advanced-alchemy commits
behind the response, correlation id and tracing commit nothing. They say what a middleware may cost that people use.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from time import monotonic_ns
from typing import Any, Final

from postresponse import Outcome
from postresponse.asgi import PostResponseMiddleware
from postresponse.observing import Observer
from tests.benchmarks.asgi import App, ASGISubject
from tests.benchmarks.runner import Contender, Kind, package
from tests.benchmarks.units import AsyncUnit, AsyncUntouched

__all__ = ["WAYS", "Way", "contenders"]


class SendWrapper:
    """The least that sees a response: a middleware whose `send` notes status, size and end."""

    def __init__(self, app: App) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        await self.app(scope, receive, _Seen(send).send)


class _Seen:
    __slots__ = ("_send", "complete", "size", "status")

    def __init__(self, send: Any) -> None:
        self._send = send
        self.status = self.size = 0
        self.complete = False

    def send(self, message: Any) -> Awaitable[Any]:
        kind = message["type"]
        if kind == "http.response.body":
            self.size += len(message.get("body", b""))
            self.complete = not message.get("more_body", False)
        elif kind == "http.response.start":
            self.status = message["status"]
        return self._send(message)  # type: ignore[no-any-return]


PENDING, SENDING, SENT = range(3)


class Tracker:
    """The least that has what a handler needs: the same with a context variable, phases and the stamp of each."""

    def __init__(self, app: App) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        tracked = _Tracked(send)
        token = _current.set(tracked)
        try:
            await self.app(scope, receive, tracked.send)
        finally:
            _current.reset(token)
            tracked.ended = monotonic_ns()


class _Tracked:
    __slots__ = ("_send", "began", "ended", "head_sent", "phase", "size", "status")

    head_sent: int
    ended: int
    status: int

    def __init__(self, send: Any) -> None:
        self._send = send
        self.size = 0
        self.phase = PENDING
        self.began = monotonic_ns()

    def send(self, message: Any) -> Awaitable[Any]:
        kind = message["type"]
        if kind == "http.response.body":
            self.size += len(message.get("body", b""))
            if not message.get("more_body", False):
                self.phase = SENT
        elif kind == "http.response.start":
            self.status = message["status"]
            self.phase = SENDING
            self.head_sent = monotonic_ns()
        return self._send(message)  # type: ignore[no-any-return]


_current: Final[ContextVar[_Tracked]] = ContextVar("_current")


@dataclass(frozen=True)
class Way:
    """One way to stand around an application.

    Args:
        kind: As `Contender` has it.
        wrap: Puts it around an application.
        needs: Distributions that it needs.
        lifespan: Whether it has to be started.
    """

    kind: Kind
    wrap: Callable[[App], App]
    needs: tuple[str, ...] = ()
    lifespan: bool = False

    def subject(self, app: App) -> ASGISubject:
        """Stand around *app* behind the fake server."""
        return ASGISubject(self.wrap(app), lifespan=self.lifespan)


def bare(app: App) -> App:
    """Nobody."""
    return app


def asgi_background(app: App) -> App:
    """asgi-background, with no task."""
    return package("asgi_background").BackgroundTaskMiddleware(app)  # type: ignore[no-any-return]


def advanced_alchemy(app: App) -> App:
    """advanced-alchemy's session middleware, committing a session that does nothing."""
    config = package("advanced_alchemy.extensions.starlette.config")
    session = AsyncUnit(None)
    settings = config.SQLAlchemyAsyncConfig(connection_string="sqlite+aiosqlite://", commit_mode="autocommit")

    def with_session(scope: Any, receive: Any, send: Any) -> Awaitable[Any]:
        if scope["type"] == "http":
            scope["state"]["db_session"] = session
        return app(scope, receive, send)  # type: ignore[no-any-return]

    return config.SessionMiddleware(with_session, settings)  # type: ignore[no-any-return]


def correlation_id(app: App) -> App:
    """asgi-correlation-id, which makes an id and adds it to the head."""
    return package("asgi_correlation_id").CorrelationIdMiddleware(app)  # type: ignore[no-any-return]


def base_http(app: App) -> App:
    """Starlette's BaseHTTPMiddleware, with a dispatch that passes the response on."""

    async def dispatch(request: Any, call_next: Any) -> Any:
        return await call_next(request)

    return package("starlette.middleware.base").BaseHTTPMiddleware(app, dispatch)  # type: ignore[no-any-return]


def open_telemetry(app: App, *, exclude: list[str] | None = None) -> App:
    """OpenTelemetry's middleware, with the SDK recording spans that go nowhere."""
    return package("opentelemetry.instrumentation.asgi").OpenTelemetryMiddleware(  # type: ignore[no-any-return]
        app,
        tracer_provider=package("opentelemetry.sdk.trace").TracerProvider(),
        meter_provider=package("opentelemetry.sdk.metrics").MeterProvider(),
        exclude_spans=exclude,
    )


def nothing(outcome: Outcome) -> None:
    """Receive the outcome."""


def ours(**options: Any) -> Way:
    """This package, with *options*."""
    return Way("ours", lambda app: PostResponseMiddleware(app, **options))


OPEN_TELEMETRY: Final = ("opentelemetry-instrumentation-asgi", "opentelemetry-sdk")

WAYS: Final[Mapping[str, Way]] = {
    "bare application": Way("limit", bare),
    "send-wrapping class": Way("minimum", SendWrapper),
    "contextvar, phases, stamps": Way("minimum", Tracker),
    "asgi-background, no task": Way("peer", asgi_background, ("asgi-background",), lifespan=True),
    "advanced-alchemy, fake session": Way("peer", advanced_alchemy, ("advanced-alchemy", "aiosqlite", "starlette")),
    "asgi-correlation-id": Way("peer", correlation_id, ("asgi-correlation-id",)),
    "BaseHTTPMiddleware": Way("peer", base_http, ("starlette",)),
    "OpenTelemetry, request span only": Way(
        "peer", partial(open_telemetry, exclude=["receive", "send"]), OPEN_TELEMETRY
    ),
    "OpenTelemetry": Way("peer", open_telemetry, OPEN_TELEMETRY),
    "observe": ours(),
    "observe, on_finished": ours(on_finished=nothing),
    "observe, one observer": ours(observers=(Observer(),)),
    "head, fake unit": ours(unit_of_work=AsyncUnit, commit="head"),
    "head, untouched unit": ours(unit_of_work=AsyncUntouched, commit="head"),
    "buffered, fake unit": ours(unit_of_work=AsyncUnit, commit="buffered"),
}


def contenders(app: App, targets: Mapping[str, float], names: Iterable[str] = WAYS) -> list[Contender]:
    """Those of *names* around *app*; the first is the baseline."""
    return [
        Contender(name, way.kind, partial(way.subject, app), way.needs, targets.get(name))
        for name, way in WAYS.items()
        if name in names
    ]
