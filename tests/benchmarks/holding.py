"""Holding a body until it is whole, beside streaming it through: processor time, and memory.

The application makes its chunks anew, 64 kB each, as one does that reads or renders; the server copies each into a
buffer and lets it go, as the kernel does when a socket takes it. The peak of the memory is read in a process of its
own (Linux), which streams the body first and then holds it; the difference is what holding costs.

`python -m tests.benchmarks.holding NAME SIZE` prints that difference in bytes.
"""

import asyncio
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any, Final

from postresponse import CommitPolicy
from tests.benchmarks.asgi import App, ASGISubject, Request, new_scope
from tests.benchmarks.asgi_contenders import Way, bare, ours
from tests.benchmarks.runner import Contender, environment, package
from tests.benchmarks.units import AsyncUnit, AsyncUntouched

__all__ = ["WAYS", "contenders"]

MEBI: Final = 1024 * 1024
CHUNK: Final = 64 * 1024
MAX_MEMORY: Final = MEBI
READ: Final = 256 * 1024
ROOT: Final = Path(__file__).parents[2]
SOURCE: Final = bytes(range(256)) * (8 * MEBI // 256) + bytes(CHUNK)


def body_of(size: int) -> App:
    """Return an application that answers *size* bytes, in chunks that it makes."""

    async def stream(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
        left = size
        while left > 0:
            at = left % len(SOURCE)
            chunk = SOURCE[at : at + min(left, CHUNK)]
            left -= len(chunk)
            await send({"type": "http.response.body", "body": chunk, "more_body": left > 0})

    return stream


class Socket(Request):
    """A request whose body goes where a socket puts it: copied, and let go."""

    __slots__ = ()

    buffer: Final = memoryview(bytearray(CHUNK))

    async def send(self, message: Any) -> None:
        """Copy the body, as much at a time as the buffer takes."""
        body = message.get("body", b"")
        if len(body) <= CHUNK:
            self.buffer[: len(body)] = body
            return
        whole = memoryview(body)
        for first in range(0, len(body), CHUNK):
            part = whole[first : first + CHUNK]
            self.buffer[: len(part)] = part


class HoldingSubject(ASGISubject):
    """A way to hold, behind a server that lets go.

    Args:
        name: Which, of `WAYS`.
        size: Bytes of the body.
    """

    def __init__(self, name: str, size: int) -> None:
        super().__init__(WAYS[name].wrap(body_of(size)), request=Socket)
        self._command = [sys.executable, "-m", "tests.benchmarks.holding", name, str(size)]

    def facts(self) -> dict[str, Any]:
        """Tell the peak of the memory above streaming, in MiB."""
        if not CLEAR_REFS.exists():
            return {}
        ran = subprocess.run(self._command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True, check=True)
        return {"peak MiB": round(int(ran.stdout) / MEBI, 2)}


class Holder:
    """Withholds a response until its end, and gives its chunks to a store and sends what comes back.

    Args:
        make: Makes the store of one response: called with each chunk, then iterated.
    """

    def __init__(self, make: Callable[[], Any], app: App) -> None:
        self.app = app
        self._make = make

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        store, start = self._make(), None

        async def hold(message: Any) -> None:
            nonlocal start
            if message["type"] == "http.response.start":
                start = message
                return
            store.append(message.get("body", b""))
            if message.get("more_body", False):
                return
            await send(start)
            chunks = iter(store)
            chunk = next(chunks, b"")
            for following in chunks:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
                chunk = following
            await send({"type": "http.response.body", "body": chunk, "more_body": False})

        await self.app(scope, receive, hold)


class RawFile:
    """Chunks as they are, and over the memory limit a temporary file without a buffer: the least that holds."""

    __slots__ = ("_chunks", "_file", "_size")

    def __init__(self) -> None:
        self._chunks: list[bytes] = []
        self._file: Any = None
        self._size = 0

    def append(self, chunk: bytes) -> None:
        """Keep *chunk*; over the limit write what is kept."""
        self._chunks.append(chunk)
        self._size += len(chunk)
        if self._size > MAX_MEMORY:
            if self._file is None:
                self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115
            os.writev(self._file.fileno(), self._chunks)  # a few: 64 kB each
            self._chunks.clear()
            self._size = 0

    def __iter__(self) -> Iterator[bytes]:
        if self._file is not None:
            with self._file as file:
                file.seek(0)
                while piece := file.read(READ):
                    yield piece
        yield from self._chunks


class Spooled:
    """A SpooledTemporaryFile."""

    __slots__ = ("_file",)

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(MAX_MEMORY)  # noqa: SIM115

    def append(self, chunk: bytes) -> None:
        """Write *chunk*."""
        self._file.write(chunk)

    def __iter__(self) -> Iterator[bytes]:
        with self._file as file:
            file.seek(0)
            while piece := file.read(READ):
                yield piece


class Joined(list[bytes]):
    """What Django makes of an iterator that an HttpResponse is given: one bytes object."""

    def __iter__(self) -> Iterator[bytes]:
        yield _http_response()(super().__iter__()).content


@cache
def _http_response() -> Any:
    settings = package("django.conf").settings
    if not settings.configured:
        settings.configure()
    return package("django.http").HttpResponse


def collecting(app: App) -> App:
    """BaseHTTPMiddleware with a dispatch that joins the body and answers with it, as many do to change it."""
    new_response = package("starlette.responses").Response

    async def dispatch(request: Any, call_next: Any) -> Any:
        response = await call_next(request)
        body = b"".join([chunk async for chunk in response.body_iterator])
        return new_response(body, response.status_code, media_type="text/plain")

    return package("starlette.middleware.base").BaseHTTPMiddleware(app, dispatch)  # type: ignore[no-any-return]


BUFFERED: Final = CommitPolicy(at="buffered", max_memory=MAX_MEMORY, max_body=None)

WAYS: Final[Mapping[str, Way]] = {
    "streaming through": Way("limit", bare),
    "chunks, then a raw temporary file": Way("minimum", partial(Holder, RawFile)),
    "Django's join": Way("peer", partial(Holder, Joined), ("django",)),
    "BaseHTTPMiddleware, collecting": Way("peer", collecting, ("starlette",)),
    "SpooledTemporaryFile": Way("peer", partial(Holder, Spooled)),
    "buffered, fake unit": ours(unit_of_work=AsyncUnit, commit=BUFFERED),
    "buffered, untouched unit": ours(unit_of_work=AsyncUntouched, commit=BUFFERED),
}


def contenders(size: int, target: float | None, names: Iterable[str] = WAYS) -> list[Contender]:
    """Those of *names*, holding a body of *size* bytes; the first streams it. Where time has a *target*, memory has."""
    peak = {"peak MiB": (MAX_MEMORY + MEBI) / MEBI}
    return [
        Contender(
            name,
            way.kind,
            partial(HoldingSubject, name, size),
            way.needs,
            *((target, peak) if way.kind == "ours" and target is not None else ()),
        )
        for name, way in WAYS.items()
        if name in names
    ]


STATUS: Final = Path("/proc/self/status")
CLEAR_REFS: Final = Path("/proc/self/clear_refs")


def main(name: str, size: int) -> None:
    """Print by how much the peak rises higher for the way *name* than for streaming, in bytes."""
    serving = []
    for way in (WAYS["streaming through"], WAYS[name]):
        asyncio.run(_serve(way.wrap(body_of(CHUNK))))  # what is imported or made on first use
        serving.append(partial(_serve, way.wrap(body_of(size))))
    streamed, held = (_growth(serve) for serve in serving)
    print(max(held - streamed, 0))


async def _serve(app: App) -> None:
    request = Socket(scope := new_scope())
    await app(scope, request.receive, request.send)


def _growth(serve: Callable[[], Coroutine[Any, Any, None]]) -> int:
    CLEAR_REFS.write_text("5")  # the peak is from here on what it is now
    before = _peak()
    asyncio.run(serve())
    return _peak() - before


def _peak() -> int:
    return next(int(line.split()[1]) * 1024 for line in STATUS.read_text().splitlines() if line.startswith("VmHWM"))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
