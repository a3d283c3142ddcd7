"""What users write; a line marked `type: ignore` is a mistake, and strict checkers complain if they see none there."""

from typing import Annotated, Any

import falcon
import falcon.asgi
from fastapi import FastAPI
from flask import Flask
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, sessionmaker
from starlette.applications import Starlette
from starlette.middleware import Middleware

from postresponse import CommitPolicy, Outcome, asgi, commit_policy, current_exchange, doom, force_commit, wsgi
from postresponse.core.exchange import Exchange, Failure
from postresponse.error_response import ErrorResponse
from postresponse.inspector import Inspector
from postresponse.integrations import flask as flask_integration
from postresponse.integrations.falcon import wrapped
from postresponse.integrations.fastapi import session_of
from postresponse.messaging import Outbox
from postresponse.observing import Observer
from postresponse.telemetry.logs import LogContext
from postresponse.telemetry.opentelemetry import OpenTelemetryObserver
from postresponse.telemetry.prometheus import PrometheusObserver
from postresponse.telemetry.prometheus_outbox import OutboxCollector
from postresponse.telemetry.sentry import SentryScope
from postresponse.telemetry.server_timing import ServerTiming
from postresponse.typing import ASGIApplication, AsyncUnitOfWork, UnitOfWork, WSGIApplication
from postresponse.unit_of_work.sqlalchemy import AsyncSQLAlchemyUnitOfWork, SQLAlchemyUnitOfWork
from postresponse.work import TaskSupervisor

db = SQLAlchemyUnitOfWork(sessionmaker(create_engine("sqlite://")))
adb = AsyncSQLAlchemyUnitOfWork(async_sessionmaker(create_async_engine("sqlite+aiosqlite://")))


def on_finished(outcome: Outcome) -> None:
    print(outcome.ending.value, outcome.unit_of_work.value, outcome.moments.head_sent)


async def on_commit_failed(failure: Failure) -> None:
    print(failure.exchange.route, failure.exception, failure.status)


def error_response(failure: Failure) -> ErrorResponse:
    return ErrorResponse(failure.status, (("content-type", "text/plain"),), b"sorry")


# every framework accepts the middleware in its own way
starlette = Starlette(middleware=[Middleware(asgi.PostResponseMiddleware, unit_of_work=adb, commit="buffered")])
starlette.add_middleware(asgi.PostResponseMiddleware, on_finished=on_finished)
starlette.add_middleware(asgi.PostResponseMiddleware, inspector=True)
fastapi = FastAPI()
fastapi.add_middleware(asgi.PostResponseMiddleware, unit_of_work=adb, on_commit_failed=on_commit_failed)
inspected: WSGIApplication = wsgi.PostResponseMiddleware(
    lambda environ, start_response: [], inspector=Inspector(allow=["10.0.0.0/8"], store="inspector.sqlite3")
)
wsgi.PostResponseMiddleware(inspected, inspector="yes")  # type: ignore[arg-type]
outermost: ASGIApplication = asgi.PostResponseMiddleware(fastapi, unit_of_work=adb, error_response=error_response)
flask = Flask(__name__)
flask.wsgi_app = wsgi.PostResponseMiddleware(flask.wsgi_app, unit_of_work=db)  # type: ignore[method-assign]
plain: WSGIApplication = wsgi.PostResponseMiddleware(flask, unit_of_work=db, commit=CommitPolicy("after_send"))
sync_under_asgi = asgi.PostResponseMiddleware(fastapi, unit_of_work=db)

# sessions as dependencies
RequestSession = Annotated[AsyncSession, session_of(adb)]


@fastapi.post("/orders")
async def place(session: RequestSession, again: Annotated[AsyncSession, session_of(adb)]) -> int:
    await session.flush()
    return len(again.new)


as_default: Session = session_of(db)


# units of work of one's own
sync_session: Session = db.session
async_session: AsyncSession = adb.session


class Own:
    active = True

    def begin(self) -> None: ...
    def commit(self) -> None: ...
    def rollback(self) -> None: ...
    def close(self) -> None: ...


class AsyncOwn:
    active = True

    async def begin(self) -> None: ...
    async def commit(self) -> None: ...
    async def rollback(self) -> None: ...
    async def close(self) -> None: ...


unit: UnitOfWork = Own()
async_unit: AsyncUnitOfWork = AsyncOwn()
asgi.PostResponseMiddleware(starlette, unit_of_work=lambda exchange: AsyncOwn())
asgi.PostResponseMiddleware(starlette, unit_of_work=lambda exchange: Own())
wsgi.PostResponseMiddleware(flask, unit_of_work=lambda exchange: Own())


# the extensions of frameworks
extension = flask_integration.PostResponse(unit_of_work=db, commit="head", cleanup_timeout=2.0)
extension.init_app(flask)
over_wsgi: wsgi.PostResponseMiddleware = wrapped(falcon.App(), unit_of_work=db)
over_asgi: asgi.PostResponseMiddleware = wrapped(falcon.asgi.App(), {"COMMIT": "buffered"}, unit_of_work=adb)


# views keep their types
@commit_policy("buffered")
def view(name: str, *, count: int = 1) -> bytes:
    doom("no")
    force_commit()
    return name.encode() * count


@commit_policy(max_memory=1024, commit_if=lambda head: head.status < 300)
async def async_view(name: str) -> bytes:
    exchange: Exchange = current_exchange()
    exchange.on_start(lambda exchange: exchange.headers.append(("x-seen", "yes")))
    exchange.after_commit(lambda: None)
    exchange.on_finished(on_finished)
    exchange.policy = CommitPolicy("head")
    return name.encode()


body: bytes = view("a", count=2)


async def awaited() -> bytes:
    return await async_view("a")


# observers
observers: list[Observer] = [SentryScope(), ServerTiming(), LogContext()]
observers += [OpenTelemetryObserver(jobs="child"), PrometheusObserver(max_routes=10, supervisors=(TaskSupervisor(),))]
asgi.PostResponseMiddleware(starlette, observers=observers)
OutboxCollector(Outbox({"mail": ["send"]}), "sqlite://", max_age=1.0)


# mistakes
OpenTelemetryObserver(jobs="childs")  # type: ignore[arg-type]
asgi.PostResponseMiddleware(starlette, comit="head")  # type: ignore[call-arg]
asgi.PostResponseMiddleware(starlette, unit_of_work=adb, commit="heads")  # type: ignore[arg-type]
wsgi.PostResponseMiddleware(flask, unit_of_work=adb)  # type: ignore[arg-type]
wsgi.PostResponseMiddleware(starlette)  # type: ignore[arg-type]
SQLAlchemyUnitOfWork(async_sessionmaker())  # type: ignore[arg-type]
CommitPolicy(at="headed")  # type: ignore[arg-type]
view(1)  # type: ignore[arg-type]


def frozen(outcome: Outcome) -> Any:
    outcome.status = 1  # type: ignore[misc]
