"""Messages that are enlisted in Django's transactions: in a request's own, and in one of `transaction.atomic()`."""

import asyncio
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from contextvars import Context, copy_context
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Thread
from typing import Any

import anyio
import pytest
from asgiref.sync import sync_to_async
from django.conf import settings
from django.core.cache import cache
from django.core.signals import request_finished, request_started
from django.core.wsgi import get_wsgi_application
from django.db import IntegrityError, close_old_connections, connection, connections, transaction
from django.http import HttpResponse, StreamingHttpResponse
from sqlalchemy import create_engine, make_url
from werkzeug.test import create_environ, run_wsgi_app

from postresponse import CommitPolicy, Retry, current_exchange, doom
from postresponse.exceptions import NoExchange, NoTable, NoTransaction, ResponseStarted, UnsupportedDatabase
from postresponse.messaging import Message, Outbox, Relay
from postresponse.messaging.delivery import Delivery
from postresponse.messaging.django_connection import dialect_of
from postresponse.unit_of_work import django_commit, django_transaction
from postresponse.unit_of_work.django import DjangoUnitOfWork
from postresponse.wsgi import PostResponseMiddleware
from tests.messaging.django_places import ALIAS, OUTBOX, Place, made
from tests.services import postgres
from tests.services.proxy import CommitProxy, Cut, postgresql_messages
from tests.unit_of_work import django_project
from tests.unit_of_work.django_project.driving import COMMIT, KIND, Site

