"""A conflict is run again: everybody who takes from one stock at the same time gets an answer, and none is lost.

.venv/bin/flask --app examples/retry_app.py run --port 8000
seq 20 | xargs -P 8 -I{} curl -s -X POST localhost:8000/stock    # who met another one says so
curl localhost:8000/stock                                        # 980
"""

from pathlib import Path
from tempfile import mkdtemp

from flask import Flask
from flask.typing import ResponseReturnValue
from sqlalchemy import Connection, create_engine, event, text
from sqlalchemy.orm import sessionmaker

from postresponse import CommitPolicy, Retry, current_exchange
from postresponse.unit_of_work.sqlalchemy import SQLAlchemyUnitOfWork
from postresponse.wsgi import PostResponseMiddleware

engine = create_engine(f"sqlite:///{Path(mkdtemp(), 'shop.sqlite3')}", connect_args={"isolation_level": None})


@event.listens_for(engine, "begin")
def begin(connection: Connection) -> None:
    """Read and write in one transaction, which Python's driver would begin only at the write."""
    connection.exec_driver_sql("BEGIN")


with engine.begin() as setup:
    setup.execute(text("CREATE TABLE stock (count INTEGER)"))
    setup.execute(text("INSERT INTO stock VALUES (1000)"))
db = SQLAlchemyUnitOfWork(sessionmaker(engine))
app = Flask(__name__)
policy = CommitPolicy(retry=Retry(attempts=50, backoff=0.01))
app.wsgi_app = PostResponseMiddleware(app.wsgi_app, unit_of_work=db, commit=policy)  # type: ignore[method-assign]


@app.post("/stock")
def take() -> ResponseReturnValue:
    """Read, count and write: of two that read the same, SQLite refuses one, and it is run again."""
    count = db.session.scalar(text("SELECT count FROM stock")) or 0
    if count == 0:
        return {"error": "sold out"}, 409
    db.session.execute(text("UPDATE stock SET count = :count"), {"count": count - 1})
    return {"left": count - 1, "attempt": current_exchange().attempt}


@app.get("/stock")
def stock() -> ResponseReturnValue:
    """Tell what is left."""
    return f"{db.session.scalar(text('SELECT count FROM stock'))}\n"
