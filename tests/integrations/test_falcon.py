"""Falcon, for WSGI and ASGI: wrapped in one line, with its templates in the log and its error handlers' answers."""

import asyncio
from typing import Any

import falcon
import falcon.asgi
import httpx2
import pytest
from sqlalchemy.exc import IntegrityError

from postresponse import asgi, wsgi
from postresponse.exceptions import CommitInDoubt, ConfigurationError
from postresponse.integrations.falcon import rendered_by, wrapped
from tests.fakes import FakeUnits
from tests.integrations.shop import REFUSED, Shop

KINDS = pytest.mark.parametrize("api", [falcon.App, falcon.asgi.App], indirect=True)


@pytest.fixture
def api(request: pytest.FixtureRequest, shop: Shop) -> Any:
    """An application of either protocol whose orders COMMIT refuses."""
    api = request.param()

    class Orders:
        def on_post(self, req: Any, resp: Any, number: int) -> None:
            shop.db.session.add_all(REFUSED["at the commit"]())
            resp.text, resp.location = "stored", f"/orders/{number}"

    class AsyncOrders:
        async def on_post(self, req: Any, resp: Any, number: int) -> None:
            shop.adb.session.add_all(REFUSED["at the commit"]())
            resp.text, resp.location = "stored", f"/orders/{number}"

    is_async = isinstance(api, falcon.asgi.App)
    api.add_route("/orders/{number:int}", AsyncOrders() if is_async else Orders())
    return api


def unit_of_work(api: Any, shop: Shop) -> Any:
    return shop.adb if isinstance(api, falcon.asgi.App) else shop.db


def posted(app: Any, path: str = "/orders/7") -> httpx2.Response:
    """Ask the application that is wrapped, as a server does."""
    if isinstance(app, wsgi.PostResponseMiddleware):
        with httpx2.Client(transport=httpx2.WSGITransport(app), base_url="http://shop") as client:
            return client.post(path, content=b"item=tea")

    async def ask() -> httpx2.Response:
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://shop") as client:
            return await client.post(path, content=b"item=tea")

    return asyncio.run(ask())


def answering(api: Any, kind: type[Exception], status: str, seen: list[Any]) -> None:
    def handler(req: Any, resp: Any, error: Any, params: Any) -> None:
        seen.append((error, req.path))
        resp.status, resp.text = status, "refused"

    async def ahandler(req: Any, resp: Any, error: Any, params: Any) -> None:
        handler(req, resp, error, params)

    api.add_error_handler(kind, ahandler if isinstance(api, falcon.asgi.App) else handler)


@KINDS
@pytest.mark.parametrize("commit", ["head", "buffered"])
def test_an_error_handler_answers_for_a_commit_that_was_refused(api: Any, shop: Shop, commit: str) -> None:
    seen: list[Any] = []
    answering(api, IntegrityError, falcon.HTTP_409, seen)
    options = {"unit_of_work": unit_of_work(api, shop), "error_response": rendered_by(api), **shop.told}
    answer = posted(wrapped(api, {"COMMIT": commit}, **options))
    assert (answer.status_code, answer.text) == (409, "refused")
    assert "location" not in answer.headers
    assert seen == [(shop.failures[0].exception, "/orders/7")]
    assert (shop.items, shop.unit) == ([], "failed")


@KINDS
@pytest.mark.parametrize("renders", [True, False])
def test_without_a_handler_there_is_an_answer_all_the_same(api: Any, shop: Shop, renders: bool) -> None:
    how: dict[str, Any] = {"error_response": rendered_by(api)} if renders else {}
    answer = posted(wrapped(api, unit_of_work=unit_of_work(api, shop), **how))
    assert answer.status_code == 500
    assert "FOREIGN KEY" not in answer.text
    assert shop.items == []


@KINDS
def test_where_nobody_knows_what_was_committed_the_default_says_so(api: Any) -> None:
    answering(api, Exception, falcon.HTTP_409, [])
    units = FakeUnits({"commit": CommitInDoubt("who knows")}, is_async=isinstance(api, falcon.asgi.App))
    api.add_route("/", _AsyncPlain() if isinstance(api, falcon.asgi.App) else _Plain())
    answer = posted(wrapped(api, unit_of_work=units, error_response=rendered_by(api)), "/")
    assert answer.status_code == 503
    assert "unknown" in answer.text


class _Plain:
    def on_post(self, req: Any, resp: Any) -> None:
        resp.text = "stored"


class _AsyncPlain:
    async def on_post(self, req: Any, resp: Any) -> None:
        resp.text = "stored"


@KINDS
def test_the_log_names_the_template(api: Any, shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    app = wrapped(api, unit_of_work=unit_of_work(api, shop))
    assert posted(app, "/nowhere").status_code == 404
    posted(app)
    assert "POST /orders/{number:int}: the unit of work could not commit" in caplog.text


def test_options_come_by_settings_or_keyword_and_unknown_ones_are_told() -> None:
    assert isinstance(wrapped(falcon.App()), wsgi.PostResponseMiddleware)
    assert isinstance(wrapped(falcon.asgi.App()), asgi.PostResponseMiddleware)
    units = FakeUnits()
    app = wrapped(falcon.App(), {"COMMIT": "buffered", "CLEANUP_TIMEOUT": 2.0}, unit_of_work=units, commit="head")
    assert (app._settings.policy.point.value, app._settings.cleanup_timeout) == ("head", 2.0)
    with pytest.raises(ConfigurationError, match="settings has no option 'COMIT'; did you mean 'COMMIT'"):
        wrapped(falcon.App(), {"COMIT": "head"})
    with pytest.raises(ConfigurationError, match="wrapped has no option 'comit'; did you mean 'commit'"):
        wrapped(falcon.App(), comit="head")
    refusing: list[Any] = [wrapped, rendered_by]
    for refuses in refusing:
        with pytest.raises(ConfigurationError, match=r"expected a falcon.App or a falcon.asgi.App"):
            refuses(app)
