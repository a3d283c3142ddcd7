"""Work that starts after the response: the client has it all by then, and nothing waits for the work."""

import pytest

from tests.servers.site import Site, sites, target


@pytest.mark.parametrize("work", ["sync", "async"])
@sites()
def test_the_client_has_its_response_before_the_work_starts_and_nobody_waits_for_it(site: Site, work: str) -> None:
    key, following = site.key("work"), site.key("following")
    with site.client() as client:
        response = client.request("POST", target("/orders", key, work=work, lasts=2.0))
        assert (response.status, site.events(key, "work done")) == (201, [])
        assert client.request("POST", target("/orders", following)).status == 201
        assert site.events(key, "work done") == []
    outcome, began = site.outcome(key), site.wait_for(key, "work began")
    assert outcome["moments"]["body_sent"] <= began["at"]
    site.wait_for(key, "work done")
    assert len(site.events(key, "work began")) == 1


@pytest.mark.parametrize("work", ["sync", "async"])
@sites()
def test_the_work_goes_on_when_its_client_has_left(site: Site, work: str) -> None:
    key = site.key("left")
    with site.connection() as connection:
        assert connection.request("POST", target("/orders", key, work=work, lasts=2.0)).status == 201
    site.wait_for(key, "work done")


@sites()
def test_the_work_of_a_request_that_was_rolled_back_does_not_start(site: Site) -> None:
    key, following = site.key("refused"), site.key("following")
    with site.client() as client:
        assert client.request("POST", target("/orders", key, work="sync", fail=1)).status == 500
        assert client.request("POST", target("/orders", following, work="sync")).status == 201
    assert site.outcome(key)["unit_of_work"] == "failed"
    site.wait_for(following, "work done")
    assert site.events(key, "work began") == []
