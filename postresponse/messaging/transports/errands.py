"""A thread that does what is handed to it, one errand after the other, and looks after something in between."""

import select
import socket
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, Final

from anyio import Event

from postresponse.exceptions import SupervisorClosed
from postresponse.work import homes

__all__ = ["Errands"]

LONGEST: Final = 60.0


class Errands:
    """A thread for what blocks.

    Args:
        name: The thread's.
        turn: Called between the errands, on the thread; returns the seconds until it is called again at the latest, and
            what wakes it before when it can be read.
        behind: One whose thread is waited for, as both look after the same.
    """

    def __init__(self, name: str, turn: Callable[[], tuple[float, Any]], behind: "Errands | None" = None) -> None:
        self._turn = turn
        self._behind = behind
        self._errands: deque[tuple[Future[Any], Callable[..., Any], tuple[Any, ...]]] = deque()
        self._lock = threading.Lock()
        self._near, self._far = socket.socketpair()
        self._near.setblocking(False)
        self._far.setblocking(False)
        self._is_over = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Have a turn now; from any thread."""
        with suppress(OSError):  # it is full, and wakes; or closed
            self._near.send(b"\0")

    def ask(self, errand: Callable[..., Any], *args: Any) -> Future[Any]:
        """Have *errand* done, behind those that were handed over before."""
        return self._put(errand, args)

    def _put(self, errand: Callable[..., Any], args: tuple[Any, ...], *, is_last: bool = False) -> Future[Any]:
        future: Future[Any] = Future()
        with self._lock:
            if self._is_over:
                future.set_exception(ConnectionError("the transport is closed"))
                return future
            self._errands.append((future, errand, args))
            self._is_over = is_last
        self.wake()
        return future

    async def done(self, errand: Callable[..., Any], *args: Any) -> Any:
        """As `ask`, awaited; who is cancelled meanwhile waits no longer, and it is done all the same."""
        return await _awaited(self.ask(errand, *args))

    def end(self, errand: Callable[..., Any]) -> Future[Any]:
        """Have *errand* done as the last one; there is no turn behind it."""
        return self._put(errand, (), is_last=True)

    async def ended(self, errand: Callable[..., Any]) -> Any:
        """As `end`, awaited."""
        return await _awaited(self.end(errand))

    def _run(self) -> None:
        if self._behind is not None:
            self._behind._thread.join()
            self._behind = None
        try:
            while True:
                while self._errands:
                    _do(*self._errands.popleft())
                with self._lock:
                    if self._is_over and not self._errands:
                        return
                self._sleep(*self._turn())
        finally:
            self._near.close()
            self._far.close()

    def _sleep(self, seconds: float, readable: Any) -> None:
        poll = select.poll()
        poll.register(self._far, select.POLLIN)
        if readable is not None and readable.fileno() >= 0:
            poll.register(readable, select.POLLIN)
        poll.poll(min(max(seconds, 0.0), LONGEST) * 1000)
        with suppress(OSError):  # nobody wakes
            while self._far.recv(4096):
                pass


def _do(future: Future[Any], errand: Callable[..., Any], args: tuple[Any, ...]) -> None:
    try:
        result = errand(*args)
    except BaseException as error:  # noqa: BLE001 (whoever asked has it)
        future.set_exception(error)
    else:
        future.set_result(result)


async def _awaited(future: Future[Any]) -> Any:
    home, told = homes.here(), Event()
    assert home is not None

    def tell(_: object) -> None:
        with suppress(SupervisorClosed):  # then nobody waits there any more
            home.call_soon(told.set)

    future.add_done_callback(tell)
    await told.wait()
    return future.result()
