"""Redis: where it is, and whether it answers.

`POSTRESPONSE_REDIS_URL` says where (default: database 15 of the one on this machine, which the tests may empty).
"""

import functools
import os

import redis as client_library


def url() -> str:
    """The URL of the database."""
    return os.environ.get("POSTRESPONSE_REDIS_URL", "redis://127.0.0.1:6379/15")


@functools.cache
def unreachable() -> str | None:
    """Why it cannot be used, or None."""
    try:
        with client_library.Redis.from_url(url(), socket_connect_timeout=3) as client:
            client.ping()
    except client_library.RedisError as error:
        return f"no Redis at {url()}: {error}"
    return None
