"""Who may run and who waits: a bound on both, first come, first served. No lock, no clock, no thread."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Generic, TypeVar

from postresponse.exceptions import TooManyTasks

__all__ = ["Gate"]

T = TypeVar("T")


class Gate(Generic[T]):
    """So many slots, and room for so many that wait for one.

    Args:
        name: Said in the error.
        max_concurrency: Slots, at least 1.
        max_queue: Room to wait, 0 for none.
    """

    __slots__ = ("max_concurrency", "max_queue", "name", "running", "waiting")

    def __init__(self, name: str, max_concurrency: int, max_queue: int) -> None:
        self.name: str = name
        self.max_concurrency: int = max_concurrency
        self.max_queue: int = max_queue
        self.running: int = 0
        self.waiting: OrderedDict[T, None] = OrderedDict()

    def enter(self, who: T) -> bool:
        """Take a slot and return True; or wait for one, and return False.

        Raises:
            TooManyTasks: No slot is free, nor room to wait.
        """
        if self.running < self.max_concurrency and not self.waiting:
            self.running += 1
            return True
        if len(self.waiting) >= self.max_queue:
            raise TooManyTasks(self.name, running=self.running, waiting=len(self.waiting))
        self.waiting[who] = None
        return False

    def give_up(self, who: T) -> bool:
        """Stop to wait; False if *who* did not wait any more."""
        try:
            del self.waiting[who]
        except KeyError:
            return False
        return True

    def leave(self) -> Sequence[T]:
        """Give a slot back, and return those that take one now."""
        self.running -= 1
        return self._admitted() if self.waiting else ()

    def resize(self, max_concurrency: int, max_queue: int) -> Sequence[T]:
        """Change the limits, and return those that take a slot now; nobody loses one, or a place in the queue."""
        self.max_concurrency, self.max_queue = max_concurrency, max_queue
        return self._admitted()

    def _admitted(self) -> Sequence[T]:
        admitted: list[T] = []
        while self.waiting and self.running < self.max_concurrency:
            self.running += 1
            admitted.append(self.waiting.popitem(last=False)[0])
        return admitted

    @property
    def idle(self) -> bool:
        """Whether nobody runs and nobody waits."""
        return self.running == 0 and not self.waiting
