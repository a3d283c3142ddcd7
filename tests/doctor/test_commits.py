"""Which dependencies of FastAPI's commit when the response has left: each way of doing it, and each near miss."""

import functools
import inspect
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, Depends, FastAPI, WebSocket
from starlette.applications import Starlette
from starlette.routing import Mount

from postresponse.asgi import PostResponseMiddleware
from postresponse.doctor.commits import commit_behind_yield
from postresponse.doctor.dependencies import findings_of_dependencies
from tests.doctor import dependencies
from tests.doctor.dependencies import LATE, SOUND, plain


def name_of(function: Any) -> str:
    function = function.func if isinstance(function, functools.partial) else function
    return getattr(function, "__name__", type(function).__name__)


@pytest.mark.parametrize("function", LATE, ids=name_of)
def test_a_commit_behind_the_yield_is_found_with_its_line(function: Any) -> None:
    commit = commit_behind_yield(function)
    assert commit is not None
    assert commit.file == inspect.getsourcefile(dependencies)
    with open(commit.file) as source:
        line = source.read().splitlines()[commit.line - 1]
    assert commit.how in line
    assert any(way in line for way in (".commit()", ".begin()", ".atomic()"))


@pytest.mark.parametrize("function", SOUND, ids=name_of)
def test_a_near_miss_is_none(function: Any) -> None:
    assert commit_behind_yield(function) is None


def test_what_has_no_source_is_none() -> None:
    namespace: dict[str, Any] = {}
    exec("def made(session):\n    yield session\n    session.commit()\n", namespace)
    assert commit_behind_yield(namespace["made"]) is None


# -- in an application ------------------------------------------------------------------------------------------------


def found(app: Any) -> list[str]:
    return [finding.found for finding in findings_of_dependencies(PostResponseMiddleware(app))]


def sub(session: Annotated[Any, Depends(plain)]) -> Any:
    return session


def test_each_place_where_an_operation_gets_a_dependency_is_looked_into() -> None:
    by_parameter, by_route, by_app, by_sub, by_router, by_include = (FastAPI() for _ in range(6))
    by_app = FastAPI(dependencies=[Depends(plain)])

    @by_parameter.get("/orders")
    def parameter(session: Annotated[Any, Depends(plain)]) -> None: ...

    @by_route.get("/orders", dependencies=[Depends(plain)])
    @by_app.get("/orders")
    def nothing() -> None: ...

    @by_sub.get("/orders", dependencies=[Depends(sub)])
    def through() -> None: ...

    router = APIRouter(dependencies=[Depends(plain)])
    router.add_api_route("/orders", nothing)
    by_router.include_router(router, prefix="/shop")
    bare = APIRouter()
    bare.add_api_route("/orders", nothing)
    by_include.include_router(bare, dependencies=[Depends(plain, scope="request")])
    mounted = Starlette(routes=[Mount("/api", by_parameter)])
    for app in (by_parameter, by_route, by_app, by_sub, by_router, by_include, mounted):
        (text,) = found(app)
        assert text.startswith("the dependency plain of ")
        assert " commits by session.commit() behind its yield" in text


def test_one_that_many_operations_use_is_told_once() -> None:
    app = FastAPI()
    for number in range(3):

        @app.get(f"/{number}")
        def order(session: Annotated[Any, Depends(plain)]) -> None: ...

    (text,) = found(app)
    assert text.startswith("the dependency plain of GET /0 and 2 more commits")


def test_the_scope_of_the_function_is_early_enough_and_a_websocket_has_no_response() -> None:
    app = FastAPI(dependencies=[Depends(plain, scope="function")])

    @app.get("/orders")
    def order(session: Annotated[Any, Depends(dependencies.around_an_engine, scope="function")]) -> None: ...

    @app.websocket("/events")
    async def events(websocket: WebSocket, session: Annotated[Any, Depends(plain)]) -> None: ...

    assert found(app) == []


def test_a_sound_application_and_one_of_something_else_have_no_finding() -> None:
    app = FastAPI(dependencies=[Depends(dependencies.only_closes)])

    @app.get("/orders")
    def order(session: Annotated[Any, Depends(dependencies.rolls_back)]) -> None: ...

    assert found(app) == []
    assert found(Starlette()) == []
