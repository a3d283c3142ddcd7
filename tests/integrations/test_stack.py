"""What stands around the middleware, found without a request; and that what is said of an unsafe place is so."""

import functools
from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import pytest
from django.core.wsgi import get_wsgi_application
from fastapi import FastAPI
from flask import Flask
from litestar import Litestar
from litestar.config.compression import CompressionConfig
from litestar.config.cors import CORSConfig
from litestar.middleware import DefineMiddleware
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Mount, Route
from starlette.testclient import TestClient
from werkzeug.middleware.proxy_fix import ProxyFix

from postresponse import Outcome
from postresponse.asgi import PostResponseMiddleware
from postresponse.stack import Finding, findings_of, layers_of
from postresponse.tenancy.asgi import TenantLimitMiddleware
from postresponse.work import TaskSupervisor
from postresponse.wsgi import PostResponseMiddleware as WSGIMiddleware
from tests.fakes import FakeUnits, StrictASGIServer


async def timing(request: Request, call_next: Any) -> Any:
    return await call_next(request)


class Timing(BaseHTTPMiddleware):
    async def dispatch(self, request: Request, call_next: Any) -> Any:
        return await call_next(request)


def names(app: Any) -> list[str]:
    found = layers_of(app)
    assert [layer.position for layer in found] == list(range(len(found)))
    return [layer.name for layer in found]


def codes(app: Any) -> list[str]:
    return [finding.code for finding in findings_of(app)]


def found(app: Any, code: str) -> Finding:
    (finding,) = (each for each in findings_of(app) if each.code == code)
    return finding


# -- layers -----------------------------------------------------------------------------------------------------------


def starlette() -> Starlette:
    stack = [
        Middleware(BaseHTTPMiddleware, dispatch=timing),
        Middleware(PostResponseMiddleware, supervisor=TaskSupervisor()),
        Middleware(CORSMiddleware),
    ]
    return Starlette(middleware=stack)


def test_the_stack_of_starlette_is_known_before_it_is_built_and_is_the_same_afterwards() -> None:
    app = GZipMiddleware(starlette())
    before = layers_of(app)
    assert app.app.middleware_stack is None  # type: ignore[attr-defined]
    assert [layer.name for layer in before] == [
        "GZipMiddleware",
        "Starlette",
        "ServerErrorMiddleware",
        "BaseHTTPMiddleware",
        "PostResponseMiddleware",
        "CORSMiddleware",
        "ExceptionMiddleware",
        "Router",
    ]
    TestClient(app).get("/")
    assert layers_of(app) == before
    assert before[3].kind is BaseHTTPMiddleware
    assert str(before[3]) == "starlette.middleware.base.BaseHTTPMiddleware of timing"


def test_fastapi_is_looked_into_as_starlette_is() -> None:
    api = FastAPI()
    api.middleware("http")(timing)
    assert names(PostResponseMiddleware(api))[:2] == ["PostResponseMiddleware", "FastAPI"]
    assert codes(PostResponseMiddleware(api)) == ["base_http_middleware_inside"]
    TestClient(api).get("/")
    assert codes(PostResponseMiddleware(api)) == ["base_http_middleware_inside"]


def test_the_middlewares_of_litestar_stand_inside_its_router() -> None:
    inside: Any = CORSMiddleware
    app = Litestar(
        middleware=[DefineMiddleware(PostResponseMiddleware), inside],
        cors_config=CORSConfig(),
        compression_config=CompressionConfig(backend="gzip"),
        logging_config=None,  # or it configures the loggers of this process
    )
    assert names(app) == [
        "Litestar",
        "CORSMiddleware",
        "ExceptionHandlerMiddleware",
        "ASGIRouter",
        "PostResponseMiddleware",
        "CORSMiddleware",
        "CompressionMiddleware",
    ]
    assert codes(app) == ["cors_inside"]


@pytest.mark.parametrize("outermost", [True, False])
def test_flask_is_followed_from_itself_and_from_what_was_put_around_it(outermost: bool) -> None:
    app: Any = Flask("shop")
    if outermost:
        assert names(ProxyFix(WSGIMiddleware(app))) == ["ProxyFix", "PostResponseMiddleware", "Flask"]
    app.wsgi_app = ProxyFix(WSGIMiddleware(app.wsgi_app))
    assert names(app) == ["Flask", "ProxyFix", "PostResponseMiddleware"]
    assert names(app.wsgi_app) == ["ProxyFix", "PostResponseMiddleware", "Flask"]
    assert codes(app) == []


def test_the_middlewares_of_django_are_those_of_its_settings(project: None, settings: Any) -> None:
    settings.MIDDLEWARE = ["django.middleware.gzip.GZipMiddleware", "django.middleware.common.CommonMiddleware"]
    assert names(get_wsgi_application()) == ["WSGIHandler", "GZipMiddleware", "CommonMiddleware"]
    assert codes(WSGIMiddleware(get_wsgi_application())) == []


@pytest.fixture
def settings(project: None, monkeypatch: pytest.MonkeyPatch) -> Any:
    from django.conf import settings

    monkeypatch.setattr(settings, "MIDDLEWARE", [])
    return settings


