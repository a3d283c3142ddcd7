"""Threads that stay: sync work is handed to one that is idle, and no thread is made for each piece of it."""

import os
import sys
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from queue import Empty, SimpleQueue
from typing import Any, Final, ParamSpec, TypeVar

from postresponse.exceptions import SupervisorClosed
from postresponse.work import homes
from postresponse.work.green import handed_over

__all__ = ["Strand", "Threads", "on_thread"]

P = ParamSpec("P")
T = TypeVar("T")

Work = Callable[[], Callable[[], object] | None]
END: Final = None


class Threads:
    """At most so many daemon threads, each started when there is work and none is idle.

    Args:
        limit: Threads at most.
        name: What their names begin with.
    """

    def __init__(self, limit: int, name: str) -> None:
        self._limit = limit
        self._name = name
        self._lock = threading.Lock()
        self._queue: SimpleQueue[Work | None] = SimpleQueue()
        self._idle = 0
        self._count = 0

    def put(self, work: Work) -> None:
        """Call *work*, which raises nothing, on a thread; first come, first served.

        What it returns is called in the end, once the thread counts as idle: to tell who may have more work at once.
        """
        if handed_over(self.put, work):
            return
        with self._lock:
            # First, or a thread that starts meanwhile finds nothing, and counts as idle while it runs this.
            self._queue.put(work)
            if self._idle:
                self._idle -= 1
            elif self._count < self._limit:
                threading.Thread(target=self._run, name=f"{self._name} {self._count + 1}", daemon=True).start()
                self._count += 1

    def end(self) -> None:
        """Let every thread end once it is idle; later work starts new ones."""
        with self._lock:
            for _ in range(self._count):
                self._queue.put(END)
            self._count = self._idle = 0
            self._queue = SimpleQueue()

    def _run(self) -> None:
        queue, is_idle = self._queue, False
        while True:
            try:
                work = queue.get_nowait()
            except Empty:
                if not is_idle:
                    self._count_idle(queue)
                work = queue.get()
            if work is END:
                return
            tell = work()
            del work
            is_idle = tell is not None
            if tell is not None:
                self._count_idle(queue)
                tell()
                del tell

    def _count_idle(self, queue: SimpleQueue[Work | None]) -> None:
        with self._lock:
            if queue is self._queue:
                self._idle += 1


class Strand:
    """Work that runs one piece after another, in order, on whatever thread: what one response leaves behind."""

    __slots__ = ("_lock", "_run", "_runs", "_threads", "_waiting")

    def __init__(self, threads: Threads, run: Callable[[Any], object]) -> None:
        self._threads = threads
        self._run = run
        self._lock = threading.Lock()
        self._waiting: deque[Any] = deque()
        self._runs = False

    def put(self, job: Any) -> None:
        """Run *job* behind those that are there."""
        with self._lock:
            self._waiting.append(job)
            if self._runs:
                return
            self._runs = True
        self._threads.put(self)

    def overtake(self) -> None:
        """Go on without waiting for the piece that runs, which takes too long."""
        self._threads.put(self)

    def __call__(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._runs = False
                    return
                job = self._waiting.popleft()
            self._run(job)


async def on_thread(fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Return what *fn* returns, called on a thread in a copy of the caller's context.

    If the caller is cancelled meanwhile the call is left behind, and does not keep the process from ending; one that
    has not begun is not made. How many go on at once is the caller's to bound.
    """
    from anyio import Event
    from anyio.lowlevel import checkpoint_if_cancelled

    await checkpoint_if_cancelled()
    home = homes.here()
    assert home is not None
    context, ended, is_wanted = copy_context(), Event(), True
    result: Any = None
    error: BaseException | None = None

    def call() -> Callable[[], None] | None:
        nonlocal result, error
        if not is_wanted:
            return None
        try:
            result = context.run(fn, *args, **kwargs)
        except BaseException as raised:  # noqa: BLE001 (raised to who waits)
            error = raised
        return tell

    def tell() -> None:
        with suppress(SupervisorClosed):  # then nobody waits any more
            home.call_soon(ended.set)

    _threads.put(call)
    try:
        await ended.wait()
    finally:
        is_wanted = False
    if error is not None:
        try:
            raise error
        finally:
            error = None  # whose traceback has this frame
    return result  # type: ignore[no-any-return]


def _begin_anew() -> None:
    """Have no threads, in a process that has just begun."""
    global _threads
    _threads = Threads(sys.maxsize, "postresponse call")


_threads = Threads(sys.maxsize, "postresponse call")
os.register_at_fork(after_in_child=_begin_anew)
