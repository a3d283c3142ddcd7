"""Falcon: an application wrapped in one line; a `falcon.asgi.App` is wrapped by the same one.

.venv/bin/gunicorn --chdir examples falcon_app:app --bind 127.0.0.1:8000 --threads 4
curl -i --json '{"item": "tea"}' localhost:8000/orders      # 201, and stored
curl -i --json '{"item": "gold"}' localhost:8000/orders     # 409, and nothing stored
curl localhost:8000/orders
"""

from pathlib import Path
from tempfile import mkdtemp

from falcon import HTTP_201, App, HTTPConflict, Request, Response
from sqlalchemy import create_engine, select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, sessionmaker

from postresponse.integrations.falcon import rendered_by, wrapped
from postresponse.unit_of_work.sqlalchemy import SQLAlchemyUnitOfWork


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


class Orders:
    """Orders, to be placed and listed."""

    def on_post(self, req: Request, resp: Response) -> None:
        """Store an order, then see whether it can be had."""
        item = req.get_media()["item"]
        db.session.add(Order(item=item))
        db.session.flush()
        if item == "gold":
            raise HTTPConflict(title="out of stock")
        resp.status, resp.media = HTTP_201, {"item": item}

    def on_get(self, req: Request, resp: Response) -> None:
        """List what was ordered."""
        resp.media = {"items": list(db.session.scalars(select(Order.item).order_by(Order.id)))}


api = App()
api.add_route("/orders", Orders())
app = wrapped(api, unit_of_work=db, error_response=rendered_by(api))
