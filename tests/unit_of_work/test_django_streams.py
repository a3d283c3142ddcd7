"""Streamed bodies, and which part of them is inside of Django's transaction."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from django.db import connections, transaction
from django.http import HttpResponse, StreamingHttpResponse

from postresponse import commit_policy
from tests.unit_of_work.django_project.databases import Database, PostgreSQL
from tests.unit_of_work.django_project.driving import KIND, Site, View, orders


def streaming(kind: str, alias: str, customer: int | None, commit: str) -> View:
    """Make a view that places one order by itself and one in the middle of its body."""

    def body() -> Iterator[str]:
        yield "first "
        orders(alias).create(customer_id=customer)
        yield "second"

    async def abody() -> AsyncIterator[str]:
        yield "first "
        await orders(alias).acreate(customer_id=customer)
        yield "second"

    @commit_policy(at=commit)
    def view(request: Any) -> StreamingHttpResponse:
        orders(alias).create()
        return StreamingHttpResponse(body() if kind == "wsgi" else abody(), status=201)

    return view


@pytest.mark.parametrize("commit", ["buffered", "after_send"])
@KIND
def test_a_streamed_body_is_inside_the_transaction(database: Database, kind: str, commit: str) -> None:
    answer = Site(streaming(kind, database.alias, None, commit), kind, database.alias).get()
    assert (answer.unit, answer.body) == ((201, "committed"), b"first second")
    assert len(database.orders()) == 2
    answer = Site(streaming(kind, database.alias, 404, commit), kind, database.alias).get()
    assert answer.unit == (500 if commit == "buffered" else 201, "failed")
    assert len(database.orders()) == 2
    assert database.open_transactions() == 0


@KIND
def test_at_the_head_the_rest_of_a_body_is_behind_the_transaction_and_in_autocommit(
    database: Database, kind: str
) -> None:
    seen: list[int] = []
    site = Site(streaming(kind, database.alias, None, "head"), kind, database.alias)
    site.on_head = lambda: seen.append(len(database.orders()))
    answer = site.get()
    assert (answer.unit, answer.body) == ((201, "committed"), b"first second")
    assert (seen, len(database.orders())) == ([1], 2)
    assert database.open_transactions() == 0


def test_a_sync_body_under_asgi_is_inside_the_transaction_too(default: Database) -> None:
    with pytest.warns(Warning, match="must consume synchronous iterators"):
        answer = Site(streaming("wsgi", "default", 404, "buffered"), "asgi").get()
    assert answer.unit == (500, "failed")
    assert default.orders() == []


@pytest.mark.parametrize("kind", ["wsgi", "asgi"])
def test_a_body_that_raises_rolls_back(default: Database, kind: str) -> None:
    def broken() -> Iterator[str]:
        yield "first"
        orders("default").create()
        raise LookupError("broken")

    async def abroken() -> AsyncIterator[str]:
        yield "first"
        await orders("default").acreate()
        raise LookupError("broken")

    site = Site(lambda _: StreamingHttpResponse(broken() if kind == "wsgi" else abroken()), kind, commit="buffered")
    with pytest.raises(LookupError, match="broken"):
        site.get()
    assert default.orders() == []
    connections.close_all()  # under WSGI nobody closes a response that Django never returned
    assert default.open_transactions() == 0


def test_a_block_that_a_body_holds_over_its_first_part_refuses_the_commit_at_the_head(
    default: Database, caplog: pytest.LogCaptureFixture
) -> None:
    def body() -> Iterator[str]:
        with transaction.atomic():
            orders("default").create()
            yield "first"
            yield "second"

    seen: list[int] = []
    site = Site(
        lambda _: StreamingHttpResponse(body()), "wsgi", on_head=lambda: seen.append(default.open_transactions())
    )
    assert site.get().unit == (500, "failed")
    assert seen == [0]  # although the body was not closed yet
    assert "is still open" in caplog.text
    assert default.orders() == []
    site.commit = "buffered"
    assert site.get().unit == (200, "committed")
    assert default.orders() == [None]


@pytest.mark.service("postgresql")
@KIND
def test_at_the_head_the_connection_is_given_back_before_the_first_byte(kind: str, postgresql: PostgreSQL) -> None:
    states: list[list[str]] = []
    site = Site(lambda _: HttpResponse(str(orders("postgresql").count())), kind, "postgresql")
    site.on_head = lambda: states.append(postgresql.states())
    assert site.get().unit == (200, "committed")
    assert states == [[]]
