"""The sessions of Flask-SQLAlchemy and Flask-SQLAlchemy-Lite are the units of work of requests."""

import gc
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import flask
import flask_sqlalchemy
import flask_sqlalchemy_lite
import pytest
from flask import Flask, current_app, g, request, stream_with_context
from flask_sqlalchemy import track_modifications
from sqlalchemy import ForeignKey, create_engine, event, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker
from sqlalchemy.pool import Pool

from postresponse import CommitPolicy, Retry, after_response, current_exchange, doom, scope
from postresponse.exceptions import ConfigurationError, NoExchange
from postresponse.integrations.flask import FlaskSQLAlchemyUnitOfWork, PostResponse, rendered_by
from postresponse.unit_of_work.composite import Chained
from postresponse.unit_of_work.sqlalchemy import SQLAlchemyUnitOfWork
from postresponse.wsgi import PostResponseMiddleware
from tests.fakes import Conflict, StrictWSGIServer, run_wsgi
from tests.services import postgres

MODES = ("head", "buffered", "after_send")


class Base(DeclarativeBase):
    """The tables."""


class Customer(Base):
    """Somebody who orders; there is nobody."""

    __tablename__ = "customer"
    id: Mapped[int] = mapped_column(primary_key=True)


class Order(Base):
    """What was ordered, by a customer that exists, which COMMIT looks at."""

    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    item: Mapped[str]
    customer: Mapped[int | None] = mapped_column(ForeignKey("customer.id", deferrable=True, initially="DEFERRED"))


class Shop:
    """An application with one of the extensions, its unit of work, and what was told."""

    def __init__(self, kind: str, url: str) -> None:
        self.app = Flask("shop")
        self.engine = create_engine(url)
        self.outcomes: list[Any] = []
        if kind == "Flask-SQLAlchemy":
            self.app.config["SQLALCHEMY_DATABASE_URI"] = url
            self.db: Any = flask_sqlalchemy.SQLAlchemy(model_class=Base)
        else:
            self.app.config["SQLALCHEMY_ENGINES"] = {"default": url}
            self.db = flask_sqlalchemy_lite.SQLAlchemy()
        self.db.init_app(self.app)
        with self.app.app_context():
            self.pool: Pool = self.db.engine.pool
            self.engines = [self.engine, *self.db.engines.values()]
        for each in self.engines:
            if each.dialect.name == "sqlite":
                event.listen(each, "connect", lambda connection, _: connection.execute("PRAGMA foreign_keys=ON"))
        Base.metadata.create_all(self.engine)
        self.unit_of_work = FlaskSQLAlchemyUnitOfWork(self.db)

    def install(self, **options: Any) -> None:
        options = {"unit_of_work": self.unit_of_work, "on_finished": self.outcomes.append, **options}
        self.app.wsgi_app = PostResponseMiddleware(self.app.wsgi_app, **options)  # type: ignore[method-assign]

    def ask(self, path: str = "/") -> StrictWSGIServer:
        def asked(environ: dict[str, Any], start_response: Any) -> Any:
            environ["PATH_INFO"] = path
            return self.app(environ, start_response)

        return run_wsgi(asked)

    @property
    def items(self) -> list[str]:
        with self.engine.connect() as connection:
            return list(connection.scalars(select(Order.item).order_by(Order.id)))

    @property
    def unit(self) -> str:
        (outcome,) = self.outcomes
        return str(outcome.unit_of_work.value)


@contextmanager
def database(name: str, folder: Path) -> Iterator[str]:
    """The URL of an empty database."""
    if name == "sqlite":
        yield f"sqlite:///{folder / 'shop.sqlite3'}"
        return
    with postgres.schema() as schema:
        url = postgres.url().replace("postgresql://", "postgresql+psycopg://", 1)
        yield f"{url}?options=-csearch_path%3D{schema}"


@pytest.fixture(params=["Flask-SQLAlchemy", "Flask-SQLAlchemy-Lite"])
def kind(request: pytest.FixtureRequest) -> str:
    """Which of the two."""
    return str(request.param)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.service("postgresql"))])
