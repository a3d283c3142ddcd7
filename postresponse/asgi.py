"""The ASGI side: messages to events, actions to messages; nothing else.

`send` is a plain function that returns the server's own awaitable once the head has left, so that no coroutine of ours
exists per message of a stream. What a client's leaving means is in `watch.py`; what follows from it, in the core.
"""

import inspect
import logging
import math
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Literal, TypeVar

from anyio import (
    CancelScope,
    CapacityLimiter,
    current_time,
    get_cancelled_exc_class,
    move_on_after,
    to_thread,
)
from anyio import Event as Flag
from anyio.lowlevel import checkpoint

from postresponse.core.exchange import KEY, Exchange, Failure, _current
from postresponse.core.lifecycle import MOVES, Action, CommitPoint, Event, Outcome, State
from postresponse.core.policy import CommitPolicy
from postresponse.core.settings import Settings, check_application, known_options
from postresponse.core.settlement import Step, Steps, finish, open_unit, refuse, run_start_hooks, settle
from postresponse.error_response import ErrorResponse, default_error_response
from postresponse.exceptions import InvalidHeader, MessageOrderError, ResponseReplaced, WrongApplication
from postresponse.held import HeldBody
from postresponse.shielding import shielded, time_limit
from postresponse.typing import ASGIApplication, AsyncUnitOfWork, UnitOfWork
from postresponse.watch import Watch
from postresponse.watchdog import within

__all__ = ["PostResponseMiddleware"]

T = TypeVar("T")

logger: Final = logging.getLogger("postresponse")

BODY: Final = "http.response.body"
BARRIER: Final = 65_536
"""A last message over this many bytes is sent apart from the end: uvicorn returns with most of it unsent."""
LINGER: Final = 1.0
"""Seconds that a last send may take once the client has left."""
QUICK: Final = 1_000_000
"""Nanoseconds: a response that starts within this time is not watched for a disconnect before its head."""


