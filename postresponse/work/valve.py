"""Ending a stream from outside: closed once, for good, from any thread.

No cancel scope is held across a `yield`: one is entered around each wait for the next item and left before it is handed
on, so that whoever iterates may break off, be cancelled, or go on in another task.
"""

import threading
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Generic, TypeVar
from weakref import ref

from postresponse.exceptions import NotAFunction, WrongThread
from postresponse.work import homes

__all__ = ["Valve", "ValveGroup"]

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)


class Valve:
    """Open until it is closed; then closed for good. Every method may be called from any thread.

    Attributes:
        reason: Why it was closed, or None.
        error: What `guard` raises at the end instead of ending normally, or None.
    """

    def __init__(self) -> None:
        self.reason: object = None
        self.error: BaseException | None = None
        self._lock = threading.Lock()
        self._closed = False
        self._wakes: dict[object, Callable[[], object]] = {}

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._closed

    def close(self, reason: object = None, *, error: BaseException | None = None) -> bool:
        """Close it: every guarded stream ends, even one that waits for its next item.

        Args:
            reason: Kept for whoever asks why.
            error: Raised by the guarded streams; None ends them normally.

        Returns:
            False if it was closed already; then nothing changes.
        """
        with self._lock:
            if self._closed:
                return False
            self.reason, self.error, self._closed = reason, error, True
            wakes, self._wakes = list(self._wakes.values()), {}
        for wake in wakes:
            wake()
        return True

    async def wait(self) -> object:
        """Wait until it is closed, and return the reason."""
        from anyio import Event

        closed = Event()
        with self._woken(closed.set):
            await closed.wait()
        return self.reason

    async def guard(self, source: AsyncIterable[T]) -> AsyncGenerator[T, None]:
        """Hand on the items of an async iterable until it ends, or the valve is closed.

        A closed valve never starts the source. A source that waits for its next item is cancelled there, and its
        `finally` has run before this ends.
        """
        from anyio import CancelScope

        if not hasattr(source, "__aiter__"):
            raise NotAFunction(f"guard() takes an async iterable, found {source!r}; guard_sync() takes a plain one")
        items = None
        try:
            while not self._closed:
                if items is None:
                    items = aiter(source)
                with CancelScope() as scope, self._woken(scope.cancel):
                    try:
                        item = await anext(items)
                    except StopAsyncIteration:
                        return
                if scope.cancelled_caught or self._closed:
                    break
                yield item
        finally:
            close = getattr(items if items is not None else source, "aclose", None)
            if close is not None:
                await close()
        if self.error is not None:
            raise self.error

    def guard_sync(self, source: Iterable[T]) -> Iterator[T]:
        """Hand on the items of a plain iterable; whether the valve is closed is looked at between items.

        One that waits long for its next item ends that much later: let it give an empty item now and then.
        """
        items: Any = None
        try:
            if self._closed:
                return
            items = iter(source)
            for item in items:
                if self._closed:
                    break
                yield item
                if self._closed:
                    break
        finally:
            close = getattr(items if items is not None else source, "close", None)
            if close is not None:
                close()
        if self.error is not None:
            raise self.error

    @contextmanager
    def _woken(self, call: Callable[[], object]) -> Iterator[None]:
        """Have *call* called on this loop when the valve closes; at once if it is closed."""
        home = homes.here()
        if home is None:
            raise WrongThread("a valve is awaited on an event loop; use guard_sync(), or ask whether it is closed")

        wake = partial(homes.wake, home, call)
        with self._lock:
            if not self._closed:
                self._wakes[wake] = wake
        if self._closed:
            call()
        try:
            yield
        finally:
            with self._lock:
                self._wakes.pop(wake, None)


class ValveGroup(Generic[K]):
    """The valves of all streams, by session or whatever they end together with.

    It keeps a valve as long as somebody else does: a stream that has ended leaves nothing behind.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a valve may be collected while it is held
        self._valves: dict[K, set[ref[Valve]]] = {}

    def open(self, key: K) -> Valve:
        """Return a new valve that `close(key)` closes."""
        valve = Valve()
        with self._lock:
            self._valves.setdefault(key, set()).add(ref(valve, lambda gone: self._forget(key, gone)))
        return valve

    def close(self, key: K, reason: object = None, *, error: BaseException | None = None) -> int:
        """Close every valve of *key*, and return how many were open. Valves that are opened later are open."""
        with self._lock:
            valves = [valve for each in self._valves.pop(key, ()) if (valve := each()) is not None]
        return sum(valve.close(reason, error=error) for valve in valves)

    def close_all(self, reason: object = None, *, error: BaseException | None = None) -> int:
        """Close every valve there is, as a server that shuts down does, and return how many were open."""
        return sum(self.close(key, reason, error=error) for key in self.keys())

    def keys(self) -> list[K]:
        """Return the keys that have a valve, open or in use."""
        with self._lock:
            return list(self._valves)

    def _forget(self, key: K, gone: "ref[Valve]") -> None:
        with self._lock:
            valves = self._valves.get(key)
            if valves is not None:
                valves.discard(gone)
                if not valves:
                    del self._valves[key]
