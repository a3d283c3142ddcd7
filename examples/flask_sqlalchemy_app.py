"""Flask-SQLAlchemy: `db.session` is the unit of work of a request, and views need no commit() of their own.

.venv/bin/flask --app examples/flask_sqlalchemy_app.py run --port 8000
curl -i -d item=tea localhost:8000/orders      # 201, and stored
curl -i -d item=gold localhost:8000/orders     # 409, out of a COMMIT that the database refused
.venv/bin/flask --app examples/flask_sqlalchemy_app.py postresponse config
"""

from pathlib import Path
from tempfile import mkdtemp

from flask import Flask, request
from flask.typing import ResponseReturnValue
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import ForeignKey, event, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from postresponse.integrations.flask import FlaskSQLAlchemyUnitOfWork, PostResponse


class Base(DeclarativeBase):
    """The tables."""


class Ware(Base):
    """Something that is sold here."""

    __tablename__ = "wares"
    name: Mapped[str] = mapped_column(primary_key=True)


class Order(Base):
    """Something that somebody wants; COMMIT looks whether it is sold here."""

    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    item: Mapped[str]
    ware: Mapped[str] = mapped_column(ForeignKey("wares.name", deferrable=True, initially="DEFERRED"))


db = SQLAlchemy(model_class=Base)
postresponse = PostResponse(unit_of_work=FlaskSQLAlchemyUnitOfWork(db))


def create_app() -> Flask:
    """Make an application; the two extensions serve any number of them."""
    app = Flask(__name__)
    app.config["SQLALCHEMY_DATABASE_URI"] = f"sqlite:///{Path(mkdtemp(), 'shop.sqlite3')}"
    app.config["POSTRESPONSE_COMMIT"] = "head"
    db.init_app(app)
    postresponse.init_app(app)
    with app.app_context():
        event.listen(db.engine, "connect", lambda connection, _: connection.execute("PRAGMA foreign_keys = ON"))
        db.create_all()
        db.session.add(Ware(name="tea"))
        db.session.commit()

    @app.post("/orders")
    def place() -> ResponseReturnValue:
        item = request.form["item"]
        db.session.add(Order(item=item, ware=item.partition("-")[0]))
        return {"item": item}, 201

    @app.get("/orders")
    def orders() -> ResponseReturnValue:
        return {"items": list(db.session.scalars(select(Order.item).order_by(Order.id)))}

    @app.errorhandler(IntegrityError)
    def refused(error: IntegrityError) -> ResponseReturnValue:
        return {"error": "not sold here"}, 409

    return app
