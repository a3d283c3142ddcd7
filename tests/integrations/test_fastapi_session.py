"""The session as a dependency of FastAPI's: this request's unit of work, committed before the response starts."""

from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any

import anyio
import pytest
from fastapi import APIRouter, BackgroundTasks, Depends, FastAPI, HTTPException, Request, WebSocket
from fastapi.responses import JSONResponse, StreamingResponse
from fastapi.testclient import TestClient
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session, sessionmaker

from postresponse import current_exchange
from postresponse.asgi import PostResponseMiddleware
from postresponse.exceptions import ConfigurationError, NoExchange
from postresponse.integrations.fastapi import commit_inside, session_of
from postresponse.unit_of_work.sqlalchemy import SQLAlchemyUnitOfWork
from tests.fakes import StrictASGIServer
from tests.integrations.shop import REFUSED, Order, Shop

every_unit = pytest.mark.parametrize("unit", ["sync", "async"])


def wanted(item: str) -> list[Order]:
    return REFUSED["at the commit"]() if item == "refused" else [Order(item=item)]


def application(shop: Shop, unit: str) -> FastAPI:
    """An application that takes orders; its operations are sync where its unit of work is."""
    api = FastAPI()
    router = APIRouter(prefix="/orders")

    def place(item: str, session: Annotated[Session, session_of(shop.db)]) -> list[str]:
        session.add_all(wanted(item))
        session.flush()
        if item == "broken":
            raise HTTPException(422, "broken")
        return list(session.scalars(select(Order.item)))

    async def place_async(item: str, session: Annotated[AsyncSession, session_of(shop.adb)]) -> list[str]:
        session.add_all(wanted(item))
        await session.flush()
        if item == "broken":
            raise HTTPException(422, "broken")
        return list(await session.scalars(select(Order.item)))

    router.post("/{item}", status_code=201)(place if unit == "sync" else place_async)
    api.include_router(router)
    return api


def around(api: FastAPI, shop: Shop, unit: str, **options: Any) -> PostResponseMiddleware:
    return PostResponseMiddleware(api, unit_of_work=shop.db if unit == "sync" else shop.adb, **shop.told, **options)


def post(app: Any, path: str, method: str = "POST") -> StrictASGIServer:
    server = StrictASGIServer(method)
    server.scope |= {"path": path, "raw_path": path.encode()}
    anyio.run(server.run, app)
    assert not server.broken
    return server


@every_unit
def test_what_was_stored_is_committed_and_an_http_exception_rolls_back(shop: Shop, unit: str) -> None:
    app = around(application(shop, unit), shop, unit)
    answer = post(app, "/orders/tea")
    assert (answer.status, answer.body, shop.items) == (201, b'["tea"]', ["tea"])
    assert (post(app, "/orders/broken").status, shop.items) == (422, ["tea"])
    assert [outcome.unit_of_work for outcome in shop.outcomes] == ["committed", "rolled_back"]


@every_unit
def test_an_exception_handler_answers_a_commit_that_failed(shop: Shop, unit: str) -> None:
    api = application(shop, unit)

    @api.exception_handler(IntegrityError)
    async def taken(request: Request, error: IntegrityError) -> JSONResponse:
        return JSONResponse({"detail": "taken"}, 409)

    app = around(api, shop, unit)
    answer = post(app, "/orders/refused")
    assert (answer.status, answer.body, shop.items) == (409, b'{"detail":"taken"}', [])
    assert shop.unit == "failed"
    assert (post(app, "/orders/coffee").status, shop.items) == (201, ["coffee"])


def test_it_is_this_requests_unit_of_work_and_committed_once(shop: Shop) -> None:
    api = FastAPI(dependencies=[commit_inside])
    commits: list[str] = []

    async def service(session: Annotated[AsyncSession, session_of(shop.adb)]) -> AsyncSession:
        return session

    @api.post("/orders")
    async def place(
        session: Annotated[AsyncSession, session_of(shop.adb)], other: Annotated[AsyncSession, Depends(service)]
    ) -> None:
        assert session is other is shop.adb.session
        current_exchange().before_commit(lambda: commits.append("commit"))
        session.add(Order(item="tea"))

    assert post(around(api, shop, "async"), "/orders").status == 200
    assert (shop.items, commits) == (["tea"], ["commit"])


