"""A client leaves, at every stage and in both manners: one verdict, one outcome, and the server goes on.

Where the test holds the request it knows what is under way when the client leaves; nothing is left to luck but whether
the server notices, and that is not asked of servers that cannot.
"""

from collections.abc import Callable

import pytest

from tests.servers.client import Connection
from tests.servers.site import Event, Site, sites, target

LARGE = 32 << 20
"""More than any of these servers takes off the application's hands before the client reads, but for daphne."""

Leave = Callable[[Connection], None]
LEAVING: dict[str, Leave] = {"FIN": Connection.close, "RST": Connection.reset}

every_manner = pytest.mark.parametrize("leave", LEAVING.values(), ids=LEAVING)
every_mode = pytest.mark.parametrize("at", ["head", "buffered", "after_send"])


@every_manner
@every_mode
@sites()
def test_a_client_that_leaves_before_the_head_leaves_nothing_behind(site: Site, at: str, leave: Leave) -> None:
    key = site.key("before-head")
    connection = site.connection()
    connection.send("POST", target("/orders", key, at=at, hold="handler"))
    site.wait_for(key, "held")
    leave(connection)
    site.open(key)
    outcome = assert_settled_once(site, key)
    assert outcome["unit_of_work"] == "committed"  # the handler was not interrupted, and its policy says: commit
    assert_serves(site)


@every_manner
@every_mode
@sites()
def test_a_client_that_leaves_during_commit_leaves_nothing_behind(site: Site, at: str, leave: Leave) -> None:
    key = site.key("in-commit")
    connection = site.connection()
    connection.send("POST", target("/orders", key, at=at, hold="commit"))
    site.wait_for(key, "held")
    leave(connection)
    site.open(key)
    outcome = assert_settled_once(site, key)
    assert outcome["unit_of_work"] == "committed"  # never interrupted half-way
    assert_serves(site)


def piece_for(site: Site) -> int:
    """Bytes of a piece: waitress waits for the interpreter four times a piece while nobody reads, which adds up."""
    return 1 << 18 if site.kind.name.startswith("waitress") else 1 << 16


@every_manner
@pytest.mark.parametrize("at", ["head", "after_send"])
@sites()
def test_a_client_that_leaves_after_the_head_leaves_nothing_behind(site: Site, at: str, leave: Leave) -> None:
    key = site.key("after-head")
    connection = site.connection()
    connection.send("POST", target("/orders/streamed", key, at=at, size=LARGE, piece=piece_for(site), hold="body"))
    assert connection.read_head().status == 201
    site.wait_for(key, "held")
    leave(connection)
    if site.kind.concurrent:
        site.status()  # a round trip: what the kernel told the server before is read by now
    site.open(key)
    outcome = assert_settled_once(site, key)
    assert outcome["ending"] == "aborted" or site.kind.tells_late
    if at == "head":
        assert outcome["unit_of_work"] == "committed"
    assert_serves(site)


@every_manner
@pytest.mark.parametrize("at", ["head", "after_send"])
@sites()
def test_a_client_that_leaves_in_the_middle_of_the_body_leaves_nothing_behind(
    site: Site, at: str, leave: Leave
) -> None:
    key = site.key("mid-body")
    connection = site.connection(receive_buffer=16384)
    connection.send("POST", target("/orders/streamed", key, at=at, size=LARGE, piece=piece_for(site)))
    assert len(connection.read_some()) > 0
    leave(connection)
    outcome = assert_settled_once(site, key)
    assert outcome["ending"] == "aborted" or site.kind.tells_late
    if at == "head":
        assert outcome["unit_of_work"] == "committed"
    assert_serves(site)


@every_manner
@pytest.mark.parametrize("at", ["head", pytest.param("after_send", marks=pytest.mark.long)])
@sites("uvicorn-httptools", "uvicorn-h11", "hypercorn", "hypercorn-trio", "gunicorn-asgi")
def test_a_client_that_leaves_in_the_middle_of_one_large_message_has_aborted_it(
    site: Site, at: str, leave: Leave
) -> None:
    """The whole body, its Content-Length known, in one message: the server has it all, and the client has not."""
    key = site.key("one-message")
    connection = site.connection(receive_buffer=16384)
    connection.send("POST", target("/orders", key, at=at, size=LARGE, piece=piece_for(site)))
    assert len(connection.read_some()) > 0
    leave(connection)
    outcome = assert_settled_once(site, key)
    assert outcome["ending"] == "aborted"
    assert_serves(site)