def shop(request: pytest.FixtureRequest, kind: str, tmp_path: Path) -> Iterator[Shop]:
    """A shop in which no connection may be left out."""
    with database(request.param, tmp_path) as url:
        shop = Shop(kind, url)
        yield shop
        assert shop.pool.checkedout() == 0  # type: ignore[attr-defined]
        for engine in shop.engines:
            engine.dispose()


@pytest.fixture
def lite(kind: str, tmp_path: Path) -> Iterator[Shop]:
    """One on SQLite, for what has nothing to do with the database."""
    shop = Shop(kind, f"sqlite:///{tmp_path / 'shop.sqlite3'}")
    yield shop
    assert shop.pool.checkedout() == 0  # type: ignore[attr-defined]
    for engine in shop.engines:
        engine.dispose()


def view(shop: Shop, **orders: Any) -> Any:
    def place() -> Any:
        shop.db.session.add(Order(item="tea", **orders))
        return "stored", 201

    return place


@pytest.mark.parametrize("commit", MODES)
def test_what_a_view_adds_is_committed_once_and_behind_its_teardown(shop: Shop, commit: str) -> None:
    happened: list[str] = []
    shop.app.add_url_rule("/", view_func=view(shop))
    shop.app.teardown_appcontext(lambda error: happened.append(f"teardown, {shop.items}"))
    event.listen(shop.engines[1], "commit", lambda connection: happened.append("commit"))
    shop.install(commit=commit)
    server = shop.ask()
    assert (server.code, shop.items, shop.unit) == (201, ["tea"], "committed")
    assert happened == ["teardown, []", "commit"]


@pytest.mark.parametrize("commit", ["head", "buffered"])
def test_a_commit_that_the_database_refuses_is_answered_by_an_error_handler(shop: Shop, commit: str) -> None:
    shop.app.add_url_rule("/", view_func=view(shop, customer=404))
    seen: list[Any] = []

    @shop.app.errorhandler(IntegrityError)
    def refused(error: IntegrityError) -> Any:
        seen.append(shop.db.session.scalar(text("SELECT 1")))  # a session of the handler's own
        return "no such customer", 409

    shop.install(commit=commit, error_response=rendered_by(shop.app))
    server = shop.ask()
    assert (server.code, server.body) == (409, b"no such customer")
    assert (shop.items, shop.unit, seen) == ([], "failed", [1])


