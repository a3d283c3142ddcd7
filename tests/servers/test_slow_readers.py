"""Slow readers of streamed bodies, beside a pool of five connections."""

from contextlib import ExitStack

import pytest

from tests.servers.client import Connection
from tests.servers.site import Site, sites, target

LARGE = 32 << 20
POOL = 5


def slow_readers(site: Site, stack: ExitStack, at: str, count: int) -> list[str]:
    """Ask for large bodies and read no more of each than its head; returns the keys."""
    keys = [site.key("slow") for _ in range(count)]
    for key in keys:
        connection: Connection = stack.enter_context(site.connection(receive_buffer=16384))
        connection.send("GET", target("/stream", key, at=at, size=LARGE, touch=1))
        assert connection.read_head().status == 200
        stack.callback(connection.reset)  # before it is closed: nobody waits for the rest
    return keys


@sites(but=["gunicorn-sync"])  # one process, one request
def test_slow_readers_keep_nobody_waiting_when_the_commit_is_at_the_head(site: Site) -> None:
    with ExitStack() as stack:
        keys = slow_readers(site, stack, "head", 12)
        with site.client() as client:
            for _ in range(20):
                key = site.key("beside")
                assert client.request("POST", target("/orders", key)).status == 201
                assert site.orders.has(key)
        assert site.status()["checked_out"] == 0
        if not site.kind.swallows:
            assert not [key for key in keys if site.events(key, "finished")]  # all twelve were still being sent
    for key in keys:
        assert site.outcome(key)["unit_of_work"] == "committed"
    site.sees_all_given_back()


@pytest.mark.long
@sites("uvicorn-httptools", "gunicorn-gthread")
def test_a_commit_after_the_body_holds_a_connection_for_every_slow_reader(site: Site) -> None:
    """What the test above would see if the session were held through the stream."""
    with ExitStack() as stack:
        keys = slow_readers(site, stack, "after_send", POOL)
        assert site.status()["checked_out"] == POOL
        with site.client() as client:
            assert client.request("POST", target("/orders", site.key("beside"))).status >= 500
    for key in keys:
        assert site.outcome(key)["ending"] == "aborted"
    site.sees_all_given_back()
