"""That the benchmarks measure what they say, and that a request leaves nothing to the collector.

No test here asserts a time: how long something takes is for a reader of the table to judge.
"""

import gc
import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pytest

from tests.benchmarks import __main__ as command
from tests.benchmarks import asgi, asgi_contenders, wsgi, wsgi_contenders
from tests.benchmarks.report import CaseReport, as_json, tables
from tests.benchmarks.runner import Case, Contender, Effort, Response, Subject, Suite, environment, measure
from tests.benchmarks.suites import SUITES
from tests.conftest import Scale

ROOT: Final = Path(__file__).parents[2]
KILO: Final = 1024
LEAST: Final = Effort(rounds=4, block=1e-6)

SERVED: Final[Mapping[str, Sequence[int | None]]] = {
    "asgi-single": [KILO],
    "asgi-chunks": [1000 * KILO],
    "wsgi-single": [KILO, KILO],
    "wsgi-chunks": [1000 * KILO, 1000 * KILO],
    "wire": [KILO],
    "holding": [KILO, KILO**2, 100 * KILO**2],
    "import": [None],
    "after-response": [None],
    "bulkhead": [None] * 3,
    "flow": [None],
    "growth-steps": [None] * 4,
    "stream": [None],
    "outbox-one": [None] * 2,
    "outbox-many": [None] * 2,
    "relay": [None] * 2,
    "growth-batch": [None] * 4,
    "growth-backlog": [None] * 4,
    "relay-rabbitmq": [None] * 2,
    "relay-redis": [None],
    "growth-asgi-chunks": [KILO, 10 * KILO, 100 * KILO, 1000 * KILO],
    "growth-wsgi-chunks": [KILO, 10 * KILO, 100 * KILO, 1000 * KILO],
    "growth-asgi-hooks": [KILO] * 4,
    "growth-wsgi-hooks": [KILO] * 4,
    "growth-jobs": [None] * 4,
    "growth-lists": [None] * 4,
    "growth-held": [KILO, 64 * KILO, KILO**2, 10 * KILO**2, 100 * KILO**2],
}
"""Bytes of the body that every contender serves, in each case of a suite."""


@pytest.fixture(scope="module")
def most(scale: Scale) -> int:
    """How many cases of a suite are run: in the short form the first two, of what grows the smallest sizes."""
    return scale.of(off=1, short=2, full=100)


