"""Threads that stay: sync work is handed to one that is idle, and no thread is made for each piece of it."""

import threading
from collections import deque
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, Final

__all__ = ["Strand", "Threads"]

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
        self._queue: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._idle = 0
        self._count = 0

    def put(self, work: Callable[[], object]) -> None:
        """Call *work*, which raises nothing, on a thread; first come, first served."""
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
        queue = self._queue
        while True:
            try:
                work = queue.get_nowait()
            except Empty:
                with self._lock:
                    if queue is self._queue:
                        self._idle += 1
                work = queue.get()
            if work is END:
                return
            work()
            del work


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
