"""One exchange over ASGI: messages to events, actions to messages.

`send` is a plain function that returns the server's own awaitable once the head has left, so that no coroutine of ours
exists per message of a stream. What a client's leaving means is in `watch.py`; what follows from it, in the core.
"""

import inspect
import logging
import random
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from time import monotonic_ns
from typing import Any, Final, TypeVar

from anyio import (
    CancelScope,
    current_time,
    get_cancelled_exc_class,
    move_on_after,
    sleep,
)
from anyio import Event as Flag
from anyio.lowlevel import checkpoint

from postresponse.asgi.messages import BODY, END_OF_BODY, START, encoded, items_of, kept, look_at_head
from postresponse.asgi.performing import at_once, drive, on_thread, perform, run_at_once
from postresponse.asgi.watch import Watch
from postresponse.core.at_once import open_at_once, settle_at_once
from postresponse.core.exchange import Exchange, Failure
from postresponse.core.lifecycle import MOVES, Action, CommitPoint, Event, Outcome, State
from postresponse.core.policy import Retry
from postresponse.core.settlement import Step, Steps, commit_early, finish, refuse, run_start_hooks, settle
from postresponse.drained import transport_drained
from postresponse.error_response import ErrorResponse, asgi_response, default_error_response, sendable
from postresponse.exceptions import ResponseReplaced
from postresponse.held import HeldBody
from postresponse.shielding import shielded

__all__ = ["ASGIExchange"]

T = TypeVar("T")

logger: Final = logging.getLogger("postresponse")

BARRIER: Final = 65_536
"""A last message over this many bytes is sent apart from the end: uvicorn returns with most of it unsent."""
LINGER: Final = 1.0
"""Seconds that a last send may take once the client has left."""
QUICK: Final = 10_000_000
"""Nanoseconds: a response that starts within this time is not watched for a disconnect before its head."""
UNCOUNTED: Final = -1
"""Room for a stream whose bytes nobody wants to know."""
UNLIMITED: Final = 1 << 60
"""Room for a stream without Content-Length; a number, since one is not compared with infinity at the same speed."""
BRIEF: Final = 1_000_000
"""Nanoseconds: a stream that ends within this time gives the loop no turn of its own to see a disconnect."""


# A member of an enum is dear to look up before Python 3.12, and these are on every request's way.
PENDING: Final = State.PENDING
DECIDED: Final = State.DECIDED
SETTLING: Final = State.SETTLING
SENDING: Final = State.SENDING
ENDING: Final = State.ENDING
SENT: Final = State.SENT
OVER: Final = State.OVER
PART: Final = Event.BODY
FINAL: Final = Event.FINAL
HANDED: Final = Event.HANDED
SETTLED: Final = Event.SETTLED
TAKEN: Final = Event.TAKEN
RETURNED: Final = Event.RETURNED
SETTLE: Final = Action.SETTLE
RELEASE: Final = Action.RELEASE
HOLD: Final = Action.HOLD
OBSERVED: Final = MOVES[CommitPoint.AFTER_SEND]
BUFFERED: Final = MOVES[CommitPoint.BUFFERED]
AT_HEAD: Final = MOVES[CommitPoint.HEAD]


async def _nothing() -> None:
    """What `send` returns where nothing is to be done: a coroutine, because some start a task with it."""