def test_quart_is_followed_as_flask_is() -> None:
    quart: Any = pytest.importorskip("quart", reason="comes with the extra of Quart")
    app = quart.Quart("shop")
    app.asgi_app = GZipMiddleware(PostResponseMiddleware(app.asgi_app))
    assert names(app) == ["Quart", "GZipMiddleware", "PostResponseMiddleware"]
    assert names(app.asgi_app) == ["GZipMiddleware", "PostResponseMiddleware", "Quart"]
    assert codes(app) == ["below_compression"]


def test_plain_wrappers_are_followed_by_the_names_that_they_use() -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None: ...

    @functools.wraps(application)
    async def wrapped(scope: Any, receive: Any, send: Any) -> None: ...

    class Wrapper:
        def __init__(self, inner: Any) -> None:
            self._app = inner

        @property
        def app(self) -> Any:
            raise RuntimeError("not yet")

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None: ...

    local = "test_plain_wrappers_are_followed_by_the_names_that_they_use.<locals>."
    assert names(Wrapper(functools.partial(PostResponseMiddleware(wrapped).__call__))) == [
        f"{local}Wrapper",
        "PostResponseMiddleware",
        f"{local}application",
        f"{local}application",
    ]


def test_a_circle_ends_where_it_closes() -> None:
    app: Any = PostResponseMiddleware(lambda scope, receive, send: None)  # type: ignore[arg-type, return-value]
    app.app = app
    assert names(app) == ["PostResponseMiddleware"]


# -- findings ---------------------------------------------------------------------------------------------------------


def test_a_plain_installation_is_nothing_to_speak_of() -> None:
    assert codes(PostResponseMiddleware(Starlette())) == []
    inside = Starlette(middleware=[Middleware(PostResponseMiddleware)])
    assert [(each.code, each.severity) for each in findings_of(inside)] == [("inside_error_middleware", "info")]


def test_where_it_is_not_installed_that_is_all_there_is_to_say() -> None:
    finding = found(GZipMiddleware(Starlette()), "not_installed")
    assert finding.severity == "error"
    assert finding.where.startswith("0: starlette.middleware.gzip.GZipMiddleware, 1: starlette.applications.Starlette")
    limited = TenantLimitMiddleware(Starlette(), key=lambda scope: "one")
    assert codes(limited) == ["not_installed"]


def test_each_unsafe_place_is_found_and_said_with_its_layers() -> None:
    stack = starlette()
    assert codes(stack) == ["inside_base_http_middleware", "inside_error_middleware", "cors_inside"]
    finding = found(stack, "inside_base_http_middleware")
    assert finding.severity == "warning"
    assert finding.where == (
        "2: starlette.middleware.base.BaseHTTPMiddleware of timing, "
        "3: postresponse.asgi.middleware.PostResponseMiddleware"
    )
    assert str(finding) == f"{finding.found} ({finding.where}); {finding.way_out}"
    subclassed = Starlette(middleware=[Middleware(Timing), Middleware(PostResponseMiddleware)])
    assert "tests.integrations.test_stack.Timing is outside" in found(subclassed, "inside_base_http_middleware").found
    assert codes(GZipMiddleware(PostResponseMiddleware(Starlette()))) == ["below_compression"]
    assert codes(PostResponseMiddleware(GZipMiddleware(Starlette()))) == []
    assert codes(PostResponseMiddleware(starlette())) == [
        "installed_twice",
        "base_http_middleware_inside",
        "cors_inside",
    ]


def test_a_tracer_outside_is_no_danger() -> None:
    tracer = type("Traced", (), {"__module__": "opentelemetry.instrumentation.asgi", "__call__": lambda *_: None})()
    tracer.app = PostResponseMiddleware(Starlette())
    assert [(each.code, each.severity) for each in findings_of(tracer)] == [("inside_tracer", "info")]


# -- what is said is so -----------------------------------------------------------------------------------------------


async def breaks_off(request: Request) -> StreamingResponse:
    async def body() -> AsyncIterator[bytes]:
        yield b"part"
        raise ZeroDivisionError

    return StreamingResponse(body())


async def answers(request: Request) -> PlainTextResponse:
    return PlainTextResponse("x" * 10_000)


site = Starlette(routes=[Route("/breaks", breaks_off), Route("/", answers)])


def get(app: Callable[..., Any], path: str = "/", *, raises: bool = False) -> StrictASGIServer:
    server = StrictASGIServer(headers=[(b"accept-encoding", b"gzip")])
    server.scope |= {"path": path, "raw_path": path.encode()}
    if raises:
        with pytest.raises(ZeroDivisionError):
            anyio.run(server.run, app)
    else:
        anyio.run(server.run, app)
    return server


