"""A commit inside of FastAPI's stack: its handlers catch the failure, and what they answer is what the client gets."""

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import anyio
import pytest
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse, StreamingResponse
from sqlalchemy.exc import IntegrityError

from postresponse import CommitPolicy, Outcome, Retry, current_exchange, doom
from postresponse.asgi import PostResponseMiddleware
from postresponse.core.lifecycle import UnitState
from postresponse.exceptions import CommitInDoubt, NoUnitOfWork
from postresponse.integrations.fastapi import commit_inside
from tests.fakes import Conflict, FakeUnits, StrictASGIServer, run_asgi
from tests.integrations.shop import REFUSED, Order, Shop
from tests.servers.client import Client
from tests.servers.harness import KINDS, Server


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


# -- a database whose COMMIT fails ------------------------------------------------------------------------------------

LEVELS = ["application", "router", "operation"]

every_level = pytest.mark.parametrize("level", LEVELS)
every_unit = pytest.mark.parametrize("unit", ["sync", "async"])
every_scope = pytest.mark.parametrize("scope", ["function", "request"])


class Ordering:
    """An application that takes orders, of which some level has `commit_inside` in its dependencies.

    Args:
        level: Which one.
        unit: Whether its sessions, and its operations, are "sync" or "async".
        around: Dependencies of the application, before `commit_inside` where that has both.
        beside: Dependencies of the operation, behind `commit_inside` where that has both.
    """

    def __init__(self, shop: Shop, level: str, unit: str, around: Any = (), beside: Any = ()) -> None:
        self.orders: list[Order] = []
        levels = {name: [commit_inside] if name == level else [] for name in LEVELS}
        self.api = FastAPI(dependencies=[*around, *levels["application"]])
        router = APIRouter(dependencies=levels["router"])

        def order() -> str:
            shop.db.session.add_all(self.orders)
            return "stored"

        async def order_async() -> str:
            shop.adb.session.add_all(self.orders)
            return "stored"

        view = order if unit == "sync" else order_async
        router.post("/orders", status_code=201, dependencies=[*levels["operation"], *beside])(view)
        self.api.include_router(router)
        self.app = PostResponseMiddleware(self.api, unit_of_work=shop.db if unit == "sync" else shop.adb, **shop.told)

    def post(self, *orders: Order) -> tuple[int | None, bytes]:
        """Answer a request that stores these."""
        self.orders = [*orders]
        server = run_asgi(self.app, method="POST")
        return server.status, server.body


def refused(why: str = "at the commit") -> list[Order]:
    return REFUSED[why]()


def assert_refused_and_good_as_new(shop: Shop, ordering: Ordering) -> None:
    """Nothing of the one request is stored, and the next one is."""
    assert (shop.items, shop.unit) == ([], "failed")
    assert [(failure.stage, type(failure.exception)) for failure in shop.failures] == [("commit", IntegrityError)]
    assert ordering.post(Order(item="coffee")) == (201, b'"stored"')
    assert shop.items == ["coffee"]
    assert [outcome.unit_of_work for outcome in shop.outcomes] == ["failed", "committed"]


@every_unit
@every_level
@pytest.mark.parametrize("why", REFUSED)
def test_a_handler_by_class_answers_what_a_real_commit_refused(shop: Shop, level: str, unit: str, why: str) -> None:
    ordering = Ordering(shop, level, unit)

    @ordering.api.exception_handler(IntegrityError)
    async def taken(request: Request, error: IntegrityError) -> JSONResponse:
        return JSONResponse({"detail": str(error.orig).partition(" constraint")[0]}, 409)

    kind = b"FOREIGN KEY" if why == "at the commit" else b"UNIQUE"
    assert ordering.post(*refused(why)) == (409, b'{"detail":"%s"}' % kind)
    assert_refused_and_good_as_new(shop, ordering)


def translating(scope: Literal["function", "request"], caught: list[BaseException]) -> Any:
    """A dependency that makes a 409 of what a constraint refuses."""

    async def translate() -> AsyncIterator[None]:
        try:
            yield
        except IntegrityError as error:
            caught.append(error)
            raise HTTPException(409, "taken") from error

    return Depends(translate, scope=scope)


