"""A time limit for a blocking clean-up: what hangs in the network is cut off from another thread."""

import logging
import threading
from collections.abc import Callable
from typing import Any, Final

__all__ = ["within"]

logger: Final = logging.getLogger("postresponse")


def within(limit: float | None, call: Callable[..., Any], args: tuple[Any, ...], unit: Any) -> Any:
    """Return `call(*args)`; past *limit* seconds the unit's connection is severed, so that the call fails and returns.

    A unit of work without `sever` cannot be cut off: then an ERROR names the call that hangs.
    """
    if limit is None:
        return call(*args)

    def bite() -> None:
        logger.error("%r has taken over %s s; its connection is severed", call, limit)
        sever = getattr(unit, "sever", None)
        if sever is not None:
            sever()

    timer = threading.Timer(limit, bite)
    timer.daemon = True
    timer.start()
    try:
        return call(*args)
    finally:
        timer.cancel()