class PostResponseMiddleware:
    """Wrap an ASGI application; know when each response leaves, and tie a unit of work to that moment.

    Websocket and unknown scopes pass untouched. Lifespan is answered here where the application does not. Installed
    twice, or around a mounted application, the inner one steps aside.

    Args:
        app: The ASGI application.
        unit_of_work: Makes the unit of work of one attempt at a request, from its `Exchange`; None observes only.
        commit: When it commits and whether: `"head"` (default), `"buffered"`, `"after_send"`, a `CommitPolicy`, or a
            function of the scope that returns one of these.
        error_response: Makes the response that replaces one whose unit of work could not commit, from a `Failure`: an
            `ErrorResponse`, or any ASGI application such as a Starlette response. One that fails falls back to the
            default.
        on_commit_failed: Receives the `Failure` of each failed commit, after the rollback.
        on_finished: Receives the `Outcome` of each exchange.
        on_error: Receives the `Failure` of each failed hook.
        cleanup_timeout: Seconds that a rollback or a close may take before its connection is given up.

    Raises:
        ConfigurationError: An option is unknown or has a value that it cannot have.
        WrongApplication: *app* is a WSGI application.

    Example:
        >>> async def app(scope, receive, send): ...
        >>> app = PostResponseMiddleware(app)
    """

    @known_options
    def __init__(
        self,
        app: ASGIApplication,
        *,
        unit_of_work: Callable[[Exchange], UnitOfWork | AsyncUnitOfWork] | None = None,
        commit: CommitPolicy
        | Literal["head", "buffered", "after_send"]
        | Callable[[Any], CommitPolicy | str | None]
        | None = None,
        error_response: Callable[[Failure], Any] | None = None,
        on_commit_failed: Callable[[Failure], Any] | None = None,
        on_finished: Callable[[Outcome], Any] | None = None,
        on_error: Callable[[Failure], Any] | None = None,
        cleanup_timeout: float = 5.0,
    ) -> None:
        check_application(app, 3)
        self.app = app
        self._settings = Settings.of(
            is_async=True,
            clock=time.monotonic_ns,
            unit_of_work=unit_of_work,
            commit=commit,
            error_response=error_response,
            on_commit_failed=on_commit_failed,
            on_finished=on_finished,
            on_error=on_error,
            cleanup_timeout=cleanup_timeout,
        )

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Handle one connection (ASGI 3.0)."""
        kind = scope["type"]
        if kind == "lifespan":
            await _answer_lifespan(self.app, scope, receive, send)
        elif kind != "http":
            await self.app(scope, receive, send)
        elif KEY in scope:
            await self._step_aside(scope, receive, send)
        else:
            await self._handle(scope, receive, send)

    async def _handle(self, scope: Any, receive: Any, send: Any) -> None:
        exchange = _ASGIExchange(self._settings, scope, receive, send)
        inner = exchange._scope
        token = _current.set(exchange)
        try:
            if self._settings.unit_of_work is None or await exchange._open():
                await self.app(inner, exchange.receive, exchange.send)
            await exchange._ended()
        except BaseException as error:
            if not await exchange._ended_by(error):
                raise
        else:
            await exchange._finish()
        finally:
            _current.reset(token)
            exchange._scope = None

    async def _step_aside(self, scope: Any, receive: Any, send: Any) -> None:
        """Leave the exchange to the outer middleware; lend it our unit of work where it has none."""
        outer: _ASGIExchange = scope[KEY]
        if self._settings.unit_of_work is not None and outer._settings.unit_of_work is None:
            outer._adopt(self._settings)
            if not await outer._open():
                return
        await self.app(scope, receive, send)


class _ASGIExchange(Exchange):
    """An exchange, and how it speaks ASGI with the application inside and the server outside."""

    __slots__ = (
        "_concluded",
        "_concluding",
        "_end_taken",
        "_flowing",
        "_held",
        "_is_head",
        "_pending_send",
        "_receiving",
        "_server_receive",
        "_server_send",
        "_start",
        "_trailers",
        "_watch",
    )

    def __init__(self, settings: Settings, scope: Any, receive: Any, send: Any) -> None:
        super().__init__(settings, {**scope, KEY: self}, time.monotonic_ns())
        self._server_receive = receive
        self._server_send = send
        self._is_head = scope.get("method") == "HEAD"
        self._start: Mapping[str, Any] | None = None
        self._trailers = False
        self._held: HeldBody | None = None
        self._flowing = False
        self._receiving = 0
        self._watch: Watch | None = None
        self._pending_send: CancelScope | None = None
        self._concluding = False
        self._concluded: Flag | None = None
        self._end_taken: Flag | None = None

    # -- what the application calls -----------------------------------------------------------------------------

    def send(self, message: Any) -> Awaitable[Any]:
        """The `send` that the application gets."""
        if self._flowing and message["type"] == BODY and message.get("more_body", False):
            size = self._bytes + len(message.get("body", b""))
            if self._declared is None or size < self._declared:
                self._bytes = size
                return self._server_send(message)  # type: ignore[no-any-return]
        return self._send(message)

    async def receive(self) -> Any:
        """The `receive` that the application gets."""
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
        kind = message["type"]
        if kind == BODY:
            final = not message.get("more_body", False) and not self._trailers
        elif kind == "http.response.start":
            await self._take_head(message)
            return
        elif kind == "http.response.trailers":
            final = not message.get("more_trailers", False)
        elif kind == "http.response.pathsend":
            final = True
        elif kind == "http.response.zerocopysend":
            final = not message.get("more_body", False) and not self._trailers
        else:
            await self._pass(message)
            return
        if self._state is not State.SENDING:
            event = Event.FINAL if final else Event.BODY
            message = await self._may_leave(self._advance(event), event, message)
        if message is not None:
            await self._deliver(message, final=final)

    async def _take_head(self, message: Any) -> None:
        action = self._advance(Event.START)
        if action is Action.DROP:
            return
        if action is Action.FORWARD:
            await self._server_send(message)
            return
        self._decided = now = time.monotonic_ns()
        self._start = message
        self._status = status = message["status"]
        self._trailers = message.get("trailers", False)
        for name, value in message.get("headers", ()):
            if name == b"content-length" and value.isdigit():
                self._declared = int(value)
        self._needs_no_body = status in (204, 304) or status < 200 or self._is_head
        if now - self._began > QUICK:
            self._begin_watch()
        if action is Action.HOLD:
            _check_head(message)
            self._streams()
        else:
            await self._release()

    async def _may_leave(self, action: Action, event: Event, message: Any) -> Any:
        """Carry *action* out, and return the message that may follow a head that has left, or None."""
        if action is Action.HOLD:
            action = await self._hold(message)
            if action is Action.SETTLE:  # over the limit, and to be streamed from here on: it is held already
                message = None
        if action is Action.SETTLE:
            action = await self._settle(settle(self))
        elif action is Action.REFUSE:
            action = await self._settle(refuse(self, Event.OVERFLOW))
        if action is Action.RELEASE:
            return await self._release(message, final=event is Event.FINAL)
        if action is Action.REPLACE:
            await self._replace()
        elif action is Action.STOP:
            raise ResponseReplaced("the response was replaced by an error response; nobody takes the rest of it")
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
            held.mark(_kept(message))
            return Action.NOTHING
        chunk = message.get("body", b"")
        action = self._limit(held.size + len(chunk))
        if action is Action.NOTHING or action is Action.SETTLE:
            spill = held.append(bytes(chunk))
            if spill:
                await self._on_thread(held.spill)
            if not message.get("more_body", False):  # trailers follow
                held.mark({"type": BODY, "body": b"", "more_body": False})
        return action

    async def _release(self, message: Any = None, *, final: bool = False) -> Any:
        """Hand over the head and what is held, and return the *message* that follows; None if it was replaced."""
        if self._on_start is not None and not await self._perform(run_start_hooks(self)):
            self._advance(Event.REFUSED)
            await self._replace()
            return None
        start = self._written_start(message if final else None)
        self._advance(Event.HANDED)
        self._head_sent = time.monotonic_ns()
        await self._hand(start)
        if self._held is not None:
            self._begin_watch()
            return await self._release_held(self._held, message, final=final)
        return message

    async def _release_held(self, held: HeldBody, message: Any, *, final: bool) -> Any:
        """Hand over what is held; its last bytes go with an empty last *message*, since nobody waits for that one."""
        last_goes_along = final and message["type"] == BODY and not message.get("body")
        last = b""
        items = held.take()
        on_thread = held.spilled
        try:
            while True:
                item = await self._on_thread(next, items, None) if on_thread else next(items, None)
                if last:
                    if item is None:
                        return {"type": BODY, "body": last, "more_body": False}
                    await self._hand_part({"type": BODY, "body": last, "more_body": True}, len(last))
                    last = b""
                if item is None:
                    return message
                if isinstance(item, dict):
                    await self._hand(item)
                elif last_goes_along:
                    last = item
                else:
                    await self._hand_part({"type": BODY, "body": item, "more_body": True}, len(item))
        finally:
            held.close()

    def _written_start(self, final: Mapping[str, Any] | None) -> Mapping[str, Any]:
        """The start message as it leaves: with what hooks changed, and Content-Length where all is known."""
        assert self._start is not None
        start = self._start
        if self._headers is not None or start["status"] != self._status:
            headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in self.headers]
            start = {**start, "status": self._status, "headers": headers}
            _check_head(start)
        length = self._known_length(final)
        if length is not None:
            self._declared = length
            headers = [*start.get("headers", ()), (b"content-length", str(length).encode())]
            start = {**start, "headers": headers}
        return start

    def _known_length(self, final: Mapping[str, Any] | None) -> int | None:
        assert self._start is not None
        if final is None or self._moves is not MOVES[CommitPoint.BUFFERED] or self._needs_no_body:
            return None
        if final["type"] != BODY or (self._held is not None and self._held.marked) or self._declared is not None:
            return None
        if any(name == b"transfer-encoding" for name, _ in self._start.get("headers", ())):
            return None
        return (self._held.size if self._held is not None else 0) + len(final.get("body", b""))

    def _read_headers(self) -> list[tuple[str, str]]:
        assert self._start is not None
        return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in self._start.get("headers", ())]

    # -- what leaves --------------------------------------------------------------------------------------------

    async def _deliver(self, message: Any, *, final: bool) -> None:
        """Hand over a part of the body whose head has left; *final* ends the response."""
        body = message.get("body", b"") if message["type"] == BODY else b""
        if message["type"] in ("http.response.pathsend", "http.response.zerocopysend"):
            self._counted = False
        if not final:
            self._begin_watch()
            await self._hand_part(message, len(body))
            self._flowing = self._pending_send is None and self._state is State.SENDING
            return
        if len(body) > BARRIER:
            self._begin_watch()
            await self._hand({"type": BODY, "body": body, "more_body": True})
            await self._hand_part({"type": BODY, "body": b"", "more_body": True}, len(body))
            message, body = {"type": BODY, "body": b"", "more_body": False}, b""
        self._bytes += len(body)
        if self._watch is not None or self._receiving:
            await self._look()
        self._flowing = False
        self._advance(Event.FINAL)
        try:
            await self._hand(message)
        finally:
            if self._end_taken is not None:
                self._end_taken.set()
        action = self._advance(Event.TAKEN)
        self._body_sent = time.monotonic_ns()
        if self._reported():
            self._drained = _drained(self._server_send)
        if action is Action.SETTLE and self._unit is not None:
            await self._perform(settle(self))

    async def _hand_part(self, message: Any, size: int) -> None:
        """Hand over a part; a client that leaves once it has all of Content-Length has not aborted it."""
        await self._hand(message)
        if self._declared is not None and self._bytes + size >= self._declared:
            await self._look()
        self._bytes += size

    async def _look(self) -> None:
        """Give the loop a turn: sends to a dead client do not, and its leaving would not be seen."""
        await checkpoint()
        await checkpoint()

    async def _hand(self, message: Any) -> None:
        """Hand *message* to the server."""
        try:
            if self._scope is not None and self._scope.get("http_version", "1.1") >= "2":
                # hypercorn: over HTTP/2 a send may never return once the connection is lost.
                with CancelScope() as self._pending_send:
                    await self._server_send(message)
                if self._pending_send.cancelled_caught:
                    self._left = True
            else:
                await self._server_send(message)
        except OSError:
            self._left = True
            raise

    async def _replace(self) -> None:
        """Drop the application's response and hand over the error response instead."""
        assert self._failure is not None
        response = await self._error_response(self._failure)
        if self._held is not None:
            self._held.close()
        self._status, self._headers, self._declared = response.status, list(response.headers), None
        self._needs_no_body, self._counted = self._is_head, True
        self._bytes = 0 if self._is_head else len(response.body)
        self._head_sent = time.monotonic_ns()
        headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in response.headers]
        headers.append((b"content-length", str(len(response.body)).encode()))
        await self._hand({"type": "http.response.start", "status": response.status, "headers": headers})
        await self._hand({"type": BODY, "body": b"" if self._is_head else response.body, "more_body": False})
        self._advance(Event.TAKEN)
        self._body_sent = time.monotonic_ns()

    async def _error_response(self, failure: Failure) -> ErrorResponse:
        make = self._settings.error_response
        if make is not None:
            try:
                made = make(failure)
                if inspect.isawaitable(made):
                    made = await made
                if not isinstance(made, ErrorResponse):
                    made = await _collected(made, self._scope, self.receive)
                _check_headers([(name.encode("latin-1"), value.encode("latin-1")) for name, value in made.headers])
            except Exception as error:
                logger.error("%s: error_response failed; the default answers", self.route, exc_info=error)
            else:
                return made
        return default_error_response(failure, self._request_header(b"accept"))

    def _request_header(self, wanted: bytes) -> str | None:
        headers = self._scope.get("headers", ())
        return next((value.decode("latin-1") for name, value in headers if name == wanted), None)

    # -- the unit of work ---------------------------------------------------------------------------------------

    async def _open(self) -> bool:
        if await self._perform(open_unit(self)):
            if self.policy.on_disconnect == "rollback":
                self._begin_watch()
            return True
        self._advance(Event.REFUSED)
        await self._replace()
        return False

    async def _settle(self, steps: Steps[Event]) -> Action:
        """End the unit of work, whatever is cancelled meanwhile, and take the result through the table."""
        if self._watch is not None and self.policy.on_disconnect == "rollback":
            await self._look()
        try:
            step = next(steps)
        except StopIteration as stop:
            return self._advance(stop.value)
        return await shielded(self._conclude, steps, step)

    async def _conclude(self, steps: Steps[Event], step: Step) -> Action:
        self._concluding = True
        try:
            return self._advance(await self._drive(steps, step))
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

    async def _perform(self, steps: Steps[T]) -> T:
        try:
            step = next(steps)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]
        return await shielded(self._drive, steps, step)

    async def _drive(self, steps: Steps[T], step: Step) -> T:
        try:
            while True:
                try:
                    result = await self._do(step)
                except BaseException as error:  # noqa: BLE001 (handed to the rules)
                    step = steps.throw(error)
                else:
                    step = steps.send(result)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]

    async def _do(self, step: Step) -> Any:
        if step.of_unit and not inspect.iscoroutinefunction(step.call):
            return await self._on_thread(within, step.limit, step.call, step.args, self._unit)
        result = step.call(*step.args)
        if not inspect.isawaitable(result):
            return result
        if step.limit is None:
            return await result
        async with time_limit(step.limit):
            return await result

    async def _on_thread(self, call: Callable[..., T], *args: Any) -> T:
        # A limiter of our own: behind the shared one a commit would wait for handlers that wait for its connection.
        return await to_thread.run_sync(call, *args, limiter=CapacityLimiter(math.inf))

    # -- how it ends --------------------------------------------------------------------------------------------

    async def _ended(self) -> None:
        """The application returned."""
        await self._wait_concluded()
        action = self._advance(Event.RETURNED)
        if action is Action.SETTLE:
            action = await self._settle(settle(self))
        elif action is Action.REFUSE:
            action = await self._settle(refuse(self, Event.RETURNED))
        if action is Action.RELEASE:
            await self._release()
        elif action is Action.REPLACE:
            await self._replace()
        if self._state is not State.OVER:
            self._advance(Event.RETURNED)

    async def _ended_by(self, error: BaseException) -> bool:
        """The application raised *error*; True if it stays here."""
        await self._wait_concluded()
        if self._state < State.SENT:
            self._left = self._left or self._came_from_client(error)
        self._raised = True
        replaced = self._failure is not None
        if not replaced:
            self._exception = error
        action = self._advance(Event.RAISED) if self._state is not State.OVER else Action.FINISH
        await self._finish()
        if action is not Action.SWALLOW or not isinstance(error, Exception):
            return False
        if not isinstance(error, ResponseReplaced) and not isinstance(error.__context__, ResponseReplaced):
            logger.error("the application raised after its response was replaced", exc_info=error)
        return True

    async def _finish(self) -> None:
        try:
            if self._unit is not None or self._reported():
                await self._perform(finish(self))
        finally:
            if self._watch is not None:
                self._watch.stop()
            if self._held is not None:
                self._held.close()
            self._exception = self._failure = None  # whose traceback holds this exchange

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

    def _begin_watch(self) -> None:
        if self._watch is None and not self._receiving and not self._is_head:
            # Asking uvicorn for the body answers "100 Continue", which is for the application to say.
            if self._request_header(b"expect") is not None:
                return
            self._watch = Watch(self._server_receive, self._client_left)

    def _client_left(self) -> None:
        has_all = self._declared is not None and self._bytes >= self._declared and self._state is State.SENDING
        if self._state < State.ENDING and not self._is_head and not has_all:
            self._left = True
        if self._pending_send is not None:
            # The last send may be about to return: hypercorn tells of the disconnect while it still runs.
            self._pending_send.deadline = current_time() + (LINGER if self._state >= State.ENDING else 0)


