"""FastAPI as many applications are: the dependency commits behind the response, and the middleware finds that out.

.venv/bin/uvicorn --app-dir examples observe_app:app --port 8000
curl -i --json '{"item": "tea"}' localhost:8000/orders      # 201, and then a commit; a line in the server's log says so
curl -i --json '{"item": "gold"}' localhost:8000/orders     # 201 as well, and the commit fails behind the client's back
curl -i --json '{"item": "tea"}' localhost:8000/early       # 201 behind the commit, as it should be
curl localhost:8000/late                                    # what was found; Ctrl-C prints it as well
"""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from tempfile import mkdtemp
from typing import Annotated, Any

from fastapi import Body, Depends, FastAPI
from sqlalchemy import create_engine, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, sessionmaker

from postresponse.asgi import PostResponseMiddleware
from postresponse.observing import late_commits

engine = create_engine(f"sqlite:///{Path(mkdtemp(), 'shop.sqlite3')}")
with engine.begin() as connection:
    connection.execute(text("CREATE TABLE goods (item TEXT PRIMARY KEY)"))
    connection.execute(text("INSERT INTO goods VALUES ('tea')"))
    connection.execute(text("CREATE TABLE orders (item TEXT REFERENCES goods DEFERRABLE INITIALLY DEFERRED)"))
Sessions = sessionmaker(engine)
api = FastAPI()
app = PostResponseMiddleware(api)


def get_db() -> Iterator[Session]:
    """Give a session, and commit what was done with it."""
    with Sessions() as session:
        session.execute(
            text("PRAGMA foreign_keys = ON")
        )  # SQLite then looks, at the COMMIT, whether there are such goods
        yield session
        try:
            session.commit()
        except IntegrityError:
            session.rollback()
            print("an order was lost, and its client was told 201")


@api.post("/orders", status_code=201)
def place(item: Annotated[str, Body(embed=True)], session: Annotated[Session, Depends(get_db)]) -> str:
    """Store an order, as most tutorials do."""
    session.execute(text("INSERT INTO orders VALUES (:item)"), {"item": item})
    return item


@api.post("/early", status_code=201)
def place_early(
    item: Annotated[str, Body(embed=True)], session: Annotated[Session, Depends(get_db, scope="function")]
) -> str:
    """Store an order; the dependency ends with the function, and not with the request."""
    session.execute(text("INSERT INTO orders VALUES (:item)"), {"item": item})
    return item


@api.get("/late")
def late() -> list[dict[str, Any]]:
    """List the routes that commit late."""
    return [asdict(found) for found in late_commits()]
