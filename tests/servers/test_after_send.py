"""after_send: the client does not wait for COMMIT, and a COMMIT that fails then harms nobody."""

import pytest

from tests.conftest import Scale
from tests.servers.site import Site, eventually, sites, target


@sites()
def test_the_client_holds_the_whole_body_while_commit_has_not_ended(site: Site) -> None:
    key = site.key("after")
    with site.connection() as connection:
        response = connection.request("POST", target("/orders", key, at="after_send", hold="commit"))
        assert (response.status, response.body.decode()) == (201, f"order {key} stored\n")
        assert response.head.get("content-length") == str(len(response.body))
        site.wait_for(key, "held")  # COMMIT is under way
        assert not site.orders.has(key)
        assert not site.events(key, "finished")
        site.open(key)
        outcome = site.outcome(key)
    assert (outcome["ending"], outcome["unit_of_work"]) == ("handed_over", "committed")
    assert site.orders.has(key)
    assert outcome["moments"]["body_sent"] <= outcome["moments"]["settling"]
    site.sees_all_given_back()


@sites()
def test_a_commit_that_fails_after_the_response_harms_no_other_request(site: Site, scale: Scale) -> None:
    with site.client() as client:
        for _ in range(scale.of(off=3, short=5, full=20)):
            key, following = site.key("failing"), site.key("following")
            assert client.request("POST", target("/orders", key, at="after_send", fail=1)).status == 201
            assert client.request("POST", target("/orders", following, at="after_send")).status == 201
            outcome = site.outcome(key)
            assert (outcome["ending"], outcome["unit_of_work"]) == ("handed_over", "failed")
            assert len(site.events(key, "commit_failed")) == 1
            assert not site.orders.has(key)
            assert site.outcome(following)["unit_of_work"] == "committed"
            assert site.orders.has(following)
    if site.kind.keeps_alive:
        assert client.connections == 1
    errors = [line for line in site.log().splitlines() if line.startswith("ERROR postresponse")]
    assert errors
    assert "IntegrityError" in site.log()
    site.sees_all_given_back()


@sites(but=["gunicorn-sync"])  # its only process is the one that waits
def test_others_are_served_while_a_commit_is_under_way(site: Site) -> None:
    key = site.key("held")
    with site.connection() as connection, site.client() as others:
        connection.request("POST", target("/orders", key, at="after_send", hold="commit"))
        site.wait_for(key, "held")
        for _ in range(5):
            other = others.request("GET", target("/stream", site.key("reader"), size=1000, touch=1))
            assert other.status == 200
        assert not site.events(key, "finished")
        site.open(key)
        assert site.outcome(key)["unit_of_work"] == "committed"


@pytest.mark.parametrize("fail", [None, 1], ids=["good", "failing"])
@sites()
def test_a_streamed_response_is_whole_before_its_commit(site: Site, fail: int | None) -> None:
    key = site.key("streamed")
    with site.client() as client:
        response = client.request("POST", target("/orders/streamed", key, at="after_send", size=150_000, fail=fail))
        assert (response.status, len(response.body)) == (201, 150_000)
        assert client.request("GET", target("/stream", site.key("next"), size=1000)).status == 200
    outcome = site.outcome(key)
    assert outcome["unit_of_work"] == ("failed" if fail else "committed")
    eventually(lambda: site.orders.has(key) is not bool(fail), "the row is there if, and only if, it was committed")
