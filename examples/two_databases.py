"""Two databases in one unit of work, and a commit that fails is answered by Flask's own error handler.

.venv/bin/flask --app examples/two_databases.py run --port 8000
curl -i -d item=tea -d customer=1 localhost:8000/orders    # 201, and stored in both
curl -i -d item=tea -d customer=2 localhost:8000/orders    # 409 at COMMIT, and nothing stored in either
curl localhost:8000/orders
"""

from pathlib import Path
from tempfile import mkdtemp

from flask import Flask, request
from flask.typing import ResponseReturnValue
from sqlalchemy import create_engine, event, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import sessionmaker

from postresponse.integrations.flask import rendered_by
from postresponse.unit_of_work.composite import Chained
from postresponse.unit_of_work.sqlalchemy import SQLAlchemyUnitOfWork
from postresponse.wsgi import PostResponseMiddleware

folder = mkdtemp()
shop, books = (create_engine(f"sqlite:///{Path(folder, name)}") for name in ("shop.sqlite3", "books.sqlite3"))
event.listen(shop, "connect", lambda connection, record: connection.execute("PRAGMA foreign_keys = ON"))
with shop.begin() as setup:
    setup.execute(text("CREATE TABLE customers (id INTEGER PRIMARY KEY)"))
    setup.execute(text("INSERT INTO customers VALUES (1)"))
    reference = "REFERENCES customers DEFERRABLE INITIALLY DEFERRED"  # looked at by COMMIT
    setup.execute(text(f"CREATE TABLE orders (item TEXT, customer INTEGER {reference})"))
with books.begin() as setup:
    setup.execute(text("CREATE TABLE entries (item TEXT)"))

orders, entries = SQLAlchemyUnitOfWork(sessionmaker(shop)), SQLAlchemyUnitOfWork(sessionmaker(books))
app = Flask(__name__)
app.wsgi_app = PostResponseMiddleware(  # type: ignore[method-assign]
    app.wsgi_app, unit_of_work=Chained(orders=orders, entries=entries), error_response=rendered_by(app)
)


@app.post("/orders")
def place() -> ResponseReturnValue:
    """Store an order, and an entry in the books."""
    orders.session.execute(text("INSERT INTO orders VALUES (:item, :customer)"), request.form.to_dict())
    entries.session.execute(text("INSERT INTO entries VALUES (:item)"), {"item": request.form["item"]})
    return {"item": request.form["item"]}, 201


@app.get("/orders")
def listed() -> ResponseReturnValue:
    """List what was ordered, and what the books say of it."""
    items = orders.session.scalars(text("SELECT item FROM orders ORDER BY rowid"))
    return {"items": list(items), "entries": list(entries.session.scalars(text("SELECT item FROM entries")))}


@app.errorhandler(IntegrityError)
def refused(error: IntegrityError) -> ResponseReturnValue:
    """Answer an order that the database refused, by its statement or by COMMIT."""
    return {"error": "no such customer"}, 409
