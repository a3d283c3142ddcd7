"""The shop of the scenarios in Quart, with the extension; its error handler answers a commit that was refused."""

from pathlib import Path
from typing import Any

from quart import Quart
from sqlalchemy.exc import IntegrityError

from postresponse import after_response
from postresponse.integrations.quart import PostResponse
from tests.integrations.shop import Shop
from tests.integrations.sites.modes import for_asgi
from tests.integrations.sites.trading import aparts, ordered, slowly

shop = Shop(Path("shop.sqlite3"))


def create_app(mode: str) -> Quart:
    app = Quart(__name__)
    app.config["POSTRESPONSE_COMMIT"] = mode
    PostResponse(app, unit_of_work=shop.adb)

    @app.post("/orders/<item>")
    async def place(item: str) -> Any:
        shop.adb.session.add(ordered(item))
        return "stored", 201, {"Location": f"/orders/{item}"}

    @app.get("/stream/<item>")
    async def stream(item: str) -> Any:
        shop.adb.session.add(ordered(item))
        return aparts(item)

    @app.post("/slow/<item>")
    async def slow(item: str) -> Any:
        shop.adb.session.add(ordered(item))
        after_response(slowly, item)
        return "stored", 201

    @app.errorhandler(IntegrityError)
    async def refused(error: IntegrityError) -> Any:
        return "refused", 409

    return app


app = for_asgi(create_app)