class ASGIExchange(Exchange):
    """An exchange, and how it speaks ASGI with the application inside and the server outside."""

    __slots__ = ()
    _given: Mapping[str, Any] | None  # the message
    _held: HeldBody | None
    _watch: Watch | None
    _is_read = False
    _watched_since = 0
    _pending_send: CancelScope | None = None
    _end_taken: Flag | None = None
    _concluding = False
    _concluded: Flag | None = None
    _pause: Retry | None = None

    # -- what the application calls -----------------------------------------------------------------------------

    def send(self, message: Any) -> Awaitable[Any]:
        """The `send` that the application gets."""
        room = self._room
        if room:
            # A part of a stream, and not its last one: nothing is decided by it.
            try:
                if message["more_body"]:
                    if room == UNCOUNTED:
                        return self._server_send(message)  # type: ignore[no-any-return]
                    size = self._bytes + len(message["body"])
                    if size < room:
                        self._bytes = size
                        return self._server_send(message)  # type: ignore[no-any-return]
            except KeyError:
                pass
        kind = message["type"]
        if kind == BODY:
            if (
                self._state is SENDING
                and self._unheard
                and not self._trailers
                and not self._receiving
                and (self._unit is None or self._unit_ended)
                and not message.get("more_body", False)
            ):
                # The table's way from SENDING to SENT, and nobody asks how it goes.
                self._state = SENT
                return self._server_send(message)  # type: ignore[no-any-return]
            if self._state is DECIDED and self._moves is BUFFERED and message.get("more_body", False):
                # The table's way from DECIDED to DECIDED.
                held, body = self._holder(), message.get("body", b"")
                if type(body) is bytes and self._fits(held.size + len(body)):
                    return on_thread(held.spill) if held.append(body) else _nothing()
            return self._send_body(message)
        if kind == START:
            if self._state is not PENDING:
                return self._take_late_head(message)
            endless = False
            if self._moves is not OBSERVED:
                message, endless = look_at_head(message)
            self._given = message
            self._status = message["status"]
            if "trailers" in message:
                self._trailers = bool(message["trailers"])
            self._decided = now = monotonic_ns()
            if now - self._began > QUICK:
                self._begin_watch(since=self._began)
            if self._moves is OBSERVED and self._on_start is not None:
                self._advance(Event.START)
                return self._release()
            if self._moves is OBSERVED:
                # Nothing is withheld: the table's way from PENDING to SENDING.
                self._state = SENDING
                self._head_sent = now
                return self._server_send(message)  # type: ignore[no-any-return]
            self._state = DECIDED  # the table's way from PENDING
            if (endless or self._moves is BUFFERED) and self._streams(endless):
                # A client of server-sent events waits for the head, and the first event may be long in coming.
                return self._may_leave(self._advance(Event.ENDLESS), Event.ENDLESS, None)
            return _nothing()
        return self._send(message)

    async def _send_body(self, message: Any) -> None:
        final = not message.get("more_body", False) and not self._trailers
        is_plain = self._held is None and self._watch is None and not self._receiving
        if is_plain and self._state is DECIDED and (self._moves is AT_HEAD or (final and self._moves is BUFFERED)):
            # The table's way from DECIDED to SENDING, where nothing is held and the unit of work ends at once.
            self._state = SETTLING
            rest = settle_at_once(self, run_at_once)
            if rest is None:
                self._state = SENDING
                self._head_sent = monotonic_ns()
                try:
                    await self._server_send(self._written_start(message if final else None))
                except OSError:
                    self._left = True
                    raise
            else:
                message = await self._follow(await self._settle(rest), FINAL if final else PART, message)
                if message is None:
                    return
        elif self._state is not SENDING:
            event = FINAL if final else PART
            message = await self._may_leave(self._advance(event), event, message)
            if message is None:
                return
        if (
            not final
            or self._watch is not None
            or self._receiving
            or (self._unit is not None and not self._unit_ended)
            or (len(message.get("body", b"")) > BARRIER and not self._unheard)
        ):
            await self._deliver(message, final=final)
            return
        # The whole body, and nothing to be looked at or done behind it: the table's way from SENDING to SENT.
        self._bytes += len(message.get("body", b""))
        self._state = ENDING
        try:
            await self._server_send(message)
        except OSError:
            self._left = True
            raise
        finally:
            if self._end_taken is not None:
                self._end_taken.set()
        self._state = SENT
        if not self._unheard:
            self._taken()

    def _taken(self) -> None:
        """Note that the server took the end."""
        self._body_sent = monotonic_ns()
        self._drained = transport_drained(self._server_send)

    async def receive(self) -> Any:
        """The `receive` that the application gets."""
        if self._settings.retries and self._watch is None:
            self._start_watch()  # which reads for all attempts
        if self._watch is not None:
            message = await self._watch.receive()
        else:
            self._receiving += 1
            try:
                message = await self._server_receive()
            finally:
                self._receiving -= 1
        if message["type"] == "http.disconnect":
            self._client_left()
            if self._state is State.ENDING:
                # hypercorn says it while the last send still runs, and Starlette would cancel that send for it.
                self._end_taken = Flag()
                with move_on_after(LINGER):
                    await self._end_taken.wait()
        return message

    # -- from messages to events --------------------------------------------------------------------------------

    async def _send(self, message: Any) -> None:
        """Take what is neither the head nor a plain part of the body."""
        kind = message["type"]
        if kind == "http.response.trailers" and self._trailers:
            final = not message.get("more_trailers", False)
        elif kind == "http.response.pathsend":
            final = True
        elif kind == "http.response.zerocopysend":
            final = not message.get("more_body", False) and not self._trailers
        else:
            await self._pass(message)
            return
        if self._state is not SENDING:
            event = FINAL if final else PART
            message = await self._may_leave(self._advance(event), event, message)
        if message is not None:
            await self._deliver(message, final=final)

    async def _take_late_head(self, message: Any) -> None:
        """Take a head that is not the first, or comes when nobody takes one any more."""
        action = self._advance(Event.START)
        if action is Action.STOP:
            raise self._stopped()
        if action is Action.FORWARD:
            await self._server_send(message)

    def _read_head(self) -> None:
        """Look at the head for what the rest of the response has to keep; once, and where something depends on it."""
        if self._given is not None and not self._is_read:
            self._is_read = True
            status = self._given["status"]
            self._needs_no_body = status in (204, 304) or status < 200 or self._is_head
            for name, value in self._given.get("headers", ()):
                if len(name) == 14 and name.lower() == b"content-length" and value.isdigit():
                    self._declared = int(value)

    async def _may_leave(self, action: Action, event: Event, message: Any) -> Any:
        """Carry *action* out, and return the message that may follow a head that has left, or None."""
        if action is HOLD:
            action = await self._hold(message)
            if action is SETTLE:  # over the limit, and to be streamed from here on: it is held already
                message = None
        if action is SETTLE:
            rest = settle(self) if self._watches() else settle_at_once(self, run_at_once)
            action = self._advance(SETTLED) if rest is None else await self._settle(rest)
        elif action is Action.REFUSE:
            action = await self._settle(refuse(self, Event.OVERFLOW))
        return await self._follow(action, event, message)

    async def _follow(self, action: Action, event: Event, message: Any) -> Any:
        """Carry out what follows from how the unit of work ended, and return the message that may leave, or None."""
        if action is RELEASE:
            return await self._release(message, final=event is FINAL)
        if action is Action.REPLACE:
            await self._replace()
        elif action is Action.STOP:
            raise self._stopped()
        elif action is Action.FORWARD:
            await self._server_send(message)
        return None

    async def _pass(self, message: Any) -> None:
        """Pass on a message that says nothing of the response's end, in order."""
        if self._state in (State.DECIDED, State.SETTLING):
            self._holder().mark(message)
        elif self._state < State.REPLACING:
            await self._server_send(message)

    # -- what is withheld ---------------------------------------------------------------------------------------

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
        try:
            await self._server_send(start)
        except OSError:
            self._left = True
            raise

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
        # Nobody looks for the client's leaving.
        try:
            await self._server_send(message)
        except OSError:
            self._left = True
            raise
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

    def _read_headers(self) -> list[tuple[str, str]]:
        assert self._given is not None
        return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in self._given.get("headers", ())]

    # -- what leaves --------------------------------------------------------------------------------------------

    async def _deliver(self, message: Any, *, final: bool) -> None:
        """Hand over a part of the body whose head has left; *final* ends the response."""
        body = message.get("body", b"") if message["type"] == BODY else b""
        if message["type"] in ("http.response.pathsend", "http.response.zerocopysend"):
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

    async def _hand_on(self, message: Any) -> None:
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
        await self._hand({"type": START, "status": response.status, "headers": encoded(response.headers)})
        await self._hand({"type": BODY, "body": b"" if self._is_head else response.body, "more_body": False})
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
        return sendable(default_error_response(failure, self._request_header(b"accept")), self._scope["method"])

    def _request_header(self, wanted: bytes) -> str | None:
        headers = self._scope.get("headers", ())
        return next((value.decode("latin-1") for name, value in headers if name == wanted), None)

    # -- the unit of work ---------------------------------------------------------------------------------------

    def _opening(self) -> Awaitable[bool] | None:
        """Begin the unit of work; None if that is done and the application may run."""
        if self._pause is not None:
            return self._open_later()
        rest, policy = open_at_once(self, run_at_once), self._policy
        if rest is None and (policy is None or policy.on_disconnect == "commit"):
            return None
        return self._open(rest)

    async def _open_later(self) -> bool:
        assert self._pause is not None
        await sleep(self._pause.pause(self._attempt - 1, random.random()))
        return await self._open(open_at_once(self, run_at_once))

    async def _open(self, rest: Steps[Event | None] | None) -> bool:
        refused = None if rest is None else await perform(self, rest)
        if refused is None:
            if self._watches():
                self._begin_watch(since=0)
            return True
        if self._advance(refused) is Action.REPLACE:
            await self._replace()
        return False

    def _watches(self) -> bool:
        """Whether the client's leaving decides something."""
        return self._policy is not None and self._policy.on_disconnect == "rollback"

    def _replayable(self) -> bool:
        return self._watch is None or self._watch.whole

    def _following(self, scope: Any) -> "ASGIExchange":
        """Return the attempt that follows this one: the request is read on, and given from its start."""
        following = type(self)(self._settings, scope, monotonic_ns(), self._server_receive, self._server_send)
        following._attempt = self._attempt + 1
        assert self._policy is not None
        assert self._policy.retry is not None
        following._pause = self._policy.retry
        following._watch, self._watch = self._watch, None
        if following._watch is not None:
            following._watch.replay(following._client_left)
        return following

    async def _commit_early(self) -> None:
        """Commit before the application has answered, and raise a failure where it can still be caught."""
        event = await perform(self, commit_early(self))
        if event is Event.AGAIN:
            self._advance(event)
        if event is not Event.SETTLED and self._failure is not None:
            raise self._failure.exception

    async def _settle(self, steps: Steps[Event]) -> Action:
        """End the unit of work, whatever is cancelled meanwhile, and take the result through the table."""
        if self._watches():
            await self._look()
        done, rest = at_once(steps)
        return self._advance(rest) if done else await shielded(self._conclude, steps, rest)

    async def _conclude(self, steps: Steps[Event], step: Step) -> Action:
        self._concluding = True
        try:
            return self._advance(await drive(self, steps, step))
        finally:
            self._concluding = False
            if self._concluded is not None:
                self._concluded.set()

    async def _wait_concluded(self) -> None:
        """Wait for a settlement that the application left to another task: it is not cut off by that."""
        if self._concluding:
            self._concluded = Flag()
            await shielded(self._wait, self._concluded)

    async def _wait(self, flag: Flag) -> None:
        await flag.wait()

    # -- how it ends --------------------------------------------------------------------------------------------

    def _is_done(self) -> bool:
        """Whether the application returned with nothing left to do; then it is over."""
        if self._state is not SENT or self._watch is not None or not self._has_nothing_left():
            return False
        self._state = OVER
        return True

    async def _ended(self) -> None:
        """The application returned."""
        self._look_back()
        await self._wait_concluded()
        action = self._advance(Event.RETURNED)
        if action is SETTLE:
            action = await self._settle(settle(self))
        elif action is Action.REFUSE:
            action = await self._settle(refuse(self, Event.RETURNED))
        if action is RELEASE:
            await self._release()
        elif action is Action.REPLACE:
            await self._replace()
        if self._state is not State.OVER:
            self._advance(Event.RETURNED)

    async def _ended_by(self, error: BaseException) -> bool:
        """The application raised *error*; True if it stays here."""
        self._look_back()
        await self._wait_concluded()
        if self._state < State.SENT:
            self._left = self._left or self._came_from_client(error)
        self._raised = True
        replaced = self._failure is not None
        if not replaced:
            self._exception = error
        action = self._advance(Event.RAISED) if self._state is not State.OVER else Action.FINISH
        if not isinstance(error, Exception):
            self._again = False
        await self._finish()
        if self._again:
            return True
        if action is not Action.SWALLOW or not isinstance(error, Exception):
            return False
        if not isinstance(error, ResponseReplaced) and not isinstance(error.__context__, ResponseReplaced):
            logger.error("%s: the application raised after its response was replaced", self.route, exc_info=error)
        return True

    def _look_back(self) -> None:
        """Note when the end was taken, at the latest, for somebody who asked for the outcome only then."""
        if self._state is SENT and self._body_sent is None:
            self._body_sent = monotonic_ns()

    async def _finish(self) -> None:
        try:
            if not self._has_nothing_left():
                await perform(self, finish(self))
        except BaseException:
            if self._again:  # cancelled: there is no other attempt that could be told of
                self._again = False
                await perform(self, finish(self))
            raise
        finally:
            if self._watch is not None and not self._again:
                self._watch.stop()
                self._watch = None
            if self._held is not None:
                self._held.close()
            # What holds this exchange: the watch that calls it, and a traceback.
            self._exception = self._failure = None

    def _came_from_client(self, error: BaseException) -> bool:
        """Whether *error* says that the client left: a cancellation, or an OSError out of the server's `send`."""
        if isinstance(error, get_cancelled_exc_class()):
            return True
        server_code = getattr(getattr(self._server_send, "__func__", self._server_send), "__code__", None)
        while error is not None and server_code is not None:
            if isinstance(error, OSError):
                traceback = error.__traceback__
                while traceback is not None:
                    if traceback.tb_frame.f_code is server_code:
                        return True
                    traceback = traceback.tb_next
            error = error.__cause__ or error.__context__  # type: ignore[assignment]
        return False

    def _begin_watch(self, since: int | None = None) -> None:
        if self._watch is None and not self._receiving and not self._is_head and self._is_of_interest():
            # Asking uvicorn for the body answers "100 Continue", which is for the application to say.
            if self._request_header(b"expect") is not None:
                return
            self._watched_since = monotonic_ns() if since is None else since
            self._start_watch()

    def _is_of_interest(self) -> bool:
        """Whether it makes a difference that the client leaves: over HTTP/2 a send may then never return."""
        return not self._unheard or self._watches() or self._scope.get("http_version", "1.1") >= "2"

    def on_finished(self, callback: Callable[[Outcome], Any]) -> None:
        """As `Exchange.on_finished`; from here on a stream is watched for its client's leaving."""
        super().on_finished(callback)
        if self._state is SENDING:
            self._begin_watch()

    def _start_watch(self) -> None:
        retry = self.policy.retry if self._settings.retries else None
        self._watch = Watch(self._server_receive, self._client_left, retry.max_request_body if retry else -1)

    def _outcome(self, ended: int) -> Outcome:
        self._read_head()
        return super()._outcome(ended)

    @property
    def _is_head(self) -> bool:
        return self._scope is not None and self._scope.get("method") == "HEAD"

    def _client_left(self) -> None:
        self._read_head()
        has_all = self._declared is not None and self._bytes >= self._declared and self._state is State.SENDING
        if self._state < State.ENDING and not self._is_head and not has_all:
            self._left = True
        if self._pending_send is not None:
            # The last send may be about to return: hypercorn tells of the disconnect while it still runs.
            self._pending_send.deadline = current_time() + (LINGER if self._state >= State.ENDING else 0)
