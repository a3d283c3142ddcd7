"""What processes leave prepared when they die, and what the recovery makes of it."""

import json
import random
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import Engine, create_engine, event
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from postresponse.cli import main
from postresponse.exceptions import ConfigurationError
from postresponse.unit_of_work.prepared import Name, system_of
from postresponse.unit_of_work.recovery import Recovered, recover
from tests.conftest import Scale
from tests.services import mariadb, own_postgres
from tests.services.own_postgres import Cluster
from tests.unit_of_work import killed
from tests.unit_of_work.killed import DEADLOCK, Story
from tests.unit_of_work.two_databases import REFUSED, WRITE, MixedShop, Shop

Captured = pytest.CaptureFixture[str]

pytestmark = pytest.mark.service("own postgresql")


@pytest.fixture
def shop(cluster: Cluster) -> Iterator[Shop]:
    """Two empty databases."""
    shop = Shop(cluster)
    yield shop
    shop.clear()


def leave(
    shop: Shop, number: int = 1, *, order: tuple[str, ...] = Shop.members, transaction: int | None = None
) -> Name:
    """Leave one transaction prepared on each of *order*, as a process does that dies then, and return the first's."""
    own: Name | None = None
    for branch, member in enumerate(order):
        with psycopg.connect(shop.cluster.url(member), autocommit=True) as connection:
            connection.execute("BEGIN")
            connection.execute(WRITE.format(number))
            if own is None:
                ((system, current),) = connection.execute(
                    "SELECT system_identifier, pg_current_xact_id()::text::bigint FROM pg_control_system()"
                ).fetchall()
                own = Name(order[0], system, transaction or current)
            connection.execute(f"PREPARE TRANSACTION '{own._replace(branch=branch or None)}'")
    assert own is not None
    return own


def actions(told: list[Recovered]) -> list[tuple[str, str]]:
    return [(each.member, each.action) for each in told]


# -- processes that are killed ----------------------------------------------------------------------------------------


KILLED_PROGRAM = [sys.executable, "-W", "error", str(killed.__file__)]


