"""Tenants on real servers: one waits for itself alone, and a place that its client left is free."""

import json
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import Any

import pytest

from tests.servers.harness import KINDS, Kind
from tests.servers.site import Site, Spec, eventually, target

SEES_LEAVING = ("gunicorn-gthread", "gunicorn-gevent")
"""WSGI servers that let be seen whether a client that waits is there."""


@cache  # one that is the same stays up from test to test
def limited(kind: Kind) -> Spec:
    """A server with the applications that have tenants."""

    def command(_target: str, port: int) -> Any:
        return kind.command(f"tests.servers.apps.tenants_{kind.protocol}:app", port)

    return Spec(replace(kind, name=f"{kind.name}-tenants", command=command), "sqlite")


def on(*kinds: Kind) -> pytest.MarkDecorator:
    """Parametrize a test over such servers."""
    params = [pytest.param(limited(kind), id=kind.name) for kind in kinds]
    return pytest.mark.parametrize("site", params, indirect=True)


class Clients:
    """Requests that are under way beside each other."""

    def __init__(self, site: Site, pool: ThreadPoolExecutor) -> None:
        self._site = site
        self._pool = pool

    def ask(self, key: str, **asked: Any) -> "Future[int]":
        """Begin a request, and promise its status."""
        return self._pool.submit(self._ask, target("/orders", key, **asked))

    def _ask(self, path: str) -> int:
        with self._site.client() as client:
            return client.request("POST", path).status

    def see(self, load: dict[str, list[int]]) -> None:
        """Wait until so many requests of each tenant are served, and wait."""
        eventually(lambda: self._load() == load, f"the load is {load}")

    def _load(self) -> Any:
        with self._site.client() as client:
            return json.loads(client.request("GET", "/load").body)


@contextmanager
def clients(site: Site) -> Iterator[Clients]:
    """Threads for requests."""
    with ThreadPoolExecutor(4) as pool:
        yield Clients(site, pool)


@on(*(kind for kind in KINDS.values() if kind.concurrent))
def test_a_full_tenant_is_refused_at_once_and_the_other_one_does_not_notice(site: Site) -> None:
    first, second = site.key("a"), site.key("a")
    with clients(site) as asking:
        served = asking.ask(first, hold="handler")
        site.wait_for(first, "held")
        waits = asking.ask(second)
        asking.see({"a": [1, 1]})
        assert asking.ask(site.key("a")).result(10) == 429
        assert asking.ask(site.key("b")).result(10) == 201
        assert not served.done()
        assert site.events(second) == []
        site.open(first)
        assert (served.result(10), waits.result(10)) == (201, 201)
        asking.see({})


@on(*(kind for kind in KINDS.values() if kind.protocol == "asgi" or kind.name in SEES_LEAVING))
def test_who_leaves_while_it_waits_is_never_served_and_its_place_is_free(site: Site) -> None:
    first, gone = site.key("a"), site.key("a")
    with clients(site) as asking:
        served = asking.ask(first, hold="handler")
        site.wait_for(first, "held")
        with site.connection() as connection:
            connection.send("POST", target("/orders", gone))
            asking.see({"a": [1, 1]})
        asking.see({"a": [1, 0]})
        site.open(first)
        assert served.result(10) == 201
        asking.see({})
    assert site.events(gone) == []


@on(*(kind for kind in KINDS.values() if kind.protocol == "asgi"))
def test_who_leaves_while_it_is_served_is_cancelled_and_the_next_one_has_its_slot(site: Site) -> None:
    gone, following = site.key("a"), site.key("a")
    with clients(site) as asking:
        with site.connection() as connection:
            connection.send("POST", target("/orders", gone, hold="handler"))
            site.wait_for(gone, "held")
            waits = asking.ask(following)
            asking.see({"a": [1, 1]})
        assert waits.result(10) == 201
        asking.see({})
    outcome = site.outcome(gone)
    assert (outcome["ending"], outcome["unit_of_work"]) == ("aborted", "rolled_back")
