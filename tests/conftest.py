"""Options and marks for all tests: long proofs in three lengths, and services that may be missing."""

import faulthandler
import logging
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

import pytest

from tests.log_lines import Reader
from tests.services import PROBES
from tests.sharing import PROCESSES, Sharing, begins_early

Length = Literal["off", "short", "full"]
LENGTHS: Final = get_args(Length)

# These tests start some hundred programs: each would compile all that it imports where nobody may write it down.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False


LEFT_OUT_IN_BRIEF: Final = (
    # real servers, and other programs
    "tests/benchmarks/",
    "tests/hooks/",
    "tests/inspector/test_page",
    "tests/integrations/test_asgi_on_servers.py",
    "tests/integrations/test_django_site.py",
    "tests/integrations/test_on_servers.py",
    "tests/messaging/proofs/",
    "tests/messaging/test_orders_service.py",
    "tests/mutation/",
    "tests/observing/test_late_servers.py",
    "tests/servers/",
    "tests/test_examples.py",
    "tests/typing/",
    "tests/unit_of_work/test_failover.py",
    "tests/unit_of_work/test_lone_mariadb.py",
    "tests/unit_of_work/test_recovery.py",
    "tests/upstream/",
    # walks through all that may happen, and thousands of requests
    "tests/core/test_at_once.py",
    "tests/core/test_lifecycle.py",
    "tests/faults/",
    "tests/telemetry/test_many_requests.py",
    "tests/tenancy/test_two_thousand.py",
    "tests/test_generated_programs.py",
    "tests/test_unheard.py",
    "tests/work/stream/test_stream.py::test_a_million_items",
    # what is read, and not run
    "tests/test_docstrings.py",
    "tests/test_layering.py",
)
"""What a run leaves out that is measured, or one of several versions: other tests reach the same in less time."""


@dataclass(frozen=True)
class Scale:
    """How long the long proofs are in this run."""

    length: Length

    def of(self, *, off: int, short: int, full: int) -> int:
        """Pick the number for this run's length."""
        return {"off": off, "short": short, "full": full}[self.length]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --long and --brief."""
    parser.addoption(
        "--long",
        choices=LENGTHS,
        default="off",
        help="long proofs: leave them out, run them with small numbers, or with the numbers that the README claims",
    )
    parser.addoption(
        "--brief",
        action="store_true",
        help="leave out what starts servers and other programs, and the long walks: for a run that is measured, or one "
        "of several versions",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Run the whole suite in several processes; what is asked for by its path, seen or measured, in this one."""
    option = config.option
    whole = config.args_source is pytest.Config.ArgsSource.TESTPATHS and not option.keyword and not option.markexpr
    seen = option.capture == "no" or option.usepdb or config.pluginmanager.hasplugin("_cov")
    if whole and not seen and option.numprocesses is None and not hasattr(config, "workerinput"):
        option.numprocesses = PROCESSES


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what was not asked for; in one of several processes, begin with what takes long."""
    if config.getoption("--brief"):
        config.hook.pytest_deselected(items=[item for item in items if item.nodeid.startswith(LEFT_OUT_IN_BRIEF)])
        items[:] = [item for item in items if not item.nodeid.startswith(LEFT_OUT_IN_BRIEF)]
    if hasattr(config, "workerinput"):  # one of several processes
        items.sort(key=lambda item: not begins_early(item.nodeid))
    length = LENGTHS.index(config.getoption("--long"))
    for item in items:
        if (mark := item.get_closest_marker("long")) and length < LENGTHS.index(least := (*mark.args, "short")[0]):
            item.add_marker(pytest.mark.skip(reason=f"a long proof: --long={least} runs it"))


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """Show where each thread is, and end, if one that a test left behind keeps this process from ending."""
    waits_for_others = hasattr(config, "workerinput")  # one of several processes
    faulthandler.dump_traceback_later(600 if waits_for_others else 60, exit=True)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Share the tests out between processes, where `-n` has several."""
    return Sharing(config, log)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test whose service is missing; fail it where POSTRESPONSE_REQUIRE_SERVICES says that it must be there."""
    for mark in item.iter_markers("service"):
        if reason := PROBES[mark.args[0]]():
            if os.environ.get("POSTRESPONSE_REQUIRE_SERVICES") == "1":
                pytest.fail(reason, pytrace=False)
            pytest.skip(reason)


@pytest.fixture(autouse=True)
def _log_lines() -> Iterator[None]:
    """Hold each line of the log against the table of those that there are."""
    reader, logger = Reader(), logging.getLogger("postresponse")
    logger.addHandler(reader)
    yield
    logger.removeHandler(reader)
    assert reader.strange == []


@pytest.fixture
def quiet() -> Iterator[None]:
    """Write nothing to the log, of failures that are made on purpose, by the hundred thousand or one by one."""
    logger = logging.getLogger("postresponse")
    logger.disabled = True
    yield
    logger.disabled = False


@pytest.fixture(scope="session")
def scale(pytestconfig: pytest.Config) -> Scale:
    """The length of the long proofs in this run."""
    return Scale(pytestconfig.getoption("--long"))
