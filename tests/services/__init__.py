"""Services that some tests need: which they are, and why one cannot be reached."""

from collections.abc import Callable, Mapping

from tests.services import mariadb, own_postgres, postgres

PROBES: Mapping[str, Callable[[], str | None]] = {
    "postgresql": postgres.unreachable,
    "own postgresql": own_postgres.unavailable,
    "mariadb": mariadb.unreachable,
}
"""For each service a function that says why it cannot be used, or None where it can."""
