"""Pyramid: the package is included, set by the settings, and `request.dbsession` is each request's unit of work.

.venv/bin/gunicorn --chdir examples pyramid_app:app --bind 127.0.0.1:8000 --threads 4
curl -i --json '{"item": "tea"}' localhost:8000/orders      # 201, and stored
curl -i --json '{"item": "gold"}' localhost:8000/orders     # 409, and nothing stored
curl localhost:8000/orders
"""

from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from pyramid.config import Configurator
from pyramid.httpexceptions import HTTPConflict
from sqlalchemy import create_engine, select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, sessionmaker

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


def place(request: Any) -> dict[str, Any]:
    """Store an order, then see whether it can be had."""
    item = request.json_body["item"]
    request.dbsession.add(Order(item=item))
    request.dbsession.flush()
    if item == "gold":
        raise HTTPConflict
    request.response.status = 201
    return {"item": item}


def orders(request: Any) -> dict[str, Any]:
    """List what was ordered."""
    return {"items": list(request.dbsession.scalars(select(Order.item).order_by(Order.id)))}


settings = {"postresponse.commit": "head", "postresponse.unit_of_work": db}  # in an .ini file: shop.models:db
with Configurator(settings=settings) as config:
    config.include("postresponse.integrations.pyramid")
    config.add_request_method(lambda request: db.session, "dbsession", property=True)
    config.add_route("orders", "/orders")
    config.add_view(place, route_name="orders", request_method="POST", renderer="json")
    config.add_view(orders, route_name="orders", request_method="GET", renderer="json")
    app = config.make_wsgi_app()
