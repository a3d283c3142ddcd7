"""What a view does with Django's transactions, inside of the one around its request."""

from typing import Any

import pytest
from django.core.signals import request_finished, request_started
from django.db import DatabaseError, IntegrityError, close_old_connections, connections, transaction
from django.http import HttpResponse

from postresponse import current_exchange
from postresponse.exceptions import CommitRefused
from tests.services import postgres
from tests.unit_of_work.django_project.databases import Database, PostgreSQL
from tests.unit_of_work.django_project.driving import COMMIT, KIND, Site, View, cleared, orders, placing


@pytest.mark.parametrize("kind", ["wsgi", "asgi"])  # Django allows no async view under ATOMIC_REQUESTS
def test_atomic_requests_beside_it_is_a_savepoint(
    default: Database, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(connections.settings["default"], "ATOMIC_REQUESTS", True)
    connections["default"].close()
    depths: list[int] = []

    def view(request: Any) -> HttpResponse:
        depths.append(len(connections["default"].savepoint_ids))
        orders("default").create()
        if len(depths) == 2:
            raise LookupError("broken")
        return HttpResponse(status=404 if len(depths) == 3 else 201)

    site = Site(view, kind)
    assert [site.get().unit for _ in range(3)] == [(201, "committed"), (500, "rolled_back"), (404, "rolled_back")]
    assert depths == [1, 1, 1]
    assert Site(placing(default, customer=404), kind).get().unit == (500, "failed")
    assert default.orders() == [None]


@KIND
def test_what_a_view_rolls_back_itself_is_gone_and_the_rest_is_committed(database: Database, kind: str) -> None:
    def view(request: Any) -> HttpResponse:
        orders(database.alias).create(id=1)
        try:
            with transaction.atomic(database.alias):
                orders(database.alias).create(id=2)
                orders(database.alias).create(id=1)
        except IntegrityError:
            return HttpResponse(status=201)
        raise AssertionError("the id is taken")

    assert Site(view, kind, database.alias).get().unit == (201, "committed")
    assert len(database.orders()) == 1


@COMMIT
@KIND
def test_on_commit_callbacks_run_at_this_commit_and_only_then(default: Database, kind: str, commit: str) -> None:
    log: list[str] = []

    def view(customer: int | None, status: int) -> View:
        def answer(request: Any) -> HttpResponse:
            transaction.on_commit(lambda: log.append(f"committed {len(default.orders())}"))
            orders("default").create(customer_id=customer)
            log.append("view")
            return HttpResponse(status=status)

        return answer

    Site(view(None, 201), kind, commit=commit, on_head=lambda: log.append("head")).get()
    assert log == (["view", "head", "committed 1"] if commit == "after_send" else ["view", "committed 1", "head"])
    log.clear()
    Site(view(404, 201), kind, commit=commit).get()
    Site(view(None, 404), kind, commit=commit).get()
    assert log == ["view", "view"]


@KIND
def test_an_on_commit_callback_that_raises_is_logged_and_the_commit_stands(
    default: Database, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    ran: list[str] = []

    def fail() -> None:
        raise LookupError("no mail today")

    def view(request: Any) -> HttpResponse:
        transaction.on_commit(fail)
        transaction.on_commit(lambda: ran.append("second"))
        orders("default").create()
        return HttpResponse(status=201)

    assert Site(view, kind).get().unit == (201, "committed")
    assert ran == ["second"]
    assert default.orders() == [None]
    assert [record.levelname for record in caplog.records if record.name == "postresponse"] == ["ERROR"]
    assert "no mail today" in caplog.text


@KIND
def test_a_swallowed_database_error_refuses_the_commit_and_says_how_to_roll_back_on_purpose(
    database: Database, kind: str
) -> None:
    told: list[BaseException] = []
    options = {"on_commit_failed": lambda failure: told.append(failure.exception)}

    def swallowing(request: Any) -> HttpResponse:
        orders(database.alias).create(id=7)
        try:
            orders(database.alias).create(id=7)
        except IntegrityError:
            return HttpResponse(status=201)
        raise AssertionError("the id is taken")

    def marking(request: Any) -> HttpResponse:
        orders(database.alias).create()
        transaction.set_rollback(True, using=database.alias)
        return HttpResponse(status=201)

    for view, cause in ((swallowing, IntegrityError), (marking, type(None))):
        answer = Site(view, kind, database.alias, options=options).get()
        assert answer.unit == (500, "failed")
        assert isinstance(told[-1], CommitRefused)
        assert "doom()" in str(told[-1])
        assert isinstance(told[-1].__cause__, cause)
        assert database.orders() == []
    assert Site(placing(database), kind, database.alias).get().unit == (201, "committed")


@pytest.mark.service("postgresql")
@KIND
def test_a_failed_statement_that_only_the_driver_saw_refuses_the_commit_too(kind: str, postgresql: PostgreSQL) -> None:
    cleared(postgresql)

    def view(request: Any) -> HttpResponse:
        orders("postgresql").create()
        try:
            connections["postgresql"].cursor().execute("SELECT 1/0")
        except DatabaseError:
            assert not connections["postgresql"].needs_rollback
        return HttpResponse(status=201)

    assert Site(view, kind, "postgresql").get().unit == (500, "failed")
    assert postgresql.orders() == []


def test_the_cause_of_a_refusal_is_never_the_error_of_an_earlier_request(
    default: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[BaseException] = []
    options = {"on_commit_failed": lambda failure: told.append(failure.exception)}

    def swallowing(request: Any) -> HttpResponse:
        try:
            orders("default").create(id="not a number")
        except ValueError:
            return HttpResponse(status=201)
        raise AssertionError("no number")

    def marking(request: Any) -> HttpResponse:
        transaction.set_rollback(True)
        return HttpResponse(status=201)

    for view in (swallowing, marking):
        assert Site(view, "wsgi", options=options).get().unit == (500, "failed")
    assert [type(error.__cause__) for error in told] == [ValueError, type(None)]


@pytest.mark.parametrize(("open_again", "reason"), [(False, "was closed inside"), (True, "behind Django's back")])
@KIND
def test_a_connection_closed_by_the_view_refuses_the_commit(
    database: Database, kind: str, open_again: bool, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    def view(request: Any) -> HttpResponse:
        orders(database.alias).create()
        close_old_connections()
        if open_again:
            connections[database.alias].connect()
        return HttpResponse(status=201)

    assert Site(view, kind, database.alias).get().unit == (500, "failed")
    assert reason in caplog.text
    assert Site(placing(database), kind, database.alias).get().unit == (201, "committed")
    assert database.orders() == [None]
    assert database.open_transactions() == 0


@pytest.mark.service("postgresql")
@KIND
def test_a_connection_that_is_lost_fails_the_commit_and_not_the_next_request(kind: str, postgresql: PostgreSQL) -> None:
    cleared(postgresql)

    def view(request: Any) -> HttpResponse:
        orders("postgresql").create()
        with postgres.connect(postgresql.schema) as outside:
            outside.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s",
                [postgresql.schema],
            )
        return HttpResponse(status=201)

    assert Site(view, kind, "postgresql").get().unit == (500, "failed")
    assert Site(placing(postgresql), kind, "postgresql").get().unit == (201, "committed")
    assert postgresql.orders() == [None]


@KIND
def test_hooks_run_inside_the_transaction_and_behind_it(default: Database, kind: str) -> None:
    seen: list[int] = []
    if kind == "wsgi":

        def before() -> None:
            orders("default").create()

        def after() -> None:
            seen.append(orders("default").count())
    else:

        async def before() -> None:  # type: ignore[misc]
            await orders("default").acreate()

        async def after() -> None:  # type: ignore[misc]
            seen.append(await orders("default").acount())

    def view(request: Any) -> HttpResponse:
        current_exchange().before_commit(before)
        current_exchange().after_commit(after)
        current_exchange().on_finished(lambda outcome: seen.append(len(default.orders())))
        return HttpResponse(status=201)

    assert Site(view, kind).get().unit == (201, "committed")
    assert seen == [1, 1]
    assert default.open_transactions() == 0


def test_an_error_of_a_before_commit_hook_rolls_back(default: Database) -> None:
    def view(request: Any) -> HttpResponse:
        orders("default").create()
        current_exchange().before_commit(lambda: orders("default").get(id=0))
        return HttpResponse(status=201)

    assert Site(view, "wsgi").get().unit == (500, "failed")
    assert default.orders() == []


def test_inside_of_a_test_case_it_is_a_savepoint_and_nothing_is_closed(default: Database) -> None:
    ran: list[str] = []

    def view(status: int) -> View:
        def answer(request: Any) -> HttpResponse:
            transaction.on_commit(lambda: ran.append("on_commit"))
            orders("default").create()
            return HttpResponse(status=status)

        return answer

    # As Django's TestCase and test client do it.
    for signal in (request_started, request_finished):
        signal.disconnect(close_old_connections)
    try:
        with transaction.atomic():
            for status, unit, count in ((201, "committed", 1), (404, "rolled_back", 1), (201, "committed", 2)):
                assert Site(view(status), "wsgi").get(inside=True).unit == (status, unit)
                assert orders("default").count() == count
            transaction.set_rollback(True)
    finally:
        for signal in (request_started, request_finished):
            signal.connect(close_old_connections)
        connections["default"].close()
    assert (default.orders(), ran) == ([], [])
