"""Strict servers that put what the application gives them, and what a hook says, in one order."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.fakes import BODY, START, StrictASGIServer, StrictWSGIServer

__all__ = ["Timeline", "fired_under_asgi", "fired_under_wsgi", "in_view"]

HOOK = "hook"


_task_of_view: list[Any] = []


def in_view() -> None:
    """Be called in a view: what runs in another task than that one runs in one of its own."""
    _task_of_view[:] = [asyncio.current_task()]


@dataclass
class Timeline:
    """What happened in one request, in order.

    Attributes:
        names: Of the moments.
        own_task: Whether the hook ran in another task than the view, under ASGI.
    """

    names: list[str] = field(default_factory=list)
    own_task: bool = False

    def mark(self, name: str) -> None:
        """Note a moment."""
        self.names.append(name)

    def hook(self, *args: Any) -> None:
        """Be called by the framework."""
        self.own_task = bool(_task_of_view) and asyncio.current_task() is not _task_of_view[0]
        self.mark(HOOK)

    def position(self) -> str:
        """Say in words where the hook is."""
        if HOOK not in self.names:
            return "never"
        assert self.names.count(HOOK) == 1, self.names
        before = self.names[: self.names.index(HOOK)]
        place = next(words for moment, words in PLACES if moment is None or moment in before)
        return f"{place}, in a task of its own" if self.own_task else place


PLACES = (
    ("end", "after the application returned"),
    ("closing", "in close(), behind the last byte"),
    ("last", "behind the last byte, before the application returns"),
    ("chunk", "while the body streams"),
    ("head", "after the head, before the first byte of the body"),
    (None, "before the head"),
)
"""The latest moment before a hook, and what that means."""


class StampingWSGIServer(StrictWSGIServer):
    """Marks `start_response`, each chunk, and the begin and the end of `close`."""

    timeline: Timeline

    def start_response(self, *args: Any) -> Any:
        write = super().start_response(*args)
        self.timeline.mark("head")
        return write

    def _write(self, data: bytes) -> None:
        super()._write(data)
        self.timeline.mark("chunk")

    def _normal(self, result: Any, close: Callable[[], object]) -> None:
        def closing() -> None:
            self.timeline.mark("closing")
            close()
            self.timeline.mark("end")

        super()._normal(result, closing)


class StampingASGIServer(StrictASGIServer):
    """Marks the head, each part of the body and the last one."""

    timeline: Timeline

    def _check(self, message: Any) -> None:
        super()._check(message)
        if message["type"] == START:
            self.timeline.mark("head")
        elif message["type"] == BODY and message.get("body"):
            self.timeline.mark("chunk")
        if self.complete:
            self.timeline.mark("last")


def fired_under_wsgi(make: Callable[[Callable[..., None]], Any], path: str, *, file_wrapper: bool = False) -> str:
    """Run one request through what *make* returns for a hook, and say when that was called."""
    timeline = Timeline()
    app = make(timeline.hook)
    server = StampingWSGIServer(file_wrapper=file_wrapper)
    server.timeline = timeline

    def at_path(environ: dict[str, Any], start_response: Any) -> Any:
        return app({**environ, "PATH_INFO": path}, start_response)

    server.run(at_path)
    assert not server.broken, server.broken
    assert server.code == (200 if path == "/" else 500), server.raised
    return timeline.position()


def fired_under_asgi(make: Callable[[Callable[..., None]], Any], path: str) -> str:
    """The same, for an ASGI application; a hook that it leaves behind has time to run."""
    timeline = Timeline()
    app = make(timeline.hook)

    async def main() -> StampingASGIServer:
        server = StampingASGIServer()
        server.timeline = timeline
        server.scope |= {"path": path, "raw_path": path.encode()}
        await _attempted(server, app)
        timeline.mark("end")
        left = asyncio.all_tasks() - {asyncio.current_task()}
        if left:
            await asyncio.wait(left, timeout=5)
        return server

    server = asyncio.run(main())
    _task_of_view.clear()
    assert not server.broken, server.broken
    assert server.status == (200 if path == "/" else 500)
    return timeline.position()


async def _attempted(server: StampingASGIServer, app: Any) -> None:
    async def with_a_scope_of_its_own(scope: Any, receive: Any, send: Any) -> None:
        await app(dict(scope), receive, send)  # frameworks put things into it

    try:
        await server.run(with_a_scope_of_its_own)
    except ValueError:  # of the view, which some frameworks pass on behind their 500
        return
