"""Options and marks for all tests: long proofs in three lengths, and services that may be missing."""

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import pytest

from tests.log_lines import Reader
from tests.services import PROBES
from tests.sharing import Sharing, begins_early

Length = Literal["off", "short", "full"]


@dataclass(frozen=True)
class Scale:
    """How long the long proofs are in this run."""

    length: Length

    def of(self, *, off: int, short: int, full: int) -> int:
        """Pick the number for this run's length."""
        return {"off": off, "short": short, "full": full}[self.length]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --long."""
    parser.addoption(
        "--long",
        choices=("off", "short", "full"),
        default="off",
        help="long proofs: leave them out, run them with small numbers, or with the numbers that the README claims",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip the long proofs unless they were asked for; in one of several processes, begin with what takes long."""
    if hasattr(config, "workerinput"):  # one of several processes
        items.sort(key=lambda item: not begins_early(item.nodeid))
    if config.getoption("--long") == "off":
        for item in items:
            if item.get_closest_marker("long"):
                item.add_marker(pytest.mark.skip(reason="a long proof: --long=short or --long=full runs it"))


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
