"""How cost grows: with chunks, with hooks, with the size of a held body."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Final

from postresponse import Outcome, current_exchange
from postresponse.asgi import PostResponseMiddleware as ASGIMiddleware
from postresponse.wsgi import PostResponseMiddleware as WSGIMiddleware
from tests.benchmarks import asgi, asgi_contenders, holding, wsgi, wsgi_contenders
from tests.benchmarks.runner import Case, Contender, Subject
from tests.benchmarks.units import AsyncUnit, Unit

__all__ = ["asgi_chunks", "asgi_hooks", "held", "wsgi_chunks", "wsgi_hooks"]

CHUNKS: Final = (1, 10, 100, 1000)
HOOKS: Final = (0, 1, 4, 16)
SIZES: Final[Mapping[str, int]] = {
    "1 kB": 1 << 10,
    "64 kB": 1 << 16,
    "1 MB": 1 << 20,
    "10 MB": 10 << 20,
    "100 MB": 100 << 20,
}
MODES: Final = ("bare application", "observe", "head, fake unit", "buffered, fake unit")


def asgi_chunks() -> Sequence[Case]:
    """From one chunk to a thousand."""
    return [Case(f"{count:,}", asgi_contenders.contenders(asgi.chunked(count), {}, MODES)) for count in CHUNKS]


def wsgi_chunks() -> Sequence[Case]:
    """From one chunk to a thousand."""
    return [Case(f"{count:,}", wsgi_contenders.contenders(wsgi.chunked(count), {}, MODES)) for count in CHUNKS]


def held() -> Sequence[Case]:
    """From a kilobyte to a hundred megabytes."""
    names = ("streaming through", "chunks, then a raw temporary file", "buffered, fake unit")
    return [Case(name, holding.contenders(size, None, names)) for name, size in SIZES.items()]


def on_asgi(register: Callable[[], object]) -> Subject:
    """An application whose handler calls *register*, in head mode."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        register()
        await asgi.single(scope, receive, send)

    return asgi.ASGISubject(ASGIMiddleware(app, unit_of_work=AsyncUnit))


def on_wsgi(register: Callable[[], object]) -> Subject:
    """The same under WSGI."""

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        register()
        return wsgi.single(environ, start_response)

    return wsgi.WSGISubject(WSGIMiddleware(app, unit_of_work=Unit))


def asgi_hooks() -> Sequence[Case]:
    """From no hook to sixteen of a kind."""
    return [Case(str(count), _hooks(on_asgi, count)) for count in HOOKS]


def wsgi_hooks() -> Sequence[Case]:
    """From no hook to sixteen of a kind."""
    return [Case(str(count), _hooks(on_wsgi, count)) for count in HOOKS]


def _hooks(make: Callable[[Callable[[], object]], Subject], count: int) -> list[Contender]:
    """Register *count* of each kind; the first of them registers none."""
    return [
        Contender("no hook", "limit", partial(make, current_exchange)),
        *(
            Contender(name, "ours", partial(make, partial(_register, name, count)))
            for name in ("on_start", "before_commit", "after_commit", "on_finished")
        ),
    ]


def _register(name: str, count: int) -> None:
    register = getattr(current_exchange(), name)
    hook = _with_outcome if name in ("on_start", "on_finished") else _without
    for _ in range(count):
        register(hook)


def _with_outcome(given: Outcome | Any) -> None:
    pass


def _without() -> None:
    pass
