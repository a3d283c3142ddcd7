"""The shop of the scenarios in Flask, with the sessions of Flask-SQLAlchemy and of Flask-SQLAlchemy-Lite."""

from functools import partial
from pathlib import Path
from typing import Any

import flask_sqlalchemy
import flask_sqlalchemy_lite
from flask import Flask, stream_with_context
from sqlalchemy import event
from sqlalchemy.exc import IntegrityError

from postresponse import after_response
from postresponse.integrations.flask import FlaskSQLAlchemyUnitOfWork, PostResponse
from tests.integrations.shop import Base, Shop
from tests.integrations.sites.modes import for_wsgi
from tests.integrations.sites.trading import ordered, parts, slowly

Shop(Path("shop.sqlite3")).engine.dispose()  # which makes the tables
URL = f"sqlite:///{Path('shop.sqlite3').resolve()}"


def create_app(db: Any, mode: str) -> Flask:
    app = Flask(__name__)
    app.config.from_mapping(SQLALCHEMY_DATABASE_URI=URL, SQLALCHEMY_ENGINES={"default": URL}, POSTRESPONSE_COMMIT=mode)
    PostResponse(unit_of_work=FlaskSQLAlchemyUnitOfWork(db)).init_app(app)
    db.init_app(app)
    with app.app_context():
        event.listen(db.engine, "connect", lambda connection, _: connection.execute("PRAGMA foreign_keys=ON"))

    @app.post("/orders/<item>")
    def place(item: str) -> Any:
        db.session.add(ordered(item))
        return "stored", 201, {"Location": f"/orders/{item}"}

    @app.get("/stream/<item>")
    def stream(item: str) -> Any:
        db.session.add(ordered(item))
        return stream_with_context(parts(item))

    @app.post("/slow/<item>")
    def slow(item: str) -> Any:
        db.session.add(ordered(item))
        after_response(slowly, item)
        return "stored", 201

    @app.errorhandler(IntegrityError)
    def refused(error: IntegrityError) -> Any:
        return "refused", 409

    return app


app = for_wsgi(partial(create_app, flask_sqlalchemy.SQLAlchemy(model_class=Base)))
lite_app = for_wsgi(partial(create_app, flask_sqlalchemy_lite.SQLAlchemy()))
