"""Which runs there are: every single fault of a case, and sampled pairs; each run is checked, and what follows it."""

import itertools
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from tests.faults.database import AsyncOrders, Orders
from tests.faults.kinds import kinds_of
from tests.faults.plan import Call, Fault, Plan
from tests.faults.rules import broken_rules
from tests.faults.shapes import SHAPES
from tests.faults.table import Table
from tests.faults.trial import Case, Trial, run_all
from tests.faults.worlds import AsyncFakes, Fakes, Nothing, World

__all__ = [
    "DATABASES",
    "STANDS",
    "WORLDS",
    "Runs",
    "Violation",
    "case_of",
    "cases_of",
    "fault_of",
    "faults_of",
    "modes_of",
]

WORLDS: Final[dict[str, Callable[[Path], World]]] = {
    "Nothing": Nothing,
    "Fakes": Fakes,
    "AsyncFakes": AsyncFakes,
    "Orders": Orders,
    "AsyncOrders": AsyncOrders,
}
STANDS: Final = {
    "wsgi": ("Nothing", "Fakes", "Orders"),
    "asyncio": ("Nothing", "Fakes", "AsyncFakes", "Orders", "AsyncOrders"),
    "trio": ("Nothing", "AsyncFakes", "Orders"),
}
"""The worlds of each side; aiosqlite needs asyncio."""
COMMITTING: Final = ("head", "buffered", "after_send", "head+retry", "buffered+retry")
DATABASES: Final = ("Orders", "AsyncOrders")
SMALL: Final = SHAPES[0]

Violation = tuple[str, str, str, str]
"""Case, faults, rule, and what is wrong."""


def modes_of(world: str) -> tuple[str, ...]:
    """Return the modes that there are in a world: without a unit of work the middleware only observes."""
    return ("observe",) if world == "Nothing" else COMMITTING


def cases_of(mode: str, side: str, world: str) -> list[Case]:
    """Return every case of a mode on a side in a world."""
    at, _, retry = mode.partition("+")
    return [Case(at, side, world, shape, bool(retry)) for shape in SHAPES if shape.fits(side, world)]


