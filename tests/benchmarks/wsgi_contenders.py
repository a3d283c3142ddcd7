"""Who stands around a WSGI application: three written by hand for the minimum, other packages, and this one.

`itertools.chain` with an end mark sees the end and no chunk: what it costs a chunk is what C costs. Werkzeug's
ClosingIterator sees `close` alone; repoze.tm2 and pyramid_tm commit a transaction of Zope's with nothing in it.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from itertools import chain
from time import monotonic_ns
from typing import Any, Final

from postresponse import Outcome
from postresponse.observing import Observer
from postresponse.wsgi import PostResponseMiddleware
from tests.benchmarks.runner import Contender, Kind, package
from tests.benchmarks.units import Unit, Untouched
from tests.benchmarks.wsgi import App, WSGISubject

__all__ = ["WAYS", "Way", "contenders", "pyramid_contenders"]


class ClosingBody:
    """The least that sees a WSGI response end: an iterator that counts, and a `close`."""

    __slots__ = ("_body", "_next", "complete", "size")

    def __init__(self, body: Iterable[bytes]) -> None:
        self._body = body
        self._next = iter(body).__next__
        self.size = 0
        self.complete = False

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        try:
            chunk = self._next()
        except StopIteration:
            self.complete = True
            raise
        self.size += len(chunk)
        return chunk

    def close(self) -> None:
        """Close what is inside."""
        close = getattr(self._body, "close", None)
        if close is not None:
            close()


def iterator_class(app: App) -> App:
    """Put a `ClosingBody` around what *app* returns."""

    def wrapped(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        return ClosingBody(app(environ, start_response))

    return wrapped


class TrackedBody(ClosingBody):
    """The same with the status, a context variable and the stamp of each moment."""

    __slots__ = ("_start_response", "began", "ended", "head_sent", "status")

    status: str
    head_sent: int
    ended: int

    def __init__(self, app: App, environ: dict[str, Any], start_response: Any) -> None:
        self.began = monotonic_ns()
        self._start_response = start_response
        _current.set(self)
        super().__init__(app(environ, self.start_response))

    def start_response(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        """Note the status and pass it on."""
        self.status = status
        self.head_sent = monotonic_ns()
        return self._start_response(status, headers, exc_info)

    def close(self) -> None:
        """Close what is inside, and note when."""
        super().close()
        self.ended = monotonic_ns()
        _current.set(None)


_current: Final[ContextVar[TrackedBody | None]] = ContextVar("_current", default=None)


def full_tracker(app: App) -> App:
    """Put a `TrackedBody` around what *app* returns."""
    return partial(TrackedBody, app)


def end_mark(app: App) -> App:
    """Chain an empty iterator behind the body of *app*, which notes that it was asked for."""

    def wrapped(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        return chain(app(environ, start_response), _EndMark())

    return wrapped


class _EndMark:
    __slots__ = ("complete",)

    def __init__(self) -> None:
        self.complete = False

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        self.complete = True
        raise StopIteration


def bare(app: App) -> App:
    """Nobody."""
    return app


def closing_iterator(app: App) -> App:
    """Werkzeug's ClosingIterator, with a callback that does nothing."""
    wrapper = package("werkzeug.wsgi").ClosingIterator

    def wrapped(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        return wrapper(app(environ, start_response), _nothing)  # type: ignore[no-any-return]

    return wrapped


def repoze_tm(app: App) -> App:
    """repoze.tm2, with a transaction that nobody joins."""
    return package("repoze.tm").TM(app)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Way:
    """One way to stand around an application.

    Args:
        kind: As `Contender` has it.
        wrap: Puts it around an application.
        needs: Distributions that it needs.
    """

    kind: Kind
    wrap: Callable[[App], App]
    needs: tuple[str, ...] = ()

    def subject(self, app: App) -> WSGISubject:
        """Stand around *app* behind the fake server."""
        return WSGISubject(self.wrap(app))


def pyramid(*, managed: bool) -> WSGISubject:
    """A Pyramid application that answers 1 kB, with pyramid_tm or without."""
    with package("pyramid.config").Configurator() as config:
        if managed:
            config.include("pyramid_tm")
        config.add_route("orders", "/orders")
        config.add_view(_pyramid_view, route_name="orders")
        return WSGISubject(config.make_wsgi_app())


def _pyramid_view(request: Any) -> Any:
    request.response.body = bytes(range(256)) * 4
    return request.response


def _nothing() -> None:
    pass


def nothing(outcome: Outcome) -> None:
    """Receive the outcome."""


def ours(**options: Any) -> Way:
    """This package, with *options*."""
    return Way("ours", lambda app: PostResponseMiddleware(app, **options))


WAYS: Final[Mapping[str, Way]] = {
    "bare application": Way("limit", bare),
    "itertools.chain, end mark": Way("minimum", end_mark),
    "iterator class": Way("minimum", iterator_class),
    "full tracker": Way("minimum", full_tracker),
    "Werkzeug ClosingIterator": Way("peer", closing_iterator, ("werkzeug",)),
    "repoze.tm2": Way("peer", repoze_tm, ("repoze.tm2",)),
    "observe": ours(),
    "observe, on_finished": ours(on_finished=nothing),
    "observe, one observer": ours(observers=(Observer(),)),
    "head, fake unit": ours(unit_of_work=Unit, commit="head"),
    "head, untouched unit": ours(unit_of_work=Untouched, commit="head"),
    "buffered, fake unit": ours(unit_of_work=Unit, commit="buffered"),
}


def contenders(app: App, targets: Mapping[str, float], names: Iterable[str] = WAYS) -> list[Contender]:
    """Those of *names* around *app*; the first is the baseline."""
    return [
        Contender(name, way.kind, partial(way.subject, app), way.needs, targets.get(name))
        for name, way in WAYS.items()
        if name in names
    ]


def pyramid_contenders() -> list[Contender]:
    """pyramid_tm lives inside Pyramid, so it is compared with Pyramid."""
    return [
        Contender("Pyramid", "limit", partial(pyramid, managed=False), ("pyramid",)),
        Contender("pyramid_tm", "peer", partial(pyramid, managed=True), ("pyramid", "pyramid_tm")),
    ]
