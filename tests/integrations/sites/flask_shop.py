"""The shop of the scenarios in Flask, with the extension; its error handler answers a commit that was refused."""

from pathlib import Path
from typing import Any

from flask import Flask
from sqlalchemy.exc import IntegrityError

from postresponse import after_response
from postresponse.integrations.flask import PostResponse
from tests.integrations.shop import Shop
from tests.integrations.sites.modes import for_wsgi
from tests.integrations.sites.trading import ordered, parts, slowly

shop = Shop(Path("shop.sqlite3"))
extension = PostResponse(unit_of_work=shop.db)


def create_app(mode: str) -> Flask:
    app = Flask(__name__)
    app.config["POSTRESPONSE_COMMIT"] = mode
    extension.init_app(app)

    @app.post("/orders/<item>")
    def place(item: str) -> Any:
        shop.db.session.add(ordered(item))
        return "stored", 201, {"Location": f"/orders/{item}"}

    @app.get("/stream/<item>")
    def stream(item: str) -> Any:
        shop.db.session.add(ordered(item))
        return parts(item)

    @app.post("/slow/<item>")
    def slow(item: str) -> Any:
        shop.db.session.add(ordered(item))
        after_response(slowly, item)
        return "stored", 201

    @app.errorhandler(IntegrityError)
    def refused(error: IntegrityError) -> Any:
        return "refused", 409

    return app


app = for_wsgi(create_app)
