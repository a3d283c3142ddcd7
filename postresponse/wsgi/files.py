"""The server's own wrapper around a file, which it may send by sendfile where it recognises it."""

from collections.abc import Callable
from typing import Any

__all__ = ["is_file", "watch_close"]


def is_file(environ: dict[str, Any], body: Any) -> bool:
    """Whether *body* is the server's file wrapper."""
    wrapper = environ.get("wsgi.file_wrapper")
    return isinstance(wrapper, type) and isinstance(body, wrapper)


def watch_close(body: Any, closed: Callable[[Callable[[], object] | None], object]) -> bool:
    """Call *closed* once instead of the `close` of *body*, which it gets; False where that cannot be replaced."""
    close = getattr(body, "close", None)
    done = False

    def watched() -> None:
        nonlocal done
        if not done:
            done = True
            closed(close)

    try:
        body.close = watched
    except AttributeError:
        return False
    return True
