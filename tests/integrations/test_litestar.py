"""The plugin for Litestar: where the middleware stands, whose session handlers get, who answers a failed commit."""

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from advanced_alchemy.extensions.litestar import SQLAlchemyAsyncConfig, SQLAlchemyInitPlugin, SQLAlchemyPlugin
from advanced_alchemy.extensions.litestar import async_autocommit_before_send_handler as autocommit_hook
from litestar import Controller, Litestar, Request, Response, WebSocket, get, post, websocket
from litestar.config.cors import CORSConfig
from litestar.di import NamedDependency
from litestar.exceptions import ClientException, WebSocketDisconnect
from litestar.params import FromPath
from litestar.testing import TestClient
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session
from starlette.middleware.base import BaseHTTPMiddleware

from postresponse import CommitPolicy, Retry, after_response, current_exchange
from postresponse.asgi import PostResponseMiddleware
from postresponse.exceptions import CommitInDoubt, ConfigurationError, NoExchange, UnitOfWorkError
from postresponse.integrations.litestar import PostResponsePlugin, rendered_by, session_of
from postresponse.observing import Observer, Trace
from postresponse.stack import layers_of
from postresponse.unit_of_work.composite import Chained
from postresponse.unit_of_work.sqlalchemy import AsyncSQLAlchemyUnitOfWork
from postresponse.work import TaskSupervisor
from tests.fakes import Conflict, FakeUnits
from tests.integrations.shop import REFUSED, Order, Shop

Handler = Callable[[Any, Any], Response[Any]]


def litestar(*handlers: Any, plugin: PostResponsePlugin, plugins: Any = (), **options: Any) -> Litestar:
    """An application that leaves the loggers of this process alone."""
    return Litestar([*handlers], plugins=[plugin, *plugins], logging_config=None, **options)


def installed(**options: Any) -> PostResponsePlugin:
    """The plugin with a supervisor of its own: its shutdown would close the one of this process."""
    return PostResponsePlugin(**{"supervisor": TaskSupervisor(), **options})


def answered(status: int, text: str) -> Handler:
    return lambda request, error: Response(text, status_code=status, media_type="text/plain")


@post("/orders/{item:str}")
async def place(item: FromPath[str], db_session: NamedDependency[AsyncSession]) -> str:
    db_session.add_all(REFUSED["at the commit"]() if item == "refused" else [Order(item=item)])
    await db_session.flush()
    if item == "broken":
        raise ClientException("broken", status_code=422)
    return current_exchange().route


def failing(error: BaseException) -> FakeUnits:
    return FakeUnits({"commit": error}, is_async=True)


@post("/")
async def nothing() -> str:
    return "stored"


# -- the session ------------------------------------------------------------------------------------------------------


def test_what_a_handler_stored_is_committed_and_what_it_raised_behind_is_not(shop: Shop) -> None:
    app = litestar(place, plugin=installed(unit_of_work=shop.adb, **shop.told))
    with TestClient(app) as client:
        stored = client.post("/orders/tea")
        assert (stored.status_code, stored.text, shop.items) == (201, "POST /orders/{item}", ["tea"])
        assert (client.post("/orders/broken").status_code, shop.items) == (422, ["tea"])
    assert [outcome.unit_of_work for outcome in shop.outcomes] == ["committed", "rolled_back"]


def test_a_sync_handler_has_a_sync_session_on_its_thread(shop: Shop) -> None:
    @post("/orders/{item:str}", sync_to_thread=True)
    def order(item: FromPath[str], session: NamedDependency[Session]) -> None:
        assert session is shop.db.session
        assert threading.current_thread() is not threading.main_thread()
        session.add(Order(item=item))

    app = litestar(order, plugin=installed(unit_of_work=shop.db, session_key="session"))
    assert TestClient(app).post("/orders/tea").status_code == 201
    assert shop.items == ["tea"]


@pytest.mark.parametrize("first", [True, False], ids=["before theirs", "behind theirs"])
@pytest.mark.parametrize("kind", [SQLAlchemyPlugin, SQLAlchemyInitPlugin])
def test_beside_advanced_alchemy_its_session_is_the_unit_of_work(shop: Shop, first: bool, kind: Any) -> None:
    alchemy = SQLAlchemyAsyncConfig(engine_instance=shop.async_engine, session_dependency_key="theirs")
    db = AsyncSQLAlchemyUnitOfWork(alchemy.create_session_maker())

    @post("/orders/{item:str}")
    async def order(item: FromPath[str], theirs: NamedDependency[AsyncSession]) -> None:
        assert theirs is db.session
        theirs.add(Order(item=item))

    plugins = [installed(unit_of_work=Chained(shop=db, other=shop.adb)), kind(alchemy)]
    app = Litestar([order], plugins=plugins if first else plugins[::-1], logging_config=None)
    with TestClient(app) as client:
        assert client.post("/orders/tea").status_code == 201
    assert shop.items == ["tea"]


