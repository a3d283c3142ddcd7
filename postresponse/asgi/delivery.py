"""How a response leaves over ASGI: what is withheld, what the server gets, and whether the client is there for it."""

import inspect
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from time import monotonic_ns
from typing import Any, Final

from anyio import CancelScope, current_time
from anyio import Event as Flag
from anyio.lowlevel import checkpoint

from postresponse.aperforming import on_thread, perform
from postresponse.asgi.messages import (
    BODY,
    END_OF_BODY,
    PATHSEND,
    ZEROCOPY,
    encoded,
    header_of,
    items_of,
    kept,
    messages_of,
)
from postresponse.asgi.watch import Watch
from postresponse.connection import transport_drained
from postresponse.core.driven import DrivenExchange
from postresponse.core.exchange import Failure
from postresponse.core.lifecycle import MOVES, Action, CommitPoint, Event, Outcome, State
from postresponse.core.log import logger
from postresponse.core.settlement import run_start_hooks, settle
from postresponse.error_response import ErrorResponse, asgi_response, default_error_response, sendable
from postresponse.held import HeldBody

__all__ = ["BARRIER", "LINGER", "UNCOUNTED", "Delivery"]

BARRIER: Final = 65_536
"""A last message over this many bytes is sent apart from the end: uvicorn returns with most of it unsent."""
LINGER: Final = 1.0
"""Seconds that a last send may take once the client has left."""
UNCOUNTED: Final = -1
"""Room for a stream whose bytes nobody wants to know."""
UNLIMITED: Final = 1 << 60
"""Room for a stream without Content-Length; a number, since one is not compared with infinity at the same speed."""
BRIEF: Final = 1_000_000
"""Nanoseconds: a stream that ends within this time gives the loop no turn of its own to see a disconnect."""

# A member of an enum is dear to look up before Python 3.12, and these are on every request's way.
SENDING: Final = State.SENDING
FINAL: Final = Event.FINAL
HANDED: Final = Event.HANDED
TAKEN: Final = Event.TAKEN
SETTLE: Final = Action.SETTLE
BUFFERED: Final = MOVES[CommitPoint.BUFFERED]


