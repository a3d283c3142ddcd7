"""WSGI without a framework: one function, wrapped; a hook adds a header once the status is known.

.venv/bin/python examples/plain_wsgi.py 8000
curl -i -d tea localhost:8000      # 201, and stored
curl -i -d gold localhost:8000     # 409, and nothing stored
curl localhost:8000
"""

import sys
from collections.abc import Iterable
from pathlib import Path
from tempfile import mkdtemp
from wsgiref.simple_server import make_server
from wsgiref.types import StartResponse, WSGIEnvironment

from sqlalchemy import create_engine, text
from sqlalchemy.orm import sessionmaker

from postresponse import current_exchange
from postresponse.core.exchange import Exchange
from postresponse.unit_of_work.sqlalchemy import SQLAlchemyUnitOfWork
from postresponse.wsgi import PostResponseMiddleware

engine = create_engine(f"sqlite:///{Path(mkdtemp(), 'shop.sqlite3')}")
with engine.begin() as connection:
    connection.execute(text("CREATE TABLE orders (item TEXT NOT NULL)"))
db = SQLAlchemyUnitOfWork(sessionmaker(engine))


def shop(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Take an order, or list all."""
    current_exchange().on_start(mark)
    if environ["REQUEST_METHOD"] != "POST":
        status, items = "200 OK", db.session.scalars(text("SELECT item FROM orders ORDER BY rowid"))
        body = "".join(f"{item}\n" for item in items)
    else:
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0)).decode()
        db.session.execute(text("INSERT INTO orders VALUES (:item)"), {"item": body})
        status = "409 Conflict" if body == "gold" else "201 Created"
    start_response(status, [("Content-Type", "text/plain"), ("Content-Length", str(len(body.encode())))])
    return [body.encode()]


def mark(exchange: Exchange) -> None:
    """Say in a header whether the answer is good; the head has not left yet."""
    exchange.headers.append(("X-Good", "yes" if exchange.status in (200, 201) else "no"))


app = PostResponseMiddleware(shop, unit_of_work=db)

if __name__ == "__main__":
    with make_server("127.0.0.1", int(sys.argv[1]), app) as server:
        server.serve_forever()
