"""How it is measured: contenders in interleaved rounds, each against the first one of its case.

One block is some hundred requests to one contender, in processor time of this process unless the contender says
otherwise. Within a round every contender of a case runs one block; every other round has the order turned round, and
every two it is rotated, so that nobody always follows the same neighbour or always finds a warm cache. A ratio is
the median, over the rounds, of a contender's time divided by the baseline's time in the *same* round: a machine that
is slow for a minute is slow for both. The baseline runs twice, as itself and as the A/A control; how far the control
is from 1.00 is how much noise there is.

The collector is off during a block and what is there before counts as frozen, the same for all. What a request leaves
to the collector is counted apart from the time.
"""

import gc
import os
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module, metadata
from typing import Any, Final, Literal

__all__ = ["Case", "Contender", "Effort", "Kind", "Missing", "Response", "Row", "Subject", "Suite"]
__all__ += ["environment", "measure", "package", "version_of"]

Kind = Literal["limit", "control", "minimum", "peer", "ours"]
"""The limit of what is possible, the A/A control, a minimum written by hand, somebody else's package, or this one."""

GARBAGE_REQUESTS: Final = 50


@dataclass(frozen=True)
class Response:
    """What a client would have: the proof that a contender really served.

    Attributes:
        status: The status code.
        size: Bytes of the body.
        digest: A checksum of the body.
    """

    status: int
    size: int
    digest: int


class Subject:
    """A contender that is set up and can be asked."""

    def response(self) -> Response | None:
        """Serve one request and return what came of it; None where nothing is served."""
        return None

    def seconds(self, count: int) -> float:
        """Do the job *count* times and return the seconds that it cost."""
        raise NotImplementedError

    def garbage(self, count: int) -> int | None:
        """Serve *count* requests and return the objects left to the collector; None where that means nothing."""
        return None

    def facts(self) -> dict[str, Any]:
        """Tell what else is worth knowing; asked once, after the last round."""
        return {}

    def close(self) -> None:
        """Let everything go."""


@dataclass(frozen=True)
class Contender:
    """One row: somebody who does the job.

    Args:
        name: What the table calls it.
        kind: What sort of contender it is.
        make: Sets it up.
        needs: Distributions that it needs, as pip calls them.
        target: The ratio that the design asks of it, where it asks for one.
        limits: What the design asks of its facts: each at most so much.
    """

    name: str
    kind: Kind
    make: Callable[[], Subject]
    needs: tuple[str, ...] = ()
    target: float | None = None
    limits: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """Contenders that are compared with the first of them."""

    name: str
    contenders: Sequence[Contender]


@dataclass(frozen=True)
class Suite:
    """One job.

    Args:
        name: What `--suite` calls it.
        title: What the table calls it.
        cases: The same job in several sizes.
        block: Seconds of a block beside the usual, as a factor: for what is coarser to measure.
        rounds: Rounds beside the usual, as a factor.
        axis: What grows from case to case, where something does: then the table shows how the cost grows with it.
    """

    name: str
    title: str
    cases: Callable[[], Sequence[Case]]
    block: float = 1.0
    rounds: float = 1.0
    axis: str = ""


@dataclass(frozen=True)
class Effort:
    """How long to measure.

    Args:
        rounds: How often each contender runs.
        block: Seconds that one of its runs lasts, about.
    """

    rounds: int
    block: float

    def of(self, suite: Suite) -> "Effort":
        """Return the effort that *suite* takes."""
        return Effort(max(2, round(self.rounds * suite.rounds)), self.block * suite.block)


@dataclass
class Row:
    """What was measured of one contender.

    Attributes:
        response: What it served.
        requests: How many of them are a block.
        seconds: What one request cost, in each round.
        ratios: The same over the baseline's of the same round.
        garbage: Objects left to the collector, a request.
        facts: What else was found out.
    """

    contender: Contender
    response: Response | None = None
    requests: int = 0
    seconds: list[float] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)
    garbage: float | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def ratio(self) -> float:
        """The median ratio."""
        return statistics.median(self.ratios)

    @property
    def median(self) -> float:
        """The median seconds of a request."""
        return statistics.median(self.seconds)

    @property
    def spread(self) -> tuple[float, float]:
        """The ratios between which the middle half of the rounds lies."""
        quarters = statistics.quantiles(self.ratios, n=4, method="inclusive")
        return quarters[0], quarters[2]

    @property
    def met(self) -> bool | None:
        """Whether everything that is asked is met; None where nothing is."""
        asked = [self.facts[name] <= limit for name, limit in self.contender.limits.items() if name in self.facts]
        if self.contender.target is not None:
            asked.append(self.ratio <= self.contender.target)
        return all(asked) if asked else None