class Delivery(DrivenExchange):
    """An exchange, and how its response leaves."""

    __slots__ = ()
    _given: Mapping[str, Any] | None  # the message
    _held: HeldBody | None
    _watch: Watch | None
    _is_read = False
    _watched_since = 0
    _pending_send: CancelScope | None = None
    _end_taken: Flag | None = None

    # -- what is withheld ---------------------------------------------------------------------------------------------

    def _holder(self) -> HeldBody:
        if self._held is None:
            self._held = HeldBody(self.policy.max_memory)
        return self._held

    async def _hold(self, message: Any) -> Action:
        """Keep a part of the body; the action that follows where it is one too many."""
        held = self._holder()
        if message["type"] != BODY:
            held.mark(kept(message))
            return Action.NOTHING
        chunk = message.get("body", b"")
        action = self._limit(held.size + len(chunk))
        if action is Action.NOTHING or action is SETTLE:
            spill = held.append(bytes(chunk))
            if spill:
                await on_thread(held.spill)
            if not message.get("more_body", False):  # trailers follow
                held.mark(END_OF_BODY)
        return action

    async def _release(self, message: Any = None, *, final: bool = False) -> Any:
        """Hand over the head and what is held, and return the *message* that follows; None if it was replaced."""
        if self._on_start is not None and not await perform(self, run_start_hooks(self)):
            self._advance(Event.REFUSED)
            await self._replace()
            return None
        await self._hand_head(message if final else None)
        if self._held is not None:
            self._begin_watch()
            return await self._release_held(self._held, message, final=final)
        return message

    async def _hand_head(self, final: Mapping[str, Any] | None) -> None:
        start = self._written_start(final)
        self._advance(HANDED)
        self._head_sent = monotonic_ns()
        await self._hand_on(start)

    async def _release_held(self, held: HeldBody, message: Any, *, final: bool) -> Any:
        """Hand over what is held; its last bytes go with an empty last *message*, since nobody waits for that one."""
        last: Any = None
        try:
            async with aclosing(items_of(held)) as items:
                async for item in items:
                    if item == END_OF_BODY and isinstance(last, bytes):  # trailers follow
                        item = {**END_OF_BODY, "body": last}
                    elif last is not None:
                        await self._hand_held(last)
                    last = item
            if final and message["type"] == BODY and not message.get("body") and isinstance(last, bytes):
                return {"type": BODY, "body": last, "more_body": False}
            if last is not None:
                await self._hand_held(last)
            return message
        finally:
            held.close()

    async def _hand_held(self, item: Any) -> None:
        if isinstance(item, dict):
            await self._hand_part(item, len(item.get("body", b"")))
            return
        message = {"type": BODY, "body": item, "more_body": True}
        if self._watch is not None or self._receiving:
            await self._hand_part(message, len(item))
            return
        await self._hand_on(message)  # nobody looks for the client's leaving
        self._bytes += len(item)

    def _written_start(self, final: Mapping[str, Any] | None) -> Mapping[str, Any]:
        """The start message as it leaves: with what hooks changed, and Content-Length where all is known."""
        assert self._given is not None
        if self._headers is not None and self._headers != self._read_headers():
            self._given = {**self._given, "headers": encoded(self._headers)}
        if self._given["status"] != self._status:
            self._given = {**self._given, "status": self._status}
        if final is not None and self._moves is BUFFERED:
            length = self._known_length(final)
            if length is not None:
                headers = [*self._given.get("headers", ()), (b"content-length", str(length).encode())]
                self._given, self._declared = {**self._given, "headers": headers}, length
        return self._given

    def _known_length(self, final: Mapping[str, Any]) -> int | None:
        held = self._held
        if (held is not None and held.marked) or final["type"] != BODY:
            return None
        self._read_head()
        if self._needs_no_body or self._declared is not None:
            return None
        assert self._given is not None
        for name, _ in self._given.get("headers", ()):
            if len(name) == 17 and name.lower() == b"transfer-encoding":
                return None
        return (0 if held is None else held.size) + len(final.get("body", b""))

    def _read_head(self) -> None:
        """Look at the head for what the rest of the response has to keep; once, and where something depends on it."""
        if self._given is not None and not self._is_read:
            self._is_read = True
            status = self._given["status"]
            self._needs_no_body = status in (204, 304) or status < 200 or self._is_head
            for name, value in self._given.get("headers", ()):
                if len(name) == 14 and name.lower() == b"content-length" and value.isdigit():
                    self._declared = int(value)

    def _read_headers(self) -> list[tuple[str, str]]:
        assert self._given is not None
        return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in self._given.get("headers", ())]

    # -- what leaves --------------------------------------------------------------------------------------------------

    async def _deliver(self, message: Any, *, final: bool) -> None:
        """Hand over a part of the body whose head has left; *final* ends the response."""
        body = message.get("body", b"") if message["type"] == BODY else b""
        if message["type"] in (PATHSEND, ZEROCOPY):
            self._counted = False
        if not final:
            self._read_head()
            self._begin_watch()
            await self._hand_part(message, len(body))
            if self._pending_send is None and self._state is SENDING:
                self._give_room()
            return
        if len(body) > BARRIER:
            self._read_head()
            self._begin_watch()
            self._watched_since = 0  # however brief: the client had much to read
            await self._hand({"type": BODY, "body": body, "more_body": True})
            await self._hand_part({"type": BODY, "body": b"", "more_body": True}, len(body), turns=10)
            message, body = {"type": BODY, "body": b"", "more_body": False}, b""
        self._bytes += len(body)
        if self._watch is not None or self._receiving:
            await self._look()
        self._room = 0
        self._advance(FINAL)
        try:
            await self._hand(message)
        finally:
            if self._end_taken is not None:
                self._end_taken.set()
        action = self._advance(TAKEN)
        self._taken()
        if action is SETTLE and self._unit is not None:
            await perform(self, settle(self))

    def _give_room(self) -> None:
        """From here on let the parts of the stream pass."""
        if self._declared is not None:
            self._room = self._declared
        elif self._unheard:
            self._room, self._tallied = UNCOUNTED, False
        else:
            self._room = UNLIMITED

    async def _hand_part(self, message: Any, size: int, turns: int = 2) -> None:
        """Hand over a part; a client that leaves once it has all of Content-Length has not aborted it."""
        await self._hand(message)
        if self._declared is not None and self._bytes + size >= self._declared:
            await self._look(turns)
        self._bytes += size

    async def _look(self, turns: int = 2) -> None:
        """Give the loop its turns: sends to a dead client give it none, and its leaving would not be seen."""
        if self._receiving or (self._watch is not None and monotonic_ns() - self._watched_since > BRIEF):
            for _ in range(turns):
                await checkpoint()

    def _hand(self, message: Any) -> Awaitable[None]:
        """Hand *message* to the server."""
        if self._scope is not None and self._scope.get("http_version", "1.1") >= "2":
            return self._hand_or_leave(message)
        return self._hand_on(message)

    async def _hand_on(self, message: Mapping[str, Any]) -> None:
        try:
            await self._server_send(message)
        except OSError:
            self._left = True
            raise

    async def _hand_or_leave(self, message: Any) -> None:
        """Hand *message* on as long as the client is there: hypercorn's send may never return once it has left."""
        with CancelScope() as self._pending_send:
            await self._hand_on(message)
        if self._pending_send.cancelled_caught:
            self._left = True

    def _taken(self) -> None:
        """Note that the server took the end."""
        self._body_sent = monotonic_ns()
        self._drained = transport_drained(self._server_send)

    # -- what leaves instead ------------------------------------------------------------------------------------------

    async def _replace(self) -> None:
        """Drop the application's response and hand over the error response instead."""
        assert self._failure is not None
        response = await self._error_response(self._failure)
        if self._held is not None:
            self._held.close()
        self._status, self._headers, self._declared = response.status, list(response.headers), None
        self._is_read, self._needs_no_body, self._counted = True, self._is_head, True
        self._bytes = 0 if self._is_head else len(response.body)
        self._head_sent = monotonic_ns()
        for message in messages_of(response, self._scope["method"]):
            await self._hand(message)
        self._advance(TAKEN)
        self._body_sent = monotonic_ns()

    async def _error_response(self, failure: Failure) -> ErrorResponse:
        make = self._settings.error_response
        if make is not None:
            try:
                made = make(failure)
                if inspect.isawaitable(made):
                    made = await made
                if made is not None:
                    if not isinstance(made, ErrorResponse):
                        made = await asgi_response(made, self._scope)
                    return sendable(made, self._scope["method"])
            except (Exception, SystemExit) as error:
                logger.error("%s: error_response failed; the default answers", self.route, exc_info=error)
        return sendable(default_error_response(failure, header_of(self._scope, b"accept")), self._scope["method"])

    # -- the client ---------------------------------------------------------------------------------------------------

    def on_finished(self, callback: Callable[[Outcome], Any]) -> None:
        """As `Exchange.on_finished`; from here on a stream is watched for its client's leaving."""
        super().on_finished(callback)
        if self._state is SENDING:
            self._begin_watch()

    def _watches(self) -> bool:
        """Whether the client's leaving decides something."""
        return self._policy is not None and self._policy.on_disconnect == "rollback"

    def _begin_watch(self, since: int | None = None) -> None:
        if self._watch is None and not self._receiving and not self._is_head and self._is_of_interest():
            # Asking uvicorn for the body answers "100 Continue", which is for the application to say.
            if header_of(self._scope, b"expect") is not None:
                return
            self._watched_since = monotonic_ns() if since is None else since
            self._start_watch()

    def _is_of_interest(self) -> bool:
        """Whether it makes a difference that the client leaves: over HTTP/2 a send may then never return."""
        return not self._unheard or self._watches() or self._scope.get("http_version", "1.1") >= "2"

    def _start_watch(self) -> None:
        retry = self.policy.retry if self._settings.retries else None
        self._watch = Watch(self._server_receive, self._client_left, retry.max_request_body if retry else -1)

    def _client_left(self) -> None:
        self._read_head()
        has_all = self._declared is not None and self._bytes >= self._declared and self._state is State.SENDING
        if self._state < State.ENDING and not self._is_head and not has_all:
            self._left = True
        if self._pending_send is not None:
            # The last send may be about to return: hypercorn tells of the disconnect while it still runs.
            self._pending_send.deadline = current_time() + (LINGER if self._state >= State.ENDING else 0)

    @property
    def _is_head(self) -> bool:
        return self._scope is not None and self._scope.get("method") == "HEAD"

    def _outcome(self, ended: int) -> Outcome:
        self._read_head()
        return super()._outcome(ended)
