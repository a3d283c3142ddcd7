"""What two-phase commit makes of a primary that is lost, and of a standby in its place that had not heard all of it.

It has the identifier of the lost one, and gives the same ids to others.
"""

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import Connection, create_engine
from sqlalchemy.pool import NullPool

from postresponse.exceptions import CommitInDoubt
from postresponse.unit_of_work.prepared import MAX_NAME, Name
from postresponse.unit_of_work.recovery import Recovered, recover
from tests.services import mariadb, own_postgres
from tests.services.own_postgres import OWNER, Cluster
from tests.services.ports import free_port
from tests.unit_of_work.test_recovery import actions
from tests.unit_of_work.test_two_phase import Interrupted, interrupt
from tests.unit_of_work.two_databases import READ, WRITE, MixedShop, Shop, Site

Captured = pytest.LogCaptureFixture

postgresql = pytest.mark.service("own postgresql")
BOTH = (("orders", WRITE.format(1)), ("audit", WRITE.format(1)))


class Standby(Cluster):
    """A copy of *primary* as it is now, which hears of nothing that comes later."""

    def __init__(self, primary: Cluster, folder: Path) -> None:
        self.data = folder / "data"
        self.log = folder / "log"
        self.port = free_port()
        source = ("--host", "127.0.0.1", "--port", primary.port, "--username", OWNER)
        self._run("pg_basebackup", *source, "--pgdata", self.data, "--checkpoint", "fast", "--no-sync")
        with (self.data / "postgresql.conf").open("a") as file:
            file.write(f"port = {self.port}\n")
        signal = self.data / "standby.signal"
        signal.touch()
        shutil.chown(signal, self.data.owner())


@contextmanager
def standby(shop: Shop) -> Iterator[Standby]:
    """Let a standby run beside the primary of *shop*; at the end nothing is prepared any more."""
    folder = Path(tempfile.mkdtemp(prefix="postresponse-standby-"))
    try:
        if os.geteuid() == 0:
            shutil.chown(folder, OWNER)
        made = Standby(shop.cluster, folder)
        made.start()
        try:
            yield made
        finally:
            try:
                shop.clear()
            finally:
                made.stop("immediate")
    finally:
        shutil.rmtree(folder)


def site(shop: Shop, other: Cluster) -> Site:
    """A site whose members on PostgreSQL are wherever one of the two servers lets them in, as after a failover."""
    found = shop.site()
    for member in shop.members:
        if found.urls[member].startswith("postgresql"):
            hosts = "&".join(f"host=127.0.0.1:{each.port}" for each in (shop.cluster, other))
            found.urls[member] = f"postgresql+psycopg://{own_postgres.USER}@/{member}?{hosts}"
    return found


def fail_over(shop: Shop, other: Standby) -> None:
    """Lose the primary, and promote the standby; `shop` shows that one from now on."""
    shop.cluster.stop("immediate")
    assert other.execute("postgres", "SELECT pg_promote()") == [(True,)]
    shop.cluster = other


def give_away(shop: Shop, transaction: int) -> None:
    """Let others write to `orders` until they are given the id *transaction*, and commit."""
    given = 0
    while given < transaction:
        ((given,),) = shop.execute(
            "orders",
            "INSERT INTO customer SELECT count(*) FROM customer RETURNING pg_current_xact_id()::text::bigint",
        )
    assert given == transaction


@pytest.fixture
def primary() -> Iterator[Cluster]:
    with own_postgres.cluster(max_prepared_transactions=10) as made:
        yield made
        if not (made.data / "postmaster.pid").exists():
            made.start()


@pytest.fixture
def mixed(primary: Cluster) -> Iterator[MixedShop]:
    """Two empty databases, the second one on MariaDB, which stays."""
    with mariadb.database() as url:
        yield MixedShop(primary, url)


def left_behind(told: list[Recovered], own: Name) -> None:
    """The recovery has left the one on MariaDB, and says why."""
    assert [str(each) for each in told] == [
        f"audit: {own}/1: left; transaction {own.transaction} of orders by its name ran on timeline 1, and orders is "
        "on timeline 2 since a failover or a restore, where the id may be another one's; look for its rows there, and "
        "commit or roll this one back by hand"
    ]


@postgresql
@pytest.mark.service("mariadb")
def test_the_id_of_a_decider_that_was_lost_is_not_taken_for_its_decision(mixed: MixedShop) -> None:
    names: list[Name] = []

    with standby(mixed) as other:

        def lose(connection: Connection) -> None:
            found = Name.parse(mixed.prepared[0])
            assert found is not None
            names.append(found)
            fail_over(mixed, other)
            give_away(mixed, found.transaction)

        serving = site(mixed, other)
        serving.when("orders", "COMMIT PREPARED", lose)
        answer = serving.post(*BOTH)
        (own,) = names
        assert mixed.execute("orders", f"SELECT pg_xact_status('{own.transaction}')") == [("committed",)]
        assert (answer.status, answer.unit) == (503, "unknown")
        assert isinstance(answer.outcome.exception, CommitInDoubt)
        assert (mixed.stored, mixed.prepared) == ([[], []], [f"{own}/1"])
        for dry_run in (True, False):
            left_behind(recover(mixed.engines(), older_than=0, dry_run=dry_run), own)
        assert (mixed.stored, mixed.prepared) == ([[], []], [f"{own}/1"])


