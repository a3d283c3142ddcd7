"""The table of outcomes, printed at the end."""

import os

import pytest

from tests.faults.table import Table

TABLE = pytest.StashKey[Table]()


@pytest.fixture(scope="session")
def table(pytestconfig: pytest.Config) -> Table:
    """The table that this run fills."""
    return pytestconfig.stash.setdefault(TABLE, Table())


@pytest.fixture(scope="session")
def seed(table: Table) -> str:
    """What the pairs are sampled by, as the table says."""
    seed = os.environ.get("POSTRESPONSE_FAULTS_SEED", "1")
    table.notes.append(f"POSTRESPONSE_FAULTS_SEED={seed}")
    return seed


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the table, where output is asked for by `-s` or by the length of the run."""
    table = config.stash.get(TABLE, None)
    if table and (config.getoption("capture") == "no" or config.getoption("--long") != "off"):
        terminalreporter.section("what became of every fault")
        for line in table.lines():
            terminalreporter.write_line(line)