def test_a_session_that_advanced_alchemy_gives_past_the_plugin_is_closed_as_ever(shop: Shop) -> None:
    """Its hook finds it in the scope, which has to be the one that Litestar has."""
    alchemy = SQLAlchemyAsyncConfig(engine_instance=shop.async_engine)
    db = AsyncSQLAlchemyUnitOfWork(alchemy.create_session_maker())
    given: list[AsyncSession] = []

    @get("/")
    async def read(request: Request[Any, Any, Any]) -> int:
        given.append(alchemy.provide_session(request.app.state, request.scope))
        await given[0].connection()
        return len(given)

    with TestClient(litestar(read, plugin=installed(unit_of_work=db), plugins=[SQLAlchemyPlugin(alchemy)])) as c:
        assert c.get("/").text == "1"
        assert not given[0].in_transaction()


@pytest.mark.parametrize("mode", ["autocommit", "autocommit_include_redirects"])
def test_an_advanced_alchemy_that_commits_by_itself_is_refused_as_the_application_is_made(
    shop: Shop, mode: Any
) -> None:
    alchemy = SQLAlchemyAsyncConfig(engine_instance=shop.async_engine, before_send_handler=mode)
    plugin = installed(unit_of_work=shop.adb)
    for plugins in ([plugin, SQLAlchemyPlugin(alchemy)], [SQLAlchemyPlugin(alchemy), plugin]):
        with pytest.raises(ConfigurationError, match="leave out before_send_handler='autocommit'"):
            Litestar(plugins=plugins, logging_config=None)
    with pytest.raises(ConfigurationError, match="commits by itself"):
        litestar(plugin=plugin, before_send=[autocommit_hook])
    litestar(plugin=installed(), plugins=[SQLAlchemyPlugin(alchemy)])  # which only looks on


def test_a_websocket_passes_and_has_no_session(shop: Shop) -> None:
    @websocket("/prices")
    async def prices(socket: WebSocket[Any, Any, Any]) -> None:
        await socket.accept()
        await socket.send_text("tea")
        await socket.close()

    @websocket("/orders")
    async def orders(socket: WebSocket[Any, Any, Any], db_session: NamedDependency[AsyncSession]) -> None: ...

    told: list[Exception] = []

    async def tell(error: Exception, scope: Any) -> None:
        told.append(error)

    plugin = installed(unit_of_work=shop.adb)
    with TestClient(litestar(prices, orders, plugin=plugin, after_exception=[tell])) as client:
        with client.websocket_connect("/prices") as session:
            assert session.receive_text() == "tea"
        with pytest.raises(WebSocketDisconnect), client.websocket_connect("/orders"):
            pass
    assert isinstance(told[0], NoExchange)
    assert "a WebSocket has no response" in str(told[0])


# -- where it stands --------------------------------------------------------------------------------------------------


class Marking:
    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        scope["marked"] = "POSTRESPONSE" if "postresponse.exchange" in scope else ""
        await self.app(scope, receive, send)


def test_it_is_the_first_middleware_of_each_route_and_hooks_of_before_send_see_what_the_handler_saw() -> None:
    units = FakeUnits(is_async=True)
    marks: list[Any] = []

    async def hook(message: Any, scope: Any) -> None:
        marks.append((message["type"], scope.get("marked"), [*units.log]))

    app = litestar(nothing, plugin=installed(unit_of_work=units), middleware=[Marking], before_send=[hook])
    with TestClient(app) as client:
        assert client.post("/").status_code == 201
        assert client.post("/nowhere").status_code == 404
    assert marks[0] == ("http.response.start", "POSTRESPONSE", ["begin", "commit", "close"])
    assert [layer.name for layer in layers_of(app)][3:5] == ["PostResponseRouteMiddleware", "Marking"]
    assert units.log == ["begin", "commit", "close"]  # no route, no unit of work


class Timing(BaseHTTPMiddleware):
    async def dispatch(self, request: Any, call_next: Any) -> Any:
        return await call_next(request)