def _kept(message: Any) -> dict[str, Any]:
    """A message that can be sent later: the application may close its descriptor once `send` has returned."""
    kept = dict(message)
    if kept["type"] == "http.response.zerocopysend":
        kept["file"] = _Descriptor(kept["file"])
    return kept


class _Descriptor:
    """A descriptor of our own for a file that the application may close meanwhile."""

    __slots__ = ("_number",)

    def __init__(self, file: Any) -> None:
        self._number = os.dup(file if isinstance(file, int) else file.fileno())

    def fileno(self) -> int:
        return self._number

    def __del__(self) -> None:
        os.close(self._number)


def _drained(send: Any) -> bool | None:
    """True where the server's transport shows an empty buffer and an open connection (uvicorn); None elsewhere."""
    transport: Any = getattr(getattr(send, "__self__", None), "transport", None)
    try:
        return True if transport.get_write_buffer_size() == 0 and not transport.is_closing() else None
    except AttributeError:
        return None


def _check_head(message: Any) -> None:
    status = message["status"]
    if isinstance(status, bool) or not isinstance(status, int) or not 100 <= status <= 999:
        raise MessageOrderError(f"http.response.start: expected a status code, found {status!r}")
    _check_headers(message.get("headers", ()))


def _check_headers(headers: Any) -> None:
    """Refuse what would make the server fail, or lie, once the transaction has committed (RFC 9110, section 5.5)."""
    for name, value in headers:
        for part in (name, value):
            if b"\n" in part or b"\r" in part or b"\0" in part:
                raise InvalidHeader(f"header {name!r}: {value!r} holds CR, LF or NUL; strip them or encode the value")


