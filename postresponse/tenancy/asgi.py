"""The limits of tenants around an ASGI application."""

from typing import Any

from anyio import CancelScope, Event, current_time

from postresponse.asgi.messages import START, ends_response, header_of, messages_of
from postresponse.asgi.watch import Watch
from postresponse.core.log import logger, route_of
from postresponse.error_response import refused, sendable
from postresponse.exceptions import TooLate
from postresponse.tenancy.limits import Refusal, TenantLimits, Turn
from postresponse.typing import ASGIApplication
from postresponse.work import homes

__all__ = ["TenantLimitMiddleware"]


class TenantLimitMiddleware(TenantLimits[ASGIApplication]):
    """Wrap an ASGI application; let no tenant take what belongs to the others.

    So many requests of each tenant are served at once, so many more wait, first come, first served; the next one is
    refused at once with 429 (503 without a *key*) and Retry-After. One that waits too long gets 503. A client that
    leaves while it waits is never served; one that leaves later has its request cancelled, unless the response is
    complete. A slot is given back when the application has really returned, threads that it waits for included.

    The limits hold for this process: with four workers a tenant has four times as much. Install it further out than
    `postresponse.asgi.PostResponseMiddleware`, so that who waits holds no unit of work. Websockets pass.

    Args:
        app: The ASGI application.
        key: Names the tenant of a scope; None for one bound on all requests.
        limits: Those of each tenant, or a function of the tenant; asked at each request, so they may change.
        views: Limits of their own for these paths, and what is below them; None for none.
        on_key_error: The status where *key* or *limits* raises, or names nobody; `"admit"` serves it unbounded.
        retry_after: Seconds that a refused client is told to wait.

    Raises:
        ConfigurationError: An option is unknown or has a value that it cannot have.
        WrongApplication: *app* is a WSGI application.
    """

    _arguments = 3
    _twin = "postresponse.tenancy.wsgi.TenantLimitMiddleware"

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Handle one connection (ASGI 3.0)."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        home, came = homes.here(), Event()

        def admit() -> None:
            assert home is not None
            homes.call_on(home, came.set)

        turn = self._admission.enter(scope, scope["path"], admit)
        if turn is None:
            await self.app(scope, receive, send)
        elif isinstance(turn, Refusal):
            await _refuse(turn, scope, send)
        else:
            scope = {**scope}
            turn.name_in(scope)
            await _Visit(scope, receive, send).take(self.app, turn, came)


class _Visit:
    """One request: it waits, is served, and ends in time."""

    __slots__ = ("_complete", "_gone", "_receive", "_scope", "_send", "_started", "_stay", "_trailers")

    def __init__(self, scope: Any, receive: Any, send: Any) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self._started = self._complete = self._gone = self._trailers = False
        self._stay = CancelScope()

    async def take(self, app: ASGIApplication, turn: Turn, came: Event) -> None:
        """Serve it by *app* when its *turn* has come, or say why not where that can still be told."""
        # Asking uvicorn for the body answers "100 Continue", which is for the application to say.
        watch = None if header_of(self._scope, b"expect") else Watch(self._receive, self._left)
        served = False
        try:
            try:
                with self._stay:
                    if turn.timeout is not None:
                        self._stay.deadline = current_time() + turn.timeout
                    if turn.waits:
                        await came.wait()
                    served = True
                    await app(self._scope, self._receive if watch is None else watch.receive, self._pass)
            finally:
                turn.leave()
            if self._stay.cancel_called and not self._complete and not self._gone:
                await _refuse(self._overdue(turn) if served else turn.late(), self._scope, self._send)
        finally:
            if watch is not None:
                watch.stop()

    def _overdue(self, turn: Turn) -> Refusal:
        """What to answer where it was cut off; an error where its response has begun."""
        logger.error("%s: cut off, because it took longer than %s s", route_of(self._scope), turn.timeout)
        if self._started:
            raise TooLate(f"the response was not complete after {turn.timeout} s")
        return turn.overdue()

    def _left(self) -> None:
        """The client left."""
        if not self._complete:
            self._gone = True
            self._stay.cancel()

    async def _pass(self, message: Any) -> None:
        if message["type"] == START:
            self._started, self._trailers = True, bool(message.get("trailers", False))
        elif ends_response(message, trailers=self._trailers):
            self._complete = True
        await self._send(message)


async def _refuse(refusal: Refusal, scope: Any, send: Any) -> None:
    made = refused(refusal.status, refusal.detail, refusal.retry_after, header_of(scope, b"accept"))
    for message in messages_of(sendable(made, scope["method"]), scope["method"]):
        await send(message)
