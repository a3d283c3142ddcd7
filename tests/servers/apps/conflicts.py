"""One counter behind four frameworks, on PostgreSQL at SERIALIZABLE: who increments it may meet a conflict.

The counter is the sum of two slots. An increment reads both and writes one, so that of two at a time one fails: in the
same slot at its UPDATE, in different ones at its COMMIT or at a statement before. Where a request asks to be beaten,
somebody else increments in between, and the conflict is certain.

One row would not do: those who write it meet at its UPDATE, and a COMMIT is refused there by a chance of timing only
(from none in 80 increments to 190 in 800). Two rows make a write skew, which COMMIT finds for certain.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from io import BytesIO
from typing import Annotated, Any
from urllib.parse import parse_qs

import psycopg
from django.conf import settings as django_settings
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.db import connection as django_connection
from django.db import transaction as django_transaction
from django.http import HttpRequest, JsonResponse, StreamingHttpResponse
from django.urls import path
from fastapi import BackgroundTasks, Body, FastAPI
from fastapi.responses import JSONResponse, StreamingResponse
from flask import Flask, Response, jsonify, request
from sqlalchemy import ExceptionContext, create_engine, event, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, sessionmaker
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.routing import Route
from werkzeug.formparser import FormDataParser
from werkzeug.http import parse_options_header

from postresponse import CommitPolicy, Outcome, Retry, asgi, current_exchange, wsgi
from postresponse.core.exchange import Failure
from postresponse.unit_of_work.django import DjangoUnitOfWork
from postresponse.unit_of_work.sqlalchemy import AsyncSQLAlchemyUnitOfWork, SQLAlchemyUnitOfWork
from tests.servers.apps.database import SEARCH_PATH, connect_args, driver_url
from tests.servers.apps.record import log_to_stderr, record
from tests.services import postgres
from tests.unit_of_work.django_project import postgresql

Execute = Callable[[str], Iterable[Any]]

log_to_stderr()


@dataclass(frozen=True)
class Wish:
    """What one request asks for.

    Attributes:
        key: Names the request, and its lines in the record.
        slot: Which slot to write.
        at: When to commit.
        attempts: Of the policy's `Retry`; 0 for none at all.
        beaten: In how many attempts somebody else is faster.
        where: What fails then: this one's "statement", or its "commit".
        late: Whether the request's body is read after the increment, and not before.
        early: Whether the handler commits an increment of its own before this one.
        streamed: Whether the answer's body is made while it leaves.
    """

    key: str = ""
    slot: int = 0
    at: Any = "head"
    attempts: int = 0
    beaten: int = 0
    where: str = "statement"
    late: int = 0
    early: int = 0
    streamed: int = 0

    def meet(self, where: str, slot: int) -> None:
        """Let somebody else be faster in *slot*, if this is the place and the attempt."""
        if self.where == where and current_exchange().attempt <= self.beaten:
            be_faster(slot)


def wish_in(context: Mapping[str, Any]) -> Wish:
    """Read the wish out of an ASGI scope or a WSGI environ; unknown names are an error."""
    query = context["query_string"].decode("ascii") if "query_string" in context else context["QUERY_STRING"]
    given = {name: values[-1] for name, values in parse_qs(query).items()}
    wishes: dict[str, Any] = {name: int(value) if value.isdigit() else value for name, value in given.items()}
    return Wish(**wishes)


def note(what: str, **more: Any) -> None:
    """Record *what* happened in this attempt at the request."""
    exchange = current_exchange()
    record(what, wish_in(exchange.scope).key, attempt=exchange.attempt, **more)


# -- the counter ------------------------------------------------------------------------------------------------------


def add_one(slot: int, execute: Execute, before_write: Callable[[], object] = lambda: None) -> int:
    """Read the counter, write one more, and return that."""
    values: dict[int, int] = dict(map(tuple, execute("SELECT slot, value FROM counter")))
    before_write()
    execute(f"UPDATE counter SET value = {values[slot] + 1:d} WHERE slot = {slot:d}")
    return sum(values.values()) + 1


def be_faster(slot: int) -> None:
    """Increment as somebody else, who is done at once."""
    with closing(postgres.connect(SEARCH_PATH)) as connection:
        connection.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
        with connection.transaction():
            add_one(slot, lambda statement: connection.execute(statement.encode()))


def increment(wish: Wish, execute: Execute) -> int:
    """Increment for this request, and return the number that it got."""
    exchange = current_exchange()
    exchange.after_commit(lambda: note("after_commit"))
    exchange.after_rollback(lambda: note("after_rollback"))
    note("began", last=exchange.is_last_attempt)
    number = add_one(wish.slot, execute, lambda: wish.meet("statement", wish.slot))
    wish.meet("commit", 1 - wish.slot)
    return number


def increment_in(session: Session, wish: Wish) -> int:
    """Increment in a session; behind an increment that the handler commits, where that is asked for."""
    if wish.early:
        add_one(wish.slot, lambda statement: session.execute(text(statement)))
        session.commit()
    return increment(wish, lambda statement: session.execute(text(statement)))


def answer(number: int, read: Any) -> dict[str, int]:
    """What a handler that got as far as this answers; what it *read* goes to the record."""
    note("answered", read=read)
    return {"number": number, "attempt": current_exchange().attempt}


def pieces(answered: dict[str, int]) -> Iterator[bytes]:
    """The same as a body in two pieces."""
    content = json.dumps(answered).encode()
    yield content[:5]
    yield content[5:]


# -- the middleware ---------------------------------------------------------------------------------------------------


def policy_of(context: Mapping[str, Any]) -> CommitPolicy:
    """The function given to the middleware as ``commit=``."""
    wish = wish_in(context)
    return CommitPolicy(wish.at, retry=Retry(attempts=wish.attempts, backoff=0.02) if wish.attempts else None)


def on_finished(outcome: Outcome) -> None:
    """Record how an exchange ended."""
    told = {"ending": outcome.ending, "unit_of_work": outcome.unit_of_work, "status": outcome.status}
    record("finished", wish_in(current_exchange().scope).key, attempt=outcome.attempt, **told)


def on_commit_failed(failure: Failure) -> None:
    """Record a failed commit."""
    note("commit_failed", error=repr(failure.exception))


def on_error(failure: Failure) -> None:
    """Record a failed hook; there should be none."""
    record("hook_failed", "", error=repr(failure.exception))


def on_failing_statement(context: ExceptionContext) -> None:
    """Record a conflict and where it was met; SQLAlchemy's own event, which knows nothing of the package."""
    place = "commit" if context.statement is None else "statement"
    note("conflict", where=place, error=repr(context.original_exception))