async def _collected(app: Any, scope: Any, receive: Any) -> ErrorResponse:
    """Run *app* and return all that it answered."""
    if not callable(app):
        raise WrongApplication(f"error_response: expected an ErrorResponse or an ASGI application, found {app!r}")
    messages: list[Any] = []

    async def collect(message: Any) -> None:
        messages.append(message)

    await app(scope, receive, collect)
    start = next((message for message in messages if message["type"] == "http.response.start"), None)
    if start is None:
        raise MessageOrderError("error_response: the application it returned gave no response")
    headers = tuple(
        (name.decode("latin-1"), value.decode("latin-1"))
        for name, value in start.get("headers", ())
        if name.lower() not in (b"content-length", b"transfer-encoding")
    )
    body = b"".join(message.get("body", b"") for message in messages if message["type"] == BODY)
    return ErrorResponse(start["status"], headers, body)


async def _answer_lifespan(app: ASGIApplication, scope: Any, receive: Any, send: Any) -> None:
    """Pass lifespan on, and answer it where the application does not know it: it raises or returns without asking."""
    asked = False

    async def ask() -> Any:
        nonlocal asked
        asked = True
        return await receive()

    try:
        await app(scope, ask, send)
    except Exception as error:
        if asked:
            raise
        logger.info("the application does not know lifespan, which is answered in its place: %r", error)
    if not asked:
        for kind in ("lifespan.startup", "lifespan.shutdown"):
            if (await receive())["type"] != kind:
                return
            await send({"type": f"{kind}.complete"})
