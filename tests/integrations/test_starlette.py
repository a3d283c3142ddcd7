"""What the unit of work did to a response is rendered by the exception handlers of Starlette and FastAPI."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI
from fastapi.exceptions import RequestValidationError
from sqlalchemy import text
from sqlalchemy.exc import DatabaseError, IntegrityError, OperationalError, SQLAlchemyError
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Mount, Route

from postresponse import CommitPolicy, Retry, commit_policy, current_exchange
from postresponse.asgi import PostResponseMiddleware
from postresponse.exceptions import (
    BodyTooLarge,
    CommitInDoubt,
    ConfigurationError,
    PartialCommit,
    PostResponseError,
    UnitOfWorkError,
)
from postresponse.integrations.starlette import rendered_by
from postresponse.wsgi import PostResponseMiddleware as WSGIMiddleware
from tests.fakes import Conflict, FakeUnits, StrictASGIServer, run_asgi
from tests.integrations.shop import REFUSED, Order, Shop
from tests.servers.client import Client
from tests.servers.harness import KINDS, Server

EARLY = pytest.mark.parametrize("commit", ["head", "buffered"])
KIND = pytest.mark.parametrize("kind", [Starlette, FastAPI])
HEADERS = {"Location": "/orders/1", "Set-Cookie": "a=b", "ETag": "x"}


def ordering(shop: Shop, kind: Any = Starlette, why: str = "at the commit", **options: Any) -> Any:
    """An application in which the order at /orders is refused by COMMIT."""

    def order(request: Request) -> Response:
        shop.db.session.add_all(REFUSED[why]())
        return PlainTextResponse("stored", 201, HEADERS)

    app = kind(**options)
    app.router.add_route("/orders", order, methods=["GET", "POST"])
    return app


def wrapped(app: Any, shop: Shop, **options: Any) -> PostResponseMiddleware:
    options = {"unit_of_work": shop.db, "error_response": rendered_by(app), **shop.told, **options}
    return PostResponseMiddleware(app, **options)


def ask(app: Any, method: str = "GET", path: str = "/orders", **request: Any) -> StrictASGIServer:
    """Answer one request."""

    async def asked(scope: Any, receive: Any, send: Any) -> None:
        await app({**scope, "path": path, "raw_path": path.encode()}, receive, send)

    return run_asgi(asked, method=method, **request)


def saying(answer: str, status: int = 409) -> Callable[[Any, Any], Response]:
    """Make a handler."""
    return lambda request, error: PlainTextResponse(answer, status)


def header(server: StrictASGIServer, name: bytes) -> bytes | None:
    return dict(server.headers).get(name)


def is_default(server: StrictASGIServer) -> bool:
    """Whether the package itself answered."""
    return header(server, b"content-type") == b"application/problem+json" and b"Traceback" not in server.body


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the package logged at ERROR."""
    return [record.getMessage() for record in caplog.records if (record.name, record.levelname) == OURS]


OURS = ("postresponse", "ERROR")


# -- by class ---------------------------------------------------------------------------------------------------------


@EARLY
@KIND
@pytest.mark.parametrize("handler", ["sync", "async"])
@pytest.mark.parametrize("why", REFUSED)
def test_a_handler_of_the_exceptions_class_answers(shop: Shop, why: str, handler: str, kind: Any, commit: str) -> None:
    app = ordering(shop, kind, why)
    seen: list[Exception] = []

    def conflict(request: Request, error: Exception) -> Response:
        seen.append(error)
        assert request.app is app
        response = JSONResponse({"title": "taken", "url": request.url.path}, 409)
        response.set_cookie("tried", "yes", path="")
        return response

    async def async_conflict(request: Request, error: Exception) -> Response:
        return conflict(request, error)

    app.add_exception_handler(IntegrityError, conflict if handler == "sync" else async_conflict)
    server = ask(wrapped(app, shop, commit=commit))
    assert (server.status, server.body) == (409, b'{"title":"taken","url":"/orders"}')
    assert [value for name, value in server.headers if name == b"set-cookie"] == [b"tried=yes; SameSite=lax"]
    assert header(server, b"location") is None
    assert header(server, b"etag") is None
    assert [failure.exception for failure in shop.failures] == seen
    assert (shop.items, shop.unit, shop.outcomes[0].status) == ([], "failed", 409)


