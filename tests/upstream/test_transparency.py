"""Upstream suites do not notice the middleware: the long proof is run.py's, its judgement is tested always."""

import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Scale
from tests.upstream import judging
from tests.upstream.judging import BASELINE, Run, Tally, judge, newly_failing, read_records, run_again
from tests.upstream.preparing import HERE, Suite

RUN = HERE / "run.py"
DIFFERENCES = tomllib.loads((HERE / "differences.toml").read_text(encoding="utf-8"))["difference"]
MODES = {"observe", "silent", "head", "silent_head", "buffered", "after_send"}
SUITES = Suite.read_all()
ENTERED = {"event": "entered", "process": 1, "test": "a"}
FINISHED = {"event": "finished", "process": 1, "test": "a"}
EXIT = {"event": "exit", "process": 1, "test": "a"}


def _phases(test: str, **outcomes: str) -> list[dict[str, str]]:
    started = {"test": test, "phase": "started", "outcome": "started"}
    return [started, *({"test": test, "phase": p, "outcome": o, "text": f"{p}!"} for p, o in outcomes.items())]


def _suite(requests: int = 1) -> Suite:
    return Suite("none", "none", "1", runner="pytest", tests=[], requests=requests, failing=0, unfinished=0, modes=[])


def _step(name: str, unit: str = "1.1", process: int = 1) -> dict[str, Any]:
    return {"event": name, "process": process, "test": "a", "unit": unit}


def _run(mode: str, events: Sequence[dict[str, Any]] = (ENTERED, FINISHED, EXIT), outcome: str = "passed") -> Run:
    return Run(mode, {"a": outcome}, {"a": "why"}, Tally.of(events, 1))


def _faults(ours: Run, baseline: Run | None = None, requests: int = 1) -> list[str]:
    return judge(_suite(requests), baseline or _run(BASELINE), ours)[1]


