"""Event loops that async work runs on: the application's own, or one thread's where there is none.

Nothing here loads an event loop: whoever runs on one has loaded it.
"""

import functools
import sys
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

from postresponse.exceptions import SupervisorClosed
from postresponse.work import green

if TYPE_CHECKING:
    import asyncio

    import trio

    from postresponse.work.asyncio_task import JobTask

__all__ = ["AsyncioHome", "Home", "OwnLoop", "TrioHome", "call_on", "here", "of", "trio_token", "wait_for", "wake"]


class Home(Protocol):
    """An event loop, from any thread."""

    def is_here(self) -> bool:
        """Whether the caller runs on it."""

    def is_over(self) -> bool:
        """Whether nothing runs on it any more, for good."""

    def call_soon(self, call: Callable[..., object], *args: Any) -> None:
        """Call on the loop's thread.

        Raises:
            SupervisorClosed: The loop is closed.
        """

    def spawn(self, job: Any, work: Coroutine[Any, Any, None]) -> Any:
        """On the loop's thread: run *work*, which raises nothing, in a task, and return what can be cancelled."""

    def call_later(self, seconds: float, call: Callable[[], object]) -> Callable[[], None]:
        """Call on the loop's thread after so many *seconds*; return what calls it off."""

    def time(self) -> float:
        """Return the time of the loop's clock, on its thread."""


class AsyncioHome:
    """A loop of asyncio's, or one like it."""

    __slots__ = ("loop",)

    def __init__(self, loop: "asyncio.AbstractEventLoop") -> None:
        self.loop: asyncio.AbstractEventLoop = loop

    def is_here(self) -> bool:
        return sys.modules["asyncio"]._get_running_loop() is self.loop

    def is_over(self) -> bool:
        return self.loop.is_closed()

    def call_soon(self, call: Callable[..., object], *args: Any) -> None:
        try:
            self.loop.call_soon_threadsafe(call, *args)
        except RuntimeError as error:
            raise SupervisorClosed("the event loop that the job belongs to is closed") from error

    def spawn(self, job: Any, work: Coroutine[Any, Any, None]) -> Any:
        task = _task_type()(work, loop=self.loop, name=job.name, context=job._context)
        task.job = job
        return task

    def call_later(self, seconds: float, call: Callable[[], object]) -> Callable[[], None]:
        if self.is_here():
            return self.loop.call_later(seconds, call).cancel
        handle: list[Any] = []
        self.call_soon(lambda: handle.append(self.loop.call_later(seconds, call)))
        return lambda: self._call_off(handle)

    def time(self) -> float:
        return self.loop.time()

    def _call_off(self, handle: "list[asyncio.TimerHandle]") -> None:
        with suppress(SupervisorClosed):
            self.call_soon(lambda: handle[0].cancel())


@functools.cache
def _task_type() -> "type[JobTask]":
    from postresponse.work.asyncio_task import JobTask

    return JobTask


class TrioHome:
    """A run of trio's. What runs there is a system task: it outlives every nursery, and ends with the run."""

    __slots__ = ("loop",)

    def __init__(self, loop: "trio.lowlevel.TrioToken") -> None:
        self.loop: trio.lowlevel.TrioToken = loop

    def is_here(self) -> bool:
        return trio_token() is self.loop

    def is_over(self) -> bool:
        try:
            self.call_soon(int)
        except SupervisorClosed:
            return True
        return False

    def call_soon(self, call: Callable[..., object], *args: Any) -> None:
        trio = sys.modules["trio"]
        try:
            self.loop.run_sync_soon(call, *args)
        except trio.RunFinishedError as error:
            raise SupervisorClosed("the run of trio that the job belongs to is over") from error

    def spawn(self, job: Any, work: Coroutine[Any, Any, None]) -> Any:
        trio = sys.modules["trio"]
        scope, began, last_began = trio.CancelScope(), trio.Event(), _last_began()
        before = last_began.get(None)
        last_began.set(began)

        async def scoped() -> None:
            if before is not None and not before.is_set():  # trio begins what is due in any order
                await before.wait()
            began.set()
            with scope:
                await work

        trio.lowlevel.spawn_system_task(scoped, name=job.name, context=job._context)
        return scope

    def call_later(self, seconds: float, call: Callable[[], object]) -> Callable[[], None]:
        trio = sys.modules["trio"]
        scope = trio.CancelScope()

        async def later() -> None:
            with scope:
                await trio.sleep(seconds)
                call()

        if self.is_here():
            trio.lowlevel.spawn_system_task(later)
        else:
            self.call_soon(trio.lowlevel.spawn_system_task, later)
        return lambda: self._call_off(scope)

    def time(self) -> float:
        return sys.modules["trio"].current_time()  # type: ignore[no-any-return]

    def _call_off(self, scope: "trio.CancelScope") -> None:
        with suppress(SupervisorClosed):
            self.call_soon(scope.cancel)


