"""Seeing that the client left: one pending `receive`, whose messages are kept for the application.

An ASGI server tells of a disconnect only to whoever waits in `receive`; sends to a dead client are silently dropped on
every server measured. A pending `receive` is never cancelled before the response is complete: gunicorn's worker answers
the next one with a disconnect that never was.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from anyio import CancelScope, Event

from postresponse.shielding import on_asyncio

__all__ = ["Watch"]


class Watch:
    """Reads what the server says, beside the application and for it.

    Does not read ahead of a request body: after a part that more follows, it waits until the application asks.

    Args:
        receive: The server's.
        on_disconnect: Called once, when the client has left.
        record: Bytes of the request body that are kept at most, to be given again by `replay`; below zero for none.
    """

    __slots__ = (
        "_arrived",
        "_asked",
        "_error",
        "_messages",
        "_on_disconnect",
        "_over",
        "_receive",
        "_recorded",
        "_room",
        "_stop",
    )

    def __init__(
        self, receive: Callable[[], Awaitable[Any]], on_disconnect: Callable[[], None], record: int = -1
    ) -> None:
        self._receive = receive
        self._on_disconnect = on_disconnect
        self._recorded: list[Any] = []
        self._room = record
        self._messages: deque[Any] = deque()
        self._arrived = Event()
        self._asked = Event()
        self._error: BaseException | None = None
        self._over = False
        self._stop: Callable[[], object] = self._start()

    def _start(self) -> Callable[[], object]:
        if on_asyncio():
            return asyncio.get_running_loop().create_task(self._run()).cancel
        import trio

        scope = CancelScope()
        trio.lowlevel.spawn_system_task(self._run_in, scope, name="postresponse watch")
        return scope.cancel

    def stop(self) -> None:
        """Stop reading; for when the response is complete."""
        stop, self._stop = self._stop, _stopped  # a task that was cancelled keeps its frame, which keeps this
        stop()

    @property
    def whole(self) -> bool:
        """Whether all that was read so far is recorded."""
        return self._room >= 0

    def replay(self, on_disconnect: Callable[[], None]) -> None:
        """Give what was read once more from its start, and then go on reading; for another attempt at the request."""
        self._on_disconnect = on_disconnect
        gone = [message for message in self._messages if message["type"] == "http.disconnect"]
        self._messages = deque((*self._recorded, *gone))
        if gone:
            on_disconnect()

    def _record(self, message: Any) -> None:
        self._room -= len(message.get("body", b""))
        if self.whole:
            self._recorded.append(message)
        else:
            self._recorded.clear()

    async def receive(self) -> Any:
        """Return the next message, as the server's `receive` does; a cancelled call loses none."""
        while not self._messages:
            if self._error is not None:
                raise self._error
            if self._over:
                return await self._receive()
            self._asked.set()
            await self._arrived.wait()
        message = self._messages[0]
        if message["type"] != "http.disconnect":  # which is said again whenever it is asked for
            self._messages.popleft()
        return message

    async def _run_in(self, scope: CancelScope) -> None:
        with scope:
            await self._run()

    async def _run(self) -> None:
        body_ended = False
        while not self._over:
            try:
                message = await self._receive()
                kind, more_body = message["type"], message.get("more_body", False)
            except Exception as error:  # noqa: BLE001 (raised to whoever asks next)
                self._error, self._over = error, True
            else:
                self._messages.append(message)
                if kind == "http.request":
                    self._record(message)
                # One that goes on behind the end of the body would go on for ever.
                self._over = kind == "http.disconnect" or body_ended
                body_ended = not more_body
                if kind == "http.disconnect":
                    self._on_disconnect()
                elif more_body:
                    self._asked = Event()
            arrived, self._arrived = self._arrived, Event()
            arrived.set()
            if not self._over and not body_ended:
                await self._asked.wait()


def _stopped() -> None:
    pass
