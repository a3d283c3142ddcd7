"""`commit_inside` around an application that has WebSocket routes too."""

import pytest
from fastapi import APIRouter, FastAPI, WebSocket
from starlette.testclient import TestClient

from postresponse.asgi import PostResponseMiddleware
from postresponse.exceptions import NoExchange
from postresponse.integrations.fastapi import commit_inside
from tests.fakes import FakeUnits


@pytest.mark.parametrize("level", ["application", "router", "route"])
def test_a_websocket_is_served_as_if_it_were_not_there(level: str) -> None:
    units = FakeUnits()
    units.is_async = True
    levels = {name: [commit_inside] if name == level else [] for name in ("application", "router", "route")}
    router = APIRouter(dependencies=levels["router"])

    @router.websocket("/prices", dependencies=levels["route"])
    async def prices(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_text(await websocket.receive_text())
        await websocket.close()

    @router.get("/orders", dependencies=levels["route"])
    async def orders() -> str:
        return "none"

    api = FastAPI(dependencies=levels["application"])
    api.include_router(router)
    client = TestClient(PostResponseMiddleware(api, unit_of_work=units))
    with client.websocket_connect("/prices") as session:
        session.send_text("tea")
        assert session.receive_text() == "tea"
        assert session.receive()["type"] == "websocket.close"
    assert units.made == []
    assert client.get("/orders").text == '"none"'
    assert units.log == ["begin", "commit", "close"]


def test_a_request_outside_of_the_middleware_is_still_told_that_nothing_commits() -> None:
    api = FastAPI(dependencies=[commit_inside])
    api.get("/orders")(lambda: "none")
    with pytest.raises(NoExchange):
        TestClient(api).get("/orders")
