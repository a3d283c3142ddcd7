"""Flask: an order is answered as soon as it is stored; the e-mail and the event follow, and nobody waits for them.

.venv/bin/gunicorn --worker-class gthread --threads 4 --chdir examples --bind 127.0.0.1:8000 notify_app:app
.venv/bin/python -m aiosmtpd -n -l localhost:8025      # in another terminal: prints the mails
curl -i -d item=tea localhost:8000/orders              # 201 at once; a mail and an event after it
curl -i -d item=gold localhost:8000/orders             # 409, nothing stored, and nobody is told
curl localhost:8000/events
"""

import os
import smtplib
from email.message import EmailMessage
from pathlib import Path
from tempfile import mkdtemp

from flask import Flask, request
from sqlalchemy import create_engine, text
from sqlalchemy.orm import sessionmaker

from postresponse import after_response
from postresponse.unit_of_work.sqlalchemy import SQLAlchemyUnitOfWork
from postresponse.work import Bulkhead
from postresponse.wsgi import PostResponseMiddleware

engine = create_engine(f"sqlite:///{Path(mkdtemp(), 'shop.sqlite3')}")
with engine.begin() as connection:
    connection.execute(text("CREATE TABLE orders (item TEXT NOT NULL)"))
db = SQLAlchemyUnitOfWork(sessionmaker(engine))
app = Flask(__name__)
app.wsgi_app = PostResponseMiddleware(app.wsgi_app, unit_of_work=db)  # type: ignore[method-assign]
Bulkhead("mails", max_concurrency=1, max_queue=100)  # the mail server takes one at a time
published: list[str] = []


def send_mail(item: str) -> None:
    """Tell the customer; a failure is logged, and harms nobody."""
    mail = EmailMessage()
    mail["Subject"], mail["From"], mail["To"] = f"Your {item}", "shop@example.org", "customer@example.org"
    with smtplib.SMTP("localhost", int(os.environ.get("SMTP_PORT", "8025"))) as server:
        server.send_message(mail)


async def publish(item: str) -> None:
    """Tell the other services; async, on the one event loop that the package keeps under WSGI."""
    published.append(f"{item} was ordered")


@app.post("/orders")
def order() -> tuple[dict[str, str], int]:
    """Store an order, and say who is to be told if it stays."""
    item = request.form["item"]
    db.session.execute(text("INSERT INTO orders VALUES (:item)"), {"item": item})
    after_response(send_mail, item, bulkhead="mails", timeout=60.0)
    after_response(publish, item)
    return {"item": item}, 409 if item == "gold" else 201


@app.get("/events")
def events() -> list[str]:
    """What the other services were told."""
    return published
