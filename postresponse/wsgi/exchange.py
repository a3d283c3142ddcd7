"""One exchange over WSGI (PEP 3333): calls to events, actions to calls.

A response passes as an object with `__iter__`, `__next__` and `close`, never as a generator: a server may close it
before the first `next`, stop at Content-Length, or ask again after the end. What is decided before the head leaves is
decided inside the application call, because some servers fix status and headers when that returns.
"""

import inspect
import itertools
import random
import sys
import time
from collections.abc import Callable, Iterable
from time import monotonic_ns
from typing import Any, Final

from postresponse.connection import socket_drained
from postresponse.core.at_once import open_at_once, settle_at_once
from postresponse.core.current import current, in_job
from postresponse.core.driven import DrivenExchange
from postresponse.core.ending import finish
from postresponse.core.exchange import KEY, Exchange, Failure
from postresponse.core.headers import check_headers
from postresponse.core.lifecycle import MOVES, Action, CommitPoint, Event, State
from postresponse.core.log import logger
from postresponse.core.policy import Retry, never_ends
from postresponse.core.settlement import refuse, run_start_hooks, settle
from postresponse.error_response import ErrorResponse, default_error_response, emptied, sendable, wsgi_response
from postresponse.exceptions import WrongApplication
from postresponse.held import HeldBody
from postresponse.performing import perform, run_at_once
from postresponse.wsgi.body import SizedBody, body_of
from postresponse.wsgi.files import is_file, watch_close
from postresponse.wsgi.heads import code_of, content_type_of, status_line
from postresponse.wsgi.recorded_input import RecordedInput

__all__ = ["WSGIExchange"]


# A member of an enum is dear to look up before Python 3.12, and these are on every request's way.
PENDING: Final = State.PENDING
DECIDED: Final = State.DECIDED
SENDING: Final = State.SENDING
SENT: Final = State.SENT
OVER: Final = State.OVER
BODY: Final = Event.BODY
FINAL: Final = Event.FINAL
HANDED: Final = Event.HANDED
RETURNED: Final = Event.RETURNED
HOLD: Final = Action.HOLD
SETTLE: Final = Action.SETTLE
RELEASE: Final = Action.RELEASE
BUFFERED: Final = MOVES[CommitPoint.BUFFERED]
OBSERVED: Final = MOVES[CommitPoint.AFTER_SEND]
AT_HEAD: Final = MOVES[CommitPoint.HEAD]