SYNC = pytest.mark.parametrize("kind", ["wsgi", "asgi"])


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The Django project of the units of work."""
    django_project.configure_once(tmp_path_factory)
    yield
    connections.close_all()


@pytest.fixture(
    params=[
        "sqlite",
        pytest.param("postgresql", marks=pytest.mark.service("postgresql")),
        pytest.param("mariadb", marks=pytest.mark.service("mariadb")),
    ]
)
def place(request: pytest.FixtureRequest, project: None, tmp_path: Path) -> Iterator[Place]:
    """Each kind of database in turn, migrated."""
    with made(request.param, tmp_path) as place:
        place.migrate()
        yield place
        place.engine.dispose()


@pytest.fixture
def sqlite(project: None, tmp_path: Path) -> Iterator[Place]:
    """A file, migrated."""
    with made("sqlite", tmp_path) as place:
        place.migrate()
        yield place
        place.engine.dispose()


def receipt(number: int, **options: Any) -> Message:
    return Message("mail", "send_receipt", number, **options)


@contextmanager
def rolled_back() -> Iterator[None]:
    """An `atomic()` block that is rolled back."""
    with suppress(LookupError), transaction.atomic(ALIAS):
        yield
        raise LookupError


def view_of(*numbers: int, status: int = 201) -> Any:
    def view(request: Any) -> HttpResponse:
        for number in numbers:
            OUTBOX.enlist(receipt(number))
        return HttpResponse(status=status)

    return view


# -- in the unit of work of a request ---------------------------------------------------------------------------------


@COMMIT
@KIND
def test_messages_are_there_when_the_request_has_committed_and_in_their_order(
    place: Place, kind: str, commit: str
) -> None:
    seen: list[int] = []
    site = Site(view_of(1, 2, 3), kind, ALIAS, commit, on_head=lambda: seen.append(len(place.rows())))
    assert site.get().unit == (201, "committed")
    assert seen == [0 if commit == "after_send" else 3]
    assert place.numbers() == [1, 2, 3]


@KIND
def test_nothing_is_sent_of_what_is_rolled_back(place: Place, kind: str) -> None:
    def broken(request: Any) -> HttpResponse:
        OUTBOX.enlist(receipt(1))
        raise LookupError("broken")

    def doomed(request: Any) -> HttpResponse:
        OUTBOX.enlist(receipt(2))
        doom("stock ran out")
        return HttpResponse(status=201)

    assert Site(broken, kind, ALIAS).get().unit == (500, "rolled_back")
    assert Site(doomed, kind, ALIAS).get().unit == (201, "rolled_back")
    assert Site(view_of(3, status=409), kind, ALIAS).get().unit == (409, "rolled_back")
    assert Site(view_of(4), kind, ALIAS).get().unit == (201, "committed")
    assert place.numbers() == [4]


@SYNC
def test_an_async_view_enlists_on_its_event_loop(place: Place, kind: str) -> None:
    async def view(request: Any) -> HttpResponse:
        await asyncio.gather(enlist(1), enlist(2))
        return HttpResponse(status=201)

    async def enlist(number: int) -> None:
        OUTBOX.enlist(receipt(number))

    assert Site(view, kind, ALIAS).get().unit == (201, "committed")
    assert sorted(place.numbers()) == [1, 2]


@KIND
def test_a_message_dies_with_the_savepoint_that_it_was_enlisted_in(place: Place, kind: str) -> None:
    def view(request: Any) -> HttpResponse:
        OUTBOX.enlist(receipt(1))
        with rolled_back():
            OUTBOX.enlist(receipt(2))
            with transaction.atomic(ALIAS):
                OUTBOX.enlist(receipt(3))
        with transaction.atomic(ALIAS):
            OUTBOX.enlist(receipt(4))
            with rolled_back():
                OUTBOX.enlist(receipt(5))
        OUTBOX.enlist(receipt(6))
        return HttpResponse(status=201)

    assert Site(view, kind, ALIAS).get().unit == (201, "committed")
    assert place.numbers() == [1, 4, 6]


@KIND
def test_messages_keep_their_order_around_savepoints(place: Place, kind: str) -> None:
    def view(request: Any) -> HttpResponse:
        OUTBOX.enlist(receipt(1))
        with transaction.atomic(ALIAS):
            OUTBOX.enlist(receipt(2))
            with transaction.atomic(ALIAS, savepoint=False):
                OUTBOX.enlist(receipt(3))
        OUTBOX.enlist(receipt(4))
        OUTBOX.enlist(receipt(5), into=connections[ALIAS])
        return HttpResponse(status=201)

    assert Site(view, kind, ALIAS).get().unit == (201, "committed")
    assert place.numbers() == [1, 2, 3, 4, 5]


@SYNC
def test_messages_of_an_async_view_keep_their_order_around_savepoints(place: Place, kind: str) -> None:
    def in_a_savepoint(number: int) -> None:
        with transaction.atomic(ALIAS):
            OUTBOX.enlist(receipt(number))

    async def view(request: Any) -> HttpResponse:
        OUTBOX.enlist(receipt(1))
        await sync_to_async(in_a_savepoint)(2)
        OUTBOX.enlist(receipt(3))
        await sync_to_async(OUTBOX.enlist)(receipt(4))
        OUTBOX.enlist(receipt(5))
        await sync_to_async(in_a_savepoint)(6)
        return HttpResponse(status=201)

    assert Site(view, kind, ALIAS).get().unit == (201, "committed")
    assert place.numbers() == [1, 2, 3, 4, 5, 6]


@KIND
def test_a_message_dies_with_a_savepoint_that_was_made_by_hand(place: Place, kind: str) -> None:
    def view(request: Any) -> HttpResponse:
        OUTBOX.enlist(receipt(1))
        with connections[ALIAS].cursor() as cursor:
            cursor.execute("SAVEPOINT by_hand")
            OUTBOX.enlist(receipt(2))
            cursor.execute("ROLLBACK TO SAVEPOINT by_hand")
            OUTBOX.enlist(receipt(3))
        return HttpResponse(status=201)

    assert Site(view, kind, ALIAS).get().unit == (201, "committed")
    assert place.numbers() == [1, 3]


@SYNC
def test_atomic_requests_may_stay_on(place: Place, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(connections.settings[ALIAS], "ATOMIC_REQUESTS", True)

    def broken(request: Any) -> HttpResponse:
        OUTBOX.enlist(receipt(1))
        raise LookupError("broken")

    assert Site(broken, kind, ALIAS).get().unit == (500, "rolled_back")
    assert Site(view_of(2, status=404), kind, ALIAS).get().unit == (404, "rolled_back")
    assert Site(view_of(3), kind, ALIAS).get().unit == (201, "committed")
    assert place.numbers() == [3]


@KIND
def test_what_a_view_gives_to_its_connection_goes_with_the_request(place: Place, kind: str) -> None:
    def view(status: int) -> Any:
        def answer(request: Any) -> HttpResponse:
            OUTBOX.enlist(receipt(status), into=connections[ALIAS])
            return HttpResponse(status=status)

        return answer

    assert Site(view(404), kind, ALIAS).get().unit == (404, "rolled_back")
    assert Site(view(201), kind, ALIAS).get().unit == (201, "committed")
    assert place.numbers() == [201]


@KIND
def test_a_hook_before_the_commit_is_in_time(sqlite: Place, kind: str) -> None:
    def view(request: Any) -> HttpResponse:
        current_exchange().before_commit(lambda: OUTBOX.enlist(receipt(1)))
        return HttpResponse(status=201)

    assert Site(view, kind, ALIAS).get().unit == (201, "committed")
    assert sqlite.numbers() == [1]


@KIND
def test_behind_the_end_it_is_too_late(sqlite: Place, kind: str) -> None:
    late: list[type[BaseException] | None] = []

    def enlist() -> None:
        try:
            OUTBOX.enlist(receipt(1))
        except Exception as error:
            late.append(type(error))
        else:
            late.append(None)

    def body() -> Iterator[str]:
        yield "first "
        enlist()
        yield "second"

    async def abody() -> Any:
        yield "first "
        enlist()
        yield "second"

    def view(request: Any) -> StreamingHttpResponse:
        transaction.on_commit(enlist, ALIAS)
        current_exchange().after_commit(enlist)
        return StreamingHttpResponse(body() if kind == "wsgi" else abody())

    assert Site(view, kind, ALIAS).get().unit == (200, "committed")
    assert late == [ResponseStarted] * 3
    assert sqlite.rows() == []


@KIND
def test_a_thread_beside_the_view_is_in_time_or_told_that_it_is_not(
    sqlite: Place, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    leave_atomic = django_transaction.Unit._leave_atomic

    def enlist(context: Context, number: int) -> None:
        def enlisting() -> None:
            try:
                context.run(OUTBOX.enlist, receipt(number))
            except ResponseStarted:
                told.append("too late")
            else:
                told.append("in time")

        thread = Thread(target=enlisting)
        thread.start()
        thread.join()

    def leave(unit: Any, connection: Any) -> None:  # what was enlisted is written, and COMMIT is not sent yet
        enlist(contexts[0], 2)
        leave_atomic(unit, connection)

    def view(request: Any) -> HttpResponse:
        contexts.append(copy_context())
        enlist(copy_context(), 1)
        return HttpResponse(status=201)

    contexts: list[Context] = []
    monkeypatch.setattr(django_transaction.Unit, "_leave_atomic", leave)
    assert Site(view, kind, ALIAS).get().unit == (201, "committed")
    assert told == ["in time", "too late"]
    assert sqlite.numbers() == [1]


def test_in_front_of_djangos_handler_there_is_no_transaction_yet(sqlite: Place) -> None:
    settings.ROOT_URLCONF = ()
    django = get_wsgi_application()

    def early(environ: Any, start_response: Any) -> Any:
        with pytest.raises(NoTransaction, match=r"'outbox' has not begun: Django's handler begins it"):
            OUTBOX.enlist(receipt(1))
        return django(environ, start_response)

    app = PostResponseMiddleware(early, unit_of_work=DjangoUnitOfWork(ALIAS))
    _, status, _ = run_wsgi_app(app, create_environ("/"), buffered=True)
    assert status == "404 Not Found"


@KIND
def test_a_database_that_is_down_is_told_to_whoever_enlists(
    project: None, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "DEBUG_PROPAGATE_EXCEPTIONS", False)
    with made("sqlite", tmp_path / "missing"):
        assert Site(view_of(1), kind, ALIAS).get().unit[0] == 500


@KIND
def test_a_request_that_is_run_again_sends_the_messages_of_its_last_attempt(
    sqlite: Place, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def view(request: Any) -> HttpResponse:
        attempt = current_exchange().attempt
        OUTBOX.enlist(receipt(attempt))
        if attempt == 1:
            raise LookupError
        return HttpResponse(status=201)

    policy = CommitPolicy("buffered", retry=Retry(on=lambda error: isinstance(error, LookupError)))

    monkeypatch.setattr(settings, "DEBUG_PROPAGATE_EXCEPTIONS", True)  # else it is Django that answers
    assert Site(view, kind, ALIAS, policy).get().unit == (201, "committed")
    assert sqlite.numbers() == [2]


def test_inside_of_a_test_case_messages_go_with_its_own_transaction(place: Place) -> None:
    # As Django's TestCase and test client do it.
    for signal in (request_started, request_finished):
        signal.disconnect(close_old_connections)
    try:
        with rolled_back():
            assert Site(view_of(1), "wsgi", ALIAS).get(inside=True).unit == (201, "committed")
            assert Site(view_of(2, status=404), "wsgi", ALIAS).get(inside=True).unit == (404, "rolled_back")
            with connections[ALIAS].cursor() as cursor:
                cursor.execute("SELECT count(*) FROM postresponse_outbox")
                assert cursor.fetchone() == (1,)
    finally:
        for signal in (request_started, request_finished):
            signal.connect(close_old_connections)
    assert place.rows() == []


class Sleeper:
    """What is woken."""

    def __init__(self, place: Place) -> None:
        self.seen: list[int] = []
        self._place = place
        OUTBOX.wakes(self)

    def wake(self) -> None:
        self.seen.append(len(self._place.rows()))


@KIND
def test_a_relay_is_woken_behind_the_commit_and_once(place: Place, kind: str) -> None:
    sleeper = Sleeper(place)

    def view(request: Any) -> HttpResponse:
        with transaction.atomic(ALIAS):
            for number in range(3):
                OUTBOX.enlist(receipt(number))
        return HttpResponse(status=201)

    assert Site(view_of(1, 2), kind, ALIAS).get().unit == (201, "committed")
    assert sleeper.seen == [2]
    assert Site(view, kind, ALIAS).get().unit == (201, "committed")
    assert sleeper.seen == [2, 5]
    assert Site(view_of(1, status=400), kind, ALIAS).get().unit == (400, "rolled_back")
    assert sleeper.seen == [2, 5]


@pytest.mark.service("postgresql")
@KIND
def test_a_request_that_only_enlists_has_written(
    project: None, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tickets: list[Any] = []
    ask = django_commit.ticket_on
    monkeypatch.setattr(django_transaction, "ticket_on", lambda connection: tickets.append(ask(connection)))
    with made("postgresql", tmp_path) as place:
        place.migrate()
        assert Site(view_of(1), kind, ALIAS).get().unit == (201, "committed")
        place.engine.dispose()
    assert [ticket.id is not None for ticket in tickets] == [True]


@pytest.mark.service("postgresql")
@KIND
@pytest.mark.parametrize("cut", [Cut.AFTER, Cut.BEFORE])
def test_a_commit_that_was_never_answered_is_looked_up(project: None, kind: str, cut: Cut, tmp_path: Path) -> None:
    at = make_url(postgres.url())
    proxy = CommitProxy(at.host or "127.0.0.1", at.port or 5432, postgresql_messages)
    with made("postgresql", tmp_path) as place, closing(proxy):
        place.migrate()
        connections[ALIAS].close()
        connections.settings[ALIAS] |= {"HOST": "127.0.0.1", "PORT": proxy.port}
        proxy.arm(cut)
        answer = Site(view_of(1), kind, ALIAS).get()
        assert answer.unit == ((201, "committed") if cut is Cut.AFTER else (500, "failed"))
        assert place.numbers() == ([1] if cut is Cut.AFTER else [])
        place.engine.dispose()
    assert proxy.cuts == 1


@pytest.mark.parametrize(
    "kind_of_place",
    [
        "sqlite",
        pytest.param("postgresql", marks=pytest.mark.service("postgresql")),
        pytest.param("mariadb", marks=pytest.mark.service("mariadb")),
    ],
)
def test_a_missing_table_is_told_with_the_way_to_make_it(project: None, kind_of_place: str, tmp_path: Path) -> None:
    with made(kind_of_place, tmp_path) as place:
        answer = Site(view_of(1), "wsgi", ALIAS).get()
        assert answer.unit == (500, "failed")
        assert answer.outcome is not None
        assert isinstance(answer.outcome.exception, NoTable)
        with pytest.raises(NoTable, match=r"no table postresponse_outbox: put .*django_outbox' into INSTALLED_APPS"):
            enlist_in(connections[ALIAS], receipt(1))
        place.engine.dispose()


# -- in a transaction of one's own ------------------------------------------------------------------------------------


def enlist_in(given: Any, *messages: Message) -> None:
    with transaction.atomic(ALIAS):
        for message in messages:
            OUTBOX.enlist(message, into=given)


def test_outside_of_a_request_a_message_is_written_in_the_transaction_of_its_connection(place: Place) -> None:
    enlist_in(connections[ALIAS], receipt(1), receipt(2))
    with rolled_back():
        OUTBOX.enlist(receipt(3), into=connections[ALIAS])
    with transaction.atomic(ALIAS):
        with rolled_back():
            OUTBOX.enlist(receipt(4), into=connections[ALIAS])
        OUTBOX.enlist(receipt(5), into=connections[ALIAS])
        assert OUTBOX.enlist(message := receipt(6), into=connections[ALIAS]) == message.id
    assert place.numbers() == [1, 2, 5, 6]


def test_each_form_of_a_message_is_written_as_it_was_given(place: Place) -> None:
    due = datetime.now(UTC) + timedelta(days=2)
    texts = {"text": "100 % of %s and %(x)s, \\ and 'quotes', €"}
    with place.engine.connect() as seen:
        clock = seen.exec_driver_sql("SELECT CURRENT_TIMESTAMP").scalar_one()  # it answers
        assert clock is not None
    before = datetime.now(UTC)
    enlist_in(
        connections[ALIAS],
        Message("mail", "send_receipt", texts, headers={"tenant": "a%b"}, ordering_key="order/1"),
        receipt(2, delay=86400.5),
        receipt(3, due=due),
        receipt(4, dedupe_key="once"),
        receipt(5, dedupe_key="once"),
        receipt(6, dedupe_key="later", delay=3600),
    )
    now, delayed, dated, deduped, later = place.rows()
    assert (now.destination, now.name, now.ordering_key, now.headers) == (
        "mail",
        "send_receipt",
        "order/1",
        '{"tenant": "a%b"}',
    )
    assert Delivery(now.message_id, "mail", now.name, now.payload).payload == texts
    assert abs(now.due_at - before) < timedelta(seconds=10)
    assert now.created_at == now.due_at
    assert (now.attempts, now.outages, now.token, now.leased_until, delayed.ordering_key) == (0, 0, None, None, None)
    assert abs((delayed.due_at - delayed.created_at).total_seconds() - 86400.5) < 0.01
    assert dated.due_at == due
    assert (deduped.message_id, later.message_id) == (
        receipt(0, dedupe_key="once").id,
        receipt(0, dedupe_key="later").id,
    )
    assert abs((later.due_at - later.created_at).total_seconds() - 3600) < 0.01


def test_another_error_of_the_database_is_raised_as_it_is(place: Place) -> None:
    message = receipt(1)
    with pytest.raises(IntegrityError):
        enlist_in(connections[ALIAS], message, message)
    assert place.rows() == []


def test_a_connection_in_no_transaction_is_refused(sqlite: Place) -> None:
    with pytest.raises(NoTransaction, match=r"none on the connection 'outbox' of this thread; put transaction\.atomic"):
        OUTBOX.enlist(receipt(1), into=connections[ALIAS])
    with pytest.raises(NoTransaction, match=r"none on the connection 'default'"):
        OUTBOX.enlist(receipt(1), into=connection)
    with pytest.raises(NoTransaction, match="expected a Session"):
        OUTBOX.enlist(receipt(1), into=cache)
    with pytest.raises(NoTransaction, match="expected a Session"):
        OUTBOX.enlist(receipt(1), into=object())
    with pytest.raises(NoExchange):
        OUTBOX.enlist(receipt(1))
    assert sqlite.rows() == []


def test_the_proxy_of_the_default_connection_stands_for_it(sqlite: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    default = connections["default"]
    connections["default"] = connections[ALIAS]
    try:
        enlist_in(connection, receipt(1))
    finally:
        connections["default"] = default
    assert sqlite.numbers() == [1]


def test_async_code_enlists_in_what_it_gives_to_a_thread(sqlite: Place) -> None:
    async def on_the_loop() -> None:
        with pytest.raises(NoTransaction, match=r"in an async view both into sync_to_async\(\)"):
            OUTBOX.enlist(receipt(1), into=connections[ALIAS])
        await sync_to_async(in_a_thread)()

    def in_a_thread() -> None:
        enlist_in(connections[ALIAS], receipt(2))
        connections[ALIAS].close()
        del connections[ALIAS]  # the thread is one for all tests, and the database another one in each

    asyncio.run(on_the_loop())
    assert sqlite.numbers() == [2]


def test_another_database_is_refused() -> None:
    with pytest.raises(UnsupportedDatabase, match="this is oracle"):
        dialect_of("oracle")


def test_two_outboxes_of_one_request_keep_their_order(sqlite: Place) -> None:
    other = Outbox({"mail": ["send_receipt"]})

    def view(request: Any) -> HttpResponse:
        for number, outbox in enumerate((OUTBOX, OUTBOX, other, OUTBOX)):
            outbox.enlist(receipt(number))
        return HttpResponse(status=201)

    assert Site(view, "wsgi", ALIAS).get().unit == (201, "committed")
    assert sqlite.numbers() == [0, 1, 2, 3]


# -- what becomes of them ---------------------------------------------------------------------------------------------


@KIND
def test_a_relay_delivers_them(place: Place, kind: str) -> None:
    assert Site(view_of(1, 2), kind, ALIAS).get().unit == (201, "committed")
    got: list[int] = []

    async def send(delivery: Delivery) -> None:
        got.append(delivery.payload)
        if len(got) == 2:
            relay.stop()

    # One name for MariaDB is as good as the other, on whatever release of SQLAlchemy.
    engine = create_engine(place.url.replace("mysql+", "mariadb+"), **place.options)
    relay = Relay(OUTBOX, engine, {"mail": send})
    anyio.run(relay.run)
    engine.dispose()
    assert sorted(got) == [1, 2]
    assert place.rows() == []