def test_an_unsafe_place_in_its_stack_is_told_once_at_the_start(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("postresponse.core.log._told", set())
    caplog.set_level("WARNING", "postresponse")
    plugin = installed(unit_of_work=FakeUnits(is_async=True), commit="buffered")
    inside: Any = Timing
    with TestClient(litestar(nothing, plugin=plugin, middleware=[inside])) as client:
        (told,) = (record.getMessage() for record in caplog.records)
        assert "tests.integrations.test_litestar.Timing ends a body that breaks off as if it were whole" in told
        assert client.post("/").status_code == 201
    assert len(caplog.records) == 1


def test_observers_are_told_the_path_of_the_route() -> None:
    class Listening(Observer):
        routes: tuple[str | None, ...] = ()

        def ended(self, trace: Trace, begun: object) -> None:
            self.routes += (trace.template,)

    @get("/orders/{number:int}")
    async def order(number: FromPath[int]) -> int:
        return number

    listening = Listening()
    TestClient(litestar(order, plugin=installed(observers=[listening]))).get("/orders/7")
    assert listening.routes == ("/orders/{number}",)


def test_work_is_drained_before_what_it_needs_is_closed() -> None:
    told: list[str] = []
    begun, go = threading.Event(), threading.Event()

    @asynccontextmanager
    async def database(app: Litestar) -> AsyncIterator[None]:
        yield
        told.append("closed")

    def work() -> None:
        begun.set()
        go.wait(10)
        told.append("worked")

    @post("/work")
    async def leave_work() -> None:
        after_response(work)

    class Last(SQLAlchemyInitPlugin):
        """One that adds its lifespan behind the plugin's."""

        def on_app_init(self, app_config: Any) -> Any:
            app_config.lifespan.append(database)
            return app_config

    plugin = installed(supervisor=TaskSupervisor())
    with TestClient(litestar(leave_work, plugin=plugin, plugins=[Last([])])) as client:
        client.post("/work")
        assert begun.wait(10)
        threading.Timer(0.05, go.set).start()
    assert told == ["worked", "closed"]


def test_an_attempt_finds_nothing_of_the_one_before_it() -> None:
    """Litestar notes in the scope that a response has begun, and answers no exception from then on."""
    units = FakeUnits({"commit": Conflict()}, times=1, is_async=True)

    class Once(Controller):
        path = "/"

        @post()
        async def order(self, request: Request[Any, Any, Any]) -> str:
            assert "marked-by-handler" not in request.scope
            request.scope["marked-by-handler"] = True  # type: ignore[typeddict-unknown-key]
            assert await request.json() == {"item": "tea"}
            if current_exchange().attempt == 2:
                raise ClientException("too late", status_code=422)
            return "stored"

    plugin = installed(unit_of_work=units, commit=CommitPolicy(retry=Retry(backoff=0)))
    answer = TestClient(litestar(Once, plugin=plugin)).post("/", json={"item": "tea"})
    assert (answer.status_code, answer.json()["detail"]) == (422, "too late")
    assert [unit.log for unit in units.made] == [
        ["begin", "commit!", "rollback", "close"],
        ["begin", "rollback", "close"],
    ]


@pytest.mark.parametrize(
    ("options", "debug", "shown"), [({}, True, 200), ({"inspector": True}, False, 200), ({}, False, 404)]
)
def test_the_inspector_is_on_in_debug_mode_or_by_its_option(options: Any, debug: bool, shown: int) -> None:
    async def ask() -> list[int]:
        app: Any = litestar(nothing, plugin=installed(**options), debug=debug)
        transport = httpx2.ASGITransport(app, client=("127.0.0.1", 50000))
        async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
            paths = ("/__postresponse__/", "/__postresponse__/changes", "/__postresponse__x", "/__postresponse__/x")
            return [(await client.get(path)).status_code for path in paths]

    assert asyncio.run(ask()) == [shown, shown, 404, 404]


# -- who answers ------------------------------------------------------------------------------------------------------


def test_the_handler_nearest_to_the_route_answers_and_hooks_and_cors_have_the_response(shop: Shop) -> None:
    class Orders(Controller):
        path = "/near"
        exception_handlers: Any = {IntegrityError: answered(409, "near")}  # noqa: RUF012 (as Litestar has it)

        @post("/orders")
        async def place(self, db_session: NamedDependency[AsyncSession]) -> None:
            db_session.add_all(REFUSED["at the commit"]())

    told: list[Any] = []

    async def tell(error: Exception, scope: Any) -> None:
        told.append((type(error), scope["path_template"]))

    app = litestar(
        place,
        Orders,
        plugin=installed(unit_of_work=shop.adb, **shop.told),
        exception_handlers={IntegrityError: answered(409, "far"), 500: answered(500, "page")},
        cors_config=CORSConfig(allow_origins=["http://page"]),
        after_exception=[tell],
    )
    with TestClient(app) as client:
        for path, text in (("/orders/refused", "far"), ("/near/orders", "near")):
            answer = client.post(path, headers={"Origin": "http://page"})
            assert (answer.status_code, answer.text) == (409, text)
            assert answer.headers["access-control-allow-origin"] == "http://page"
    assert told == [(IntegrityError, "/orders/{item}"), (IntegrityError, "/near/orders")]
    assert shop.items == []


class Own(UnitOfWorkError):
    """One of this package's."""


@pytest.mark.parametrize(
    ("error", "handlers", "expected"),
    [
        (ValueError("x"), {}, (500, None)),
        (ValueError("x"), {500: answered(500, "page")}, (500, "page")),
        (ValueError("x"), {Exception: answered(400, "any")}, (400, "any")),
        (ClientException("taken", status_code=409), {}, (409, '{"status_code":409,"detail":"taken"}')),
        (ClientException("taken", status_code=409), {409: answered(409, "by status")}, (409, "by status")),
        (ValueError("x"), {ValueError: lambda request, error: 1 / 0}, (500, None)),
        (CommitInDoubt("lost"), {Exception: answered(500, "page"), 500: answered(500, "page")}, (503, None)),
        (CommitInDoubt("lost"), {CommitInDoubt: answered(503, "who knows")}, (503, "who knows")),
    ],
    ids=[
        "nobody",
        "500",
        "by class",
        "an HTTPException",
        "by its status",
        "a broken one",
        "in doubt",
        "told",
    ],
)
def test_who_answers_for_what(error: BaseException, handlers: Any, expected: Any) -> None:
    app = litestar(nothing, plugin=installed(unit_of_work=failing(error)), exception_handlers=handlers)
    answer = TestClient(app).post("/")
    status, text = expected
    assert answer.status_code == status
    if text is None:
        assert answer.headers["content-type"] == "application/problem+json"
    else:
        assert answer.text == text


def test_outermost_the_handlers_answer_as_well() -> None:
    inner = Litestar([nothing], exception_handlers={ValueError: answered(409, "taken")}, logging_config=None)
    app = PostResponseMiddleware(inner, unit_of_work=failing(ValueError()), error_response=rendered_by(inner))
    answer = TestClient(app).post("/")
    assert (answer.status_code, answer.text) == (409, "taken")
    units = FakeUnits({"begin": ValueError()}, is_async=True)  # before Litestar has seen the request
    answer = TestClient(PostResponseMiddleware(inner, unit_of_work=units, error_response=rendered_by(inner))).post("/")
    assert (answer.status_code, answer.text) == (409, "taken")
    wrapped: Any = app
    with pytest.raises(ConfigurationError, match="expected the Litestar application itself"):
        rendered_by(wrapped)


# -- what is wrong is said where it is given --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"comit": "head"}, "did you mean 'commit'"),
        ({"commit": "heads", "unit_of_work": FakeUnits()}, "did you mean 'head'"),
        ({"session_key": "db session"}, "expected the name of a parameter"),
    ],
)
def test_an_option_that_there_is_not_is_said_at_once(options: Any, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        PostResponsePlugin(**options)


def test_two_of_them_and_a_dependency_without_a_session_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="PostResponsePlugin more than once"):
        litestar(plugin=installed(), plugins=[PostResponsePlugin()])
    with pytest.raises(ConfigurationError, match="expected a unit of work that has a session"):
        session_of(object())


def test_the_command_line_of_litestar_prints_the_options(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(
        "from litestar import Litestar\n"
        "from postresponse.integrations.litestar import PostResponsePlugin\n"
        "app = Litestar(plugins=[PostResponsePlugin(cleanup_timeout=2.5)])\n"
    )
    command = [sys.executable, "-m", "litestar", "--app", "shop:app", "postresponse", "config", "--json"]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stderr
    told = {each["name"]: (each["value"], each["source"]) for each in json.loads(ran.stdout)}
    assert told["cleanup_timeout"] == ("2.5", "keyword")
    assert (told["commit"], told["session_key"]) == (("None", "default"), ("None", "default"))
    assert told["error_response"][1] == "by the integration"