@functools.cache
def _last_began() -> "trio.lowlevel.RunVar[trio.Event | None]":
    """Of each run, what is set once the job that was spawned last has begun."""
    return sys.modules["trio"].lowlevel.RunVar("postresponse: the last job")  # type: ignore[no-any-return]


def trio_token() -> Any:
    """The run of trio's that the caller is in, or None."""
    trio = sys.modules.get("trio")
    if trio is None or not trio.lowlevel.in_trio_run():
        return None
    return trio.lowlevel.current_trio_token()


def of(loop: Any) -> AsyncioHome | TrioHome | None:
    """The home of *loop*: one of asyncio's, or a token of trio's."""
    if loop is None:
        return None
    return TrioHome(loop) if hasattr(loop, "run_sync_soon") else AsyncioHome(loop)


def here() -> AsyncioHome | TrioHome | None:
    """The event loop that the caller runs on, or None."""
    asyncio = sys.modules.get("asyncio")
    loop = None if asyncio is None else asyncio._get_running_loop()
    if loop is not None:
        return AsyncioHome(loop)
    token = trio_token()
    return None if token is None else TrioHome(token)


def call_on(home: Home, call: Callable[..., object], *args: Any) -> None:
    """Call on the thread of *home*: at once where the caller runs there, else soon.

    Raises:
        SupervisorClosed: The loop is closed.
    """
    if home.is_here():
        call(*args)
    else:
        home.call_soon(call, *args)


def wake(home: Home, call: Callable[[], object]) -> bool:
    """As `call_on`, for who waits there; False where the loop is closed, since nobody waits there any more."""
    try:
        call_on(home, call)
    except SupervisorClosed:
        return False
    return True


async def wait_for(job: Any) -> None:
    """Wait until *job* is done, on whatever event loop."""
    from anyio import Event

    home = here()
    assert home is not None
    done = Event()

    job.add_done_callback(lambda _: wake(home, done.set))
    await done.wait()


class OwnLoop:
    """A loop of asyncio's on a thread of its own, that starts with the first call."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._home: AsyncioHome | None = None

    def get(self) -> AsyncioHome:
        """Return it, running."""
        with self._lock:
            if self._home is None:
                loop, start = _new_loop()
                start(_run, (loop, f"{self._name} loop"))
                self._home = AsyncioHome(loop)
            return self._home

    def end(self) -> None:
        """Let it end, where it runs; a later call starts another one."""
        with self._lock:
            home, self._home = self._home, None
        if home is not None:
            home.loop.call_soon_threadsafe(home.loop.stop)


def _new_loop() -> "tuple[asyncio.AbstractEventLoop, Callable[..., object]]":
    """Make an event loop, and what starts its thread.

    Where gevent has made greenlets of all threads it is a real one, with the selector that gevent took away: whoever
    shares a real thread with a loop of asyncio's that waits is taken by asyncio to run on it.
    """
    import asyncio

    real = green.real_thread()
    if real is None:
        return asyncio.new_event_loop(), _start_thread
    start, selector = real
    return asyncio.SelectorEventLoop(selector), start


def _start_thread(run: Callable[..., object], args: tuple[Any, ...]) -> None:
    threading.Thread(target=run, args=args, daemon=True).start()


def _run(loop: "asyncio.AbstractEventLoop", name: str) -> None:
    import asyncio

    threading.current_thread().name = name
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        loop.close()
