"""The shop of the scenarios in Falcon, for WSGI and ASGI; its error handlers answer a commit that was refused."""

from pathlib import Path
from typing import Any

import falcon
import falcon.asgi
from sqlalchemy.exc import IntegrityError

from postresponse import after_response
from postresponse.integrations.falcon import rendered_by, wrapped
from tests.integrations.shop import Shop
from tests.integrations.sites.modes import for_asgi, for_wsgi
from tests.integrations.sites.trading import aparts, ordered, parts, slowly

shop = Shop(Path("shop.sqlite3"))


class Orders:
    """Orders are placed here."""

    def on_post(self, req: falcon.Request, resp: falcon.Response, item: str) -> None:
        shop.db.session.add(ordered(item))
        resp.text, resp.status, resp.location = "stored", falcon.HTTP_201, f"/orders/{item}"


class Stream:
    """A body that comes as it is made."""

    def on_get(self, req: falcon.Request, resp: falcon.Response, item: str) -> None:
        shop.db.session.add(ordered(item))
        resp.stream = parts(item)


class Slow:
    """Work that takes its time."""

    def on_post(self, req: falcon.Request, resp: falcon.Response, item: str) -> None:
        shop.db.session.add(ordered(item))
        after_response(slowly, item)
        resp.text, resp.status = "stored", falcon.HTTP_201


class AsyncOrders:
    """The same, async."""

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, item: str) -> None:
        shop.adb.session.add(ordered(item))
        resp.text, resp.status, resp.location = "stored", falcon.HTTP_201, f"/orders/{item}"


class AsyncStream:
    """The same, async."""

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, item: str) -> None:
        shop.adb.session.add(ordered(item))
        resp.stream = aparts(item)


class AsyncSlow:
    """The same, async."""

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, item: str) -> None:
        shop.adb.session.add(ordered(item))
        after_response(slowly, item)
        resp.text, resp.status = "stored", falcon.HTTP_201


def refused(req: Any, resp: Any, error: Any, params: Any) -> None:
    raise falcon.HTTPConflict(title="refused")


async def arefused(req: Any, resp: Any, error: Any, params: Any) -> None:
    refused(req, resp, error, params)


def build(mode: str, api: Any, orders: Any, stream: Any, slow: Any, handler: Any, unit_of_work: Any) -> Any:
    api.add_route("/orders/{item}", orders)
    api.add_route("/stream/{item}", stream)
    api.add_route("/slow/{item}", slow)
    api.add_error_handler(IntegrityError, handler)
    return wrapped(api, {"COMMIT": mode}, unit_of_work=unit_of_work, error_response=rendered_by(api))


def create_app(mode: str) -> Any:
    return build(mode, falcon.App(), Orders(), Stream(), Slow(), refused, shop.db)


def create_asgi_app(mode: str) -> Any:
    return build(mode, falcon.asgi.App(), AsyncOrders(), AsyncStream(), AsyncSlow(), arefused, shop.adb)


app = for_wsgi(create_app)
asgi_app = for_asgi(create_asgi_app)
