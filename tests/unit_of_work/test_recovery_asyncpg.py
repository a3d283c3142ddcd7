"""A recovery over asyncpg, which raises what keeps it from a server as it is, an OSError or a TimeoutError."""

import asyncio
from collections.abc import Iterator
from functools import partial

import pytest
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool
from sqlalchemy.util import greenlet_spawn

from postresponse.cli import main
from postresponse.unit_of_work.recovery import Recovered, recover
from tests.services.own_postgres import Cluster
from tests.services.ports import free_port
from tests.unit_of_work.test_recovery import actions, leave
from tests.unit_of_work.two_databases import Shop

Captured = pytest.CaptureFixture[str]

pytestmark = pytest.mark.service("own postgresql")


@pytest.fixture
def shop(cluster: Cluster) -> Iterator[Shop]:
    """Two empty databases."""
    shop = Shop(cluster)
    yield shop
    shop.clear()


@pytest.mark.parametrize("down", Shop.members)
def test_a_server_that_is_down_is_named_and_the_others_are_looked_into(shop: Shop, down: str, capsys: Captured) -> None:
    own = leave(shop, order=("orders",))
    urls = {member: shop.url(member, "asyncpg") for member in shop.members}
    nobody = str(free_port())
    urls[down] = urls[down].replace(str(shop.cluster.port), nobody)
    given = [f"{member}={url}" for member, url in urls.items()]
    assert main(["recover", *given, "--older-than", "0"]) == 1
    first, *others = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{down}: left; it cannot be looked into: [Errno ")
    assert [line.partition(";")[0] for line in others] == ([] if down == "orders" else [f"orders: {own}: rolled back"])


def recover_in_time(shop: Shop) -> list[Recovered]:
    """Recover over connections on which no statement may take longer than half a second."""
    engines = {
        member: create_engine(shop.url(member, "asyncpg"), poolclass=NullPool, connect_args={"command_timeout": 0.5})
        for member in shop.members
    }
    return asyncio.run(greenlet_spawn(partial(recover, engines, older_than=0)))


def test_a_decider_that_does_not_answer_in_time_is_told_of(shop: Shop) -> None:
    leave(shop)
    with shop.held("orders", "INSERT INTO item VALUES (9)"):  # whatever is to be on disk waits with it
        told = recover_in_time(shop)
    assert actions(told) == [("orders", "left"), ("audit", "left")]
    assert [each.reason for each in told] == ["TimeoutError"] * 2
    recover_in_time(shop)
    assert (shop.items("audit"), shop.prepared) == ([], [])


def test_another_that_does_not_answer_in_time_is_told_of(shop: Shop) -> None:
    own = leave(shop)
    shop.execute("orders", f"COMMIT PREPARED '{own}'")
    with shop.held("orders", "INSERT INTO item VALUES (9)"):
        told = recover_in_time(shop)
    assert actions(told) == [("audit", "left")]
    assert told[0].reason == "TimeoutError"
    recover_in_time(shop)
    assert (shop.stored, shop.prepared) == ([[1, 9], [1]], [])
