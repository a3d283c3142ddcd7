"""Putting an application behind PostResponseMiddleware, or behind a pass-through wrapper of the same shape.

The question that a run helps to answer is whether the middleware is transparent, so only the middleware may differ
between two runs:

- **The wrapper has the same shape in every mode.** An application is replaced by a `Carrier`, which calls its
  *entrance* and hands every attribute access to the application itself. In the baseline the entrance is the
  application, otherwise the middleware around it. A test that minds being wrapped at all fails in both.
- **One middleware an application**, not one a request, where the application outlives the request: what the middleware
  keeps between requests is under test as well.
- **Only the outermost call of a task goes through the middleware**, as it would in production, where an entrance is
  also called by what it wraps; a context variable tells.

Where applications are entered differs from framework to framework: `transparency_entrances` has one function for each.
"""

import contextvars
import functools
import importlib
from collections.abc import Callable
from typing import Any, Final

from transparency_tally import AsyncLedger, SyncLedger, Tally  # type: ignore[import-not-found]

__all__ = ["BASELINE", "AsgiCarrier", "Wrapping", "WsgiCarrier", "inside"]

BASELINE: Final = "baseline"
EXCHANGE: Final = "postresponse.exchange"
"""Where the middleware leaves its exchange: a request that has one is inside already, and no other one."""
_inside: Final = contextvars.ContextVar("transparency_inside", default=False)


def inside() -> bool:
    """Return whether this is called by an application that was entered already."""
    return _inside.get()


class Carrier:
    """Stand in for an application: calls go to *entrance*, attributes come from *app*."""

    def __init__(self, app: Any, entrance: Any, tally: Tally) -> None:
        self.app = app
        self._entrance = entrance
        self._tally = tally

    def __getattr__(self, name: str) -> Any:
        return getattr(self.app, name)


class AsgiCarrier(Carrier):
    """A carrier that is an ASGI 3 application."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Enter the application, and remember inside the task that this happened."""
        if scope["type"] == "http" and not (_inside.get() and EXCHANGE in scope):
            self._tally.note("entered", interface="asgi")
        token = _inside.set(True)
        try:
            await self._entrance(scope, receive, send)
        finally:
            _inside.reset(token)


class WsgiCarrier(Carrier):
    """A carrier that is a WSGI application."""

    def __call__(self, environ: Any, start_response: Any) -> Any:
        """Enter the application as a server does, and remember during the call that this happened.

        The body of a generator runs behind the call, so here the environ alone tells whether a request is inside.
        """
        # A test that enters an application with an empty environ shall not fail for what every server gives (PEP 3333).
        environ.setdefault("REQUEST_METHOD", "GET")
        if EXCHANGE not in environ:
            self._tally.note("entered", interface="wsgi")
        token = _inside.set(True)
        try:
            return self._entrance(environ, start_response)
        finally:
            _inside.reset(token)


class Wrapping:
    """What every application of one run is put behind.

    Args:
        mode: "baseline", "observe", or a value of the middleware's `commit`; in "silent" and "silent_head" nobody asks
            for the outcome of observing, or of committing at the head, and shorter ways are taken.
        tally: Where the middleware's outcomes and the carriers' requests are noted.
    """

    def __init__(self, mode: str, tally: Tally) -> None:
        self._mode = mode
        self._tally = tally

    def asgi(self, app: Any) -> AsgiCarrier:
        """Return a new carrier for an ASGI application."""
        return AsgiCarrier(app, self._behind("asgi", AsyncLedger, app), self._tally)

    def wsgi(self, app: Any) -> WsgiCarrier:
        """Return a new carrier for a WSGI application."""
        return WsgiCarrier(app, self._behind("wsgi", SyncLedger, app), self._tally)

    def _behind(self, interface: str, ledger: Callable[[Tally], Any], app: Any) -> Any:
        if self._mode == BASELINE:
            return app
        options: dict[str, Any] = {"on_error": self._tally.failed_hook}
        if not self._mode.startswith("silent"):
            options["on_finished"] = self._tally.finished
        if self._mode not in ("observe", "silent"):
            options["unit_of_work"] = lambda exchange: ledger(self._tally)
            options |= {"commit": self._mode.removeprefix("silent_"), "on_commit_failed": self._tally.failed_commit}
        # By name: an application that is not entered needs no side of the package, nor does the baseline.
        return importlib.import_module(f"postresponse.{interface}").PostResponseMiddleware(app, **options)

    def outermost_asgi(self, cls: Any, *, keep: bool = False) -> None:
        """Let the outermost call of each instance of *cls* go through a carrier; *keep* it and the instance."""
        call = vars(cls)["__call__"]
        carrier_of = _Carriers(self.asgi, call, keep=keep)

        @functools.wraps(call)
        async def outermost(self: Any, scope: Any, receive: Any, send: Any) -> None:
            if _inside.get():
                await call(self, scope, receive, send)
            else:
                await carrier_of(self)(scope, receive, send)

        cls.__call__ = outermost

    def outermost_wsgi(self, cls: Any, *, keep: bool = False) -> None:
        """Let the outermost call of each instance of *cls* go through a carrier; *keep* it and the instance."""
        call = vars(cls)["__call__"]
        carrier_of = _Carriers(self.wsgi, call, keep=keep)

        @functools.wraps(call)
        def outermost(self: Any, environ: Any, start_response: Any) -> Any:
            if _inside.get():
                return call(self, environ, start_response)
            return carrier_of(self)(environ, start_response)

        cls.__call__ = outermost


class _Carriers:
    """The carriers of a class's instances; kept by number, for instances that can be neither hashed nor referred to."""

    def __init__(self, make: Callable[[Any], Carrier], call: Any, *, keep: bool) -> None:
        self._make, self._call, self._keep = make, call, keep
        self._kept: dict[int, tuple[Any, Any]] = {}

    def __call__(self, app: Any) -> Any:
        carrier = self._make(functools.partial(self._call, app))
        return self._kept.setdefault(id(app), (app, carrier))[1] if self._keep else carrier