@EARLY
def test_and_with_an_async_session(shop: Shop, commit: str) -> None:
    app = FastAPI()

    @app.post("/orders", status_code=201)
    async def order() -> str:
        shop.adb.session.add_all(REFUSED["at the commit"]())
        return "stored"

    app.add_exception_handler(IntegrityError, saying("taken"))
    server = ask(wrapped(app, shop, unit_of_work=shop.adb, commit=commit), "POST")
    assert (server.status, server.body, shop.items) == (409, b"taken", [])


def test_on_trio_as_well() -> None:
    app = Starlette(routes=[Route("/orders", lambda request: PlainTextResponse("stored"))])
    app.add_exception_handler(LookupError, saying("taken"))
    units = FakeUnits({"commit": LookupError()}, is_async=True)
    server = ask(PostResponseMiddleware(app, unit_of_work=units, error_response=rendered_by(app)), backend="trio")
    assert server.body == b"taken"


def test_the_nearest_class_of_the_mro_wins(shop: Shop) -> None:
    handlers = {SQLAlchemyError: saying("any"), DatabaseError: saying("database"), OperationalError: saying("another")}
    assert ask(wrapped(ordering(shop, exception_handlers=handlers), shop)).body == b"database"


@KIND
def test_a_handler_that_was_added_late_is_found_too(shop: Shop, kind: Any) -> None:
    app = ordering(shop, kind)
    site = wrapped(app, shop)
    assert is_default(ask(site))
    app.add_exception_handler(IntegrityError, saying("taken"))
    assert ask(site).body == b"taken"


def test_an_included_router_is_part_of_the_application(shop: Shop) -> None:
    router = APIRouter(prefix="/v1")

    @router.post("/orders/{number}")
    def order(number: int) -> None:
        shop.db.session.add_all(REFUSED["at the commit"]())

    app = FastAPI()
    app.include_router(router)

    @app.exception_handler(IntegrityError)
    async def taken(request: Request, error: IntegrityError) -> Response:
        return PlainTextResponse(f"{request.url_for('order', number=1).path} of {request.path_params}", 409)

    assert ask(wrapped(app, shop), "POST", "/v1/orders/7").body == b"/v1/orders/1 of {'number': '7'}"


@KIND
@pytest.mark.parametrize("status", [409, 410])
def test_what_a_hook_raises_as_an_http_error_is_one(shop: Shop, kind: Any, status: int) -> None:
    app = kind(exception_handlers={410: saying("sold out", 410)})

    def refuse() -> None:
        raise HTTPException(status, "not for sale")

    def order(request: Request) -> Response:
        shop.db.session.add(Order(item="tea"))
        current_exchange().before_commit(refuse)
        return PlainTextResponse("stored")

    app.router.add_route("/orders", order)
    server = ask(wrapped(app, shop))
    assert (server.status, shop.items) == (status, [])
    assert (b"sold out" if status == 410 else b"not for sale") in server.body


# -- mounted ----------------------------------------------------------------------------------------------------------


@KIND
def test_a_mounted_application_comes_before_the_one_that_it_is_mounted_on(shop: Shop, kind: Any) -> None:
    inner = ordering(shop, kind, exception_handlers={IntegrityError: saying("inner")})
    app = Starlette(routes=[Mount("/inner", inner)], exception_handlers={IntegrityError: saying("outer")})
    assert ask(wrapped(app, shop), path="/inner/orders").body == b"inner"


def test_its_page_of_500_does_too(shop: Shop) -> None:
    inner = ordering(shop, exception_handlers={500: saying("inner", 500)})
    app = Starlette(routes=[Mount("/inner", inner)], exception_handlers={IntegrityError: saying("outer")})
    assert ask(wrapped(app, shop), path="/inner/orders").body == b"inner"


def test_where_it_has_none_the_outer_one_answers(shop: Shop) -> None:
    def outer(request: Request, error: Exception) -> Response:
        assert request.app is app
        return PlainTextResponse(request.url.path, 409)

    app = Starlette(routes=[Mount("/inner", ordering(shop))], exception_handlers={IntegrityError: outer})
    assert ask(wrapped(app, shop), path="/inner/orders").body == b"/inner/orders"


def test_an_application_of_another_framework_may_be_mounted(shop: Shop) -> None:
    async def other(scope: Any, receive: Any, send: Any) -> None:
        scope["app"] = "of another framework"
        shop.db.session.add_all(REFUSED["at the commit"]())
        await PlainTextResponse("stored")(scope, receive, send)

    app = Starlette(routes=[Mount("/other", other)], exception_handlers={IntegrityError: saying("taken")})
    assert ask(wrapped(app, shop), path="/other/orders").body == b"taken"


