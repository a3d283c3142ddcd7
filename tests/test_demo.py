"""The demo: it measures on a real server, says what it measured, and leaves nothing behind."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from postresponse.demo.measurement import Tally, measure
from postresponse.demo.report import as_json, as_table, plain_reading
from postresponse.demo.server import ServerFailed
from postresponse.demo.ways import AFTER_SEND, HEAD, WAYS, YIELD, Way

DEMO = [sys.executable, "-m", "postresponse", "demo"]


@pytest.fixture(scope="module")
def tallies() -> list[Tally]:
    """One small measurement."""
    return measure(orders=40, failures=4, progress=lambda *_: None)


def counted(way: Way, **figures: Any) -> Tally:
    """A tally that no server was asked for."""
    return Tally(way, **{"answered": 100, "failed": 10, "next_ok": 10, "milliseconds": [3.0, 1.0, 2.0], **figures})


def test_at_the_head_nothing_is_missed_and_no_failed_commit_is_answered_2xx(tallies: list[Tally]) -> None:
    head = tallies[WAYS.index(HEAD)]
    assert (head.answered, head.missed) == (40, 0)
    assert (head.failed, head.false_success, head.next_ok) == (4, 0, 4)
    assert head.kept


def test_a_yield_dependency_tells_clients_2xx_for_orders_that_do_not_exist(tallies: list[Tally]) -> None:
    ordinary = tallies[WAYS.index(YIELD)]
    assert (ordinary.answered, ordinary.failed) == (40, 4)
    assert ordinary.false_success == 4
    assert ordinary.missed > 0


def test_after_send_tells_them_the_same_and_the_connection_lives_on(tallies: list[Tally]) -> None:
    after_send = tallies[WAYS.index(AFTER_SEND)]
    assert (after_send.answered, after_send.failed, after_send.false_success) == (40, 4, 4)
    assert after_send.next_ok == 4
    assert after_send.kept


def test_every_good_order_was_timed(tallies: list[Tally]) -> None:
    assert all(len(tally.milliseconds) == 40 and tally.last_byte > 0 for tally in tallies)


def test_the_demo_prints_one_table_and_its_progress_apart_within_twenty_seconds() -> None:
    began = time.monotonic()
    ran = subprocess.run(DEMO, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert time.monotonic() - began < 20
    rows = {line.split("  ")[0]: line for line in ran.stdout.splitlines()}
    for way in WAYS:
        assert " of 100 " in rows[way.title]
    assert " 0 of 100 " in rows[HEAD.title]
    assert " 0 of 10 " in rows[HEAD.title]
    assert ran.stderr.splitlines() == [f"... {way.title}" for way in WAYS]


def test_with_json_standard_output_holds_nothing_else() -> None:
    ran = subprocess.run([*DEMO, "--json"], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    assert [way["name"] for way in found["ways"]] == ["yield", "head", "after_send"]
    assert all((way["answered"], way["failed_commits"]) == (100, 10) for way in found["ways"])
    assert found["ways"][1] | {"last_byte_median_ms": 0.0} == {
        "name": "head",
        "title": HEAD.title,
        "answered": 100,
        "missed": 0,
        "failed_commits": 10,
        "false_2xx": 0,
        "next_request_ok": 10,
        "last_byte_median_ms": 0.0,
        "kept": True,
    }
    assert 0 < found["seconds"] < 20


def test_the_sentences_and_the_table_come_from_what_was_counted() -> None:
    found = [counted(YIELD, missed=76, false_success=9, next_ok=1), counted(HEAD), counted(AFTER_SEND, missed=5)]
    sentences = plain_reading(found)
    assert "yield dependency 9 of 10 clients were told 2xx for an order that does not exist" in sentences[0]
    assert "76 of 100 did not find theirs" in sentences[0]
    assert "commit='head' 0 of 10 clients" in sentences[1]
    assert "5 of 100" in sentences[2]
    rows = [line for line in as_table(found).splitlines() if line.startswith(YIELD.title)]
    assert rows[0].split("  ")[1:] != []
    assert [cell.strip() for cell in rows[0].split("  ") if cell] == [
        YIELD.title,
        "76 of 100",
        "9 of 10",
        "1 of 10",
        "2.0 ms",
    ]
    assert json.loads(as_json(found, 1.5))["ways"][0]["missed"] == 76


@pytest.mark.parametrize(
    ("tally", "kept"),
    [
        (counted(YIELD, missed=100, false_success=10, next_ok=0), True),
        (counted(HEAD), True),
        (counted(HEAD, missed=1), False),
        (counted(HEAD, false_success=1), False),
        (counted(HEAD, next_ok=9), False),
        (counted(AFTER_SEND, missed=100, false_success=10), True),
        (counted(AFTER_SEND, next_ok=9), False),
    ],
)
def test_only_what_a_way_promises_is_held_against_it(tally: Tally, kept: bool) -> None:
    assert tally.kept is kept


def test_figures_of_commits_that_did_not_fail_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("postresponse.demo.measurement.UNKNOWN", 1)
    with pytest.raises(ServerFailed, match="1 of 1 commits did not fail"):
        measure(orders=1, failures=1, progress=lambda *_: None)


def test_figures_of_good_orders_that_were_refused_are_refused_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("postresponse.demo.measurement.KNOWN", "nobody")
    with pytest.raises(ServerFailed, match="a good order was answered 422"):
        measure(orders=1, failures=1, progress=lambda *_: None)


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
@pytest.mark.parametrize(
    ("number", "code", "tidy"),
    [(signal.SIGINT, 130, True), (signal.SIGTERM, 130, True), (signal.SIGKILL, -signal.SIGKILL, False)],
    ids=["Ctrl-C", "SIGTERM", "SIGKILL"],
)
def test_no_server_is_left_running_however_the_demo_ends(
    number: signal.Signals, code: int, tidy: bool, tmp_path: Path
) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        DEMO,
        env=environment,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background job ignores it
    ) as demo:
        assert demo.stderr is not None
        assert demo.stderr.readline() == f"... {YIELD.title}\n"  # so it is in the middle of its work
        assert servers_under(tmp_path) != []
        demo.send_signal(number)
        _out, said = demo.communicate(timeout=20)
    assert demo.returncode == code
    assert "Traceback" not in said
    assert until(lambda: servers_under(tmp_path) == [])
    if tidy:
        assert list(tmp_path.iterdir()) == []


def servers_under(folder: Path) -> list[int]:
    """Processes of a demo that works in *folder*."""
    return [
        int(path.parent.name)
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if b"postresponse.demo.server" in (said := read(path)) and os.fsencode(folder) in said
    ]


def read(path: Path) -> bytes:
    """Read a file of a process that may be gone."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


def until(holds: Callable[[], bool], timeout: float = 10.0) -> bool:
    """Wait for *holds*."""
    deadline = time.monotonic() + timeout
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