def kill(shop: Shop, order: tuple[str, ...], statements: dict[str, str], driver: str = "psycopg") -> list[Story]:
    """Let a process die at every place of the same request, and wait until the databases have noticed."""
    urls = {member: shop.url(member, driver) for member in order}
    ran = subprocess.run(
        [*KILLED_PROGRAM, "places", json.dumps(urls), json.dumps(statements)],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    shop.wait_until_alone()
    return [Story(**each) for each in json.loads(ran.stdout)]


def run_the_command(shop: Shop, driver: str = "psycopg") -> list[str]:
    """Run what the documentation tells an operator to run, with nothing left alone, and return the lines it prints."""
    command = [str(Path(sys.executable).parent / "postresponse"), "recover", *given(shop, driver), "--older-than", "0"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (ran.returncode, ran.stderr) == (0, ""), ran.stdout
    return ran.stdout.splitlines()


def given(shop: Shop, driver: str = "psycopg") -> list[str]:
    """The arguments that name the databases of *shop*."""
    return [f"{member}={shop.url(member, driver)}" for member in shop.members]


def done(lines: list[str]) -> set[str]:
    """What was done, according to *lines*."""
    return {line.split("; ")[0].rsplit(": ", 1)[1] for line in lines}


NOTHING_LEFT = ["nothing is prepared"]


DIRECTIONS = [("orders", "audit"), ("audit", "orders")]
KILLED = ["psycopg", pytest.param("asyncpg", marks=pytest.mark.long("full"))]


@pytest.mark.parametrize("driver", KILLED)
@pytest.mark.parametrize("order", DIRECTIONS, ids="-".join)
def test_wherever_a_process_is_killed_nothing_is_half_way_after_the_recovery(
    shop: Shop, order: tuple[str, ...], driver: str
) -> None:
    stories = kill(shop, order, dict.fromkeys(order, WRITE), driver)
    assert [story.status for story in stories] == [None] * 16 + [201]
    places = [story.killed for story in stories]
    first, second = order
    sent = [f"{first}: PREPARE TRANSACTION", f"{second}: PREPARE TRANSACTION", f"{first}: COMMIT PREPARED"]
    sent.append(f"{second}: COMMIT PREPARED")
    assert places[8:16] == [f"{moment} {statement}" for statement in sent for moment in ("before", "after")]
    assert len(shop.prepared) > 2
    assert done(run_the_command(shop, driver)) == {"committed", "rolled back"}
    assert shop.prepared == []
    decided = [story.number for story in stories[places.index(f"after {first}: COMMIT PREPARED") :]]
    assert shop.stored == [decided, decided]
    assert run_the_command(shop, driver) == NOTHING_LEFT


@pytest.mark.parametrize("driver", KILLED)
@pytest.mark.parametrize("order", DIRECTIONS, ids="-".join)
def test_wherever_a_process_is_killed_while_the_second_one_refuses_nothing_is_stored(
    shop: Shop, order: tuple[str, ...], driver: str
) -> None:
    first, second = order
    stories = kill(shop, order, {first: WRITE, second: REFUSED}, driver)
    assert stories[-1].status == 500
    places = {story.killed for story in stories}
    assert {f"after {first}: PREPARE TRANSACTION", f"before {second}: PREPARE TRANSACTION"} <= places
    assert {f"before {first}: ROLLBACK PREPARED", f"after {first}: ROLLBACK PREPARED"} <= places
    told = recover(shop.engines(), older_than=0)
    assert told
    assert {each.action for each in told} == {"rolled back"}
    assert (shop.stored, shop.prepared) == ([[], []], [])


@pytest.fixture
def mixed(cluster: Cluster) -> Iterator[MixedShop]:
    """Two empty databases, the second one on MariaDB."""
    with mariadb.database() as url:
        shop = MixedShop(cluster, url)
        yield shop
        shop.clear()


def both_sides(*statements: str) -> set[str]:
    return {f"{moment} {statement}" for statement in statements for moment in ("before", "after")}


XA = ("audit: XA START", "audit: XA END", "audit: XA PREPARE", "audit: XA COMMIT")


@pytest.mark.service("mariadb")
def test_wherever_a_process_is_killed_nothing_is_half_way_on_mariadb_either(mixed: MixedShop) -> None:
    stories = kill(mixed, Shop.members, dict.fromkeys(("audit", "orders"), WRITE))
    places = [story.killed for story in stories]
    assert both_sides(*XA) <= set(places)
    assert stories[-1].status == 201
    assert done(run_the_command(mixed)) == {"committed", "rolled back"}
    assert mixed.prepared == []
    decided = [story.number for story in stories[places.index("after orders: COMMIT PREPARED") :]]
    assert mixed.stored == [decided, decided]
    assert run_the_command(mixed) == NOTHING_LEFT


@pytest.mark.service("mariadb")
def test_wherever_a_process_is_killed_while_mariadb_refuses_nothing_is_stored(mixed: MixedShop) -> None:
    """It has rolled back at a deadlock, and says so when it is to be prepared, behind the first one."""
    mixed.execute("audit", "INSERT INTO customer VALUES (1), (2), (3), (4), (5), (6), (7), (8), (9)")
    stories = kill(mixed, Shop.members, {"orders": WRITE, "audit": DEADLOCK})
    assert stories[-1].status == 500
    places = {story.killed for story in stories}
    first = ("orders: PREPARE TRANSACTION", "orders: ROLLBACK PREPARED")
    assert both_sides("audit: XA ROLLBACK", *first) | {"before audit: XA END"} <= places
    assert "after audit: XA END" not in places  # which is the statement that is refused
    assert done(run_the_command(mixed)) == {"rolled back"}
    assert (mixed.stored, mixed.prepared) == ([[], []], [])
    assert run_the_command(mixed) == NOTHING_LEFT


@pytest.mark.long
def test_whenever_a_process_is_killed_under_load_no_answer_was_a_lie(shop: Shop, scale: Scale) -> None:
    """At any moment, statements under way included, with four requests at once."""
    urls = {member: shop.url(member) for member in shop.members}
    statements = dict.fromkeys(shop.members, WRITE)
    answered: list[int] = []
    left = 0
    for round_ in range(scale.of(off=0, short=5, full=40)):
        command = [*KILLED_PROGRAM, "load", json.dumps(urls), json.dumps(statements), str(round_ * 1_000_000)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in range(10)]
            time.sleep(random.uniform(0, 0.05))  # where it is by then is left to chance
            process.kill()
            lines += process.stdout.readlines()
        found = [line.split() for line in lines if line.endswith("\n")]
        assert {status for _, status in found} == {"201"}
        answered += [int(number) for number, _ in found]
        shop.wait_until_alone()
        left += len(recover(shop.engines(), older_than=0))
        orders, audit = shop.stored
        assert orders == audit
        assert set(answered) <= set(orders)
        assert shop.prepared == []
    assert left > 0


def test_a_crash_of_the_server_itself_takes_nothing_of_what_is_prepared_or_decided(shop: Shop) -> None:
    undecided, decided = leave(shop, 1), leave(shop, 2)
    shop.execute("orders", f"COMMIT PREPARED '{decided}'")
    shop.cluster.stop("immediate")
    shop.cluster.start()
    told = recover(shop.engines(), older_than=0)
    assert {each.transaction: each.action for each in told} == {
        str(undecided): "rolled back",
        f"{undecided}/1": "rolled back",
        f"{decided}/1": "committed",
    }
    assert shop.stored == [[2], [2]]


# -- what was decided, and what was not -------------------------------------------------------------------------------


def test_what_is_undecided_is_rolled_back_the_deciders_own_first(shop: Shop) -> None:
    own = leave(shop)
    told = recover(shop.engines(), older_than=0)
    assert [re.sub(r"\d+ s$", "N s", str(each)) for each in told] == [
        f"orders: {own}: rolled back; undecided for N s",
        f"audit: {own}/1: rolled back; undecided for N s",
    ]
    assert (shop.stored, shop.prepared) == ([[], []], [])


@pytest.mark.parametrize("decision", ["COMMIT", "ROLLBACK"])
def test_what_is_decided_is_carried_out(shop: Shop, decision: str) -> None:
    own = leave(shop)
    shop.execute("orders", f"{decision} PREPARED '{own}'")
    (told,) = recover(shop.engines(), older_than=0)
    assert (told.member, told.transaction) == ("audit", f"{own}/1")
    if decision == "COMMIT":
        assert (told.action, shop.stored) == ("committed", [[1], [1]])
        assert told.reason == f"transaction {own.transaction} of orders committed"
    else:
        assert (told.action, shop.stored) == ("rolled back", [[], []])
        assert told.reason == f"transaction {own.transaction} of orders was rolled back"


def test_several_transactions_are_told_apart(shop: Shop) -> None:
    first, second, third = leave(shop, 1), leave(shop, 2), leave(shop, 3, order=("audit", "orders"))
    shop.execute("orders", f"COMMIT PREPARED '{second}'")
    told = recover(shop.engines(), older_than=0)
    assert {each.transaction: each.action for each in told} == {
        str(first): "rolled back",
        f"{first}/1": "rolled back",
        f"{second}/1": "committed",
        str(third): "rolled back",
        f"{third}/1": "rolled back",
    }
    assert shop.stored == [[2], [2]]


def test_what_was_prepared_just_now_is_left_to_its_process(shop: Shop) -> None:
    undecided, decided = leave(shop, 1), leave(shop, 2)
    shop.execute("orders", f"COMMIT PREPARED '{decided}'")
    told = recover(shop.engines())
    assert actions(told) == [("orders", "left"), ("audit", "left"), ("audit", "left")]
    reasons = [re.sub(r"prepared \d+ s ago", "prepared N s ago", each.reason) for each in told]
    assert reasons == [
        *["prepared N s ago and undecided, so it is left to its process for now"] * 2,
        f"prepared N s ago, and transaction {decided.transaction} of orders committed",
    ]
    assert shop.prepared == [str(undecided), f"{undecided}/1", f"{decided}/1"]


def test_a_dry_run_tells_the_same_and_does_nothing(shop: Shop) -> None:
    undecided, decided = leave(shop, 1), leave(shop, 2)
    shop.execute("orders", f"COMMIT PREPARED '{decided}'")
    prepared = shop.prepared
    told = recover(shop.engines(), older_than=0, dry_run=True)
    assert actions(told) == [("orders", "rolled back"), ("audit", "rolled back"), ("audit", "committed")]
    assert shop.prepared == prepared == [str(undecided), f"{undecided}/1", f"{decided}/1"]


def test_run_twice_it_finds_nothing_the_second_time(shop: Shop) -> None:
    leave(shop)
    assert len(recover(shop.engines(), older_than=0)) == 2
    assert recover(shop.engines(), older_than=0) == []


def test_several_at_once_do_no_harm_to_each_other(shop: Shop) -> None:
    numbers = range(15)
    decided = []
    for number in numbers:
        own = leave(shop, number)
        if number % 2:
            shop.execute("orders", f"COMMIT PREPARED '{own}'")
            decided.append(number)
    start = threading.Barrier(3)
    told: list[Recovered] = []
    faults: list[BaseException] = []

    def run() -> None:
        start.wait()
        try:
            told.extend(recover(shop.engines(), older_than=0))
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    assert (shop.stored, shop.prepared) == ([decided, decided], [])
    assert {each.action for each in told} <= {"committed", "rolled back", "left"}


def test_two_members_on_one_database_are_recovered_once(shop: Shop) -> None:
    engine = shop.engines()["orders"]
    own = leave(shop, order=("orders",))
    with psycopg.connect(shop.cluster.url("orders"), autocommit=True) as connection:
        connection.execute("BEGIN")
        connection.execute(WRITE.format(2))
        connection.execute(f"PREPARE TRANSACTION '{own}/1'")
    told = recover({"orders": engine, "audit": engine}, older_than=0)
    assert [(each.member, each.transaction) for each in told] == [("orders", str(own)), ("orders", f"{own}/1")]
    assert shop.prepared == []


def test_a_prepared_transaction_of_others_is_not_touched(shop: Shop) -> None:
    for name in ("other", "postresponse/orders", "postresponse/orders/x/y", "_sa_0123"):
        with psycopg.connect(shop.cluster.url("orders"), autocommit=True) as connection:
            connection.execute(f"BEGIN; CREATE TABLE t{abs(hash(name))} (); PREPARE TRANSACTION '{name}'")
    assert recover(shop.engines(), older_than=0) == []
    assert len(shop.prepared) == 4


# -- what is left -----------------------------------------------------------------------------------------------------


UNDECIDED_BY_NOBODY = "its decider orders is not given, or is another database than it was"


def test_without_the_database_that_decides_nothing_is_done(shop: Shop) -> None:
    own = leave(shop)
    (told,) = recover({"audit": shop.engines()["audit"]}, older_than=0)
    assert (told.action, told.reason) == ("left", UNDECIDED_BY_NOBODY)
    assert shop.prepared == [str(own), f"{own}/1"]


def test_another_server_under_the_name_of_the_one_that_decides_is_not_asked(shop: Shop) -> None:
    own = leave(shop)
    with own_postgres.cluster(max_prepared_transactions=1) as other:
        url = other.url("orders").replace("postgresql:", "postgresql+psycopg:")
        members = {"orders": create_engine(url, poolclass=NullPool), "audit": shop.engines()["audit"]}
        (told,) = recover(members, older_than=0)
    assert (told.member, told.action, told.reason) == ("audit", "left", UNDECIDED_BY_NOBODY)
    assert shop.prepared == [str(own), f"{own}/1"]


@pytest.mark.parametrize("orders", Shop.members)
def test_another_database_of_the_server_that_decides_is_not_taken_for_a_decision(shop: Shop, orders: str) -> None:
    """Its own is not listed there, and yet nothing was decided."""
    own = leave(shop)
    engines = shop.engines()
    told = recover({"orders": engines["audit"], "audit": engines[orders]}, older_than=0)
    assert {each.action for each in told} == {"left"}
    assert told[-1].reason == f"transaction {own.transaction} of orders is in progress"
    assert shop.prepared == [str(own), f"{own}/1"]


@pytest.mark.parametrize(
    ("transaction", "said"),
    [((1 << 40) + 5, "in the future"), (100, "is too old, and nobody knows how it ended")],
    ids=["in the future", "too old"],
)
def test_what_the_decider_knows_nothing_of_is_left(shop: Shop, transaction: int, said: str) -> None:
    own = leave(shop, transaction=transaction)
    shop.execute("orders", f"COMMIT PREPARED '{own}'")
    (told,) = recover(shop.engines(), older_than=0)
    assert (told.member, told.action) == ("audit", "left")
    assert said in told.reason


def test_a_transaction_in_progress_is_left(shop: Shop) -> None:
    with psycopg.connect(shop.cluster.url("orders")) as connection:
        ((current,),) = connection.execute("SELECT pg_current_xact_id()::text::bigint").fetchall()
        own = leave(shop, transaction=current)
        shop.execute("orders", f"COMMIT PREPARED '{own}'")
        (told,) = recover(shop.engines(), older_than=0)
        assert (told.action, told.reason) == ("left", f"transaction {current} of orders is in progress")


def test_one_that_cannot_be_reached_does_not_stop_the_others(shop: Shop) -> None:
    first, second = leave(shop, 1), leave(shop, 2, order=("orders",))
    shop.close("audit")
    told = recover(shop.engines(), older_than=0)
    assert actions(told) == [("audit", "left"), ("orders", "rolled back"), ("orders", "rolled back")]
    assert str(told[0]).startswith("audit: left; it cannot be looked into: ")
    assert "not currently accepting connections" in told[0].reason
    assert second
    shop.allow("audit")
    assert shop.prepared == [f"{first}/1"]
    assert actions(recover(shop.engines(), older_than=0)) == [("audit", "rolled back")]


def test_a_user_that_may_not_end_it_is_told_so(shop: Shop) -> None:
    leave(shop)
    shop.execute("postgres", "DROP ROLE IF EXISTS stranger; CREATE ROLE stranger LOGIN")
    members = {
        member: create_engine(
            shop.cluster.url(member, "stranger").replace("postgresql:", "postgresql+psycopg:"), poolclass=NullPool
        )
        for member in shop.members
    }
    told = recover(members, older_than=0)
    assert actions(told) == [("orders", "left"), ("audit", "left")]
    assert {each.reason for each in told} == {"permission denied to finish prepared transaction"}
    mixed: dict[str, Engine] = {"orders": shop.engines()["orders"], "audit": members["audit"]}
    assert actions(recover(mixed, older_than=0)) == [("orders", "rolled back"), ("audit", "left")]


@pytest.mark.parametrize("busy", Shop.members)
def test_one_that_is_being_ended_at_this_moment_is_left(shop: Shop, busy: str) -> None:
    own = leave(shop)
    name = str(own) if busy == "orders" else f"{own}/1"
    if busy == "audit":
        shop.execute("orders", f"COMMIT PREPARED '{own}'")
    with shop.held(busy, f"COMMIT PREPARED '{name}'"):
        told = recover(shop.engines(), older_than=0)
    assert {each.action for each in told} == {"left"}
    assert told[-1].reason.startswith(
        "it is being ended at this moment" if busy == "orders" else "the connection that prepared it still holds it"
    )
    recover(shop.engines(), older_than=0)
    assert shop.stored == [[1], [1]]


def test_one_whose_own_process_commits_it_at_this_moment_is_committed(shop: Shop) -> None:
    own = leave(shop)
    engines = shop.engines()

    def commits_first(cursor: Any, statement: str, *others: Any) -> None:
        if statement.startswith("ROLLBACK PREPARED"):
            shop.execute("orders", f"COMMIT PREPARED '{own}'")

    event.listen(engines["orders"], "do_execute", commits_first)  # the dialect's, which every connection has
    event.listen(engines["orders"], "do_execute_no_params", commits_first)
    told = recover(engines, older_than=0)
    assert actions(told) == [("orders", "committed"), ("audit", "committed")]
    assert shop.stored == [[1], [1]]


def test_a_server_is_asked_who_it_is_once(shop: Shop) -> None:
    engine = shop.engines()["orders"]
    opened: list[object] = []
    event.listen(engine, "connect", lambda *_: opened.append(1))
    assert system_of(engine, "orders") == system_of(engine.execution_options(), "orders") > 0
    assert len(opened) == 1


@pytest.mark.parametrize("older_than", [-1, float("nan"), float("inf"), True, "60"], ids=repr)
def test_a_time_that_is_none_is_refused(older_than: Any) -> None:
    with pytest.raises(ConfigurationError, match="older_than: expected seconds, zero or more"):
        recover({}, older_than=older_than)


def test_what_is_no_engine_is_refused_by_name(shop: Shop) -> None:
    with pytest.raises(ConfigurationError, match="audit: expected an engine, found 'sqlite://'"):
        recover({"audit": "sqlite://"})  # type: ignore[dict-item]
    with pytest.raises(ConfigurationError, match="of an AsyncEngine, its sync_engine"):
        recover({"audit": create_async_engine(shop.url("audit", "asyncpg"))})  # type: ignore[dict-item]
    with pytest.raises(ConfigurationError, match="audit is on sqlite, which keeps no prepared transactions"):
        recover({"audit": create_engine("sqlite://")})


# -- the command ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
def test_the_command_prints_a_line_for_each_and_ends_with_0_once_nothing_is_left(
    shop: Shop, driver: str, capsys: Captured
) -> None:
    own = leave(shop)
    assert main(["recover", *given(shop, driver)]) == 1
    assert [line.split(": ")[-1].split("; ")[0] for line in capsys.readouterr().out.splitlines()] == ["left", "left"]
    assert main(["recover", *given(shop, driver), "--older-than", "0", "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(";")[0] for line in lines] == [
        f"dry run: orders: {own}: rolled back",
        f"dry run: audit: {own}/1: rolled back",
    ]
    assert main(["recover", *given(shop, driver), "--older-than", "0"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(";")[0] for line in lines] == [f"orders: {own}: rolled back", f"audit: {own}/1: rolled back"]
    assert shop.prepared == []
    assert main(["recover", *given(shop, driver)]) == 0
    assert capsys.readouterr().out == "nothing is prepared\n"


def test_the_command_ends_with_1_where_a_database_cannot_be_looked_into(shop: Shop, capsys: Captured) -> None:
    shop.close("audit")
    assert main(["recover", *given(shop)]) == 1
    assert capsys.readouterr().out.startswith("audit: left; it cannot be looked into: ")


def test_the_command_runs_as_a_program(shop: Shop) -> None:
    leave(shop)
    assert len(run_the_command(shop)) == 2
    assert shop.prepared == []