@pytest.fixture(scope="module")
def told(most: int, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    """What the command prints and what it writes."""
    path = tmp_path_factory.mktemp("benchmarks") / "result.json"
    command = [sys.executable, "-m", "tests.benchmarks", "--quick", "--cases", str(most), "--json", str(path)]
    ran = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout, json.loads(path.read_text())


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("suite", SUITES, ids=lambda suite: suite.name)
def test_the_command_measures_every_contender_and_tells_all(
    suite: Suite, told: tuple[str, dict[str, Any]], most: int
) -> None:
    printed, result = told
    cases = suite.cases()[:most]
    of_suite = [case for case in result["cases"] if case["suite"] == suite.name]
    assert [case["case"] for case in of_suite] == [case.name for case in cases]
    assert all(name in printed for name in result["missing"])
    for case, one_told, size in zip(cases, of_suite, SERVED[suite.name][:most], strict=True):
        there = [one.name for one in case.contenders if not {*one.needs} & {*result["missing"]}]
        if not there:
            continue
        assert [one["name"] for one in one_told["contenders"]] == [there[0], f"{there[0]}, again (A/A)", *there[1:]]
        for one in one_told["contenders"]:
            served = one["response"] and (one["response"]["status"], one["response"]["size"])
            assert served == (None if size is None else (200, size)), one["name"]
            assert len(one["seconds"]) == len(one["ratios"]) == one_told["rounds"]
            assert one["name"] in printed
            assert one["ratio"] > 0


def test_every_row_with_a_target_is_ours_and_the_design_is_complete() -> None:
    with_target = {
        suite.name
        for suite in SUITES
        for case in suite.cases()
        for contender in case.contenders
        if contender.target is not None or contender.limits
        if contender.kind == "ours"
    }
    measured = {"asgi-single", "asgi-chunks", "wsgi-single", "wsgi-chunks", "wire", "holding", "import"}
    messages = {"outbox-one", "outbox-many", "relay", "relay-rabbitmq"}
    assert with_target == measured | {"after-response", "bulkhead", "stream"} | messages
    assert {suite.name: len(suite.cases()) for suite in SUITES} == {name: len(of) for name, of in SERVED.items()}


class Scripted(Subject):
    """A contender that takes the seconds that it is told to take."""

    def __init__(self, log: list[str], name: str, seconds: float, answer: Response) -> None:
        self._log, self._name, self._seconds, self._answer = log, name, seconds, answer

    def response(self) -> Response:
        return self._answer

    def seconds(self, count: int) -> float:
        self._log.append(self._name)
        return self._seconds * count

    def close(self) -> None:
        self._log.append(f"{self._name} closed")


FINE: Final = Response(200, 5, 1)


def scripted(log: list[str], name: str, seconds: float, answer: Response = FINE, **options: Any) -> Contender:
    """A row of a scripted contender."""
    return Contender(name, "ours", lambda: Scripted(log, name, seconds, answer), **options)


def test_each_contender_runs_at_every_place_of_a_round() -> None:
    log: list[str] = []
    case = Case("c", [scripted(log, "first", 1.0), scripted(log, "second", 2.0), scripted(log, "third", 3.0)])
    rows, missing = measure(case, Effort(rounds=8, block=1e-6), print)
    assert missing == []
    ran = [name for name in log if not name.endswith("closed")][-8 * 4 :]
    rounds = [ran[at : at + 4] for at in range(0, len(ran), 4)]
    assert {tuple(sorted(one)) for one in rounds} == {("first", "first", "second", "third")}
    assert {one.index("second") for one in rounds} == {one.index("third") for one in rounds} == {0, 1, 2, 3}
    assert [row.ratio for row in rows] == [1.0, 1.0, 2.0, 3.0]
    assert rows[1].contender.kind == "control"


def test_a_ratio_is_taken_within_a_round() -> None:
    class Slower(Scripted):
        """Every run takes twice as long as the one before it, whoever runs: the machine is getting busy."""

        def seconds(self, count: int) -> float:
            super().seconds(count)
            return self._seconds * 2.0 ** (len(self._log) // 3)

    log: list[str] = []
    case = Case("c", [Contender(name, "ours", lambda: Slower(log, "", 1.0, FINE)) for name in ("first", "second")])
    rows, _ = measure(case, Effort(rounds=6, block=1e-9), print)
    assert max(rows[2].seconds) / min(rows[2].seconds) > 16
    assert max(rows[2].ratios) <= 2


def test_a_contender_that_serves_something_else_is_refused_and_all_are_closed() -> None:
    log: list[str] = []
    case = Case("c", [scripted(log, "good", 1.0), scripted(log, "bad", 1.0, Response(200, 4, 2))])
    with pytest.raises(AssertionError, match=r"bad served Response\(status=200, size=4"):
        measure(case, LEAST, print)
    assert log[-3:] == ["bad closed", "good closed", "good closed"]


def test_a_contender_that_is_not_installed_is_left_out_and_named() -> None:
    log: list[str] = []
    notes: list[str] = []
    absent = scripted(log, "absent", 1.0, needs=("postresponse", "no-such-distribution"))
    rows, missing = measure(Case("c", [scripted(log, "there", 1.0), absent]), LEAST, notes.append)
    assert missing == ["no-such-distribution"]
    assert notes == ["absent: left out, not installed: no-such-distribution"]
    assert [row.contender.name for row in rows] == ["there", "there, again (A/A)"]


def test_the_table_says_what_was_met_and_what_was_missed() -> None:
    log: list[str] = []
    case = Case(
        "c",
        [scripted(log, "base", 1.0), scripted(log, "fast", 1.5, target=2.0), scripted(log, "slow", 2.5, target=2.0)],
    )
    suite = Suite("s", "Some job", lambda: [case])
    reports = [CaseReport(suite, case, measure(case, LEAST, print)[0], LEAST)]
    lines = {line.split("|")[1].strip(): line for line in tables(reports) if line.startswith("|")}
    assert "1.50x" in lines["**fast**"]
    assert lines["**fast**"].rstrip("| ").endswith("met")
    assert lines["**slow**"].rstrip("| ").endswith("MISSED")
    told = as_json(reports, ["z", "a", "z"])
    assert [one["met"] for one in told["cases"][0]["contenders"]] == [None, None, True, False]
    assert told["missing"] == ["a", "z"]
    assert json.loads(json.dumps(told)) == told | {"cases": json.loads(json.dumps(told["cases"]))}


def test_a_suite_in_which_something_grows_has_a_column_for_each_size() -> None:
    log: list[str] = []
    cases = [Case(str(size), [scripted(log, "base", 1.0), scripted(log, "own", float(size))]) for size in (2, 4, 8)]
    suite = Suite("s", "Some job", lambda: cases, axis="hooks")
    reports = [CaseReport(suite, case, measure(case, LEAST, print)[0], LEAST) for case in cases]
    own = next(line for line in tables(reports) if line.startswith("| **own**"))
    assert [cell.strip() for cell in own.strip("|").split("|")[1:]] == ["2 s (2.00x)", "4 s (4.00x)", "8 s (8.00x)"]


REQUESTS: Final = 40

MAKERS: Final[Mapping[str, Callable[[str, bool], Subject]]] = {
    "asgi": lambda way, chunks: asgi_contenders.WAYS[way].subject(asgi.chunked(20) if chunks else asgi.single),
    "wsgi": lambda way, chunks: wsgi_contenders.WAYS[way].subject(wsgi.chunked(20) if chunks else wsgi.single),
}


@pytest.mark.parametrize("chunks", [False, True], ids=["one body", "chunks"])
@pytest.mark.parametrize(
    "way", [name for name, way in asgi_contenders.WAYS.items() if way.kind == "ours" and name in wsgi_contenders.WAYS]
)
@pytest.mark.parametrize("protocol", MAKERS)
def test_a_request_leaves_nothing_to_the_collector(protocol: str, way: str, chunks: bool) -> None:
    subject = MAKERS[protocol](way, chunks)
    try:
        assert subject.garbage(REQUESTS) == 0
    finally:
        subject.close()


def test_a_cycle_through_the_request_is_found() -> None:
    async def keeps_send(scope: Any, receive: Any, send: Any) -> None:
        scope["kept"] = send
        await asgi.single(scope, receive, send)

    def keeps_start_response(environ: dict[str, Any], start_response: Any) -> Any:
        environ["kept"] = start_response
        return wsgi.single(environ, start_response)

    subject = asgi.ASGISubject(keeps_send)
    try:
        assert subject.garbage(REQUESTS) >= REQUESTS
    finally:
        subject.close()
    assert wsgi.WSGISubject(keeps_start_response).garbage(REQUESTS) >= REQUESTS
    assert gc.isenabled()


@pytest.mark.parametrize(("target", "status"), [(3.0, 0), (1.5, 1)])
def test_a_missed_target_ends_the_command_with_1_if_it_is_to_be_checked(
    target: float, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    case = Case("c", [scripted([], "first", 1.0), scripted([], "ours", 2.0, target=target)])
    monkeypatch.setattr(command, "SUITES", (Suite("s", "S", lambda: [case]),))
    assert command.main(["--quick", "--check"]) == status
    assert command.main(["--quick"]) == 0
    assert f"Targets: {1 - status} of 1 met." in capsys.readouterr().out
