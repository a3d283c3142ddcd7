"""The inspector under ASGI, where a page hears of what is new by server-sent events (HTML standard, section 9.2)."""

import signal
from contextlib import suppress
from time import monotonic
from typing import Any, Final

from anyio import CancelScope, create_task_group, sleep

from postresponse.inspector.pages import (
    Answer,
    Asked,
    Pages,
    as_json,
    asked,
    changes_json,
    mark_in,
    page,
    set_up,
)
from postresponse.inspector.ring import Changes
from postresponse.inspector.visitors import header_of
from postresponse.work.threads import on_thread

__all__ = ["ASGIPages"]

TICK: Final = 0.2
"""Seconds between two looks at what is new, and at whether the server wants to end."""
HEARTBEAT: Final = 10.0
"""Seconds without anything new, after which a comment is sent: only a write tells that a client is gone."""
LIFE: Final = 30.0
"""Seconds that one stream lasts; the browser comes back by itself. A server that waits for it to end, where that cannot
be seen, waits no longer."""
RETRY: Final = 0.5
"""Seconds that a browser waits before it comes back."""


class ASGIPages(Pages):
    """Answers the requests for the inspector."""

    async def answers(self, scope: Any, receive: Any, send: Any) -> bool:
        """Answer the request; False for one that only looks alike."""
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        rest = path.removeprefix(self.path)
        if rest == path or rest[:1] not in ("", "/"):
            return False
        wanted = asked(self._inspector, scope, scope["method"], rest, scope["query_string"].decode("latin-1"))
        if isinstance(wanted, Asked) and wanted.place == "events":
            await self._stream(scope, receive, send, header_of(scope, "last-event-id") or wanted.since)
            return True
        answer = wanted if isinstance(wanted, Answer) else await self._answer(wanted)
        await send({"type": "http.response.start", "status": answer.status, "headers": _encoded(answer)})
        body = b"" if scope["method"] == "HEAD" else answer.body
        await send({"type": "http.response.body", "body": body, "more_body": False})
        return True

    async def _answer(self, wanted: Asked) -> Answer:
        inspector = self._inspector
        if wanted.place == "outbox":
            return as_json(None if inspector.outbox is None else await inspector.outbox.alook(wanted.ids))
        if wanted.place == "set-up":
            return await on_thread(lambda: set_up(inspector))
        if wanted.place == "":
            return page()
        told = changes_json(inspector, await self._since(mark_in(inspector, wanted.since)), live="events")
        return Answer(200, "application/json", told.encode())

    async def _since(self, mark: int) -> Changes:
        since = self._inspector.since
        # A file, or hundreds of records that nobody has looked at yet, would hold up the event loop.
        return await on_thread(since, mark) if self._inspector.shares or not mark else since(mark)

    # -- the stream ---------------------------------------------------------------------------------------------------

    async def _stream(self, scope: Any, receive: Any, send: Any, since: str) -> None:
        answer = Answer(200, "text/event-stream", b"")
        headers = [each for each in _encoded(answer) if each[0] != b"content-length"]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        if scope["method"] == "HEAD":
            await send({"type": "http.response.body", "body": b""})
            return
        async with create_task_group() as tasks:
            tasks.start_soon(_until_gone, receive, tasks.cancel_scope)
            with suppress(OSError):  # the client is gone
                await self._send_events(send, mark_in(self._inspector, since))
                await send({"type": "http.response.body", "body": b""})
            tasks.cancel_scope.cancel()

    async def _send_events(self, send: Any, mark: int) -> None:
        async def say(text: str) -> None:
            await send({"type": "http.response.body", "body": text.encode(), "more_body": True})

        await say(f"retry: {round(RETRY * 1000)}\n\n")
        quiet = monotonic()
        ends, seen = quiet + LIFE, None  # the first event comes at once, whatever there is
        while not is_stopping():
            changes = await self._since(mark)
            if changes.requests or changes.jobs or (changes.carried, changes.carries) != seen:
                seen = (changes.carried, changes.carries)
                told = changes_json(self._inspector, changes, live="events")
                keeper = "store" if self._inspector.shares else self._inspector.process
                await say(f"id: {keeper}:{changes.until}\ndata: {told}\n\n")
                mark, quiet = changes.until, monotonic()
            elif monotonic() > quiet + HEARTBEAT:
                await say(": still here\n\n")
                quiet = monotonic()
            if monotonic() > ends:
                return
            await sleep(TICK)


async def _until_gone(receive: Any, scope: CancelScope) -> None:
    """End the stream when its client leaves."""
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


def is_stopping() -> bool:
    """Whether the server was told to end, where that can be seen: uvicorn's own handler of SIGTERM knows.

    It waits for its connections before it tells the application, so that the lifespan comes too late.
    """
    server = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    return getattr(server, "should_exit", False) is True


def _encoded(answer: Answer) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode(), value.encode("latin-1")) for name, value in answer.headers]
