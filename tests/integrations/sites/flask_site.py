"""A Flask application whose orders COMMIT refuses, on an SQLite file in the working directory."""

from pathlib import Path
from typing import Any

from flask import Blueprint, Flask, request
from sqlalchemy.exc import IntegrityError

from postresponse.integrations.flask import rendered_by
from postresponse.wsgi import PostResponseMiddleware
from tests.integrations.shop import REFUSED, Shop

shop = Shop(Path("shop.sqlite3"))
app = Flask(__name__)
app.config["TESTING"] = True  # which lets nothing out, either
orders, broken = Blueprint("orders", __name__), Blueprint("broken", __name__)


@app.get("/")
def count() -> str:
    return str(len(shop.items))


def place() -> tuple[str, int]:
    assert request.method == "HEAD" or request.get_data() == b"item=tea"
    shop.db.session.add_all(REFUSED["at the commit"]())
    return "stored", 201


@orders.errorhandler(IntegrityError)
def taken(error: IntegrityError) -> Any:
    return request.get_data() + b"taken", 409


@broken.errorhandler(IntegrityError)
@broken.errorhandler(500)
def fails(error: Exception) -> Any:
    raise ZeroDivisionError


@app.errorhandler(500)
def page(error: Exception) -> Any:
    return "<h1>Sorry</h1>", 500


orders.add_url_rule("/orders", view_func=place, methods=["GET", "POST"])
app.add_url_rule("/reports", view_func=place, methods=["POST"])
broken.add_url_rule("/broken", view_func=place, methods=["POST"])
app.register_blueprint(orders)
app.register_blueprint(broken)
app.wsgi_app = PostResponseMiddleware(  # type: ignore[method-assign]
    app.wsgi_app, unit_of_work=shop.db, error_response=rendered_by(app)
)
