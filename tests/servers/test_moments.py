"""Without a unit of work the middleware watches: each request is told of once, with its moments in order."""

from itertools import pairwise

import pytest

from tests.servers.site import Event, Site, sites, target

ORDER = ("began", "decided", "settling", "settled", "head_sent", "body_sent", "ended")


def moments(outcome: Event) -> list[int]:
    """The moments that came, in the order in which they may come."""
    found = outcome["moments"]
    assert set(found) == set(ORDER)
    return [found[name] for name in ORDER if found[name] is not None]


@pytest.mark.parametrize(
    ("path", "size", "taken"),
    [("/stream", 300_000, 300_000), ("/stream", 0, 0)],
    ids=["in pieces", "empty"],
)
@sites()
def test_a_watched_response_is_told_of_once_with_its_moments_in_order(
    site: Site, path: str, size: int, taken: int
) -> None:
    with site.client() as client:
        keys = [site.key("watched") for _ in range(5)]
        for key in keys:
            response = client.request("GET", target(path, key, through="observer", size=size))
            assert (response.status, len(response.body)) == (200, taken)
    for key in keys:
        outcome = site.outcome(key)
        assert (outcome["ending"], outcome["unit_of_work"], outcome["status"]) == ("handed_over", "none", 200)
        assert (outcome["bytes_sent"], outcome["sent"], outcome["exception"]) == (taken, True, None)
        assert all(earlier <= later for earlier, later in pairwise(moments(outcome)))
        found = outcome["moments"]
        assert all(found[name] is not None for name in ("began", "decided", "head_sent", "body_sent", "ended"))
        assert found["settling"] is found["settled"] is None


@pytest.mark.parametrize("at", ["head", "buffered", "after_send"])
@sites()
def test_the_commit_is_where_its_mode_says(site: Site, at: str) -> None:
    key = site.key("moments")
    with site.client() as client:
        assert client.request("POST", target("/orders/streamed", key, at=at, size=100_000)).status == 201
    outcome = site.outcome(key)
    assert (outcome["ending"], outcome["unit_of_work"]) == ("handed_over", "committed")
    found = outcome["moments"]
    assert found["settling"] <= site.events(key, "commit")[0]["at"] <= found["settled"]
    if at == "after_send":
        order = ["began", "decided", "head_sent", "body_sent", "settling", "settled", "ended"]
    else:
        order = list(ORDER)
    assert sorted(order, key=found.__getitem__) == order
