"""Upstream suites do not notice the middleware: the long proof is run.py's, its judgement is tested always."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.upstream.run import Run, Suite, judge, newly_failing, read_records

RUN = Path(__file__).with_name("run.py")


def _phases(test: str, **outcomes: str) -> list[dict[str, str]]:
    started = {"test": test, "phase": "started", "outcome": "started"}
    return [started, *({"test": test, "phase": p, "outcome": o, "text": f"{p}!"} for p, o in outcomes.items())]


def _run(mode: str, outcomes: dict[str, str], complaints: list[str], *, requests: int = 1) -> Run:
    return Run(mode, outcomes, {}, {"counts": {"requests": requests}, "complaints": complaints})


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("suite", sorted(Suite.read_all()))
def test_an_upstream_suite_has_no_newly_failing_test_behind_the_middleware(
    suite: str, request: pytest.FixtureRequest
) -> None:
    if request.config.getoption("--long") != "full":
        pytest.skip("downloads and runs a whole upstream suite three times: --long=full does that")
    done = subprocess.run([sys.executable, RUN, "--suite", suite], capture_output=True, text=True, check=False)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr


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


def test_a_unit_of_work_left_open_stands_against_a_run_in_which_every_test_passed() -> None:
    passed = {"a": "passed"}
    _, faults = judge("none", _run("baseline", passed, []), _run("head", passed, ["a: left open"]))
    assert faults == ["a: left open (1 times)"]


def test_a_run_that_never_entered_the_middleware_proves_nothing() -> None:
    passed = {"a": "passed"}
    _, faults = judge("none", _run("baseline", passed, []), _run("head", passed, [], requests=0))
    assert faults == ["no request went through the wrapper"]
