"""What a run says: outcomes and tallies read, compared with the baseline, and held against what may differ."""

import dataclasses
import tomllib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from tests.upstream.preparing import HERE, Suite

__all__ = ["BASELINE", "HEADING", "Run", "Tally", "judge", "newly_failing", "read_records", "row", "run_again"]

BASELINE = "baseline"
BAD = frozenset({"failed", "error", "missing", "hung"})
WORSE_THAN_PASSED = BAD | {"skipped"}


@dataclasses.dataclass(frozen=True)
class Tally:
    """What the processes of one run noted, added up.

    Attributes:
        ended: Whether the process that ran the tests came to its end.
        counts: How often each event happened; "entered" is a request that went through the wrapper.
        unfinished: Requests that entered the middleware and were not finished by it, as long as their process lived.
        entering: The tests in which an application was entered.
        complaints: What stands against the run, whatever the tests say.
    """

    ended: bool
    counts: Counter[str]
    unfinished: int
    entering: frozenset[str]
    complaints: list[str]

    @classmethod
    def of(cls, events: Sequence[Mapping[str, Any]], process: int) -> Self:
        """Add up the *events* of one run, whose tests ran in *process*."""
        counts: Counter[str] = Counter(event["event"] for event in events)
        ended = {event["process"] for event in events if event["event"] == "exit"}
        complaints = [f"{event['test']}: {event['text']}" for event in events if event["event"] == "complaint"]
        units: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
        unfinished = 0
        for event in events:
            # A server that is killed in a request cannot finish it.
            if event["process"] in ended and "unit" in event:
                units[event["unit"]].append(event)
            elif event["process"] in ended:
                unfinished += {"entered": 1, "finished": -1}.get(event["event"], 0)
        complaints += [
            f"{steps[0]['test']}: unit of work left open after {', '.join(step['event'] for step in steps)}"
            for steps in units.values()
            if "close" not in {step["event"] for step in steps}
        ]
        entering = frozenset(event["test"] for event in events if event["event"] == "entered")
        return cls(process in ended, counts, unfinished, entering, complaints)


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of a suite: its mode, each test's outcome, the messages of failures, and the tally.

    *unsteady* are the tests that failed newly, and passed when they were run again by themselves.
    """

    mode: str
    outcomes: dict[str, str]
    texts: dict[str, str]
    tally: Tally
    unsteady: frozenset[str] = frozenset()


def read_records(records: Iterable[Mapping[str, str]]) -> tuple[dict[str, str], dict[str, str]]:
    """Fold one record a phase into one outcome a test, and collect the messages of failures.

    A failure of set-up or teardown is an error and wins over a passed call; a test that only started is a hung one.
    """
    outcomes: dict[str, str] = {}
    texts: dict[str, str] = {}
    for record in records:
        test, phase, outcome = record["test"], record["phase"], record["outcome"]
        if outcome == "started":
            outcomes[test] = "hung"
        elif outcome == "failed":
            outcomes[test] = "failed" if phase in ("call", "collect") else "error"
            texts[test] = f"{texts.get(test, '')} {record['text']}"
        elif outcomes.get(test) not in ("failed", "error") and (phase == "call" or outcome != "passed"):
            outcomes[test] = outcome
    return outcomes, texts


def newly_failing(baseline: Mapping[str, str], ours: Mapping[str, str]) -> list[str]:
    """Return the tests that are worse in *ours* than in *baseline*."""
    worse = []
    for test in [*baseline, *(extra for extra in ours if extra not in baseline)]:
        before, after = baseline.get(test, "absent"), ours.get(test, "missing")
        if after in (WORSE_THAN_PASSED if before == "passed" else BAD) and before not in BAD:
            worse.append(test)
    return worse


def listed_differences(suite: str, mode: str) -> set[str]:
    """Return the tests that may differ in one run, with or without their parameters."""
    entries = tomllib.loads((HERE / "differences.toml").read_text(encoding="utf-8")).get("difference", [])
    return {test for entry in entries if entry["suite"] == suite and mode in entry["modes"] for test in entry["tests"]}


def unlisted(suite: Suite, baseline: Run, ours: Run) -> list[str]:
    """Return the newly failing tests of a run that differences.toml does not list."""
    listed = listed_differences(suite.name, ours.mode)
    worse = newly_failing(baseline.outcomes, ours.outcomes)
    return [test for test in worse if test not in listed and test.partition("[")[0] not in listed]


def run_again(suite: Suite, baseline: Run, ours: Run, home: Path, run: Callable[[Suite, str, Path], Run]) -> Run:
    """Return *ours* with the outcomes that unlisted newly failing tests have by themselves, in up to three runs.

    On a busy machine a test fails now and then that depends on time, or on the order that trio runs two tasks in, which
    is random. One that passes in a run of its own is no difference; the table counts it.
    """
    home.mkdir(exist_ok=True)
    for _ in range(3):
        tests = [test for test in unlisted(suite, baseline, ours) if test in ours.outcomes]
        if not tests or not set(tests) <= set(baseline.outcomes):
            break
        options = [option for option in suite.tests if option.startswith("-")]
        again = run(dataclasses.replace(suite, tests=[*tests, *options]), ours.mode, home)
        passed = {test for test in tests if again.outcomes.get(test) == "passed"}
        outcomes = {**ours.outcomes, **dict.fromkeys(passed, "passed")}
        ours = dataclasses.replace(ours, outcomes=outcomes, unsteady=ours.unsteady | passed)
    return ours


def judge(suite: Suite, baseline: Run, ours: Run) -> tuple[str, list[str]]:
    """Return one row of the table, and what stands against this run."""
    listed = listed_differences(suite.name, ours.mode)
    worse = newly_failing(baseline.outcomes, ours.outcomes)
    new = unlisted(suite, baseline, ours)
    ran = {name for test in ours.outcomes for name in (test, test.partition("[")[0])}
    gone = sorted((listed & ran) - {name for test in worse for name in (test, test.partition("[")[0])})
    faults = [f"newly failing: {test}: {ours.texts.get(test, 'no failure text').strip()}" for test in new]
    faults += [f"listed in differences.toml, but does not fail: {test}" for test in gone]
    faults += [f"{complaint} ({times} times)" for complaint, times in Counter(ours.tally.complaints).items()]
    faults += missed(suite, baseline, ours)
    alike = sum(ours.outcomes.get(test) in BAD for test, outcome in baseline.outcomes.items() if outcome in BAD)
    passed = sum(outcome == "passed" for outcome in ours.outcomes.values())
    figures = (len(ours.outcomes), passed, alike, len(new), len(worse) - len(new), len(ours.unsteady))
    return row(suite.name, ours.mode, *figures, ours.tally.counts["entered"], len(ours.tally.entering)), faults


def missed(suite: Suite, baseline: Run, ours: Run) -> list[str]:
    """Return what says that applications were entered past the wrapper, or past the middleware in it."""
    entered, finished, begun = (ours.tally.counts[event] for event in ("entered", "finished", "begin"))
    faults = []
    if not ours.tally.ended:
        faults.append("the run did not come to its end")
    if (failing := sum(outcome in BAD for outcome in baseline.outcomes.values())) > suite.failing:
        faults.append(f"{failing} tests fail behind the pass-through wrapper, {suite.failing} may")
    if entered < suite.requests:
        faults.append(f"{entered} requests went through the wrapper, {suite.requests} were expected")
    is_silent = ours.mode.startswith("silent")
    if not is_silent and ours.mode != BASELINE and not 0 <= ours.tally.unfinished <= suite.unfinished:
        faults.append(f"{ours.tally.unfinished} requests were not finished, {suite.unfinished} may be")
    if ours.mode not in (BASELINE, "observe") and begun < finished:
        faults.append(f"{finished} requests were finished with only {begun} units of work")
    if ours.mode == "silent_head" and entered and not begun:
        faults.append(f"{entered} requests went past the unit of work")
    past = {test for test in baseline.tally.entering - ours.tally.entering if ours.outcomes.get(test) == "passed"}
    return faults + [f"entered an application in the baseline only: {test}" for test in sorted(past)]


def row(suite: str, mode: str, *figures: object) -> str:
    """Return one line of the table."""
    return f"{suite:<10} {mode:<11}" + "".join(f"{figure!s:>15}" for figure in figures)


HEADING = row(
    "suite", "mode", "tests", "passed", "failed alike", "newly failing", "listed", "unsteady", "requests", "in tests"
)