HOOKS: Any = {
    "commit": policy_of,
    "on_finished": on_finished,
    "on_commit_failed": on_commit_failed,
    "on_error": on_error,
}
POOL: Any = {"isolation_level": "SERIALIZABLE", "pool_size": 8, "max_overflow": 0, "pool_timeout": 5.0}

async_engine = create_async_engine(driver_url(asynchronous=True), connect_args=connect_args(asynchronous=True), **POOL)
engine = create_engine(driver_url(asynchronous=False), connect_args=connect_args(asynchronous=False), **POOL)
event.listen(async_engine.sync_engine, "handle_error", on_failing_statement)
event.listen(engine, "handle_error", on_failing_statement)
async_db = AsyncSQLAlchemyUnitOfWork(async_sessionmaker(async_engine))
db = SQLAlchemyUnitOfWork(sessionmaker(engine))


# -- Starlette: a failing statement leaves it twice, as a 500 and as an exception -------------------------------------


async def read_by_starlette(http: Request) -> Any:
    """Read JSON, nothing, or a form, whose bytes Werkzeug takes apart."""
    content = await http.body()
    kind, options = parse_options_header(http.headers.get("content-type"))
    if kind == "multipart/form-data":
        _, fields, files = FormDataParser().parse(BytesIO(content), kind, len(content), options)
        return fields.to_dict() | {name: file.stream.read().decode() for name, file in files.items()}
    return json.loads(content) if content else None


async def increment_by_starlette(http: Request) -> JSONResponse | StreamingResponse:
    """Increment, with background work behind the answer."""
    wish = wish_in(http.scope)
    read = None if wish.late else await read_by_starlette(http)
    number = await async_db.session.run_sync(increment_in, wish)
    read = await read_by_starlette(http) if wish.late else read
    background = BackgroundTask(note, "background")
    if wish.streamed:
        return StreamingResponse(pieces(answer(number, read)), background=background)
    return JSONResponse(answer(number, read), background=background)


starlette = asgi.PostResponseMiddleware(
    Starlette(routes=[Route("/", increment_by_starlette, methods=["POST"])]), unit_of_work=async_db, **HOOKS
)


