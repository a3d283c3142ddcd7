"""Server-Timing (W3C): a browser's developer tools show how long the handler and the commit took."""

from functools import partial
from typing import Any
from weakref import ref

from postresponse.core.exchange import Exchange
from postresponse.core.lifecycle import UnitState
from postresponse.core.observer import asked
from postresponse.observing import Observer

__all__ = ["ServerTiming"]


class ServerTiming(Observer):
    """Adds `Server-Timing` to every response: `handler`, and `commit` or `rollback`, in milliseconds.

    The commit is in it where it comes before the head: at the head and buffered, not after the last part, and not where
    the middleware only observes. An error response in the place of a response that could not be committed has neither.

    It tells whoever asks how long a request takes inside: for debugging, and for peers that may know.

    Example:
        >>> from postresponse.wsgi import PostResponseMiddleware
        >>> def app(environ, start_response): ...
        >>> app = PostResponseMiddleware(app, observers=[ServerTiming()])
    """

    def began(self, exchange: Any) -> object:
        """Wait for the head."""
        exchange.on_start(partial(asked, self, "_leaving"))
        return None

    def _leaving(self, exchange: Exchange) -> None:
        now = exchange._settings.clock()
        until = now if exchange._settling is None else exchange._settling
        exchange.headers.append(("Server-Timing", f"handler;dur={_ms(exchange._began, until)}"))
        if exchange._settling is not None:  # committed early
            self._settled(ref(exchange))
        elif exchange._unit is not None:
            settled = partial(asked, self, "_settled", ref(exchange))
            exchange.after_commit(settled)
            exchange.after_rollback(settled)

    def _settled(self, found: "ref[Exchange]") -> None:
        exchange = found()
        if exchange is None or exchange._head_sent is not None:
            return
        began, ended = exchange._settling or 0, exchange._settled or 0
        name = "commit" if exchange.unit_of_work is UnitState.COMMITTED else "rollback"
        exchange.headers.append(("Server-Timing", f"{name};dur={_ms(began, ended)}"))


def _ms(since: int, until: int) -> str:
    return f"{(until - since) / 1e6:.2f}"
