"""Work that starts after the response: the client has it all by then, and nothing waits for the work."""

from collections.abc import Mapping
from typing import Final

import pytest

from tests.conftest import Scale
from tests.servers.harness import GTHREAD_PRELOADED
from tests.servers.site import Site, Spec, eventually, sites, target

LOST_AT_ONCE: Final[Mapping[str, tuple[str, ...]]] = {"daphne": ("async",)}
"""Servers that end their event loop without a lifespan shutdown: what awaits on it is lost, and reported."""


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
def test_the_work_goes_on_when_its_client_has_left(site: Site, work: str, scale: Scale) -> None:
    key, seconds = site.key("left"), scale.of(off=2, short=2, full=5)
    with site.connection() as connection:
        assert connection.request("POST", target("/orders", key, work=work, lasts=seconds)).status == 201
    site.wait_for(key, "work done")


@pytest.mark.parametrize("work", ["sync", "async"])
@sites()
def test_the_work_goes_on_when_its_client_left_in_the_middle_of_the_body(site: Site, work: str) -> None:
    key = site.key("left")
    asked = {"work": work, "lasts": 1.5, "size": 1 << 20, "piece": 1 << 16, "hold": "body"}
    with site.connection() as connection:
        connection.send("POST", target("/orders/streamed", key, **asked))
        site.wait_for(key, "held")
    site.open(key)
    assert site.outcome(key)["unit_of_work"] == "committed"
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


@pytest.mark.parametrize("work", ["broken", "async broken"])
@sites()
def test_work_that_raises_harms_neither_its_response_nor_the_next_one_on_the_connection(site: Site, work: str) -> None:
    key, following = site.key("broken"), site.key("following")
    with site.client() as client:
        assert client.request("POST", target("/orders", key, work=work)).body == f"order {key} stored\n".encode()
        site.wait_for(key, "work began")
        assert client.request("POST", target("/orders", following, work="sync")).status == 201
        assert client.connections == (1 if site.kind.keeps_alive else 2)
    site.wait_for(following, "work done")
    eventually(lambda: f"{key} is broken" in site.log(), f"the log tells of {key}")
    assert site.log().count(f"{key} is broken") == 1
    assert f"the job {work} work of POST /orders failed" in site.log()


@pytest.mark.parametrize("through", ["observer", "unit"])
@sites()
def test_it_runs_behind_a_file_and_behind_responses_without_a_body(site: Site, through: str) -> None:
    keys = []

    def ask(method: str, path: str, **asked: object) -> None:
        keys.append(site.key("bodiless"))
        response = client.request(method, target(path, keys[-1], work="sync", through=through, **asked))
        assert response.status == asked.get("status", 200), site.log()
        assert bool(response.body) == (method == "GET" and path == "/file")

    with site.client() as client:
        ask("GET", "/file")
        ask("HEAD", "/file")
        ask("GET", "/empty", status=204)
        if through == "observer":  # 304 is no failure, and the unit of work has nothing to store
            ask("GET", "/empty", status=304)
    for key in keys:
        site.wait_for(key, "work done")


@pytest.mark.parametrize("through", ["observer", "unit"])
@sites()
def test_it_does_not_run_where_the_application_raised(site: Site, through: str) -> None:
    key, following = site.key("broken"), site.key("following")
    with site.client() as client:
        assert client.request("GET", target("/broken", key, work="sync", through=through)).status == 500
    with site.client() as client:  # not every server keeps that connection
        assert client.request("POST", target("/orders", following, work="sync")).status == 201
    site.wait_for(following, "work done")
    site.outcome(key)
    assert site.events(key, "work began") == []


@pytest.mark.parametrize("work", ["sync", "async"])
@sites()
def test_what_fits_the_grace_is_done_when_its_server_is_told_to_end(fresh_site: Site, work: str) -> None:
    site, key = fresh_site, fresh_site.key("work")
    with site.client() as client:
        assert client.request("POST", target("/orders", key, work=work, lasts=0.3)).status == 201
        site.wait_for(key, "work began")
    site.server.stop(timeout=30)
    done = site.events(key, "work done")
    assert done or f"the job {work} work of POST /orders is lost" in site.log(), site.log()
    assert bool(done) is not (work in LOST_AT_ONCE.get(site.kind.name, ())), site.log()


@pytest.mark.parametrize("work", ["sync", "async"])
@sites()
def test_what_does_not_is_reported_by_name(fresh_site: Site, work: str) -> None:
    site, key = fresh_site, fresh_site.key("work")
    with site.client() as client:
        assert client.request("POST", target("/orders", key, work=work, lasts=60)).status == 201
        site.wait_for(key, "work began")
    site.server.stop(timeout=30)
    assert f"the job {work} work of POST /orders is lost" in site.log(), site.log()
    assert site.events(key, "work done") == []


@pytest.mark.parametrize("work", ["sync", "async"])
@pytest.mark.parametrize("site", [Spec(GTHREAD_PRELOADED, "sqlite")], ids=["gunicorn-preload"], indirect=True)
def test_where_the_application_is_loaded_before_the_fork_it_runs_in_the_child(site: Site, work: str) -> None:
    key = site.key("work")
    with site.client() as client:
        assert client.request("POST", target("/orders", key, work=work)).status == 201
    assert site.wait_for(key, "work done")["pid"] == site.status()["pid"]
    assert site.status()["pid"] != site.server.pid