@pytest.mark.long
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("name", sorted(SUITES))
def test_an_upstream_suite_has_no_newly_failing_test_behind_the_middleware(name: str, scale: Scale) -> None:
    """The full form takes every suite as a whole; the short one, of those that are quickly prepared, a part."""
    if scale.length == "short" and not SUITES[name].short:
        pytest.skip("preparing it takes longer than the short form may: --long=full runs it")
    short = ["--short"] if scale.length == "short" else []
    done = subprocess.run(
        [sys.executable, RUN, "--suite", name, *short],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout


def test_every_suite_is_run_in_every_mode() -> None:
    assert set(SUITES) == {"starlette", "flask", "werkzeug", "django", "falcon"}
    assert all(set(suite.modes) == MODES for suite in SUITES.values())


def test_every_listed_difference_names_its_suite_its_modes_its_rule_and_its_reason() -> None:
    for entry in DIFFERENCES:
        assert set(entry) == {"suite", "modes", "tests", "rule", "reason"}, entry
        assert entry["suite"] in SUITES
        assert set(entry["modes"]) <= MODES
        assert all((entry["modes"], entry["tests"], entry["rule"], entry["reason"])), entry


def test_no_difference_is_listed_twice_and_none_where_the_middleware_only_observes() -> None:
    listed = Counter((e["suite"], mode, test) for e in DIFFERENCES for mode in e["modes"] for test in e["tests"])
    assert [one for one, times in listed.items() if times > 1 or one[1] in ("observe", "silent")] == []


def test_at_the_head_three_tests_differ_and_a_fourth_has_to_be_decided_on() -> None:
    for mode in ("head", "silent_head"):
        assert sorted(test for e in DIFFERENCES if mode in e["modes"] for test in e["tests"]) == [
            "asgi.tests.ASGITest.test_asyncio_streaming_cancel_error",
            "tests/test_test.py::test_run_wsgi_apps",
            "tests/test_testclient.py::test_streaming_response_is_available_before_first_chunk",
        ]


def test_a_test_that_fails_in_both_runs_is_not_newly_failing() -> None:
    before = {"a": "failed", "b": "passed", "c": "failed", "d": "skipped"}
    after = {"a": "failed", "b": "passed", "c": "passed", "d": "skipped"}
    assert newly_failing(before, after) == []


@pytest.mark.parametrize("after", ["failed", "error", "hung", "skipped", None])
def test_a_test_that_passed_and_does_not_pass_any_more_is_newly_failing(after: str | None) -> None:
    assert newly_failing({"a": "passed", "b": "passed"}, {"b": "passed"} | ({"a": after} if after else {})) == ["a"]


def test_a_module_that_cannot_be_collected_any_more_is_newly_failing() -> None:
    assert newly_failing({"t.py::a": "passed"}, {"t.py": "failed"}) == ["t.py::a", "t.py"]


def test_a_failing_teardown_is_an_error_of_a_test_that_passed() -> None:
    outcomes, texts = read_records(_phases("a", setup="passed", call="passed", teardown="failed"))
    assert (outcomes, texts["a"].strip()) == ({"a": "error"}, "teardown!")


def test_a_test_that_started_and_never_ended_is_hung() -> None:
    outcomes, _ = read_records([*_phases("a", setup="passed", call="passed", teardown="passed"), *_phases("b")])
    assert outcomes == {"a": "passed", "b": "hung"}


def test_nothing_stands_against_a_run_in_which_every_request_was_finished() -> None:
    assert _faults(_run("observe")) == []
    assert _faults(_run("head", [ENTERED, _step("begin"), _step("commit"), _step("close"), FINISHED, EXIT])) == []


def test_an_unlisted_newly_failing_test_stands_against_a_run_with_what_it_said() -> None:
    assert _faults(_run("observe", outcome="failed")) == ["newly failing: a: why"]


def test_a_test_that_passes_by_itself_is_unsteady_and_no_difference(tmp_path: Path) -> None:
    ran: list[list[str]] = []

    def alone(suite: Suite, mode: str, home: Path) -> Run:
        ran.append(suite.tests)
        return _run(mode, outcome="passed" if len(ran) == 2 else "failed")

    ours = run_again(_suite(), _run(BASELINE), _run("observe", outcome="failed"), tmp_path, alone)
    assert (ours.outcomes, ours.unsteady, ran) == ({"a": "passed"}, frozenset({"a"}), [["a"], ["a"]])


def test_a_test_that_fails_by_itself_too_stays_newly_failing(tmp_path: Path) -> None:
    ours = _run("observe", outcome="failed")
    assert run_again(_suite(), _run(BASELINE), ours, tmp_path, lambda suite, mode, home: ours) == ours


def test_a_listed_difference_excuses_its_test_and_stands_against_a_run_in_which_it_passes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(judging, "listed_differences", lambda suite, mode: {"a"})
    assert _faults(_run("observe", outcome="failed")) == []
    assert _faults(_run("observe")) == ["listed in differences.toml, but does not fail: a"]


def test_a_unit_of_work_left_open_stands_against_a_run_in_which_every_test_passed() -> None:
    faults = _faults(_run("head", [ENTERED, _step("begin"), _step("commit"), FINISHED, EXIT]))
    assert faults == ["a: unit of work left open after begin, commit (1 times)"]


def test_a_unit_of_work_of_a_server_that_was_killed_may_be_left_open() -> None:
    of_server = [{**ENTERED, "process": 2}, _step("begin", "2.1", process=2)]
    events = [*of_server, ENTERED, _step("begin"), _step("close"), FINISHED, EXIT]
    assert _faults(_run("head", events)) == []


def test_a_complaint_stands_against_a_run() -> None:
    complaint = {"event": "complaint", "process": 1, "test": "a", "text": "commit of a unit of work after rollback"}
    faults = _faults(_run("observe", [ENTERED, complaint, FINISHED, EXIT]))
    assert faults == ["a: commit of a unit of work after rollback (1 times)"]


def test_a_request_that_entered_the_middleware_and_was_never_finished_stands_against_a_run() -> None:
    faults = _faults(_run("observe", [ENTERED, ENTERED, FINISHED, EXIT]))
    assert faults == ["1 requests were not finished, 0 may be"]


def test_requests_that_went_past_the_unit_of_work_stand_against_a_run() -> None:
    assert _faults(_run("head")) == ["1 requests were finished with only 0 units of work"]
    assert _faults(_run("silent_head", [ENTERED, EXIT])) == ["1 requests went past the unit of work"]


def test_where_nobody_asks_for_the_outcome_no_request_has_to_be_finished() -> None:
    assert _faults(_run("silent", [ENTERED, EXIT])) == []


def test_a_run_that_entered_too_seldom_proves_nothing() -> None:
    assert _faults(_run("observe"), requests=2) == ["1 requests went through the wrapper, 2 were expected"]


def test_a_pass_through_wrapper_that_breaks_tests_itself_proves_nothing() -> None:
    faults = _faults(_run("observe", outcome="failed"), _run(BASELINE, outcome="failed"))
    assert faults == ["1 tests fail behind the pass-through wrapper, 0 may"]


def test_an_entrance_that_only_the_baseline_takes_is_a_way_past_the_middleware() -> None:
    faults = _faults(_run("observe", [{**ENTERED, "test": "b"}, FINISHED, EXIT]))
    assert faults == ["entered an application in the baseline only: a"]


def test_a_run_that_was_cut_off_proves_nothing() -> None:
    assert _faults(_run("observe", [ENTERED, FINISHED])) == ["the run did not come to its end"]
