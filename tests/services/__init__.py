"""Services that some tests need: which they are, and why one cannot be reached."""

from collections.abc import Callable, Mapping

from tests.services import mariadb, own_postgres, own_rabbitmq, postgres, rabbitmq, redis

PROBES: Mapping[str, Callable[[], str | None]] = {
    "postgresql": postgres.unreachable,
    "own postgresql": own_postgres.unavailable,
    "mariadb": mariadb.unreachable,
    "rabbitmq": rabbitmq.unreachable,
    "own rabbitmq": own_rabbitmq.unavailable,
    "redis": redis.unreachable,
}
"""For each service a function that says why it cannot be used, or None where it can."""
