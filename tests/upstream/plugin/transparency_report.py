"""A pytest plugin that writes what became of each test, one JSON line a phase.

It runs inside the interpreter of the upstream suite, so it may import nothing but pytest and the standard library.
Lines are written as they happen: when a run hangs and is killed, the last "started" line names the test that hung.
"""

import json
from pathlib import Path
from typing import Any, TextIO

import pytest

_stream = pytest.StashKey[TextIO]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that says where the report goes."""
    parser.addoption("--transparency-report", type=Path, required=True, help="file for one JSON line a test phase")


def pytest_configure(config: pytest.Config) -> None:
    """Open the report and register the recorder that fills it."""
    stream = config.getoption("--transparency-report").open("w", encoding="utf-8", buffering=1)
    config.stash[_stream] = stream
    config.pluginmanager.register(_Recorder(stream), "transparency-recorder")


def pytest_unconfigure(config: pytest.Config) -> None:
    """Close the report."""
    if _stream in config.stash:
        config.stash[_stream].close()


class _Recorder:
    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def _write(self, **record: Any) -> None:
        self._stream.write(json.dumps(record) + "\n")

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._write(test=nodeid, phase="started", outcome="started")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        # An expected failure is reported as skipped and carries `wasxfail`; a strict one that passes is a failure.
        outcome = "xfailed" if report.skipped and hasattr(report, "wasxfail") else report.outcome
        self._write(test=report.nodeid, phase=report.when, outcome=outcome, text=_message(report))

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._write(test=report.nodeid, phase="collect", outcome="failed", text=_message(report))


def _message(report: pytest.TestReport | pytest.CollectReport) -> str:
    """Return the first line of what a failure says, and where; the run's log has the traceback."""
    crash = getattr(report.longrepr, "reprcrash", None)
    if not report.failed or crash is None:
        return report.longreprtext[-200:] if report.failed else ""
    return f"{str(crash.message).partition(chr(10))[0][:200]} ({crash.path}:{crash.lineno})"
