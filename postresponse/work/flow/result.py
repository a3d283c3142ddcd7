"""What came of a run: a tree of what ran, when, and beside what."""

import enum
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from postresponse.work.flow.drawing import gantt, tree

__all__ = ["FlowResult", "FlowState"]


class FlowState(enum.StrEnum):
    """Where a step, or what is made of steps, stands."""

    WAITING = "waiting"
    RUNNING = "running"
    SUSPENDED = "suspended"
    """It waits for `complete`."""
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    LEFT_BEHIND = "left behind"
    """Its run is over, and its function runs on: a thread cannot be stopped."""
    SKIPPED = "skipped"
    """One before it failed, or the run was cancelled."""


@dataclass
class FlowResult:
    """What came of one step, or of steps together. It is there from the beginning of a run, and told to nobody else.

    Attributes:
        name: The flow's.
        kind: `"step"`, `"seq"` or `"par"`.
        state: Where it stands.
        value: What it returned: of a sequence the last value, of what runs beside each other a list.
        error: What a step raised.
        began: When it began, in seconds of the event loop's clock since the run began; None if it did not.
        ended: When it ended, likewise.
        suspended: From when to when it waited for a completion, likewise.
        children: Of what it is made; of a step, the flow that it returned.
    """

    name: str
    kind: str
    state: FlowState = FlowState.WAITING
    value: Any = None
    error: BaseException | None = None
    began: float | None = None
    ended: float | None = None
    suspended: list[tuple[float, float]] = field(default_factory=list)
    children: "list[FlowResult]" = field(default_factory=list)

    def steps(self) -> "Iterator[FlowResult]":
        """Give the result of every step, in the order of the flow."""
        if self.kind == "step":
            yield self
        for each in self.children:
            yield from each.steps()

    @property
    def values(self) -> dict[str, Any]:
        """What each step returned that is done, by name; a list for a name that stands several times."""
        found: dict[str, list[Any]] = {}
        every = [each.name for each in self.steps()]
        for each in self.steps():
            if each.state is FlowState.DONE:
                found.setdefault(each.name, []).append(each.value)
        return {name: values if every.count(name) > 1 else values[0] for name, values in found.items()}

    @property
    def errors(self) -> list[BaseException]:
        """What the steps raised that failed."""
        return [each.error for each in self.steps() if each.error is not None]

    def __getitem__(self, name: str) -> "FlowResult":
        """Return the result of the first step, or flow, of that name.

        Raises:
            KeyError: There is none.
        """
        found = [each for each in self._all() if each.name == name]
        if not found:
            raise KeyError(f"there is no {name!r}; there is {', '.join(repr(each.name) for each in self.steps())}")
        return found[0]

    def _all(self) -> "Iterator[FlowResult]":
        yield self
        for each in self.children:
            yield from each._all()

    def __str__(self) -> str:
        return tree(self)

    def mermaid(self) -> str:
        """Return what ran when, and beside what, as text for a Gantt chart of Mermaid's."""
        return gantt(self)