@every_manner
@pytest.mark.parametrize("path", ["/orders", "/orders/streamed"], ids=["whole", "streamed"])
@every_mode
@sites()
def test_a_client_that_leaves_with_the_whole_response_has_not_aborted_it(
    site: Site, at: str, path: str, leave: Leave
) -> None:
    """Below the size (64 KiB) from which a last message is parted, what ends the response leaves with its last byte."""
    size = 60_000
    keys = [site.key("whole") for _ in range(3)]
    for key in keys:
        connection = site.connection()
        response = connection.request("POST", target(path, key, at=at, size=size, piece=20_000))
        leave(connection)
        assert (response.status, len(response.body)) == (201, size)
    for key in keys:
        outcome = assert_settled_once(site, key)
        assert outcome["unit_of_work"] == "committed"
        assert outcome["sent"], outcome
        assert outcome["bytes_sent"] == size
    assert_serves(site)


@every_manner
@sites("uvicorn-httptools", "uvicorn-h11", "gunicorn-asgi", "daphne")
def test_a_client_that_was_seen_to_leave_rolls_back_where_the_policy_says_so(site: Site, leave: Leave) -> None:
    key = site.key("rollback")
    connection = site.connection()
    connection.send("POST", target("/orders", key, on_disconnect="rollback", hold="handler"))
    site.wait_for(key, "held")
    leave(connection)
    site.status()  # as above
    site.open(key)
    outcome = assert_settled_once(site, key)
    assert (outcome["ending"], outcome["unit_of_work"]) == ("aborted", "rolled_back")
    assert_serves(site)


@pytest.mark.long
@every_mode
@sites("gunicorn-asgi")
def test_a_commit_outlives_the_server_s_cancellation(site: Site, at: str) -> None:
    """The server cancels the request's task when the grace period (1 s) after the client's leaving is over."""
    key = site.key("cancelled")
    connection = site.connection()
    connection.send("POST", target("/orders", key, at=at, delay=2.5, hold="commit"))
    site.wait_for(key, "commit")
    connection.reset()
    site.open(key)
    outcome = assert_settled_once(site, key)
    assert outcome["unit_of_work"] == "committed"
    assert_serves(site)


@every_manner
@sites()
def test_an_observed_client_that_leaves_is_told_of_once(site: Site, leave: Leave) -> None:
    key = site.key("observed")
    connection = site.connection(receive_buffer=16384)
    connection.send("GET", target("/stream", key, through="observer", size=LARGE, piece=piece_for(site)))
    assert len(connection.read_some()) > 0
    leave(connection)
    outcome = site.outcome(key)
    assert outcome["unit_of_work"] == "none"
    assert outcome["sent"] is (outcome["ending"] == "handed_over")
    assert outcome["ending"] == "aborted" or site.kind.tells_late
    if site.kind.protocol == "wsgi":  # ASGI servers take, and drop, what is sent to a client that left
        assert outcome["bytes_sent"] < LARGE
    assert_serves(site)


def assert_settled_once(site: Site, key: str) -> Event:
    """One outcome and one verdict, true to what the database did; everything given back."""
    outcome = site.outcome(key)
    site.sees_all_given_back()
    done = [entry["event"] for entry in site.events(key)]
    verdict = outcome["unit_of_work"]
    assert verdict in {"committed", "rolled_back"}, (outcome, site.log())
    assert done.count("finished") == 1
    assert done.count("commit") == (verdict == "committed"), done
    assert done.count("rollback") == (verdict == "rolled_back"), done
    assert done.count("released") == 1, done
    assert "commit_failed" not in done
    assert site.orders.has(key) is (verdict == "committed")
    return outcome


def assert_serves(site: Site) -> None:
    """The server goes on as if nothing had been."""
    key = site.key("next")
    with site.client() as client:
        assert client.request("POST", target("/orders", key)).status == 201
    assert site.orders.has(key)
    assert site.outcome(key)["ending"] == "handed_over"
    assert not site.events("", "hook_failed")