@every_scope
@every_unit
@every_level
def test_a_try_around_yield_further_out_sees_what_a_real_commit_refused(
    shop: Shop, level: str, unit: str, scope: Literal["function", "request"]
) -> None:
    caught: list[BaseException] = []
    ordering = Ordering(shop, level, unit, around=[translating(scope, caught)])
    assert ordering.post(*refused()) == (409, b'{"detail":"taken"}')
    assert caught == [failure.exception for failure in shop.failures]
    assert_refused_and_good_as_new(shop, ordering)


@every_unit
def test_a_sync_dependency_sees_it_as_well(shop: Shop, unit: str) -> None:
    def translate() -> Iterator[None]:
        try:
            yield
        except IntegrityError as error:
            raise HTTPException(409, "taken") from error

    ordering = Ordering(shop, "operation", unit, around=[Depends(translate)])
    assert ordering.post(*refused()) == (409, b'{"detail":"taken"}')
    assert_refused_and_good_as_new(shop, ordering)


@every_unit
@every_level
def test_a_try_further_in_sees_it_only_if_its_scope_is_the_requests(shop: Shop, level: str, unit: str) -> None:
    """Which ends behind all of those whose scope is the function's, wherever it is given."""
    caught: list[BaseException] = []
    ordering = Ordering(shop, level, unit, beside=[translating("request", caught)])
    assert ordering.post(*refused()) == (409, b'{"detail":"taken"}')
    assert len(caught) == 1
    ordering = Ordering(shop, level, unit, beside=[translating("function", caught)])
    with pytest.raises(IntegrityError):
        ordering.post(*refused())
    assert len(caught) == 1
    assert shop.items == []


@every_unit
def test_where_nobody_catches_what_a_real_commit_refused_the_client_gets_a_500(shop: Shop, unit: str) -> None:
    ordering = Ordering(shop, "application", unit)
    ordering.orders = refused()
    server = StrictASGIServer("POST")
    with pytest.raises(IntegrityError):
        anyio.run(server.run, ordering.app)
    assert (server.status, server.broken) == (500, [])
    assert_refused_and_good_as_new(shop, ordering)


@every_unit
def test_an_operation_beside_commits_at_its_head_where_no_handler_sees_it(shop: Shop, unit: str) -> None:
    ordering = Ordering(shop, "operation", unit)
    units: Any = shop.db if unit == "sync" else shop.adb

    @ordering.api.post("/reports", status_code=201)
    async def report() -> str:
        units.session.add_all(refused())
        return "stored"

    @ordering.api.exception_handler(IntegrityError)
    async def taken(request: Request, error: IntegrityError) -> JSONResponse:
        return JSONResponse({}, 409)

    assert ordering.post(*refused())[0] == 409
    server = StrictASGIServer("POST")
    server.scope |= {"path": "/reports", "raw_path": b"/reports"}
    anyio.run(server.run, ordering.app)
    assert (server.status, server.broken) == (500, [])
    assert (b"content-type", b"application/problem+json") in server.headers
    assert shop.items == []


# -- on a real server -------------------------------------------------------------------------------------------------


def test_on_a_real_server_the_client_is_told_and_goes_on_on_its_connection(tmp_path: Path) -> None:
    running = Server(KINDS["uvicorn-httptools"], "tests.integrations.sites.starlette_site:app", tmp_path, {})
    running.start()
    try:
        with Client(running.port, timeout=10) as client:
            for number, name in enumerate(f"{by}-{level}" for by in ("handled", "caught") for level in LEVELS):
                taken = client.request("POST", f"/inside/{name}/orders")
                assert (taken.status, taken.body) == (409, b'{"detail":"taken"}'), running.log()
                assert client.request("GET", "/").body == str(number).encode()
                stored = client.request("POST", f"/inside/{name}/orders?item={name}")
                assert (stored.status, stored.body) == (201, b'"stored"'), running.log()
            assert client.request("GET", "/").body == b"6", running.log()
            assert client.connections == 1
        assert "Exception in ASGI application" not in running.log()
    finally:
        running.stop()