class WSGIExchange(DrivenExchange):
    """An exchange, and how it speaks WSGI with the application inside and the server outside."""

    __slots__ = ()
    _given: tuple[str, list[tuple[str, str]]]  # as `start_response` was called
    _held: HeldBody | None
    _server_write: Callable[[bytes], object] | None = None
    _inner: Any = None
    _asked = False
    _recorded: RecordedInput | None = None
    _replacement: Iterable[bytes] = ()
    _pause: Retry | None = None
    _outer: Exchange | None = None
    """What was current before: a request may be made inside of another, or of a scope."""

    # -- what the application calls -----------------------------------------------------------------------------

    def start_response(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        """The `start_response` that the application gets."""
        if self._state is PENDING and self._moves is OBSERVED and self._on_start is None:
            # The table's way, PENDING to SENDING, with nothing to be done on it.
            self._take_head(status, headers)
            self._state = SENDING
            self._head_sent = self._decided
            self._give_head(status, headers, exc_info)
            return None if self._server_write is None else self.write
        if self._state <= DECIDED and self._moves is not OBSERVED:
            check_headers([("status", status), *headers])
        again = exc_info is not None and self._state is not PENDING
        action = self._advance(Event.RESTART if again else Event.START)
        if action is Action.FORWARD:
            self._server_write = self._server_send(status, headers, exc_info)
            self._take_head(status, headers)
            return None if self._server_write is None else self.write
        if action is Action.DROP:
            return self.write
        if action is Action.STOP:
            raise self._stopped()
        self._take_head(status, headers)
        if action is HOLD:
            if self._moves is BUFFERED:
                self._streams(never_ends(content_type_of(headers)))
            return self.write
        self._release(exc_info=exc_info)
        # Some servers have no `write`, and the application is told so.
        return None if self._server_write is None and self._state is SENDING else self.write

    def write(self, data: bytes) -> None:
        """The legacy `write` that the application gets."""
        if self._state is DECIDED and not data:
            return
        if self._reach(BODY, data):
            if self._server_write is None:
                self._holder().append(data)
            else:
                if data and self._first_byte is None:
                    self._first_byte = monotonic_ns()
                self._server_write(data)
                self._bytes += len(data)

    # -- from calls to events -----------------------------------------------------------------------------------

    def _take_head(self, status: str, headers: list[tuple[str, str]]) -> None:
        self._decided = monotonic_ns()
        self._given = (status, headers)
        if self._headers is not None or self._declared is not None:  # those of a head before
            self._headers = self._declared = None
        self._status = code = code_of(status)
        for name, value in headers:
            if len(name) == 14 and name.lower() == "content-length" and value.isdigit():
                self._declared = int(value)
        if code in (204, 304) or code < 200 or self._scope.get("REQUEST_METHOD") == "HEAD":
            self._needs_no_body = True
        elif self._needs_no_body:
            self._needs_no_body = False

    def _take(self, body: Any) -> Iterable[bytes]:
        """Take what the application returned, and return what the server gets."""
        if type(body) is list:
            if self._state is SENDING and self._held is None:
                return self._passed_list(body)
        elif not is_file(self._scope, body):
            _check_body(body)
        self._inner = body
        if self._state is State.REPLACED:
            return self._replaced()
        if self._moves is OBSERVED or self._state is SENDING:
            if self._state is DECIDED and not self._reach(BODY):
                return self._replaced()
            return self._passed(body, body)
        try:
            if self._state is State.DISCARDED:
                raise self._stopped()
            return self._decided_body(body)
        except BaseException as error:
            if self._again:
                self._close_discarded()  # first: what runs there may ask what became of this attempt
            try:
                self._ended_by(error)
            finally:
                if self._again:
                    self._close_discarded()
                else:
                    self._close_inner()  # the server gets nothing that it could close
            raise

    def _decided_body(self, body: Any) -> Iterable[bytes]:
        """Bring the response to its decision inside the call, and return what follows its head."""
        if isinstance(body, (list, tuple)) and self._moves is AT_HEAD:
            if not self._reach(BODY if any(body) else FINAL):
                return self._replaced()
            return self._passed_list(body) if type(body) is list and self._held is None else self._passed(body, body)
        if is_file(self._scope, body):
            return self._passed(body, body) if self._reach(FINAL) else self._replaced()
        chunks = iter(body)
        for chunk in chunks:
            # An empty chunk says nothing, and some servers send the head on one.
            if chunk and self._reach(BODY, chunk):
                return self._passed(body, itertools.chain((chunk,), chunks))
            if self._state is SENDING:
                return self._passed(body, chunks)
            if self._state is State.REPLACED:
                return self._replaced()
        return self._passed(body, ()) if self._reach(FINAL) else self._replaced()

    def _reach(self, event: Event, data: bytes = b"") -> bool:
        """Take a part of the body or its end to the table; True if it may follow a head that has left.

        False where it is done with: held, or dropped.
        """
        if self._state is SENDING:
            return True
        if self._state is DECIDED and self._moves is AT_HEAD and self._held is None:
            # The table's way from DECIDED to READY, where the unit of work ends at once.
            rest = settle_at_once(self, run_at_once)
            if rest is None:
                self._state = State.READY
                return self._release()
            self._state = State.SETTLING
            action, follows = self._advance(perform(self, rest)), True
        else:
            action, follows = self._advance(event), True
        if action is HOLD:
            action, follows = self._hold(data), False
        if action is SETTLE:
            rest = settle_at_once(self, run_at_once)
            action = self._advance(Event.SETTLED if rest is None else perform(self, rest))
        elif action is Action.REFUSE:
            action = self._advance(perform(self, refuse(self, Event.OVERFLOW)))
        if action is RELEASE:
            return self._release(final=event is FINAL) and follows
        if action is Action.REPLACE:
            self._replace()
        elif action is Action.STOP:
            raise self._stopped()
        return False

    # -- what is withheld ---------------------------------------------------------------------------------------

    def _holder(self) -> HeldBody:
        if self._held is None:
            self._held = HeldBody(self.policy.max_memory)
        return self._held

    def _hold(self, data: bytes) -> Action:
        held = self._holder()
        action = self._limit(held.size + len(data))
        if action is not Action.REFUSE and held.append(data):
            held.spill()
        return action

    def _release(self, *, final: bool = False, exc_info: Any = None) -> bool:
        """Give the head to the server; False if a start hook failed and the response was replaced."""
        if self._on_start is not None and not perform(self, run_start_hooks(self)):
            self._advance(Event.REFUSED)
            self._replace()
            return False
        status, headers = self._given
        if self._headers is not None:
            headers = list(self._headers)
        if self._status != code_of(status):
            status = status_line(self._status or 0)
        if final and self._moves is BUFFERED:
            headers = self._with_length(headers)
        self._advance(HANDED)
        self._head_sent = monotonic_ns()
        self._give_head(status, headers, exc_info)
        return True

    def _give_head(self, status: str, headers: list[tuple[str, str]], exc_info: Any) -> None:
        if exc_info is None:  # as the application called it
            self._server_write = self._server_send(status, headers)
        else:
            self._server_write = self._server_send(status, headers, exc_info)

    @property
    def _passes_through(self) -> bool:
        """Whether the bytes need not be counted: they are held against Content-Length for whoever asks how it ended."""
        if self._held is not None or self._bytes:  # what was written or held before is counted
            return False
        if self._unheard and (self._unit is None or self._unit_ended):
            return True
        # A generator may give its head, and Content-Length with it, together with its first part.
        return self._declared is None and self._state is not PENDING

    def _with_length(self, headers: list[tuple[str, str]]) -> list[tuple[str, str]]:
        """Add Content-Length to a body that is held whole, unless it needs none or is a file."""
        names = {name.lower() for name, _ in headers}
        if self._needs_no_body or is_file(self._scope, self._inner) or names & {"content-length", "transfer-encoding"}:
            return headers
        return [*headers, ("Content-Length", str(self._held.size if self._held is not None else 0))]

    def _read_headers(self) -> list[tuple[str, str]]:
        return list(self._given[1])

    @property
    def _left_at(self) -> int | None:
        return self._first_byte

    # -- what leaves --------------------------------------------------------------------------------------------

    def _passed(self, body: Any, rest: Any) -> Iterable[bytes]:
        """Return what the server iterates: what is held, then *rest*; its end and its `close` are seen."""
        if self._held is not None:
            length = self._held.chunks if rest == () and not self._held.spilled else None
            return body_of(self, body, itertools.chain(self._held.take(), rest), length)
        if is_file(self._scope, body):
            return self._watched_file(body)
        return body_of(self, body, rest, len(body) if rest is body and hasattr(body, "__len__") else None)

    def _passed_list(self, body: list[bytes]) -> Iterable[bytes]:
        """Return the application's own list where nothing is to be done behind it, and nobody asks how it ends."""
        if (self._unit is None or self._unit_ended) and self._has_nothing_left():
            self._state = OVER
            self._let_go()
            return body
        return SizedBody(self, body, body, len(body))

    def _watched_file(self, body: Any) -> Iterable[bytes]:
        """Return the server's own file wrapper, which it may send by sendfile, its `close` watched."""
        if not watch_close(body, lambda close: self._closed(sys.exc_info()[1], close)):
            return body_of(self, body, body, None)
        self._counted = False
        self._first_byte = self._first_byte or monotonic_ns()
        return body  # type: ignore[no-any-return]

    def _replace(self) -> None:
        """Drop the application's response and answer with the error response instead."""
        assert self._failure is not None
        response = self._error_response(self._failure)
        if self._held is not None:
            self._held.close()
            self._held = None
        is_head = self._scope.get("REQUEST_METHOD") == "HEAD"
        self._status, self._headers, self._declared = response.status, list(response.headers), len(response.body)
        self._needs_no_body, self._counted, self._bytes = is_head, True, 0
        self._head_sent = monotonic_ns()
        self._server_send(status_line(response.status), list(response.headers))
        self._advance(Event.TAKEN)  # and not before: what the server raises is not the application's
        body = [] if is_head else [response.body]
        self._replacement = body_of(self, body, body, len(body))

    def _replaced(self) -> Iterable[bytes]:
        """Return the body of the error response, and let it go: it holds this exchange."""
        body, self._replacement = self._replacement, ()
        return body

    def _error_response(self, failure: Failure) -> ErrorResponse:
        make = self._settings.error_response
        if make is not None:
            try:
                made = make(failure)
                if made is not None:
                    if not isinstance(made, ErrorResponse):
                        made = wsgi_response(made, emptied(self._scope))
                    return sendable(made, self._scope.get("REQUEST_METHOD"))
            except (Exception, SystemExit) as error:
                logger.error("%s: error_response failed; the default answers", self.route, exc_info=error)
        default = default_error_response(failure, self._scope.get("HTTP_ACCEPT"))
        return sendable(default, self._scope.get("REQUEST_METHOD"))

    # -- the unit of work ---------------------------------------------------------------------------------------

    def _open(self) -> bool:
        if self._pause is not None:
            time.sleep(self._pause.pause(self._attempt - 1, random.random()))
        rest = open_at_once(self, run_at_once)
        refused = None if rest is None else perform(self, rest)
        if refused is None:
            if self._settings.retries and self._recorded is None:
                limit = -1 if self.policy.retry is None else self.policy.retry.max_request_body
                self._recorded = self._scope["wsgi.input"] = RecordedInput(self._scope["wsgi.input"], limit)
            return True
        if self._advance(refused) is Action.STOP:
            raise self._stopped()
        self._replace()
        return False

    def _following(self, environ: dict[str, Any]) -> "WSGIExchange":
        """Return the attempt that follows this one: the request is given from its start."""
        following = type(self)(self._settings, environ, monotonic_ns(), None, self._server_send)
        following._attempt = self._attempt + 1
        assert self._policy is not None
        following._pause = self._policy.retry
        if self._recorded is not None:
            following._recorded = environ["wsgi.input"] = self._recorded
            self._recorded.rewind()
        return following

    def _replayable(self) -> bool:
        return self._recorded is None or self._recorded.whole

    # -- how it ends --------------------------------------------------------------------------------------------

    def _ended_by(self, error: BaseException) -> bool:
        """The application or its body raised *error*, and that is the end; True if it stays here."""
        self._again = self._again and isinstance(error, Exception)
        if self._state is State.OVER:
            return False
        self._raised = True
        if self._failure is None:
            self._exception = error
        swallow = self._advance(Event.RAISED) is Action.SWALLOW and self._swallows(error)
        self._finish()
        return swallow

    def _swallows(self, error: BaseException) -> bool:
        """Log what the application raised behind its replaced response, and tell that it stays here."""
        if self._failure is None or self._again or not isinstance(error, Exception):
            return False
        logger.error("%s: the application raised after its response was replaced", self.route, exc_info=error)
        return True

    def _closed(self, flight: BaseException | None, close: Callable[[], object] | None) -> None:
        """The server closed the body, with the exception *flight* under way if it failed to send it."""
        if self._state is OVER:
            if close is not None:
                close()
            return
        self._judge_close(flight)
        try:
            self._settle_and_close(close)
        except BaseException as error:
            if not self._ended_by(error):
                raise
        else:
            self._advance(RETURNED)
            self._finish()

    def _settle_and_close(self, close: Callable[[], object] | None) -> None:
        """Settle what is open, and close the inner body: at which Django gives the connection back, so after that."""
        try:
            if self._unit is not None and not self._unit_ended:
                perform(self, settle(self))
        finally:
            if close is not None and self._inner is not None:
                close()

    def _judge_close(self, flight: BaseException | None) -> None:
        if self._first_byte is None and self._head_sent is not None:
            self._first_byte = monotonic_ns()  # there was none, and the head left at the end
        if flight is not None and not isinstance(flight, GeneratorExit):
            self._left, self._exception = True, self._exception or flight
        elif self._asked or self._needs_no_body:
            if self._state is SENDING:
                self._state = SENT  # the table's way, by FINAL and TAKEN
            self._body_sent = monotonic_ns()
            if not self._unheard:
                self._drained = socket_drained(self._scope)
        elif self._counted and (self._declared is None or self._bytes < self._declared):
            self._left = True

    def _close_discarded(self) -> None:
        """Close the body of an attempt that is discarded; what fails there changes nothing, and is logged."""
        try:
            self._close_inner()
        except Exception as error:
            logger.error("%s: a body that is discarded could not be closed", self.route, exc_info=error)

    def _close_inner(self) -> None:
        inner, self._inner = self._inner, None
        close = getattr(inner, "close", None)
        if close is not None:
            close()

    def _finish(self) -> None:
        try:
            if not self._has_nothing_left():
                perform(self, finish(self))
        finally:
            if self._held is not None:
                self._held.close()
            self._exception = self._failure = None
            self._let_go()

    def _let_go(self) -> None:
        """Take this exchange out of what would keep it alive: the context, and the server's environ."""
        outer = self._outer
        if outer is not None:
            self._outer = None
            if outer._scope is None and not in_job.get():  # over meanwhile, or on another thread
                outer = None
        if current.get() is self:
            current.set(outer)
        self._scope.pop(KEY, None)
        self._scope = None


def _check_body(body: Any) -> None:
    """Refuse what no WSGI application returns."""
    if inspect.iscoroutine(body):
        body.close()
        raise WrongApplication(
            "app: it returned a coroutine, as ASGI applications do; use postresponse.asgi.PostResponseMiddleware"
        )
    if not isinstance(body, Iterable) and not hasattr(body, "__getitem__"):
        raise WrongApplication(f"app: expected an iterable of bytes from the application, found {body!r}")