def test_the_middleware_around_a_mounted_application_renders_by_that_one(shop: Shop) -> None:
    inner = ordering(shop, FastAPI, exception_handlers={IntegrityError: saying("inner")})
    app = Starlette(
        routes=[Mount("/inner", wrapped(inner, shop))], exception_handlers={IntegrityError: saying("outer")}
    )
    assert ask(app, path="/inner/orders").body == b"inner"
    assert ask(PostResponseMiddleware(app), path="/inner/orders").body == b"inner"


def test_and_not_by_the_one_around_it_if_it_could_not_begin(shop: Shop) -> None:
    inner = Starlette()
    site = wrapped(inner, shop, unit_of_work=FakeUnits({"begin": LookupError()}))
    app = Starlette(routes=[Mount("/inner", site)], exception_handlers={LookupError: saying("outer")})
    assert is_default(ask(app, path="/inner/orders"))


def test_the_middleware_may_be_added_to_the_application(shop: Shop) -> None:
    app = ordering(shop, FastAPI, exception_handlers={IntegrityError: saying("taken")})
    app.add_middleware(PostResponseMiddleware, unit_of_work=shop.db, error_response=rendered_by(app), **shop.told)
    assert ask(app).body == b"taken"


def test_a_middleware_around_it_sees_the_error_response(shop: Shop) -> None:
    """Where CORS headers have to be: a browser shows a script nothing of a response without them."""
    app = ordering(shop, exception_handlers={IntegrityError: saying("taken")})
    app.add_middleware(PostResponseMiddleware, unit_of_work=shop.db, error_response=rendered_by(app), **shop.told)
    app.add_middleware(CORSMiddleware, allow_origins=["*"])
    server = ask(app, headers=[(b"origin", b"http://elsewhere")])
    assert (server.body, header(server, b"access-control-allow-origin")) == (b"taken", b"*")


# -- 500 --------------------------------------------------------------------------------------------------------------