@pytest.mark.parametrize(("commit", "log"), [("buffered", "commit"), ("after_send", "commit"), ("head", "commit")])
def test_a_base_http_middleware_inside_lets_a_body_that_broke_off_be_committed(commit: Any, log: str) -> None:
    units, plain = FakeUnits(), FakeUnits()
    units.is_async = plain.is_async = True
    get(PostResponseMiddleware(Timing(site), unit_of_work=units, commit=commit), "/breaks", raises=True)
    assert units.log == ["begin", log, "close"]
    get(PostResponseMiddleware(site, unit_of_work=plain, commit=commit), "/breaks", raises=True)
    assert plain.log == ["begin", "commit" if commit == "head" else "rollback", "close"]


def test_a_base_http_middleware_outside_ends_a_body_that_broke_off_as_if_it_were_whole() -> None:
    broken = get(PostResponseMiddleware(site), "/breaks", raises=True)
    assert broken.complete is False
    whole = get(Timing(PostResponseMiddleware(site)), "/breaks", raises=True)
    assert whole.complete is True


def test_below_gzip_the_sizes_are_those_of_what_goes_into_it() -> None:
    outcomes: list[Outcome] = []
    server = get(GZipMiddleware(PostResponseMiddleware(site, on_finished=outcomes.append)))
    assert outcomes[0].bytes_sent == 10_000
    assert len(server.body) < 1_000


# -- told at the start ------------------------------------------------------------------------------------------------


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """What was said of the stack so far; of other tests nothing was."""
    monkeypatch.setattr("postresponse.core.log._told", set())
    caplog.set_level("WARNING", "postresponse")
    return lambda: [record.getMessage().partition(": ")[2] for record in caplog.records]


def test_an_unsafe_place_is_told_once_when_the_server_starts(said: Callable[[], list[str]]) -> None:
    app = starlette()
    for _ in range(2):
        with TestClient(app) as client:
            client.get("/")
    assert said() == [str(found(app, "inside_base_http_middleware"))]


@pytest.mark.parametrize("commit", ["head", "buffered", "after_send", lambda scope: "head", None])
def test_what_harms_a_late_commit_is_told_where_there_may_be_one(said: Callable[[], list[str]], commit: Any) -> None:
    app = PostResponseMiddleware(Timing(site), unit_of_work=commit and FakeUnits(is_async=True), commit=commit)
    TestClient(app).get("/")
    told = commit not in ("head", None)
    assert said() == [str(found(app, "base_http_middleware_inside"))] * told


def test_where_no_lifespan_is_told_it_comes_with_the_first_request(said: Callable[[], list[str]]) -> None:
    app = Starlette(middleware=[Middleware(GZipMiddleware), Middleware(PostResponseMiddleware)])
    assert [TestClient(app).get("/").status_code for _ in range(2)] == [404, 404]
    assert said() == [str(found(app, "below_compression"))]


def test_around_what_is_mounted_the_stack_of_the_whole_is_told(said: Callable[[], list[str]]) -> None:
    inner = PostResponseMiddleware(Starlette())
    app = Starlette(routes=[Mount("/shop", inner)], middleware=[Middleware(GZipMiddleware)])
    TestClient(app).get("/shop/orders")
    (told,) = said()
    assert "2: starlette.middleware.gzip.GZipMiddleware, 5: postresponse.asgi" in told


def test_two_of_them_say_so_once_and_a_mounted_one_in_another_nothing(said: Callable[[], list[str]]) -> None:
    own = Middleware(PostResponseMiddleware, supervisor=TaskSupervisor())
    twice = Starlette(middleware=[own, own])
    with TestClient(twice) as client:
        client.get("/")
    assert said() == [str(found(twice, "installed_twice"))]
    around = PostResponseMiddleware(Starlette(routes=[Mount("/shop", PostResponseMiddleware(Starlette()))]))
    TestClient(around).get("/shop/orders")
    assert len(said()) == 1


def test_a_stack_that_cannot_be_looked_into_breaks_nothing(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Odd:
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            await PlainTextResponse("fine")(scope, receive, send)

    Odd.__module__, Odd.__qualname__ = "starlette.applications", "Starlette"
    caplog.set_level("DEBUG", "postresponse")
    assert TestClient(PostResponseMiddleware(Odd())).get("/").text == "fine"
    (record,) = (record for record in caplog.records if "looked into" in record.getMessage())
    assert record.exc_info is not None


async def fails(request: Request) -> PlainTextResponse:
    raise ZeroDivisionError


@pytest.mark.parametrize("outermost", [True, False], ids=["outermost", "added"])
def test_an_error_that_nobody_handles_is_seen_by_both_and_the_500_by_the_outermost_alone(outermost: bool) -> None:
    outcomes: list[Outcome] = []
    app = Starlette(routes=[Route("/", fails)])
    if not outermost:
        app.add_middleware(PostResponseMiddleware, on_finished=outcomes.append)
    server = get(PostResponseMiddleware(app, on_finished=outcomes.append) if outermost else app, raises=True)
    assert (server.status, server.complete) == (500, True)
    (outcome,) = outcomes
    assert isinstance(outcome.exception, ZeroDivisionError)
    seen = (outcome.ending, outcome.status, outcome.bytes_sent)
    assert seen == (("handed_over", 500, len(server.body)) if outermost else ("failed", None, 0))