# -- FastAPI: an exception handler, and a middleware that runs what is behind it in a task of its own -----------------

fastapi_app = FastAPI()


@fastapi_app.post("/")
async def increment_by_fastapi(http: Request, tasks: BackgroundTasks, read: Annotated[Any, Body()] = None) -> Any:
    """Increment, with background work behind the answer; the body is read before, by FastAPI."""
    number = await async_db.session.run_sync(increment_in, wish_in(http.scope))
    tasks.add_task(note, "background")
    return answer(number, read)


@fastapi_app.exception_handler(DBAPIError)
async def apologize(_http: Request, _error: Exception) -> JSONResponse:
    """Answer a failing statement with a page of its own, and with background work behind that."""
    return JSONResponse({"sorry": "busy"}, 500, background=BackgroundTask(note, "apology"))


@fastapi_app.middleware("http")
async def pass_on(http: Request, call_next: Any) -> Any:
    """Pass a request on as Starlette's BaseHTTPMiddleware does."""
    return await call_next(http)


fastapi = asgi.PostResponseMiddleware(fastapi_app, unit_of_work=async_db, **HOOKS)


# -- Flask: a failing statement is its 500 ----------------------------------------------------------------------------

flask_app = Flask(__name__)


def read_by_flask() -> Any:
    """Read JSON, nothing, or a form."""
    if request.mimetype == "multipart/form-data":
        return request.form.to_dict() | {name: file.read().decode() for name, file in request.files.items()}
    return request.get_json() if request.is_json else None


@flask_app.post("/")
def increment_by_flask() -> Response:
    """Increment, with work behind the answer's body."""
    wish = wish_in(request.environ)
    read = None if wish.late else read_by_flask()
    number = increment_in(db.session, wish)
    read = read_by_flask() if wish.late else read
    answered = answer(number, read)
    response = Response(pieces(answered)) if wish.streamed else jsonify(answered)
    response.call_on_close(follow_flask)
    return response


def follow_flask() -> None:
    """Work behind the body: that of every attempt is closed, so this one asks whether it is wanted."""
    unit_of_work = current_exchange().unit_of_work
    note("closed", unit_of_work=unit_of_work)
    if unit_of_work == "committed":
        note("background")


flask = wsgi.PostResponseMiddleware(flask_app.wsgi_app, unit_of_work=db, **HOOKS)


# -- Django: the same, in its own transaction -------------------------------------------------------------------------


def read_by_django(http: HttpRequest) -> Any:
    """Read JSON, nothing, or a form."""
    if http.content_type == "multipart/form-data":
        return http.POST.dict() | {name: file.read().decode() for name, file in http.FILES.items()}
    return json.loads(http.body) if http.body else None


def execute_by_django(statement: str) -> Iterable[Any]:
    """Execute a statement in this request's transaction."""
    cursor = django_connection.cursor()
    cursor.execute(statement)
    return cursor  # type: ignore[no-any-return]


def increment_by_django(http: HttpRequest) -> JsonResponse | StreamingHttpResponse:
    """Increment, with work behind the commit."""
    wish = wish_in(current_exchange().scope)
    read = None if wish.late else read_by_django(http)
    number = increment(wish, execute_by_django)
    read = read_by_django(http) if wish.late else read
    django_transaction.on_commit(lambda: note("background"))
    answered = answer(number, read)
    return StreamingHttpResponse(pieces(answered)) if wish.streamed else JsonResponse(answered)


def django_database() -> dict[str, Any]:
    """The same database as Django wants it."""
    database = postgresql()
    more = {"isolation_level": psycopg.IsolationLevel.SERIALIZABLE, "options": f"-csearch_path={SEARCH_PATH}"}
    return {**database, "OPTIONS": {**database["OPTIONS"], **more}}


django_settings.configure(
    ALLOWED_HOSTS=["*"],
    DATABASES={"default": django_database()},
    LOGGING_CONFIG=None,
    ROOT_URLCONF=(path("", increment_by_django),),
    SECRET_KEY="no secret",
    USE_TZ=True,
)
django_wsgi = wsgi.PostResponseMiddleware(get_wsgi_application(), unit_of_work=DjangoUnitOfWork(), **HOOKS)
django_asgi = asgi.PostResponseMiddleware(get_asgi_application(), unit_of_work=DjangoUnitOfWork(), **HOOKS)
