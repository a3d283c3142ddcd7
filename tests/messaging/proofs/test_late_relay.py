"""A relay that was paused for longer than its lease, and goes on when another one has its messages."""

import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import func, select

from postresponse.messaging import Message
from postresponse.messaging.clock import now
from tests.messaging.databases import DATABASES
from tests.messaging.proofs.processes import Place, RelayProcess, place, relay, until
from tests.messaging.proofs.programs import OUTBOX

FENCED = re.compile(r"the outbox for mail: (\d+) of \d+ came back after their lease had expired")


@pytest.fixture(params=DATABASES)
def shop(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """An outbox on each database."""
    with place(request.param, tmp_path) as made:
        yield made


def leases_that_hold(shop: Place) -> int:
    """How many rows are claimed, by the database's clock."""
    table = OUTBOX.tables.waiting
    with shop.engine.connect() as connection:
        return connection.scalar(select(func.count()).where(table.c.leased_until >= now())) or 0


def fenced(process: RelayProcess) -> int:
    """How many messages *process* was told to have lost."""
    return sum(int(count) for count in FENCED.findall("\n".join(process.log)))


@pytest.mark.parametrize("how", ["it returns", "it is late"])
def test_a_relay_that_was_paused_behind_its_lease_changes_nothing_and_works_on(shop: Place, how: str) -> None:
    ids = shop.enlist(*(Message("mail", "send", payload) for payload in ("delivered", "failed", "held")))
    with relay(shop, "late", "first.log", PROOF_ROLE="first", PROOF_HOW=how) as first:
        until(lambda: first.is_stopped, "the first one is in the middle of sending")
        claimed = shop.rows()
        (token,) = {row.token for row in claimed}
        assert token is not None
        assert [(str(row.message_id), row.attempts) for row in claimed] == [(id, 0) for id in ids]
        until(lambda: not leases_that_hold(shop), "its lease is over")

        with relay(shop, "late", "second.log", PROOF_ROLE="second", PROOF_HOW=how) as second:
            until(lambda: "second held" in shop.lines("calls") and len(shop.rows()) == 2, "another one has them")
            failed, held = until(lambda: (rows := shop.rows())[0].attempts and rows, "it has failed with one")
            assert (failed.attempts, failed.token, failed.last_error) == (1, None, "ValueError: no")
            assert held.token not in (None, token)

            first.signal(signal.SIGCONT)
            until(lambda: fenced(first) == 3, "the first one was told that it had lost its messages")
            assert shop.rows() == [failed, held]
            assert shop.rows(dead=True) == []

            (shop.folder / "let go").touch()
            until(lambda: shop.rows() == [failed], "the second one is done with what it held")
            second.stop()

        shop.enlist(Message("mail", "send", "next"))
        until(lambda: "first next" in shop.lines("calls"), "the first one goes on")
        until(lambda: shop.rows() == [failed], "and is done with it")
        first.stop()
    calls = shop.lines("calls")
    assert [calls.count(f"second {payload}") for payload in ("delivered", "failed", "held")] == [1, 1, 1]
    assert shop.rows(dead=True) == []
