"""Work that a test has held back, started after all: in the test's own flow, or as its supervisor would have."""

import functools
import threading
from dataclasses import dataclass
from typing import Any

from postresponse.core.exchange import Exchange
from postresponse.work import homes
from postresponse.work.checks import is_async
from postresponse.work.job import Job

__all__ = ["HeldJob"]


@dataclass(frozen=True, slots=True, eq=False)
class HeldJob:
    """A job that its supervisor did not start, and what it needs to know for that."""

    job: Job[Any]
    exchange: Exchange | None
    timeout: float | None

    def run(self) -> None:
        """Run it to its end in this thread, which has no event loop; async work runs on one, and is waited for.

        A sync function cannot be cut off, so its timeout does not count.
        """
        job, supervisor = self.job, self._supervisor
        if job.done():
            return
        if is_async(job._fn):
            self.start()
        else:
            supervisor._live.add(job)
            supervisor._run_sync(job)
        self._wait()

    def start(self) -> None:
        """Start it beside the caller, as its supervisor would have."""
        job, supervisor = self.job, self._supervisor
        if job.done():
            return
        if is_async(job._fn):
            job._home = self._home()
        supervisor._live.add(job)
        if self.timeout is not None:
            home = job._home or homes.here() or supervisor._own_loop.get()
            job._timer = home.call_later(self.timeout, functools.partial(supervisor._expire, job, self.timeout))
        supervisor._start(job)

    async def arun(self) -> None:
        """As `start`, and wait for its end."""
        self.start()
        await self.wait()

    async def wait(self) -> None:
        """Wait until it is done, however it ends."""
        if not self.job.done():
            await homes.wait_for(self.job)

    def _wait(self) -> None:
        ended = threading.Event()
        self.job.add_done_callback(lambda _: ended.set())
        ended.wait()

    @property
    def _supervisor(self) -> Any:
        return self.job._supervisor

    def _home(self) -> Any:
        """The application's event loop where that runs, as long as a test client keeps it; else that of the test."""
        loop = None if self.exchange is None else self.exchange._loop
        home = homes.of(loop)
        runs = home is not None and not home.is_over() and getattr(loop, "is_running", lambda: True)()
        return home if runs else homes.here() or self._supervisor._own_loop.get()