@KIND
@pytest.mark.parametrize("handler", ["sync", "async"])
@pytest.mark.parametrize("key", [500, Exception])
def test_the_page_of_500_answers_for_all_others(
    shop: Shop, key: Any, handler: str, kind: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def page(request: Request, error: Exception) -> Response:
        return PlainTextResponse(f"sorry: {type(error).__name__}", 500)

    async def async_page(request: Request, error: Exception) -> Response:
        return page(request, error)

    handlers = {OperationalError: saying("another"), key: page if handler == "sync" else async_page}
    server = ask(wrapped(ordering(shop, kind, exception_handlers=handlers), shop))
    assert (server.status, server.body) == (500, b"sorry: IntegrityError")
    assert errors(caplog) == ["GET /orders: the unit of work could not commit"]


@pytest.mark.parametrize("has_page", [True, False])
def test_debug_mode_shows_no_traceback(shop: Shop, has_page: bool) -> None:
    handlers = {500: saying("sorry", 500)} if has_page else {}
    app = ordering(shop, debug=True, exception_handlers=handlers)
    server = ask(wrapped(app, shop), headers=[(b"accept", b"text/html")])
    assert server.status == 500
    assert b"Traceback" not in server.body
    assert b"IntegrityError" not in server.body
    assert (server.body == b"sorry") is has_page


# -- nobody's ---------------------------------------------------------------------------------------------------------


@KIND
def test_without_a_handler_the_default_answers(shop: Shop, kind: Any, caplog: pytest.LogCaptureFixture) -> None:
    handlers = {404: saying("not found"), HTTPException: saying("http"), RequestValidationError: saying("invalid")}
    server = ask(wrapped(ordering(shop, kind, exception_handlers=handlers), shop))
    assert (server.status, is_default(server)) == (500, True)
    assert errors(caplog) == ["GET /orders: the unit of work could not commit"]


def stored(request: Request) -> Response:
    return PlainTextResponse("stored")


def failing(error: BaseException, call: str = "commit", view: Any = stored, **handlers: Any) -> PostResponseMiddleware:
    """An application with a unit of work that fails with *error*."""
    app = Starlette(routes=[Route("/orders", view)], **handlers)
    return PostResponseMiddleware(app, unit_of_work=FakeUnits({call: error}), error_response=rendered_by(app))


def test_and_says_so_where_trying_again_may_help() -> None:
    server = ask(failing(Conflict()))
    assert (server.status, header(server, b"retry-after"), is_default(server)) == (503, b"1", True)


class Lost(CommitInDoubt, ConnectionError):
    """What a unit of work of one's own may raise."""


UNDECIDED = pytest.mark.parametrize(
    "error", [CommitInDoubt("lost"), Lost("lost"), PartialCommit(("a",), "b")], ids=["doubt", "lost", "part"]
)
GENERAL: dict[Any, Any] = dict.fromkeys((500, Exception, ConnectionError), saying("nothing was stored", 500))


@pytest.mark.parametrize("error", [CommitInDoubt("lost"), Lost("lost")], ids=["doubt", "lost"])
def test_no_general_page_answers_where_nobody_knows_what_was_committed(error: Exception) -> None:
    server = ask(failing(error, exception_handlers=GENERAL))
    assert (server.status, is_default(server)) == (503, True)
    assert b"is unknown: it may or may not have been carried out" in server.body


def test_no_general_page_answers_where_a_part_was_committed() -> None:
    server = ask(failing(PartialCommit(("a",), "b"), exception_handlers=GENERAL))
    assert (server.status, is_default(server)) == (500, True)
    assert b"was carried out in part only" in server.body


@UNDECIDED
@pytest.mark.parametrize("near", [True, False])
def test_a_handler_of_this_packages_own_classes_does(error: Exception, near: bool) -> None:
    handlers = {**GENERAL, type(error) if near else PostResponseError: saying("look it up", 202)}
    assert ask(failing(error, exception_handlers=handlers)).body == b"look it up"


@UNDECIDED
def test_one_of_them_that_fails_is_no_reason_for_a_general_page(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    handlers = {**GENERAL, UnitOfWorkError: lambda request, error: 1 / 0}
    assert is_default(ask(failing(error, exception_handlers=handlers)))
    assert "GET /orders: error_response failed; the default answers" in errors(caplog)


# -- a handler that fails ---------------------------------------------------------------------------------------------


async def breaks_off(request: Request, error: Exception) -> Response:
    async def lines() -> AsyncIterator[bytes]:
        yield b"half of "
        raise ZeroDivisionError

    return StreamingResponse(lines(), 409)


def raises_http_error(request: Request, error: Exception) -> Response:
    raise HTTPException(409)


BROKEN: dict[str, Callable[[Any, Any], Any]] = {
    "raises": lambda request, error: 1 / 0,
    "raises an http error": raises_http_error,
    "returns None": lambda request, error: None,
    "returns no response": lambda request, error: "no",
    "breaks off": breaks_off,
}


@EARLY
@KIND
@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_handler_falls_back_to_the_default(
    shop: Shop, how: str, kind: Any, commit: str, caplog: pytest.LogCaptureFixture
) -> None:
    app = ordering(shop, kind, exception_handlers={IntegrityError: BROKEN[how]})
    assert is_default(ask(wrapped(app, shop, commit=commit)))
    assert errors(caplog)[1:] == ["GET /orders: error_response failed; the default answers"]
    assert (shop.items, shop.unit) == ([], "failed")


@pytest.mark.parametrize("how", ["raises", "returns no response", "raises an http error"])
@pytest.mark.parametrize("key", [500, Exception])
def test_or_to_the_page_of_500_if_there_is_one(
    shop: Shop, how: str, key: Any, caplog: pytest.LogCaptureFixture
) -> None:
    app = ordering(shop, exception_handlers={IntegrityError: BROKEN[how], key: saying("sorry", 500)})
    assert ask(wrapped(app, shop)).body == b"sorry"
    assert errors(caplog)[1:] == ["GET /orders: an exception handler failed"]


@pytest.mark.parametrize("how", BROKEN)
def test_and_to_the_default_again_where_that_one_is_broken_too(shop: Shop, how: str) -> None:
    app = ordering(shop, exception_handlers=dict.fromkeys((IntegrityError, 500), BROKEN[how]))
    assert is_default(ask(wrapped(app, shop)))


def test_a_handler_that_raises_the_exception_again_leaves_it_to_the_others(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    def not_mine(request: Request, error: Exception) -> Response:
        raise error

    app = ordering(shop, exception_handlers={IntegrityError: not_mine})
    assert is_default(ask(wrapped(app, shop)))
    assert errors(caplog) == ["GET /orders: the unit of work could not commit"]
    app.add_exception_handler(500, saying("sorry", 500))
    assert ask(wrapped(app, shop)).body == b"sorry"


@pytest.mark.parametrize("has_page", [True, False])
def test_work_behind_the_handlers_response_does_not_take_it_away(
    shop: Shop, has_page: bool, caplog: pytest.LogCaptureFixture
) -> None:
    def taken(request: Request, error: Exception) -> Response:
        return PlainTextResponse("taken", 409, background=BackgroundTask(lambda: 1 / 0))

    handlers: dict[Any, Any] = {IntegrityError: taken}
    if has_page:
        handlers[500] = saying("sorry", 500)
    assert ask(wrapped(ordering(shop, exception_handlers=handlers), shop)).body == b"taken"
    assert errors(caplog)[1:] == ["GET /orders: an exception handler failed"]


def test_a_handler_may_read_the_database_in_a_transaction_of_its_own(shop: Shop) -> None:
    def conflict(request: Request, error: Exception) -> Response:
        shop.db.session.add(Order(item="refused"))
        shop.db.session.flush()
        count = shop.db.session.scalar(text("SELECT count(*) FROM orders"))
        return PlainTextResponse(f"{count} orders", 409)

    assert ask(wrapped(ordering(shop, exception_handlers={IntegrityError: conflict}), shop)).body == b"1 orders"
    assert (shop.items, shop.all_given_back()) == ([], True)


def test_a_handler_that_fails_at_the_database_falls_back(shop: Shop) -> None:
    def conflict(request: Request, error: Exception) -> Response:
        return PlainTextResponse(str(shop.db.session.scalar(text("SELECT count(*) FROM nowhere"))), 409)

    assert is_default(ask(wrapped(ordering(shop, exception_handlers={IntegrityError: conflict}), shop)))
    assert shop.all_given_back()


# -- requests and responses of all kinds ------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["begin", "before_commit", "on_start", "commit_if", "overflow", "no end"])
def test_whatever_failed_goes_the_same_way(stage: str) -> None:
    def fail(*_: object) -> None:
        raise LookupError

    @commit_policy("buffered", max_body=3)
    async def order(request: Request) -> Any:
        exchange = current_exchange()
        if stage in ("before_commit", "on_start"):
            getattr(exchange, stage)(fail)
        if stage == "commit_if":
            exchange.policy = CommitPolicy(commit_if=fail)
        if stage == "no end":
            return without_end
        return StreamingResponse(iter(["too ", "large"] if stage == "overflow" else ["ok"]))

    async def without_end(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"a", "more_body": True})

    own = dict.fromkeys((LookupError, BodyTooLarge, PostResponseError), saying(f"{stage} failed", 424))
    error = {"begin": LookupError()}.get(stage, AssertionError("not reached"))
    site = failing(error, "begin" if stage == "begin" else "commit", order, exception_handlers=own)
    server = ask(site)
    assert (server.status, server.body.decode()) == (424, f"{stage} failed")


def test_of_a_request_that_is_run_again_the_last_attempt_is_rendered() -> None:
    def order(request: Request) -> Response:
        request.state.attempts = [*getattr(request.state, "attempts", ()), current_exchange().attempt]
        return PlainTextResponse("stored")

    def failed(request: Request, error: Exception) -> Response:
        return JSONResponse(request.state.attempts, 503)

    app = Starlette(routes=[Route("/orders", order)], exception_handlers={Conflict: failed})
    site = PostResponseMiddleware(
        app,
        unit_of_work=FakeUnits({"commit": Conflict()}),
        commit=CommitPolicy(retry=Retry(attempts=3, backoff=0)),
        error_response=rendered_by(app),
    )
    assert ask(site).body == b"[3]"


def test_an_exception_that_ends_a_process_is_not_the_handlers() -> None:
    def leave() -> None:
        raise SystemExit(3)

    def order(request: Request) -> Response:
        current_exchange().before_commit(leave)
        return PlainTextResponse("stored")

    assert is_default(ask(failing(AssertionError(), view=order, exception_handlers=GENERAL)))


def test_a_head_request_gets_the_head_only(shop: Shop) -> None:
    server = ask(wrapped(ordering(shop, exception_handlers={IntegrityError: saying("taken")}), shop), "HEAD")
    assert (server.status, server.body) == (409, b"")


@KIND
def test_the_body_is_not_asked_of_the_server_again(shop: Shop, kind: Any) -> None:
    read: list[Any] = []

    async def order(request: Request) -> Response:
        read.append(await request.body())
        shop.db.session.add_all(REFUSED["at the commit"]())
        return PlainTextResponse("stored")

    async def conflict(request: Request, error: Exception) -> Response:
        read.extend((await request.body(), await request.is_disconnected()))
        return PlainTextResponse("taken", 409)

    app = kind(exception_handlers={IntegrityError: conflict})
    app.router.add_route("/orders", order, methods=["POST"])
    server = ask(wrapped(app, shop), "POST", body=[b"item=", b"tea"])
    assert (server.body, read) == (b"taken", [b"item=tea", b"", False])


@pytest.mark.parametrize("version", ["2.3", "2.5"])
def test_a_response_of_any_kind_is_sent_whole(shop: Shop, version: str, tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(b"0123456789" * 10_000)

    async def lines() -> AsyncIterator[bytes]:
        yield b"no "
        yield b"such thing"

    responses = iter([FileResponse(path, 409), StreamingResponse(lines(), 409)])
    app = ordering(shop, exception_handlers={IntegrityError: lambda request, error: next(responses)})
    site = wrapped(app, shop)

    async def asked(scope: Any, receive: Any, send: Any) -> None:
        await site({**scope, "asgi": {"version": "3.0", "spec_version": version}}, receive, send)

    file = run_asgi(asked, extensions=["http.response.pathsend"])
    assert (file.status, file.body) == (409, path.read_bytes())
    stream = run_asgi(asked)
    assert (stream.status, stream.body, header(stream, b"content-length")) == (409, b"no such thing", b"13")


def test_what_middlewares_put_into_the_scope_is_there(shop: Shop) -> None:
    class Users(BaseHTTPMiddleware):
        async def dispatch(self, request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
            request.state.user = "ada"
            return await call_next(request)

    app = ordering(shop, middleware=[Middleware(Users)])
    app.add_exception_handler(IntegrityError, lambda request, error: PlainTextResponse(request.state.user, 409))
    assert ask(wrapped(app, shop)).body == b"ada"


def test_the_exception_keeps_the_traceback_that_it_came_with(shop: Shop) -> None:
    frames: list[str] = []
    ask(wrapped(ordering(shop, exception_handlers={IntegrityError: saying("taken")}), shop))
    traceback = shop.failures[0].exception.__traceback__
    while traceback is not None:
        frames.append(traceback.tb_frame.f_code.co_filename)
        traceback = traceback.tb_next
    assert any("sqlalchemy" in name for name in frames)
    assert not any("integrations" in name for name in frames)


# -- bad input --------------------------------------------------------------------------------------------------------


def test_what_is_no_starlette_application_is_refused() -> None:
    app = Starlette()
    for wrong in (app.router, PostResponseMiddleware(app), None, "shop"):
        with pytest.raises(ConfigurationError, match="expected the Starlette or FastAPI application itself"):
            rendered_by(wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match=r"error_response: .* is async, and there is no event loop under WSGI"):
        WSGIMiddleware(lambda environ, start_response: [], error_response=rendered_by(app))


# -- on a real server -------------------------------------------------------------------------------------------------


def test_a_real_server_tells_the_client_and_keeps_the_connection(tmp_path: Path) -> None:
    """One of those that `test_asgi_on_servers.py` has for others."""
    running = Server(KINDS["uvicorn-h11"], "tests.integrations.sites.starlette_site:app", tmp_path, {})
    running.start()
    try:
        with Client(running.port, timeout=10) as client:
            for framework in ("/starlette", "/fastapi"):
                taken = client.request("POST", f"{framework}/orders", body=b"item=tea")
                assert (taken.status, taken.body) == (409, b"taken"), running.log()
                page = client.request("POST", f"{framework}/reports", body=b"item=tea")
                assert (page.status, page.body) == (500, b"<h1>Sorry</h1>"), running.log()
                broken = client.request("POST", f"{framework}/broken", body=b"item=tea")
                assert (broken.status, broken.head.get("content-type")) == (500, "application/problem+json")
                assert client.request("HEAD", f"{framework}/orders").status == 409
                assert client.request("GET", "/").body == b"0", running.log()
            assert client.connections == 1
    finally:
        running.stop()
