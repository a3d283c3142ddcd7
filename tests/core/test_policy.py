import inspect
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

import asyncpg
import psycopg
import pymysql
import pytest
from sqlalchemy.exc import OperationalError

from postresponse import CommitPolicy
from postresponse.core.lifecycle import CommitPoint
from postresponse.core.policy import Head, Verdict, did_you_mean, is_transient, never_ends, verdict_of
from postresponse.exceptions import ConfigurationError


def test_a_head_finds_a_header_whatever_its_case() -> None:
    head = Head(200, (("Content-Type", "text/plain"), ("content-type", "text/html"), ("X-Empty", "")))
    assert head.get("CONTENT-type") == "text/plain"
    assert head.get("x-empty") == ""
    assert head.get("etag") is None
    assert head.get("etag", "none") == "none"


@pytest.mark.parametrize(
    ("content_type", "streams"),
    [
        ("text/event-stream", True),
        ("Text/Event-Stream; charset=utf-8", True),
        ("multipart/x-mixed-replace;boundary=frame", True),
        ("text/event-streams", False),
        ("application/json", False),
        ("", False),
    ],
)
def test_a_content_type_that_never_ends_is_known(content_type: str, streams: bool) -> None:
    assert never_ends(content_type) is streams


def test_the_short_forms_of_a_policy_keep_the_other_options() -> None:
    configured = CommitPolicy(at="buffered", max_memory=10)
    assert CommitPolicy.of(None) == CommitPolicy()
    assert CommitPolicy.of(None, configured) is configured
    assert CommitPolicy.of("after_send", configured) == CommitPolicy(at="after_send", max_memory=10)
    assert CommitPolicy.of("head") == CommitPolicy(at=CommitPoint.HEAD)
    assert CommitPolicy.of(configured, CommitPolicy()) is configured
    assert configured.point is CommitPoint.BUFFERED
    assert CommitPolicy(max_body=None).max_body is None
    assert CommitPolicy(max_body=1, max_memory=1).max_memory == 1


def test_what_was_probably_meant_is_named_only_where_it_is_near() -> None:
    assert did_you_mean("bufered", ["head", "buffered"]) == "; did you mean 'buffered'? (there are: head, buffered)"
    assert did_you_mean("zzz", ["head", "buffered"]) == " (there are: head, buffered)"
    points = [point.value for point in CommitPoint]
    assert did_you_mean("send", points) == "; did you mean 'after_send'? (there are: head, buffered, after_send)"


OK: Final = Head(200)


def verdict(
    *,
    raised: bool = False,
    wanted: Verdict | None = None,
    active: bool = True,
    left: bool = False,
    policy: CommitPolicy | None = None,
    head: Head | None = OK,
) -> Verdict:
    policy = policy or CommitPolicy()
    return verdict_of(raised=raised, wanted=wanted, active=active, left=left, policy=policy, head=head)


def test_each_rule_wins_over_those_after_it() -> None:
    never, leaving = CommitPolicy(commit_if=lambda head: False), CommitPolicy(on_disconnect="rollback")
    assert verdict() is Verdict.COMMIT
    assert verdict(head=Head(400)) is Verdict.ROLL_BACK
    assert verdict(head=Head(399)) is Verdict.COMMIT
    assert verdict(policy=never) is Verdict.ROLL_BACK
    assert verdict(left=True) is Verdict.COMMIT
    assert verdict(left=True, policy=leaving) is Verdict.ROLL_BACK
    assert verdict(policy=leaving) is Verdict.COMMIT
    assert verdict(left=True, policy=leaving, active=False) is Verdict.LEAVE
    assert verdict(left=True, policy=leaving, wanted=Verdict.COMMIT) is Verdict.COMMIT
    assert verdict(active=False, policy=never) is Verdict.LEAVE
    assert verdict(active=False, wanted=Verdict.COMMIT) is Verdict.COMMIT
    assert verdict(wanted=Verdict.COMMIT, head=Head(500)) is Verdict.COMMIT
    assert verdict(wanted=Verdict.ROLL_BACK) is Verdict.ROLL_BACK
    assert verdict(raised=True, wanted=Verdict.COMMIT) is Verdict.ROLL_BACK
    assert verdict(head=None, wanted=Verdict.COMMIT) is Verdict.ROLL_BACK


def test_a_rule_is_asked_for_the_whole_head_and_may_answer_anything_true() -> None:
    asked: list[Head] = []

    def rule(head: Head) -> object:
        asked.append(head)
        return "yes"

    head = Head(404, (("x-commit", "1"),))
    assert verdict(head=head, policy=CommitPolicy(commit_if=rule)) is Verdict.COMMIT
    assert asked == [head]


