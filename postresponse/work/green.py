"""Where gevent has made greenlets of all threads: an event loop gets a real one, and what it starts is handed over.

Greenlets belong to the real thread that they began on. Sync work runs on those of the thread that serves.
"""

import sys
from collections.abc import Callable
from typing import Any

__all__ = ["handed_over", "real_thread"]

_hub: Any = None


def real_thread() -> tuple[Callable[..., object], Any] | None:
    """Return what starts a real thread, and a selector that waits there; None without gevent.

    The caller's thread is taken to be the one that serves.
    """
    monkey = sys.modules.get("gevent.monkey")
    if monkey is None or not monkey.is_module_patched("threading"):
        return None
    global _hub
    _hub = sys.modules["gevent"].get_hub()
    return monkey.get_original("_thread", "start_new_thread"), monkey.get_original("selectors", "DefaultSelector")()


def handed_over(call: Callable[..., object], *args: Any) -> bool:
    """Have *call* called on the thread that serves, where the caller is on another real one; False where it is not."""
    if _hub is None or sys.modules["gevent"].get_hub() is _hub:
        return False
    _hub.loop.run_callback_threadsafe(call, *args)
    return True