@every_unit
def test_a_background_task_and_the_body_run_behind_the_commit(shop: Shop, unit: str) -> None:
    db: Any = shop.db if unit == "sync" else shop.adb
    api = FastAPI()
    seen: list[Any] = []

    @api.post("/background")
    def background(tasks: BackgroundTasks, session: Annotated[Any, session_of(db)]) -> None:
        session.add(Order(item="tea"))
        tasks.add_task(lambda: seen.append(("task", shop.items)))

    @api.post("/stream")
    def stream(session: Annotated[Any, session_of(db)]) -> StreamingResponse:
        session.add(Order(item="coffee"))

        async def body() -> AsyncIterator[bytes]:
            seen.append(("body", shop.items))
            yield b"part"

        return StreamingResponse(body())

    app = around(api, shop, unit)
    assert post(app, "/background").status == 200
    assert post(app, "/stream").body == b"part"
    assert seen == [("task", ["tea"]), ("body", ["tea", "coffee"])]


@every_unit
def test_a_dependency_with_yield_that_takes_the_session_writes_before_the_commit(shop: Shop, unit: str) -> None:
    db: Any = shop.db if unit == "sync" else shop.adb
    api = FastAPI()

    def audited(session: Annotated[Any, session_of(db)]) -> Iterator[None]:
        yield
        session.add(Order(item="audited"))

    @api.post("/orders", dependencies=[Depends(audited, scope="function")])
    async def place() -> None: ...

    assert post(around(api, shop, unit), "/orders").status == 200
    assert shop.items == ["audited"]


def test_a_test_overrides_the_dependency(shop: Shop) -> None:
    api = application(shop, "async")
    told: list[str] = []

    class Told:
        def add_all(self, orders: list[Order]) -> None:
            told.extend(order.item for order in orders)

        async def flush(self) -> None: ...

        async def scalars(self, statement: Any) -> list[str]:
            return told

    api.dependency_overrides[session_of(shop.adb).dependency] = Told
    answer = TestClient(api).post("/orders/tea")  # with no middleware, and no database
    assert (answer.status_code, answer.json(), shop.items) == (201, ["tea"], [])


def test_the_schema_says_nothing_of_it(shop: Shop) -> None:
    plain = FastAPI()
    router = APIRouter(prefix="/orders")

    def place(item: str) -> list[str]:
        return []

    router.post("/{item}", status_code=201)(place)
    plain.include_router(router)
    assert application(shop, "sync").openapi() == plain.openapi()


def test_a_websocket_is_told_what_to_do_in_its_place(shop: Shop) -> None:
    api = FastAPI()

    @api.websocket("/prices")
    async def prices(websocket: WebSocket, session: Annotated[AsyncSession, session_of(shop.adb)]) -> None: ...

    client = TestClient(around(api, shop, "async"))
    with pytest.raises(NoExchange, match="a WebSocket has no response"), client.websocket_connect("/prices"):
        pass


def test_without_the_middleware_or_with_another_unit_of_work_the_error_says_so(shop: Shop) -> None:
    api = application(shop, "async")
    with pytest.raises(NoExchange, match="wrap the application in"):
        post(api, "/orders/tea")
    with pytest.raises(NoExchange, match="is not this AsyncSQLAlchemyUnitOfWork"):
        post(around(api, shop, "sync"), "/orders/tea")
    with pytest.raises(NoExchange, match="is not this AsyncSQLAlchemyUnitOfWork"):
        post(PostResponseMiddleware(api), "/orders/tea")


def test_what_has_no_session_is_refused() -> None:
    make: Any = sessionmaker()
    with pytest.raises(ConfigurationError, match="expected a unit of work that has a session"):
        session_of(make)
    db = SQLAlchemyUnitOfWork(make)
    assert session_of(db) == session_of(db)