def test_a_rule_that_answers_a_coroutine_is_refused() -> None:
    async def later() -> bool:
        return False

    with pytest.raises(ConfigurationError, match=r"commit_if: expected a plain function, .* returned a coroutine"):
        verdict(policy=CommitPolicy(commit_if=lambda head: later()))


# -- transient errors, from the drivers themselves --------------------------------------------------------------------


@pytest.fixture
def two_connections(tmp_path: Path) -> Iterator[tuple[sqlite3.Connection, sqlite3.Connection]]:
    """Two connections to one SQLite file that wait for nobody."""
    path = tmp_path / "orders.db"
    with (
        closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as one,
        closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as two,
    ):
        one.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY)")
        yield one, two


def test_a_busy_sqlite_is_transient(two_connections: tuple[sqlite3.Connection, sqlite3.Connection]) -> None:
    one, two = two_connections
    one.execute("BEGIN IMMEDIATE")
    with pytest.raises(sqlite3.OperationalError) as busy:
        two.execute("BEGIN IMMEDIATE")
    assert is_transient(busy.value)


def test_a_locked_table_of_sqlite_is_transient(two_connections: tuple[sqlite3.Connection, sqlite3.Connection]) -> None:
    one, _ = two_connections
    one.executemany("INSERT INTO orders VALUES (?)", [(1,), (2,)])
    reading = one.execute("SELECT id FROM orders")
    assert reading.fetchone() == (1,)
    with pytest.raises(sqlite3.OperationalError) as locked:
        one.execute("DROP TABLE orders")
    assert is_transient(locked.value)


def test_a_constraint_of_sqlite_is_not_transient(
    two_connections: tuple[sqlite3.Connection, sqlite3.Connection],
) -> None:
    one, _ = two_connections
    one.execute("INSERT INTO orders VALUES (1)")
    with pytest.raises(sqlite3.IntegrityError) as taken:
        one.execute("INSERT INTO orders VALUES (1)")
    assert not is_transient(taken.value)


class OfPsycopg2(Exception):
    """As psycopg2 tells the SQLSTATE."""

    pgcode = "40P01"


@pytest.mark.parametrize(
    "error",
    [
        psycopg.errors.SerializationFailure("could not serialize access"),
        psycopg.errors.DeadlockDetected("deadlock detected"),
        asyncpg.exceptions.SerializationError("could not serialize access"),
        asyncpg.exceptions.DeadlockDetectedError("deadlock detected"),
        pymysql.err.OperationalError(1020, "Record has changed since last read"),
        pymysql.err.OperationalError(1205, "Lock wait timeout exceeded"),
        pymysql.err.OperationalError(1213, "Deadlock found when trying to get lock"),
        OfPsycopg2("deadlock detected"),
    ],
)
def test_a_serialization_failure_or_deadlock_is_transient(error: Exception) -> None:
    assert is_transient(error)
    assert is_transient(OperationalError("COMMIT", None, error))
    caused, behind = RuntimeError("the view failed"), KeyError("while it was handled")
    caused.__cause__, behind.__context__ = error, error
    assert is_transient(caused)
    assert is_transient(behind)


@pytest.mark.parametrize(
    "error",
    [
        None,
        ValueError(),
        ValueError("40001"),
        psycopg.errors.UniqueViolation("duplicate key"),
        psycopg.OperationalError("the connection was lost"),
        asyncpg.exceptions.UniqueViolationError("duplicate key"),
        pymysql.err.OperationalError(2013, "Lost connection to MySQL server during query"),
        pymysql.err.IntegrityError(1062, "Duplicate entry"),
        OSError(1205, "no MySQL at all"),
        OperationalError("COMMIT", None, psycopg.errors.UniqueViolation("duplicate key")),
    ],
)
def test_any_other_failure_is_not_transient(error: Exception | None) -> None:
    assert not is_transient(error)


def test_errors_that_cause_each_other_are_looked_at_once() -> None:
    one, two = ValueError("one"), ValueError("two")
    one.__cause__, two.__cause__ = two, one
    assert not is_transient(one)


def test_a_coroutine_in_the_place_of_a_policy_is_closed() -> None:
    async def chosen() -> str:
        return "head"

    coroutine = chosen()
    with pytest.raises(ConfigurationError, match="commit: expected 'head', 'buffered', 'after_send' or a CommitPolicy"):
        CommitPolicy.of(coroutine)
    assert inspect.getcoroutinestate(coroutine) == inspect.CORO_CLOSED
