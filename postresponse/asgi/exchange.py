"""One exchange over ASGI: messages to events, actions to messages.

`send` is a plain function that returns the server's own awaitable once the head has left, so that no coroutine of ours
exists per message of a stream. How the response leaves is in `delivery.py`; what follows from it, in the core.
"""

import random
from collections.abc import Awaitable
from time import monotonic_ns
from typing import Any, Final, TypeVar

from anyio import Event as Flag
from anyio import get_cancelled_exc_class, move_on_after, sleep

from postresponse.aperforming import at_once, drive, on_thread, perform, run_at_once
from postresponse.asgi.delivery import BARRIER, LINGER, UNCOUNTED, Delivery
from postresponse.asgi.messages import BODY, START, ends_response, look_at_head
from postresponse.core.at_once import open_at_once, settle_at_once
from postresponse.core.ending import finish
from postresponse.core.lifecycle import MOVES, Action, CommitPoint, Event, State
from postresponse.core.log import logger
from postresponse.core.policy import Retry
from postresponse.core.settlement import commit_early, refuse, settle
from postresponse.core.steps import Step, Steps
from postresponse.exceptions import ResponseReplaced
from postresponse.shielding import shielded

__all__ = ["ASGIExchange"]

T = TypeVar("T")

QUICK: Final = 10_000_000
"""Nanoseconds: a response that starts within this time is not watched for a disconnect before its head."""

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
SETTLED: Final = Event.SETTLED
SETTLE: Final = Action.SETTLE
RELEASE: Final = Action.RELEASE
HOLD: Final = Action.HOLD
OBSERVED: Final = MOVES[CommitPoint.AFTER_SEND]
BUFFERED: Final = MOVES[CommitPoint.BUFFERED]
AT_HEAD: Final = MOVES[CommitPoint.HEAD]


async def _nothing() -> None:
    """What `send` returns where nothing is to be done: a coroutine, because some start a task with it."""


class ASGIExchange(Delivery):
    """An exchange, and how it speaks ASGI with the application inside and the server outside."""

    __slots__ = ()
    _concluding = False
    _concluded: Flag | None = None
    _pause: Retry | None = None

    # -- what the application calls -----------------------------------------------------------------------------------

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

    async def _send(self, message: Any) -> None:
        """Take what is neither the head nor a plain part of the body."""
        final = ends_response(message, trailers=self._trailers)
        if final is None:
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

    # -- the unit of work ---------------------------------------------------------------------------------------------

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

    def _replayable(self) -> bool:
        return self._watch is None or self._watch.whole

    def _following(self, scope: Any) -> "ASGIExchange":
        """Return the attempt that follows this one: the request is read on, and given from its start."""
        following = type(self)(self._settings, scope, monotonic_ns(), self._server_receive, self._server_send)
        following._attempt, following._loop = self._attempt + 1, self._loop
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

    # -- how it ends --------------------------------------------------------------------------------------------------

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
        action = self._advance(Event.RAISED)
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
        server_code = getattr(self._server_send, "__code__", None)
        while error is not None and server_code is not None:
            if isinstance(error, OSError):
                traceback = error.__traceback__
                while traceback is not None:
                    if traceback.tb_frame.f_code is server_code:
                        return True
                    traceback = traceback.tb_next
            error = error.__cause__ or error.__context__  # type: ignore[assignment]
        return False
