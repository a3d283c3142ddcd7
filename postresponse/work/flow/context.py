"""What the steps of one run share."""

import threading
from collections.abc import Mapping
from typing import Any, Protocol

from postresponse.exceptions import WrongThread
from postresponse.work.flow.result import FlowResult

__all__ = ["FlowContext"]


class _Run(Protocol):
    root: FlowResult
    thread: int
    active: int


class FlowContext:
    """An object whose attributes the steps of one run share; it has one writer at a time, and no lock.

    Async steps write on the thread of the event loop, whatever is beside them. A sync step may write while nothing is;
    beside others it returns what it has to say, and the steps behind find that in `results`.

    Args:
        values: The first attributes.

    Example:
        >>> ctx = FlowContext(order=4711)
        >>> ctx.order
        4711
    """

    _run: _Run | None = None

    def __init__(self, **values: Any) -> None:
        self.__dict__.update(values)

    @property
    def result(self) -> FlowResult | None:
        """What is known of the run so far, while it goes on too; None before it began."""
        return None if self._run is None else self._run.root

    @property
    def results(self) -> Mapping[str, Any]:
        """What each step returned that is done, by name; a list for a name that stands several times."""
        return {} if self._run is None else self._run.root.values

    def __setattr__(self, name: str, value: Any) -> None:
        self._check_writer(name)
        super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        self._check_writer(name)
        super().__delattr__(name)

    def _check_writer(self, name: str) -> None:
        run = self._run
        if run is not None and run.active > 1 and threading.get_ident() != run.thread:
            raise WrongThread(
                f"ctx.{name} is written by a sync step while others run beside it: return the value, which is in "
                "ctx.results then, or make the step async"
            )

    def __getattr__(self, name: str) -> Any:  # for type checkers: its attributes are its users'
        raise AttributeError(f"ctx has no {name!r}; it has {', '.join(self._values()) or 'nothing yet'}")

    def _values(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_run"}

    def __repr__(self) -> str:
        return f"FlowContext({', '.join(f'{name}={value!r}' for name, value in self._values().items())})"
