"""The promise of the modes head and buffered: who holds a 2xx finds the row, and a failed COMMIT never looks like one.

The client looks from outside, on a database connection of its own, as soon as it has the last byte.
"""

import pytest

from tests.conftest import Scale
from tests.servers.client import Client, ConnectionEnded
from tests.servers.figures import Figures, Tally
from tests.servers.site import Site, leftovers, sites, target

ROUTES = {"whole": ("/orders", None), "streamed": ("/orders/streamed", 200_000)}
"""The path and the size of the body of each variant."""


@pytest.mark.parametrize("at", ["head", "buffered"])
@sites()
def test_who_holds_a_2xx_finds_the_row(site: Site, at: str, scale: Scale) -> None:
    tally = Tally(site.spec.name, at)
    assert_kept(site, tally, at, requests=scale.of(off=20, short=50, full=200), failures=3)


@pytest.mark.parametrize("at", ["head", "buffered"])
@sites()
def test_who_holds_a_streamed_2xx_finds_the_row(site: Site, at: str, scale: Scale) -> None:
    tally = Tally(site.spec.name, at)
    requests = scale.of(off=10, short=20, full=100)
    assert_kept(site, tally, at, route="streamed", requests=requests, failures=3)


@pytest.mark.long
@pytest.mark.parametrize("delay", [0.0, 0.005], ids=["quick", "slow"])
@pytest.mark.parametrize("at", ["head", "buffered"])
@sites()
def test_no_row_is_missed_and_no_failure_looks_like_success(
    site: Site, at: str, delay: float, scale: Scale, figures: Figures
) -> None:
    tally = Tally(site.spec.name, f"{at}, {delay * 1000:.0f} ms in COMMIT" if delay else at)
    figures.add(tally)
    requests, failures = scale.of(off=0, short=50, full=200), scale.of(off=0, short=5, full=20)
    assert_kept(site, tally, at, delay=delay or None, requests=requests, failures=failures)


@pytest.mark.long
@pytest.mark.parametrize("delay", [0.0, 0.005], ids=["quick", "slow"])
@pytest.mark.parametrize("at", ["head", "buffered"])
@sites(database="postgresql")
def test_no_row_is_missed_on_postgresql_either(
    site: Site, at: str, delay: float, scale: Scale, figures: Figures
) -> None:
    tally = Tally(site.spec.name, f"{at}, {delay * 1000:.0f} ms in COMMIT" if delay else at)
    figures.add(tally)
    requests, failures = scale.of(off=0, short=50, full=200), scale.of(off=0, short=5, full=20)
    assert_kept(site, tally, at, delay=delay or None, requests=requests, failures=failures)


@pytest.mark.parametrize("at", ["head", "buffered"])
@sites("uvicorn-httptools", "hypercorn-trio", "gunicorn-gthread", database="postgresql")
def test_who_holds_a_2xx_finds_the_row_in_postgresql(site: Site, at: str) -> None:
    assert_kept(site, Tally(site.spec.name, at), at, requests=20, failures=3)


@sites("uvicorn-httptools", "gunicorn-gthread")
def test_a_response_that_never_ends_commits_at_its_head_although_buffered(site: Site) -> None:
    key = site.key("events")
    with site.connection() as connection:
        connection.send("GET", target("/events", key, at="buffered", hold="body"))
        head = connection.read_head()
        body = connection.read_body(head)
        assert head.status == 200
        assert next(body) == b"data: 0\n\n"  # here the application waits in the middle of its body
        assert len(site.events(key, "commit")) == 1
        assert len(site.events(key, "released")) == 1
        site.open(key)
        assert b"".join(body) == b"data: 1\n\ndata: 2\n\n"
    assert site.outcome(key)["unit_of_work"] == "committed"
    assert "INFO postresponse" in site.log()


def assert_kept(
    site: Site, tally: Tally, at: str, *, route: str = "whole", delay: float | None = None, requests: int, failures: int
) -> None:
    """Count, see that nothing was missed, and that each request had one outcome and one verdict."""
    path, size = ROUTES[route]
    asked = {"at": at, "delay": delay, "size": size}
    good, bad = [site.key("good") for _ in range(requests)], [site.key("bad") for _ in range(failures)]
    with site.client() as client:
        for key in good:
            answered = client.request("POST", target(path, key, **asked))
            visible = site.orders.has(key)
            assert answered.status == 201, (answered, site.log())
            tally.answered += 1
            tally.missed += not visible
            assert answered.head.get("location") == f"/orders/{key}"
            assert len(answered.body) == size or answered.body.decode() == f"order {key} stored\n"
        for key in bad:
            fail(site, client, tally, target(path, key, **asked, fail=1), key)
            next_on_the_connection(site, client, tally, path, asked)
    assert (tally.missed, tally.false_success, tally.broken_next, tally.leftovers) == (0, 0, 0, []), site.log()
    if site.kind.keeps_alive and route == "whole":  # waitress ends the connection behind a body without a length
        assert client.connections == 1
    for key in good:
        assert site.outcome(key)["unit_of_work"] == "committed"
        assert len(site.events(key, "commit")) == 1
    for key in bad:
        assert site.outcome(key)["unit_of_work"] == "failed"
        assert len(site.events(key, "commit_failed")) == 1
        assert not site.orders.has(key)
    assert not site.events("", "hook_failed")
    assert "ERROR postresponse" in site.log()
    site.sees_all_given_back()


def fail(site: Site, client: Client, tally: Tally, aim: str, key: str) -> None:
    """Send a request whose COMMIT fails."""
    tally.failed += 1
    answered = client.request("POST", aim)
    tally.false_success += 200 <= answered.status < 300
    tally.leftovers += leftovers(answered.head, answered.body, key)
    assert answered.status == 500, (answered, site.log())
    assert answered.head.get("content-type") == "application/problem+json"
    assert answered.head.get("content-length") == str(len(answered.body))


def next_on_the_connection(
    site: Site, client: Client, tally: Tally, path: str, asked: dict[str, str | float | int | None]
) -> None:
    """Send a good request right after."""
    key = site.key("next")
    try:
        succeeded = client.request("POST", target(path, key, **asked)).status == 201 and site.orders.has(key)
    except (ConnectionEnded, OSError):
        succeeded = False
    tally.broken_next += not succeeded
