"""How several processes share the tests: what takes long first, and a module or a server to one process."""

import os
import re
from typing import Any, Final

import pytest
from xdist.scheduler import LoadScopeScheduling

from tests.servers.harness import KINDS

__all__ = ["PROCESSES", "Sharing", "begins_early", "group_of"]

PROCESSES: Final = (os.cpu_count() or 1) + 1
"""One more than there are processors: most tests of servers wait."""

LONG: Final = (
    "tests/upstream/",
    "tests/core/test_lifecycle.py",
    "tests/faults/",
    "tests/messaging/proofs/test_late_relay.py",
)
"""These begin first, each test by itself: one that begins last is waited for by all."""

BRANCHES: Final = tuple(
    f"tests/unit_of_work/test_{name}.py" for name in ("failover", "kept", "lone_mariadb", "recovery", "two_phase")
)
"""Modules that ask MariaDB for its prepared transactions, which are those of all databases: one after another."""


SITE: Final = re.compile(rf"[-\[]((?:{'|'.join(sorted(KINDS, key=len, reverse=True))})(?:-postgresql)?)[-\]]")
"""The server that a test of `tests/servers` is parametrized with: each starts once, for the tests of all modules."""


def group_of(nodeid: str) -> str:
    """Name what has to run in one process with the test of this id."""
    module = nodeid.partition("::")[0]
    if module.startswith(LONG):
        return nodeid
    if module.startswith("tests/servers/") and (site := SITE.search(nodeid)):
        return f"tests/servers on {site[1]}"
    if module in BRANCHES:
        return "prepared transactions of MariaDB"
    return module


def begins_early(nodeid: str) -> bool:
    """Whether the test of this id is of a group that takes long."""
    return nodeid.startswith(LONG + BRANCHES)


class Sharing(LoadScopeScheduling):  # type: ignore[misc]
    """Gives each process a group at a time."""

    def __init__(self, config: pytest.Config, log: Any) -> None:
        config.option.loadscopereorder = False  # which would begin with those that have the most tests
        super().__init__(config, log)

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid)
