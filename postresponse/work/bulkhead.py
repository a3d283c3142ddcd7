"""A named bound on work: so many at once, so many that wait, and no more."""

import concurrent.futures
import functools
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar, overload

from postresponse.exceptions import ConfigurationError, SupervisorClosed
from postresponse.work.checks import check_count, check_seconds
from postresponse.work.current import default_supervisor
from postresponse.work.job import Job
from postresponse.work.supervisor import TaskSupervisor

__all__ = ["Bulkhead", "BulkheadLimits"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class BulkheadLimits:
    """The limits of a bulkhead.

    Attributes:
        max_concurrency: How many run at once, at least 1.
        max_queue: How many may wait for a slot, 0 for none.
        timeout: Seconds that each may take, waiting included; None for as long as it takes.

    Raises:
        ConfigurationError: A number below that.
    """

    max_concurrency: int = 1
    max_queue: int = 50
    timeout: float | None = 60.0

    def __post_init__(self) -> None:
        for option, least in (("max_concurrency", 1), ("max_queue", 0)):
            check_count(option, getattr(self, option), least=least)
        if self.timeout is not None:
            check_seconds("timeout", self.timeout)


class Bulkhead(concurrent.futures.Executor):
    """A named bound on the work of a supervisor, first come, first served; and an executor for whoever wants one.

    Whether there is room is decided at once, in the caller's thread. A slot is given back once, when the work has
    really ended: a function that is late on its thread keeps its slot until it returns.

    Args:
        name: By which `launch` and `after_response` find it. Two of one name share one bound.
        max_concurrency: How many run at once.
        max_queue: How many may wait for a slot.
        timeout: Seconds that each may take, waiting included, where it has none of its own.
        supervisor: Whose work it bounds; None for the process's.

    Raises:
        ConfigurationError: A limit that it cannot have, or other limits than one of the same name has.
    """

    def __init__(
        self,
        name: str,
        *,
        max_concurrency: int = 1,
        max_queue: int = 50,
        timeout: float | None = None,
        supervisor: TaskSupervisor | None = None,
    ) -> None:
        if not isinstance(name, str) or not name:
            raise ConfigurationError(f"name: expected a word, found {name!r}")
        self.name: str = name
        self.limits: BulkheadLimits = BulkheadLimits(max_concurrency, max_queue, timeout)
        self._supervisor = supervisor or default_supervisor()
        self._closed = False
        self._supervisor._add_gate(name, self.limits)

    @overload
    def submit(self, fn: Callable[..., Coroutine[Any, Any, T]], /, *args: Any, **kwargs: Any) -> Job[T]: ...
    @overload
    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Job[T]: ...
    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Job[Any]:
        """Start `fn(*args, **kwargs)` as soon as a slot is free.

        Raises:
            TooManyTasks: No slot is free, nor room to wait.
            SupervisorClosed: The bulkhead was shut down, or its supervisor closed.
        """
        if self._closed:
            raise SupervisorClosed(f"the bulkhead {self.name!r} was shut down")
        call = functools.partial(fn, **kwargs) if kwargs else fn
        return self._supervisor.launch(call, *args, bulkhead=self)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Refuse further work; what was taken goes on under the supervisor.

        Args:
            wait: Whether to wait for it.
            cancel_futures: Whether to cancel what has not started.
        """
        self._closed = True
        jobs = self._supervisor._jobs_of(self.name)
        if cancel_futures:
            for job in jobs:
                if job.state == "waiting":
                    job.cancel()
        if wait:
            concurrent.futures.wait(jobs)

    @property
    def running(self) -> int:
        """How many have a slot."""
        return self._supervisor._gates[self.name].running

    @property
    def waiting(self) -> int:
        """How many wait for one."""
        return len(self._supervisor._gates[self.name].waiting)