class Missing(Exception):
    """A contender cannot be measured, because distributions are not installed.

    Attributes:
        distributions: Which, as pip calls them.
    """

    def __init__(self, distributions: Sequence[str]) -> None:
        super().__init__(f"not installed: {', '.join(distributions)}")
        self.distributions = tuple(distributions)


def package(name: str) -> Any:
    """Import the module *name* of a contender: it need not be installed, and may have no types."""
    return import_module(name)


def environment() -> dict[str, str]:
    """Return the environment for a process that is measured: coverage would cost time there and load modules."""
    return {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}


def measure(case: Case, effort: Effort, note: Callable[[str], object]) -> tuple[list[Row], list[str]]:
    """Measure *case* and return its rows, and the distributions that were missing.

    Args:
        note: Told of whom is left out.

    Raises:
        AssertionError: A contender did not serve what the first one served.
    """
    rows: list[Row] = []
    subjects: list[Subject] = []
    missing: list[str] = []
    try:
        for contender in _with_control(case.contenders):
            try:
                subjects.append(_set_up(contender))
            except Missing as error:
                missing.extend(error.distributions)
                note(f"{contender.name}: left out, {error}")
            else:
                rows.append(Row(contender))
        with _frozen():
            _prepare(rows, subjects, effort)
        with _frozen():
            _run_rounds(rows, subjects, effort)
        for row, subject in zip(rows, subjects, strict=True):
            row.facts = subject.facts()
    finally:
        for subject in reversed(subjects):
            subject.close()
    for row in rows:
        row.ratios = [own / base for own, base in zip(row.seconds, rows[0].seconds, strict=True)]
    return rows, missing


def _with_control(contenders: Sequence[Contender]) -> list[Contender]:
    first = contenders[0]
    return [first, Contender(f"{first.name}, again (A/A)", "control", first.make, first.needs), *contenders[1:]]


def _set_up(contender: Contender) -> Subject:
    missing = [name for name in contender.needs if version_of(name) is None]
    if missing:
        raise Missing(missing)
    return contender.make()


def version_of(distribution: str) -> str | None:
    """The installed version of *distribution*, or None."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _prepare(rows: Sequence[Row], subjects: Sequence[Subject], effort: Effort) -> None:
    """Check that everybody serves, find out how many requests make a block, and count what they leave behind."""
    for row, subject in zip(rows, subjects, strict=True):
        row.response = subject.response()
        assert row.response == rows[0].response, (
            f"{row.contender.name} served {row.response}, and {rows[0].contender.name} {rows[0].response}"
        )
        row.requests = _requests(subject, effort.block)
        few = min(row.requests, GARBAGE_REQUESTS)
        left = subject.garbage(few)
        row.garbage = None if left is None else left / few


def _requests(subject: Subject, block: float) -> int:
    """How many requests take *block* seconds; the first ones warm up and count only where one is a block already."""
    once = subject.seconds(1)
    if once > block:
        return 1
    return max(1, round(block / max(subject.seconds(5) / 5, 1e-7)))


@contextmanager
def _frozen() -> Iterator[None]:
    """Leave what is there already out of all that the collector looks at."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _run_rounds(rows: Sequence[Row], subjects: Sequence[Subject], effort: Effort) -> None:
    gc.disable()
    try:
        for number in range(effort.rounds):
            for at in _order(len(rows), number):
                gc.collect()
                rows[at].seconds.append(subjects[at].seconds(rows[at].requests) / rows[at].requests)
    finally:
        gc.enable()


def _order(count: int, number: int) -> list[int]:
    """Who runs when in round *number*."""
    order = [(at + number // 2) % count for at in range(count)]
    return order[::-1] if number % 2 else order