@postgresql
@pytest.mark.service("mariadb")
def test_what_a_process_left_before_a_failover_is_not_decided_by_another_transaction(mixed: MixedShop) -> None:
    with standby(mixed) as other:
        serving = mixed.site()
        serving.when("orders", "COMMIT PREPARED", interrupt)
        with pytest.raises(Interrupted):
            serving.post(*BOTH)
        own = Name.parse(mixed.prepared[0])
        assert own is not None
        fail_over(mixed, other)
        give_away(mixed, own.transaction)
        left_behind(recover(mixed.engines(), older_than=0), own)
        assert (mixed.stored, mixed.prepared) == ([[], []], [f"{own}/1"])


@postgresql
@pytest.mark.service("mariadb")
def test_what_the_standby_had_heard_of_is_still_decided_there(mixed: MixedShop) -> None:
    serving = mixed.site()
    serving.when("orders", "COMMIT PREPARED", interrupt)
    with pytest.raises(Interrupted):
        serving.post(*BOTH)
    with standby(mixed) as other:
        fail_over(mixed, other)
        assert len(mixed.prepared) == 2
        told = recover(mixed.engines(), older_than=0)
        assert actions(told) == [("orders", "rolled back"), ("audit", "rolled back")]
        assert (mixed.stored, mixed.prepared) == ([[], []], [])


@postgresql
@pytest.mark.service("mariadb")
def test_on_the_timeline_of_a_promoted_standby_all_is_as_before(mixed: MixedShop) -> None:
    with standby(mixed) as other:
        fail_over(mixed, other)
        answer = mixed.site().post(*BOTH)
        assert (answer.status, answer.unit, mixed.stored) == (201, "committed", [[1], [1]])
        serving = mixed.site()
        serving.when("orders", "COMMIT PREPARED", interrupt, "after")
        with pytest.raises(Interrupted):
            serving.post(("orders", WRITE.format(2)), ("audit", WRITE.format(2)))
        (left,) = mixed.prepared
        own = Name.parse(left)
        assert own is not None
        assert (own.timeline, own.branch) == (2, 1)
        (told,) = recover(mixed.engines(), older_than=0)
        assert (told.member, told.action) == ("audit", "committed")
        assert (mixed.stored, mixed.prepared) == ([[1, 2], [1, 2]], [])


@postgresql
@pytest.mark.service("mariadb")
def test_a_standby_that_is_given_for_its_primary_decides_nothing(mixed: MixedShop) -> None:
    with standby(mixed) as other:
        serving = mixed.site()
        serving.when("orders", "COMMIT PREPARED", interrupt, "after")
        with pytest.raises(Interrupted):
            serving.post(*BOTH)
        engines = mixed.engines()
        url = other.url("orders").replace("postgresql:", "postgresql+psycopg:")
        (told,) = recover({**engines, "orders": create_engine(url, poolclass=NullPool)}, older_than=0)
        assert (told.member, told.action) == ("audit", "left")
        assert told.reason.endswith("by its name ran on timeline 1, and orders is a standby; give its primary")
        assert actions(recover(engines, older_than=0)) == [("audit", "committed")]
        assert mixed.stored == [[1], [1]]


@postgresql
def test_a_member_on_a_standby_takes_part_as_one_that_only_reads(primary: Cluster) -> None:
    shop = Shop(primary)
    with standby(shop) as other:
        serving = shop.site()
        serving.urls["audit"] = other.url("audit").replace("postgresql:", "postgresql+psycopg:")
        answer = serving.post(("orders", WRITE.format(1)), ("audit", READ))
        assert (answer.status, answer.unit, shop.stored) == (201, "committed", [[1], []])


@postgresql
def test_one_that_was_decided_and_lost_with_its_primary_is_not_said_to_have_committed(
    primary: Cluster, caplog: Captured
) -> None:
    shop = Shop(primary)
    with standby(shop) as other:

        def lose(connection: Connection) -> None:
            found = Name.parse(shop.prepared[0])
            assert found is not None
            fail_over(shop, other)
            give_away(shop, found.transaction + 1)  # its own, as it wrote next

        serving = site(shop, other)
        serving.when("audit", "COMMIT PREPARED", lose)
        answer = serving.post(*BOTH)
        assert (answer.status, answer.unit, shop.stored) == (201, "committed", [[], []])
    (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert record.levelno == logging.ERROR
    assert " audit is decided to commit and, unless its server has lost it, stays prepared as " in record.getMessage()


# -- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("branch", [None, 1, 12])
@pytest.mark.parametrize("timeline", [1, 2, 0xABCD])
def test_a_name_is_read_as_it_was_written_and_fits_into_mariadb(timeline: int, branch: int | None) -> None:
    name = Name("a" * MAX_NAME, (1 << 64) - 1, (1 << 32) + 7, branch, timeline)
    assert Name.parse(str(name)) == name
    assert len(str(name)) <= 64


def test_a_name_without_a_timeline_is_of_the_first() -> None:
    assert Name.parse("postresponse/orders/2a/2fa/1") == Name("orders", 42, 762, 1, timeline=1)


@pytest.mark.parametrize("text", ["orders/2a.1/2fa", "orders/2a.02/2fa", "orders/02a/2fa", "orders/2a./2fa"])
def test_a_name_that_is_never_written_is_not_of_this_package(text: str) -> None:
    assert Name.parse(f"postresponse/{text}") is None
