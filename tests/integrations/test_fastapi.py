"""A commit inside of FastAPI's stack: its handlers catch the failure, and what they answer is what the client gets."""

from collections.abc import Callable
from typing import Any

import anyio
import pytest
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse, StreamingResponse

from postresponse import CommitPolicy, Outcome, Retry, current_exchange, doom
from postresponse.asgi import PostResponseMiddleware
from postresponse.core.lifecycle import UnitState
from postresponse.exceptions import CommitInDoubt, NoUnitOfWork
from postresponse.integrations.fastapi import commit_inside
from tests.fakes import Conflict, FakeUnits, StrictASGIServer


class Taken(Exception):
    """What a unique constraint says."""


class Site:
    """A FastAPI application that commits inside, wrapped, with what became of each request."""

    def __init__(self, view: Callable[..., Any], units: FakeUnits, commit: Any = "head", **options: Any) -> None:
        units.is_async = True
        self.units = units
        self.outcomes: list[Outcome] = []
        api = FastAPI(dependencies=[commit_inside])
        api.get("/orders")(view)

        @api.exception_handler(Taken)
        async def taken(request: Request, error: Taken) -> JSONResponse:
            return JSONResponse({"detail": "taken"}, 409)

        self.app = PostResponseMiddleware(
            api, unit_of_work=units, commit=commit, on_finished=self.outcomes.append, **options
        )

    def get(self, *, raises: type[Exception] | None = None) -> StrictASGIServer:
        server = StrictASGIServer()
        if raises is None:
            anyio.run(server.run, self.app)
        else:
            with pytest.raises(raises):
                anyio.run(server.run, self.app)
        assert not server.broken
        return server


async def created() -> dict[str, str]:
    return {"state": current_exchange().unit_of_work}


def test_it_commits_when_the_path_operation_has_returned_and_once() -> None:
    site = Site(created, FakeUnits())
    server = site.get()
    assert (server.status, server.body) == (200, b'{"state":"none"}')
    assert site.units.log == ["begin", "commit", "close"]
    assert site.outcomes[0].unit_of_work is UnitState.COMMITTED


def test_a_failed_commit_is_answered_by_the_handler_of_its_class() -> None:
    told: list[Any] = []
    site = Site(created, FakeUnits({"commit": Taken()}), on_commit_failed=told.append)
    server = site.get()
    assert (server.status, server.body) == (409, b'{"detail":"taken"}')
    assert site.units.log == ["begin", "commit!", "rollback", "close"]
    assert site.outcomes[0].unit_of_work is UnitState.FAILED
    assert [failure.stage for failure in told] == ["commit"]


def test_without_a_handler_it_is_an_error_of_the_application() -> None:
    site = Site(created, FakeUnits({"commit": ValueError("nobody handles it")}))
    server = site.get(raises=ValueError)
    assert (server.status, server.body) == (500, b"Internal Server Error")
    assert site.outcomes[0].unit_of_work is UnitState.FAILED


def test_a_general_error_page_does_not_hide_that_nobody_knows() -> None:
    site = Site(created, FakeUnits({"commit": CommitInDoubt("lost")}))
    server = site.get()
    assert server.status == 503
    assert b"outcome of the request is unknown" in server.body
    assert site.outcomes[0].unit_of_work is UnitState.UNKNOWN


def test_a_conflict_is_run_again() -> None:
    attempts: list[int] = []

    async def view() -> int:
        attempts.append(current_exchange().attempt)
        return attempts[-1]

    site = Site(view, FakeUnits({"commit": Conflict()}, times=2), CommitPolicy(retry=Retry(backoff=0)))
    server = site.get()
    assert (server.status, server.body) == (200, b"3")
    assert attempts == [1, 2, 3]
    assert [outcome.attempt for outcome in site.outcomes] == [3]


def test_an_operation_that_raised_is_rolled_back() -> None:
    async def view() -> None:
        raise HTTPException(404)

    site = Site(view, FakeUnits())
    assert site.get().status == 404
    assert site.units.log == ["begin", "rollback", "close"]


def test_what_was_doomed_is_rolled_back_at_the_head() -> None:
    async def view() -> None:
        doom("on purpose")

    site = Site(view, FakeUnits())
    assert site.get().status == 200
    assert site.units.log == ["begin", "rollback", "close"]


def test_hooks_run_around_it_and_a_stream_begins_behind_it() -> None:
    ran: list[str] = []

    async def view() -> StreamingResponse:
        current_exchange().before_commit(lambda: ran.append("before"))
        current_exchange().after_commit(lambda: ran.append("after"))

        async def parts() -> Any:
            ran.append("body")
            yield b"part"

        return StreamingResponse(parts())

    site = Site(view, FakeUnits(), "after_send")
    assert site.get().body == b"part"
    assert ran == ["before", "after", "body"]
    assert site.units.log == ["begin", "commit", "close"]


def test_a_middleware_that_only_observes_has_nothing_to_commit() -> None:
    api = FastAPI(dependencies=[commit_inside])
    api.get("/orders")(created)
    server = StrictASGIServer()
    with pytest.raises(NoUnitOfWork, match="an early commit"):
        anyio.run(server.run, PostResponseMiddleware(api))
    assert server.status == 500
