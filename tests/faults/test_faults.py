"""Every single fault of a request, in every mode on both sides; pairs of faults, sampled."""

from pathlib import Path

import pytest

from tests.conftest import Scale
from tests.faults.runs import STANDS, Runs, Violation, cases_of, modes_of
from tests.faults.table import Table
from tests.faults.trial import Case

COMBINATIONS = [(mode, side, world) for side, worlds in STANDS.items() for world in worlds for mode in modes_of(world)]
CHEAP = {("wsgi", "Fakes"), ("asyncio", "AsyncFakes"), *((side, "Nothing") for side in STANDS)}
"""Where every shape is run, however short the run: a request costs less than a millisecond."""
BRIEF = {
    ("wsgi", "Orders"): (("small", "refused", "late"), ("small", "handled")),
    ("asyncio", "AsyncOrders"): (("small", "refused"), ("handled",)),
    ("trio", "AsyncFakes"): (("small", "streamed", "refused"), ("small",)),
}
"""Elsewhere the shapes of the short form, without and with retry; the smallest where nothing is said."""


def in_time(cases: list[Case], scale: Scale) -> list[Case]:
    """Return those of the cases of one mode that a run of this length has time for."""
    where, retry = (cases[0].side, cases[0].world), cases[0].retry
    if where in CHEAP or scale.length == "full" or (scale.length == "short" and cases[0].mode == "head"):
        return cases
    shapes = BRIEF[where][retry] if where in BRIEF and scale.length == "short" else ("small",)
    return [case for case in cases if case.shape.name in shapes]


def told(violations: list[Violation]) -> str:
    """Say what is wrong, each kind of it once with its first example."""
    first: dict[tuple[str, str], Violation] = {}
    for violation in violations:
        first.setdefault(violation[2:], violation)
    lines = [
        f'python -m tests.faults "{case}" "{faults}"\n    {rule}: {what}' for case, faults, rule, what in first.values()
    ]
    return "\n".join([f"{len(violations)} violations; one of each kind:", *lines])


# A connection that a fault left to nobody is finalized by the garbage collector; a further fault goes nowhere there.
FINALIZED = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
LONG = pytest.mark.timeout(1200)
# Counting lines would take longer than the requests themselves; what they run is run by other tests as well.
pytestmark = pytest.mark.no_cover


@LONG
@FINALIZED
@pytest.mark.parametrize(("mode", "side", "world"), COMBINATIONS)
def test_no_single_fault_breaks_a_promise(
    mode: str, side: str, world: str, scale: Scale, table: Table, tmp_path: Path
) -> None:
    runs = Runs(side, world, tmp_path, table)
    runs.every_single_fault(in_time(cases_of(mode, side, world), scale))
    assert not runs.violations, told(runs.violations)
    # The watch for a disconnect begins after some milliseconds, and with it the server's third receive.
    assert [one for one in runs.unmet if "server.receive#3" not in one] == []


@LONG
@FINALIZED
@pytest.mark.parametrize(("side", "world"), [(side, world) for side in STANDS for world in STANDS[side]])
def test_no_sampled_pair_of_faults_breaks_a_promise(
    side: str, world: str, scale: Scale, table: Table, seed: str, tmp_path: Path
) -> None:
    cases = [case for mode in modes_of(world) for case in cases_of(mode, side, world)]
    runs = Runs(side, world, tmp_path, table)
    runs.pairs(cases, scale.of(off=40, short=150, full=2000), f"{seed} {side} {world}")
    assert not runs.violations, told(runs.violations)
