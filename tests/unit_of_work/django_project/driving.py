"""One view behind Django behind the middleware, asked as a server would ask it."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from asgiref.testing import ApplicationCommunicator
from django.apps import apps
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.db import connections
from django.http import HttpResponse
from django.urls import path
from werkzeug.test import create_environ, run_wsgi_app

from postresponse import asgi, wsgi
from postresponse.core.lifecycle import Outcome
from postresponse.unit_of_work.django import DjangoUnitOfWork
from tests.unit_of_work.django_project.databases import Database

View = Callable[[Any], Any]


def cleared(database: Database) -> Database:
    database.clear()
    return database


def orders(alias: str) -> Any:
    return apps.get_model("django_project.Order").objects.using(alias)


@dataclass
class Answer:
    """What a client and a middleware around everything saw of one request."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    outcome: Outcome | None = None

    @property
    def unit(self) -> tuple[int, str]:
        """The status, and how the unit of work ended."""
        assert self.outcome is not None
        return self.status, self.outcome.unit_of_work.value


@dataclass
class Site:
    """One view behind Django behind the middleware.

    Args:
        kind: "wsgi"; "asgi" for a sync view under ASGI; "async" for the same in an async view.
        on_head: Called when the head leaves the middleware.
    """

    view: View
    kind: str
    alias: str = "default"
    commit: Any = "head"
    on_head: Callable[[], object] = lambda: None
    unit_of_work: Any = None
    options: dict[str, Any] = field(default_factory=dict)

    def get(self, *, inside: bool = False) -> Answer:
        """Answer one request, and see that it left nothing open; but for a transaction that it is *inside* of."""
        self.route()
        answer = self._get_wsgi() if self.kind == "wsgi" else asyncio.run(self.aget())
        for connection in connections.all(initialized_only=True):
            assert connection.in_atomic_block is (inside and connection.alias == self.alias)
            assert inside or connection.connection is None or connection.get_autocommit()
        return answer

    def route(self) -> None:
        settings.ROOT_URLCONF = (path("", awaited(self.view) if self.kind == "async" else self.view),)

    def wrapped(self, answer: Answer) -> Any:
        kind: Any = wsgi if self.kind == "wsgi" else asgi
        return kind.PostResponseMiddleware(
            get_wsgi_application() if self.kind == "wsgi" else get_asgi_application(),
            unit_of_work=self.unit_of_work or DjangoUnitOfWork(self.alias),
            commit=self.commit,
            on_finished=lambda outcome: setattr(answer, "outcome", outcome),
            **self.options,
        )

    def _get_wsgi(self) -> Answer:
        answer = Answer()
        app = self.wrapped(answer)

        def outside(environ: Any, start_response: Any) -> Any:
            def starting(*args: Any) -> Any:
                self.on_head()
                return start_response(*args)

            return app(environ, starting)

        body, status, headers = run_wsgi_app(outside, create_environ("/"), buffered=True)
        answer.status, answer.body = int(status[:3]), b"".join(body)
        answer.headers = {name.lower(): value for name, value in headers}
        return answer

    async def aget(self) -> Answer:
        """Answer one request on the running loop."""
        answer = Answer()
        await self.communicator(answer).wait(10)  # type: ignore[no-untyped-call]
        return answer

    def communicator(self, answer: Answer, app: Any = None) -> ApplicationCommunicator:
        """Start a request, of this site or of *app* around it, whose end is to be waited for."""
        app = app or self.wrapped(answer)

        async def outside(scope: Any, receive: Any, _send: Any) -> None:
            async def send(message: Any) -> None:
                if message["type"] == "http.response.start":
                    self.on_head()
                    answer.status = message["status"]
                    answer.headers = {name.decode().lower(): value.decode() for name, value in message["headers"]}
                else:
                    answer.body += message.get("body", b"")

            await app(scope, receive, send)

        scope = {"type": "http", "method": "GET", "path": "/", "headers": [], "query_string": b""}
        communicator = ApplicationCommunicator(outside, scope)  # type: ignore[no-untyped-call]
        communicator.input_queue.put_nowait({"type": "http.request", "body": b""})
        return communicator


def awaited(view: View) -> View:
    async def answer(request: Any) -> Any:
        return await sync_to_async(view)(request)

    return answer


def placing(database: Database, customer: int | None = None, status: int = 201) -> View:
    """Make a view that places an order; with a *customer*, who does not exist, COMMIT fails."""

    def place(request: Any) -> HttpResponse:
        orders(database.alias).create(customer_id=customer)
        return HttpResponse("placed", status=status, headers={"ETag": "x", "Set-Cookie": "a=b", "Location": "/1"})

    return place


KIND = pytest.mark.parametrize("kind", ["wsgi", "asgi", "async"])
COMMIT = pytest.mark.parametrize("commit", ["head", "buffered", "after_send"])
