"""A pytest plugin that patches the suite's entrances and reports what became of each test."""

import pytest
import transparency_start  # type: ignore[import-not-found]
from transparency_report import Report  # type: ignore[import-not-found]


def pytest_configure(config: pytest.Config) -> None:
    """Patch the entrances before the tests are imported, and register the reporter."""
    transparency_start.patch()
    config.pluginmanager.register(_Reporter(Report()), "transparency-reporter")


class _Reporter:
    def __init__(self, report: Report) -> None:
        self._report = report

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._report.started(nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        # An expected failure is reported as skipped and carries `wasxfail`; a strict one that passes is a failure.
        outcome = "xfailed" if report.skipped and hasattr(report, "wasxfail") else report.outcome
        self._report.write(report.nodeid, phase=report.when, outcome=outcome, text=_message(report))

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._report.write(report.nodeid, phase="collect", outcome="failed", text=_message(report))


def _message(report: pytest.TestReport | pytest.CollectReport) -> str:
    """Return the first line of what a failure says, and where; the run's log has the traceback."""
    crash = getattr(report.longrepr, "reprcrash", None)
    if not report.failed or crash is None:
        return report.longreprtext[-200:] if report.failed else ""
    return f"{str(crash.message).partition(chr(10))[0][:200]} ({crash.path}:{crash.lineno})"