def test_a_refused_commit_behind_the_response_is_rolled_back_and_the_next_request_stores(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    shop.app.add_url_rule("/bad", view_func=view(shop, customer=404), endpoint="bad")
    shop.app.add_url_rule("/", view_func=view(shop))
    shop.install(commit="after_send")
    assert [shop.ask("/bad").code, shop.ask().code] == [201, 201]
    assert [outcome.unit_of_work for outcome in shop.outcomes] == ["failed", "committed"]
    assert shop.items == ["tea"]


@pytest.mark.parametrize("ends", ["status", "doom", "error"])
def test_what_is_not_to_be_stored_is_rolled_back(lite: Shop, ends: str, caplog: pytest.LogCaptureFixture) -> None:
    @lite.app.get("/")
    def place() -> Any:
        lite.db.session.add(Order(item="tea"))
        lite.db.session.flush()
        if ends == "error":
            raise ZeroDivisionError
        if ends == "doom":
            doom("not today")
        return "no", 409 if ends == "status" else 200

    lite.install()
    assert lite.ask().code == {"status": 409, "doom": 200, "error": 500}[ends]
    assert (lite.items, lite.unit) == ([], "rolled_back")


def test_a_view_that_commits_or_rolls_back_itself_is_left_alone(lite: Shop) -> None:
    @lite.app.get("/commit")
    def commit() -> str:
        lite.db.session.add(Order(item="tea"))
        lite.db.session.commit()
        return "stored"

    @lite.app.get("/rollback")
    def rollback() -> str:
        lite.db.session.add(Order(item="gold"))
        lite.db.session.flush()
        lite.db.session.rollback()
        return "not stored"

    lite.install()
    assert [lite.ask("/commit").code, lite.ask("/rollback").code] == [200, 200]
    assert [outcome.unit_of_work for outcome in lite.outcomes] == ["none", "none"]
    assert lite.items == ["tea"]


def test_a_request_that_uses_no_session_opens_no_connection(lite: Shop) -> None:
    connected: list[Any] = []
    event.listen(lite.engines[1], "connect", lambda *given: connected.append(given))
    lite.app.add_url_rule("/", view_func=lambda: "nothing")
    lite.install()
    assert (lite.ask().code, lite.unit, connected) == (200, "committed", [])


@pytest.mark.parametrize("commit", MODES)
@pytest.mark.parametrize("with_context", [True, False], ids=["with context", "without"])
def test_a_body_that_is_streamed_has_the_session_of_its_mode(lite: Shop, commit: str, with_context: bool) -> None:
    @lite.app.get("/")
    def place() -> Any:
        lite.db.session.add(Order(item="tea"))

        def lines() -> Iterator[str]:
            yield "first\n"
            if with_context:
                yield f"{lite.db.session.scalar(select(Order.item))}\n"

        return flask.Response(stream_with_context(lines()) if with_context else lines())

    lite.install(commit=commit)
    server = lite.ask()
    assert server.body == (b"first\ntea\n" if with_context else b"first\n")
    assert (lite.items, lite.unit) == (["tea"], "committed")


def test_a_late_write_is_rolled_back_and_told(lite: Shop, caplog: pytest.LogCaptureFixture) -> None:
    @lite.app.get("/")
    def place() -> Any:
        lite.db.session.add(Order(item="tea"))

        def lines() -> Iterator[str]:
            yield "first\n"
            lite.db.session.add(Order(item="gold"))
            yield "last\n"

        return flask.Response(stream_with_context(lines()))

    lite.install()
    assert lite.ask().body == b"first\nlast\n"
    assert lite.items == ["tea"]
    assert [record.message for record in caplog.records if "late write" in record.message]


# -- the session and Flask's contexts ---------------------------------------------------------------------------------


def test_functions_that_tear_down_may_remove_and_a_view_that_removes_discards(tmp_path: Path) -> None:
    shop = Shop("Flask-SQLAlchemy", f"sqlite:///{tmp_path / 'shop.sqlite3'}")

    @shop.app.get("/removes")
    def removes() -> str:
        shop.db.session.add(Order(item="gold"))
        shop.db.session.flush()
        shop.db.session.remove()
        shop.db.session.add(Order(item="tea"))
        return "stored"

    shop.app.add_url_rule("/", view_func=view(shop))
    for register in (shop.app.teardown_request, shop.app.teardown_appcontext):
        register(lambda error: shop.db.session.remove())
    shop.install()
    assert [shop.ask("/removes").code, shop.ask().code] == [200, 201]
    assert shop.items == ["tea", "tea"]
    shop.engine.dispose()
    shop.engines[1].dispose()


def test_a_nested_application_context_has_a_session_of_its_own(lite: Shop) -> None:
    @lite.app.get("/")
    def place() -> Any:
        mine = lite.db.session() if callable(lite.db.session) else lite.db.session
        mine.add(Order(item="tea"))
        with lite.app.app_context():
            other = lite.db.session() if callable(lite.db.session) else lite.db.session
            other.add(Order(item="gold"))
        assert other is not mine
        return "stored"

    lite.install()
    assert (lite.ask().code, lite.items) == (200, ["tea"])


def test_a_request_inside_of_a_request_takes_nothing_away(lite: Shop) -> None:
    lite.app.add_url_rule("/inner", view_func=view(lite), endpoint="inner")

    @lite.app.get("/")
    def outer() -> Any:
        lite.db.session.add(Order(item="coffee"))
        assert lite.app.test_client().get("/inner", buffered=True).status_code == 201
        lite.db.session.add(Order(item="milk"))
        return "stored"

    lite.install()
    assert (lite.ask().code, sorted(lite.items)) == (200, ["coffee", "milk", "tea"])


def test_listeners_and_defaults_see_the_request_in_a_flush_at_the_commit(lite: Shop) -> None:
    seen: list[Any] = []
    lite.app.add_url_rule("/", view_func=view(lite))

    @lite.app.before_request
    def who() -> None:
        g.user = "ada"

    @event.listens_for(Session, "before_flush")
    def audit(session: Session, *others: Any) -> None:
        seen.append((current_app.name, g.user, request.path))

    lite.install()
    try:
        assert (lite.ask().code, lite.items) == (201, ["tea"])
    finally:
        event.remove(Session, "before_flush", audit)
    assert seen == [("shop", "ada", "/")]


@pytest.mark.parametrize("commit", MODES)
@pytest.mark.parametrize("used", [True, False], ids=["used before", "unused"])
def test_hooks_have_the_session_though_flask_has_left_its_contexts(lite: Shop, commit: str, used: bool) -> None:
    @lite.app.get("/")
    def place() -> str:
        if used:
            lite.db.session.add(Order(item="tea"))
        current_exchange().before_commit(lambda: lite.db.session.add(Order(item="milk")))
        return "stored"

    torn_down: list[Any] = []
    lite.app.teardown_appcontext(torn_down.append)
    lite.install(commit=commit)
    assert (lite.ask().code, lite.items) == (200, ["tea", "milk"] if used else ["milk"])
    assert torn_down == [None]


def test_behind_the_end_of_a_request_its_session_is_not_to_be_had(lite: Shop) -> None:
    raised: list[Exception] = []

    def late(outcome: object) -> None:
        try:
            lite.db.session.scalars(select(Order.item)).all()
        except RuntimeError as error:
            raised.append(error)

    @lite.app.get("/")
    def place() -> str:
        lite.db.session.add(Order(item="tea"))
        current_exchange().on_finished(late)
        return "stored"

    lite.install()
    assert (lite.ask().code, lite.items, len(raised)) == (200, ["tea"], 1)
    assert "outside of application context" in str(raised[0])


def test_an_async_view_has_the_session_of_its_request(lite: Shop) -> None:
    @lite.app.get("/")
    async def place() -> str:
        lite.db.session.add(Order(item="tea"))
        return "stored"

    lite.install()
    assert (lite.ask().code, lite.items, lite.unit) == (200, ["tea"], "committed")


def test_a_request_that_is_run_again_begins_with_an_empty_session(lite: Shop) -> None:
    @lite.app.get("/")
    def place() -> str:
        lite.db.session.add(Order(item=f"tea {current_exchange().attempt}"))
        lite.db.session.flush()
        if not current_exchange().is_last_attempt:
            current_exchange().before_commit(_conflict)
        return "stored"

    def _conflict() -> None:
        raise Conflict

    retry = Retry(attempts=3, on=lambda error: isinstance(error, Conflict), backoff=0.0)
    lite.install(commit=CommitPolicy(retry=retry))
    assert (lite.ask().code, lite.items) == (200, ["tea 3"])


def test_modifications_are_tracked_behind_the_commit_as_ever(tmp_path: Path) -> None:
    app = Flask("shop")
    app.config["SQLALCHEMY_DATABASE_URI"] = f"sqlite:///{tmp_path / 'shop.sqlite3'}"
    app.config["SQLALCHEMY_TRACK_MODIFICATIONS"] = True
    db = flask_sqlalchemy.SQLAlchemy(app, model_class=Base)
    with app.app_context():
        db.create_all()
        engine = db.engine
    told: list[Any] = []

    def committed(sender: Flask, changes: list[Any]) -> None:
        told.extend((sender, change) for _, change in changes)

    @app.get("/")
    def place() -> str:
        db.session.add(Order(item="tea"))
        return "stored"

    PostResponse(app, unit_of_work=FlaskSQLAlchemyUnitOfWork(db))
    with track_modifications.models_committed.connected_to(committed, app):
        assert app.test_client().get("/", buffered=True).status_code == 200
    assert told == [(app, "insert")]
    engine.dispose()


def test_outside_of_requests_the_session_is_the_extensions_own(lite: Shop) -> None:
    with lite.app.app_context():
        lite.db.session.add(Order(item="gold"))  # and nobody commits it
    with lite.app.app_context():
        lite.db.session.add(Order(item="tea"))
        lite.db.session.commit()
    assert lite.items == ["tea"]


def test_a_test_may_look_into_the_session_behind_its_request(lite: Shop) -> None:
    lite.app.add_url_rule("/", view_func=view(lite))
    lite.install()
    with lite.app.app_context():
        assert lite.app.test_client().get("/", buffered=True).status_code == 201
        assert lite.db.session.scalars(select(Order.item)).all() == ["tea"]
        lite.db.session.rollback()
    with lite.app.test_client() as client:
        client.get("/", buffered=True)
        assert len(lite.db.session.scalars(select(Order.item)).all()) == 2


def test_a_script_has_the_same_with_a_scope(lite: Shop) -> None:
    with lite.app.app_context():
        with scope(unit_of_work=lite.unit_of_work):
            lite.db.session.add(Order(item="tea"))
        with suppress(ZeroDivisionError), scope(unit_of_work=lite.unit_of_work):
            lite.db.session.add(Order(item="gold"))
            raise ZeroDivisionError
        assert lite.db.session.scalars(select(Order.item)).all() == ["tea"]


def test_work_after_the_response_opens_a_scope(lite: Shop) -> None:
    done = threading.Event()

    def book(app: Flask) -> None:
        with app.app_context(), scope(unit_of_work=lite.unit_of_work):
            lite.db.session.add(Order(item="booked"))
        done.set()

    @lite.app.get("/")
    def place() -> str:
        lite.db.session.add(Order(item="tea"))
        after_response(book, lite.app)
        return "stored"

    lite.install()
    assert lite.ask().code == 200
    assert done.wait(5)
    assert lite.items == ["tea", "booked"]


def test_work_after_the_response_without_a_context_of_its_own_is_told_the_way_out(lite: Shop) -> None:
    raised: list[Exception] = []
    done = threading.Event()

    def book() -> None:
        try:
            lite.db.session.add(Order(item="booked"))
        except NoExchange as error:
            raised.append(error)
        done.set()

    @lite.app.get("/")
    def place() -> str:
        lite.db.session.add(Order(item="tea"))
        after_response(book)
        return "stored"

    lite.install()
    assert lite.ask().code == 200
    assert done.wait(5)
    assert "with app.app_context(), scope(unit_of_work=...)" in str(raised[0])
    assert lite.items == ["tea"]


def test_one_object_serves_several_applications(kind: str, tmp_path: Path) -> None:
    shops = [Shop(kind, f"sqlite:///{tmp_path / name}") for name in ("a.sqlite3", "b.sqlite3")]
    first, second = shops
    second.app.extensions.clear()
    first.db.init_app(second.app)
    for shop in shops:
        shop.app.add_url_rule("/", view_func=view(first))
        shop.install(unit_of_work=FlaskSQLAlchemyUnitOfWork(first.db))
    assert [shop.ask().code for shop in (first, first, second)] == [201] * 3
    assert [len(shop.items) for shop in shops] == [2, 1]
    for shop in shops:
        with shop.app.app_context():
            first.db.engine.dispose()
        for engine in shop.engines:
            engine.dispose()


@pytest.mark.parametrize("customer", [None, 404])
def test_it_is_one_of_several_units_of_work(lite: Shop, tmp_path: Path, customer: int | None) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'books.sqlite3'}")
    Base.metadata.create_all(engine)
    books = SQLAlchemyUnitOfWork(sessionmaker(engine))

    @lite.app.get("/")
    def place() -> str:
        lite.db.session.add(Order(item="tea", customer=customer))
        books.session.add(Order(item="an entry"))
        return "stored"

    lite.install(unit_of_work=Chained(orders=lite.unit_of_work, books=books))
    assert lite.ask().code == (200 if customer is None else 500)
    with engine.connect() as connection:
        entries = connection.scalars(select(Order.item)).all()
    assert (lite.items, entries) == ((["tea"], ["an entry"]) if customer is None else ([], []))
    engine.dispose()


def test_nothing_of_a_request_is_left_to_the_collector(lite: Shop) -> None:
    left: list[weakref.ref[Any]] = []

    @lite.app.get("/")
    def place() -> str:
        lite.db.session.add(Order(item="tea"))
        left.append(weakref.ref(current_exchange()))
        return "stored"

    lite.install()
    lite.ask()
    gc.collect()
    gc.disable()
    try:
        lite.ask()
        lite.ask()
        assert left[1]() is None
    finally:
        gc.enable()


def test_what_is_no_extension_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="expected the SQLAlchemy object of Flask-SQLAlchemy"):
        FlaskSQLAlchemyUnitOfWork(Session)
