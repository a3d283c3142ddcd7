"""Tests of a shop: what is committed when, what follows a response, and what a client is told on a real server.

Run it:

    .venv/bin/pytest examples/test_orders.py

The fixtures come with the package; a test that asks for none of them is as it was.
"""

from collections.abc import Callable, Iterator

import pytest
from flask import Flask
from sqlalchemy import StaticPool, create_engine, text
from sqlalchemy.orm import sessionmaker

from postresponse import after_response
from postresponse.testing import Captured, Immediate, Site
from postresponse.unit_of_work.sqlalchemy import SQLAlchemyUnitOfWork
from postresponse.wsgi import PostResponseMiddleware

engine = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
db = SQLAlchemyUnitOfWork(sessionmaker(engine))
app = Flask(__name__)
app.wsgi_app = PostResponseMiddleware(app.wsgi_app, unit_of_work=db)  # type: ignore[method-assign]
sent: list[str] = []


@app.post("/orders/<item>")
def order(item: str) -> tuple[str, int]:
    """Store an order, and leave its receipt."""
    db.session.execute(text("INSERT INTO orders VALUES (:item)"), {"item": item})
    after_response(sent.append, item, name="send_receipt")
    return ("stored", 201) if item != "gold" else ("no gold today", 409)


@pytest.fixture(autouse=True)
def _empty() -> Iterator[None]:
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE orders (item TEXT)"))
    sent.clear()
    yield
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE orders"))


def test_an_order_is_stored_before_its_answer_and_its_receipt_follows(postresponse: Captured) -> None:
    assert app.test_client().post("/orders/tea", buffered=True).status_code == 201
    postresponse.assert_committed_before_sent("POST /orders/tea")
    postresponse.assert_sent_before("send_receipt")
    assert [(job.name, job.args) for job in postresponse.pending] == [("send_receipt", ("tea",))]
    postresponse.run()
    assert sent == ["tea"]


def test_a_refused_order_has_no_receipt(postresponse_inline: Immediate) -> None:
    assert app.test_client().post("/orders/gold", buffered=True).status_code == 409
    assert sent == []
    assert [trace.verdict for trace in postresponse_inline.traces] == ["rolled back (409)"]


def test_on_a_real_server_the_client_has_it_all_first(
    postresponse: Captured, postresponse_server: Callable[..., Site]
) -> None:
    site = postresponse_server(app, server="werkzeug")
    assert site.post("/orders/milk").status == 201
    postresponse.assert_sent_before("send_receipt")
