"""Flask: every request has one session; an answer below 400 commits it before it leaves, any other rolls it back.

.venv/bin/flask --app examples/flask_app.py run --port 8000
curl -i -d item=tea localhost:8000/orders      # 201, and stored
curl -i -d item=gold localhost:8000/orders     # 409, and nothing stored
curl localhost:8000/orders
"""

from pathlib import Path
from tempfile import mkdtemp

from flask import Flask, request
from flask.typing import ResponseReturnValue
from sqlalchemy import create_engine, select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, sessionmaker

from postresponse.unit_of_work.sqlalchemy import SQLAlchemyUnitOfWork
from postresponse.wsgi import PostResponseMiddleware


class Base(DeclarativeBase):
    """The tables."""


class Order(Base):
    """Something that somebody wants."""

    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    item: Mapped[str]


engine = create_engine(f"sqlite:///{Path(mkdtemp(), 'shop.sqlite3')}")
Base.metadata.create_all(engine)
db = SQLAlchemyUnitOfWork(sessionmaker(engine))
app = Flask(__name__)
app.wsgi_app = PostResponseMiddleware(app.wsgi_app, unit_of_work=db)  # type: ignore[method-assign]


@app.post("/orders")
def place() -> ResponseReturnValue:
    """Store an order, then see whether it can be had."""
    order = Order(item=request.form["item"])
    db.session.add(order)
    db.session.flush()
    if order.item == "gold":
        return {"error": "out of stock"}, 409
    return {"id": order.id}, 201


@app.get("/orders")
def orders() -> ResponseReturnValue:
    """List what was ordered."""
    return {"items": list(db.session.scalars(select(Order.item).order_by(Order.id)))}