class Runs:
    """Runs requests in one world on one side, and keeps what is wrong with them.

    Args:
        side: The protocol, and under ASGI the event loop.
        world: The name of the world's class.
        folder: Where files may be.
        table: Takes the outcomes.
    """

    def __init__(self, side: str, world: str, folder: Path, table: Table) -> None:
        self.violations: list[Violation] = []
        self.unmet: list[str] = []
        self._side = side
        self._name = world
        self._folder = folder
        self._table = table
        self._orders = itertools.count(1)
        self._worlds: list[World] = []

    def every_single_fault(self, cases: list[Case]) -> None:
        """Run each case with each call failing in each way."""
        self._run(self._singles(cases))

    def pairs(self, cases: list[Case], count: int, seed: str) -> None:
        """Run *count* pairs: a first fault anywhere, and a second one among the calls that follow it."""
        self._run(self._sampled(cases, count, random.Random(seed)))

    def these(self, case: Case, *faults: Fault) -> Trial:
        """Run *case* with these faults, on warm connections, and return what was seen."""
        trials: list[Trial] = []

        def both() -> Iterator[Trial]:
            for plan in (Plan(), Plan(*faults)):
                trials.append(self._trial(case, plan))
                yield trials[-1]
                yield from self._check(trials[-1])

        self._run(both())
        return trials[-1]

    def _run(self, trials: Iterator[Trial]) -> None:
        self._renew()
        try:
            run_all(self._side, trials)
        finally:
            for world in self._worlds:
                world.close()
            self._worlds.clear()

    def _singles(self, cases: list[Case]) -> Iterator[Trial]:
        for case in cases:
            clean = self._trial(case, Plan())
            if not case.shape.cold:
                yield clean  # warms the pool up
                clean = self._trial(case, Plan())
            yield clean
            yield from self._check(clean)
            for call in clean.plan.calls:
                for kind in kinds_of(call, self._side):
                    yield from self._tried(case, Fault(call, kind))

    def _sampled(self, cases: list[Case], count: int, chance: random.Random) -> Iterator[Trial]:
        courses: dict[Case, Plan] = {}
        for _ in range(count):
            case = chance.choice(cases)
            if case not in courses:
                clean = self._trial(case, Plan())
                yield clean
                courses[case] = clean.plan
            first = self._chosen(courses[case], 0, chance)
            once = self._trial(case, Plan(first))
            yield once
            if self._world.leaks():
                yield from self._begun_anew(case)
            if first.call in once.plan.calls[:-1]:
                second = self._chosen(once.plan, once.plan.calls.index(first.call) + 1, chance)
                yield from self._tried(case, first, second)

    def _chosen(self, plan: Plan, after: int, chance: random.Random) -> Fault:
        call = chance.choice(plan.calls[after:])
        return Fault(call, chance.choice(kinds_of(call, self._side)))

    def _tried(self, case: Case, *faults: Fault) -> Iterator[Trial]:
        trial = self._trial(case, Plan(*faults))
        yield trial
        if len(faults) == 1 and not (trial.plan.fired or trial.plan.forestalled):
            self.unmet.append(f"{case}: {faults[0]}")
        self._table.add(trial)
        yield from self._check(trial)

    def _check(self, trial: Trial) -> Iterator[Trial]:
        """Check *trial*, and whether the next request is as good as if nothing had happened."""
        wrong = broken_rules(trial)
        if self._name in DATABASES and {fault.call.family for fault in trial.plan.faults} & {"dbapi", "unit"}:
            rows = self._world.rows(trial.order)
            following = self._trial(Case(trial.case.at, self._side, self._name, SMALL), Plan())
            yield following
            wrong += [("next", f"{rule}: {what}") for rule, what in broken_rules(following)]
            if following.client != "2xx":
                wrong.append(("next", f"it got {following.client}: {following.raised!r}"))
            if self._world.rows(trial.order) != rows:
                wrong.append(("next", "it changed what this one had stored"))
        for rule, what in wrong:
            faults = " + ".join(map(str, trial.plan.faults)) or "no fault"
            self.violations.append((str(trial.case), faults, rule, what))
        if {rule for rule, _ in wrong} & {"connections", "next"}:
            yield from self._begun_anew(trial.case)

    def _begun_anew(self, case: Case) -> Iterator[Trial]:
        """Leave a spoiled world behind: what is wrong now shall not be held against what follows."""
        self._renew()
        yield self._trial(Case(case.at, self._side, self._name, SMALL), Plan())

    def _trial(self, case: Case, plan: Plan) -> Trial:
        return Trial(case, self._world, plan, next(self._orders))

    @property
    def _world(self) -> World:
        return self._worlds[-1]

    def _renew(self) -> None:
        folder = self._folder / str(len(self._worlds))
        folder.mkdir(exist_ok=True)
        self._worlds.append(WORLDS[self._name](folder))


def case_of(text: str) -> Case:
    """Return the case that `str` made *text* of.

    Raises:
        ValueError: There is none.
    """
    for side, worlds in STANDS.items():
        for world in worlds:
            for mode in modes_of(world):
                for case in cases_of(mode, side, world):
                    if str(case) == text:
                        return case
    raise ValueError(f"there is no case {text!r}")


def faults_of(text: str, side: str) -> list[Fault]:
    """Return the faults on *side* that *text* names, with a plus between them."""
    return [fault_of(one, side) for one in text.split(" + ") if one]


def fault_of(text: str, side: str) -> Fault:
    """Return the fault on *side* that `str` made *text* of.

    Raises:
        ValueError: There is none.
    """
    call, _, name = text.partition(" ")
    method, _, number = call.partition("#")
    if number.isdigit() and "." in method:
        for kind in kinds_of(Call(method, int(number)), side):
            if kind.name == name:
                return Fault(Call(method, int(number)), kind)
    raise ValueError(f"there is no fault {text!r}")
