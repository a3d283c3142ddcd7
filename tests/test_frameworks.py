"""Each framework in its own habits: views, background work, mounted applications, other middleware around."""

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import flask
import pytest
from fastapi import BackgroundTasks, FastAPI, HTTPException
from flask import Flask
from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.orm import Session, sessionmaker
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.responses import FileResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.testclient import TestClient
from werkzeug.middleware.dispatcher import DispatcherMiddleware

from postresponse import asgi, commit_policy, current_exchange, doom, force_commit, wsgi
from postresponse.core.lifecycle import Outcome
from postresponse.unit_of_work.sqlalchemy import SQLAlchemyUnitOfWork


class Shop:
    """A SQLite database whose COMMIT refuses orders of a customer that does not exist."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.db = SQLAlchemyUnitOfWork(sessionmaker(engine))
        self.outcomes: list[Outcome] = []

    @property
    def session(self) -> Session:
        return self.db.session

    def order(self, customer: int | None = None) -> None:
        self.session.execute(text("INSERT INTO orders (customer) VALUES (:customer)"), {"customer": customer})

    @property
    def count(self) -> int:
        """How many orders are committed, seen through another connection."""
        with self.engine.connect() as connection:
            return int(connection.scalar(text("SELECT count(*) FROM orders")) or 0)

    def wrapped(self, app: Any, commit: Any = "head", **options: Any) -> Any:
        module = asgi if isinstance(app, Starlette) else wsgi
        return module.PostResponseMiddleware(
            app, unit_of_work=self.db, commit=commit, on_finished=self.outcomes.append, **options
        )

    def asgi(self, app: Any, commit: Any = "head") -> TestClient:
        return TestClient(self.wrapped(app, commit), raise_server_exceptions=False)

    def flask(self, app: Flask, commit: Any = "head") -> Any:
        app.wsgi_app = self.wrapped(app.wsgi_app, commit)  # type: ignore[method-assign]
        return app.test_client()


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    engine = create_engine(f"sqlite:///{tmp_path / 'shop.sqlite3'}")
    event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA foreign_keys=ON"))
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE customer (id INTEGER PRIMARY KEY)"))
        reference = "REFERENCES customer (id) DEFERRABLE INITIALLY DEFERRED"
        connection.execute(text(f"CREATE TABLE orders (id INTEGER PRIMARY KEY, customer INTEGER {reference})"))
    yield Shop(engine)
    engine.dispose()


EARLY = ["head", "buffered"]
MODES = [*EARLY, "after_send"]


# -- Starlette --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("commit", MODES)
def test_a_starlette_background_task_sees_the_row(shop: Shop, commit: str) -> None:
    seen: list[int] = []

    def view(request: Any) -> Response:
        shop.order()
        return PlainTextResponse("made", background=BackgroundTask(lambda: seen.append(shop.count)))

    assert shop.asgi(Starlette(routes=[Route("/", view)]), commit).get("/").status_code == 200
    assert seen == [1]


@pytest.mark.parametrize("commit", EARLY)
def test_and_can_ask_whether_there_is_one(shop: Shop, commit: str) -> None:
    seen: list[str] = []

    def view(request: Any) -> Response:
        shop.order(customer=99)
        exchange = current_exchange()
        return PlainTextResponse("made", background=BackgroundTask(lambda: seen.append(exchange.unit_of_work)))

    assert shop.asgi(Starlette(routes=[Route("/", view)]), commit).get("/").status_code == 500
    assert seen == ["failed"]


@pytest.mark.parametrize("commit", MODES)
def test_a_stream_of_starlette_is_inside_the_transaction_as_far_as_the_mode_says(shop: Shop, commit: str) -> None:
    async def lines() -> AsyncIterator[bytes]:
        yield b"first\n"
        shop.order()
        yield b"second\n"

    async def view(request: Any) -> Response:
        return StreamingResponse(lines())

    response = shop.asgi(Starlette(routes=[Route("/", view)]), commit).get("/")
    assert response.content == b"first\nsecond\n"
    assert shop.count == (0 if commit == "head" else 1)


@pytest.mark.parametrize("commit", MODES)
def test_a_file_of_starlette_arrives_whole(shop: Shop, commit: str, tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(b"0123456789" * 20_000)

    def view(request: Any) -> Response:
        shop.order()
        return FileResponse(path)

    response = shop.asgi(Starlette(routes=[Route("/", view)]), commit).get("/")
    assert response.content == path.read_bytes()
    assert response.headers["content-length"] == "200000"
    assert (shop.count, shop.outcomes[0].ending) == (1, "handed_over")


@pytest.mark.parametrize("outermost", [True, False])
@pytest.mark.parametrize("commit", MODES)
def test_the_middleware_may_stand_outermost_or_be_added(shop: Shop, commit: Any, outermost: bool) -> None:
    def good(request: Any) -> Response:
        shop.order()
        return PlainTextResponse("made")

    def bad(request: Any) -> Response:
        shop.order()
        raise RuntimeError("in the view")

    app = Starlette(routes=[Route("/good", good), Route("/bad", bad)])
    if outermost:
        client = shop.asgi(app, commit)
    else:
        app.add_middleware(
            asgi.PostResponseMiddleware, unit_of_work=shop.db, commit=commit, on_finished=shop.outcomes.append
        )
        client = TestClient(app, raise_server_exceptions=False)
    assert client.get("/bad").status_code == 500
    assert shop.count == 0
    assert client.get("/good").status_code == 200
    assert shop.count == 1
    # Outermost sees the bytes of the 500; inside ServerErrorMiddleware it sees the exception only.
    assert [outcome.ending for outcome in shop.outcomes] == ["handed_over" if outermost else "failed", "handed_over"]
    assert isinstance(shop.outcomes[0].exception, RuntimeError)


@pytest.mark.parametrize("commit", MODES)
def test_base_http_middleware_inside_changes_nothing(shop: Shop, commit: str) -> None:
    async def pass_on(request: Any, call_next: Any) -> Any:
        return await call_next(request)

    def view(request: Any) -> Response:
        shop.order(customer=99 if request.url.path == "/bad" else None)
        return PlainTextResponse("made")

    app = Starlette(routes=[Route("/{path}", view)])
    app.add_middleware(BaseHTTPMiddleware, dispatch=pass_on)
    client = shop.asgi(app, commit)
    assert client.get("/bad").status_code == (200 if commit == "after_send" else 500)
    assert client.get("/good").status_code == 200
    assert shop.count == 1


def test_a_mounted_application_with_the_middleware_of_its_own_steps_aside(shop: Shop) -> None:
    def view(request: Any) -> Response:
        shop.order()
        return PlainTextResponse("made")

    inner = shop.wrapped(Starlette(routes=[Route("/", view)]), "buffered")
    assert shop.asgi(Starlette(routes=[Mount("/inner", inner)])).get("/inner/").status_code == 200
    assert shop.count == 1
    assert len(shop.outcomes) == 1


# -- FastAPI ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("commit", MODES)
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_fastapi_views_of_both_kinds_share_the_requests_session(shop: Shop, commit: str, kind: str) -> None:
    app = FastAPI()

    def sync_view(background: BackgroundTasks) -> dict[str, int]:
        shop.order()
        background.add_task(lambda: seen.append(shop.count))
        return {"made": 1}

    async def async_view(background: BackgroundTasks) -> dict[str, int]:
        return sync_view(background)

    seen: list[int] = []
    app.post("/orders", status_code=201)(sync_view if kind == "sync" else async_view)
    client = shop.asgi(app, commit)
    assert [client.post("/orders").status_code for _ in range(3)] == [201] * 3
    assert (shop.count, seen) == (3, [1, 2, 3])


@pytest.mark.parametrize("commit", MODES)
def test_an_http_exception_rolls_back(shop: Shop, commit: str) -> None:
    app = FastAPI()

    @app.get("/{status}")
    def view(status: int) -> None:
        shop.order()
        raise HTTPException(status)

    client = shop.asgi(app, commit)
    assert client.get("/404").status_code == 404
    assert shop.count == 0
    assert client.get("/303", follow_redirects=False).status_code == 303
    assert shop.count == 1  # a redirect commits: post/redirect/get


def test_views_decide_for_themselves(shop: Shop) -> None:
    app = FastAPI()

    @app.get("/doomed")
    def doomed() -> str:
        shop.order()
        doom("only a preview")
        return "shown"

    @app.get("/forced", status_code=402)
    def forced() -> str:
        shop.order()
        force_commit()
        return "kept all the same"

    @app.get("/buffered")
    @commit_policy("buffered")
    def buffered(count: int) -> StreamingResponse:
        return StreamingResponse(iter([b"x"] * count))

    @app.get("/own", status_code=404)
    @commit_policy(commit_if=lambda head: head.status == 404)
    async def own() -> str:
        shop.order()
        return "so be it"

    client = shop.asgi(app)
    assert client.get("/doomed").status_code == 200
    assert shop.count == 0
    assert client.get("/forced").status_code == 402
    assert shop.count == 1
    assert client.get("/buffered?count=3").headers["content-length"] == "3"
    assert client.get("/own").status_code == 404
    assert shop.count == 2


# -- Flask ------------------------------------------------------------------------------------------------------------


def made(shop: Shop, view: Callable[[], Any]) -> Flask:
    app = Flask(__name__)
    app.add_url_rule("/", view_func=view, endpoint="view")
    return app


@pytest.mark.parametrize("commit", MODES)
def test_flask_call_on_close_sees_the_row(shop: Shop, commit: str) -> None:
    seen: list[int] = []

    def view() -> Any:
        shop.order()
        response = flask.make_response("made", 201)
        response.call_on_close(lambda: seen.append(shop.count))
        return response

    assert shop.flask(made(shop, view), commit).get("/", buffered=True).status_code == 201
    assert seen == [1]


@pytest.mark.parametrize("commit", MODES)
def test_a_commit_that_fails_under_flask_is_no_201(shop: Shop, commit: str) -> None:
    def view() -> Any:
        shop.order(customer=99)
        return "made", 201, {"Location": "/orders/1", "Set-Cookie": "a=b"}

    response = shop.flask(made(shop, view), commit).get("/", buffered=True)
    if commit == "after_send":
        assert response.status_code == 201
    else:
        assert response.status_code == 500
        assert "Location" not in response.headers
        assert "Set-Cookie" not in response.headers
    assert (shop.count, shop.outcomes[0].unit_of_work) == (0, "failed")


@pytest.mark.parametrize("commit", MODES)
def test_an_error_page_of_flask_rolls_back(shop: Shop, commit: str) -> None:
    def view() -> Any:
        shop.order()
        flask.abort(409)

    assert shop.flask(made(shop, view), commit).get("/", buffered=True).status_code == 409
    assert (shop.count, shop.outcomes[0].unit_of_work) == (0, "rolled_back")


@pytest.mark.parametrize("commit", MODES)
def test_a_stream_of_flask_is_inside_the_transaction_as_far_as_the_mode_says(shop: Shop, commit: str) -> None:
    def view() -> Any:
        def lines() -> Iterator[bytes]:
            yield b"first\n"
            shop.order()
            yield b"second\n"

        return flask.Response(flask.stream_with_context(lines()))

    response = shop.flask(made(shop, view), commit).get("/", buffered=True)
    assert response.data == b"first\nsecond\n"
    assert shop.count == (0 if commit == "head" else 1)


@pytest.mark.parametrize("commit", MODES)
def test_send_file_of_flask_arrives_whole(shop: Shop, commit: str, tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(b"0123456789" * 20_000)

    def view() -> Any:
        shop.order()
        return flask.send_file(path)

    response = shop.flask(made(shop, view), commit).get("/", buffered=True)
    assert response.data == path.read_bytes()
    assert (shop.count, shop.outcomes[0].unit_of_work) == (1, "committed")


def test_a_dispatched_application_with_the_middleware_of_its_own_steps_aside(shop: Shop) -> None:
    def view() -> str:
        shop.order()
        return "made"

    inner = made(shop, view)
    shop.flask(inner)
    outer = Flask(__name__)
    outer.wsgi_app = shop.wrapped(DispatcherMiddleware(outer.wsgi_app, {"/inner": inner}))  # type: ignore[method-assign]
    assert outer.test_client().get("/inner/", buffered=True).status_code == 200
    assert (shop.count, len(shop.outcomes)) == (1, 1)
