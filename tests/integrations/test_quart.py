"""Quart: the extension, and error handlers that answer for a commit that was refused."""

import asyncio
import gc
import logging
import weakref
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest
from quart import Blueprint, Quart, request
from sqlalchemy.exc import IntegrityError

from postresponse.exceptions import CommitInDoubt, ConfigurationError
from postresponse.integrations.quart import PostResponse, rendered_by
from tests.integrations.shop import REFUSED, Shop

EARLY = pytest.mark.parametrize("commit", ["head", "buffered"])


def ordering(shop: Shop, inner_handler: Any = None, **settings: Any) -> Quart:
    """An application, and a blueprint with a handler, whose orders COMMIT refuses."""
    app, inner = Quart("shop"), Blueprint("inner", "inner", url_prefix="/inner")
    app.config.update(settings)

    async def place(number: int) -> Any:
        shop.adb.session.add_all(REFUSED["at the commit"]())
        return "stored", 201, {"Location": f"/orders/{number}"}

    for each in (app, inner):
        each.add_url_rule("/orders/<int:number>", view_func=place, methods=["POST"])
    if inner_handler is not None:
        inner.register_error_handler(IntegrityError, inner_handler)
    app.register_blueprint(inner)
    return app


def asked(app: Quart, path: str = "/orders/7") -> Any:
    async def ask() -> Any:
        answer = await app.test_client().post(path, data="item=tea")
        return answer, await answer.get_data(as_text=True)

    return asyncio.run(ask())


def answering(answer: str) -> Callable[[Exception], Awaitable[Any]]:
    async def handler(error: Exception) -> Any:
        return answer, 409

    return handler


@EARLY
def test_a_handler_of_the_exceptions_class_answers_in_place_of_the_view(shop: Shop, commit: str) -> None:
    app, seen = ordering(shop, POSTRESPONSE_COMMIT=commit), list[Any]()
    PostResponse(app, unit_of_work=shop.adb, **shop.told)

    @app.errorhandler(IntegrityError)
    async def refused(error: IntegrityError) -> Any:
        seen.append((error, request.path, request.view_args, await request.get_data()))
        return "refused", 409

    @app.before_request
    async def before() -> None:
        seen.append("before")

    @app.after_request
    async def marked(response: Any) -> Any:
        response.headers["X-Marked"] = "yes"
        return response

    answer, body = asked(app)
    assert (answer.status_code, body, answer.headers["X-Marked"]) == (409, "refused", "yes")
    assert "Location" not in answer.headers
    assert seen == ["before", (shop.failures[0].exception, "/orders/7", {"number": 7}, b"")]
    assert (shop.items, shop.unit) == ([], "failed")


def test_the_blueprint_of_the_request_comes_first_and_a_page_of_500_last(shop: Shop) -> None:
    app = ordering(shop, answering("inner"))
    PostResponse(app, unit_of_work=shop.adb)
    app.register_error_handler(500, answering("page"))
    assert [asked(app, path)[1] for path in ("/orders/7", "/inner/orders/7")] == ["page", "inner"]


@pytest.mark.parametrize("settings", [{}, {"TESTING": True}, {"DEBUG": True}], ids=str)
@pytest.mark.parametrize("handler", ["none", "fails"])
def test_without_a_handler_there_is_an_answer_all_the_same(shop: Shop, settings: dict[str, Any], handler: str) -> None:
    async def fails(error: Exception) -> str:
        raise ZeroDivisionError

    app = ordering(shop, **settings)
    if handler == "fails":
        app.register_error_handler(IntegrityError, fails)
    PostResponse(app, unit_of_work=shop.adb)
    answer, body = asked(app)
    page = "application/problem+json" if settings else "text/html; charset=utf-8"  # Quart's own, where it has one
    assert (answer.status_code, answer.headers["Content-Type"]) == (500, page)
    assert "FOREIGN KEY" not in body
    assert shop.items == []


def test_where_nobody_knows_what_was_committed_the_default_says_so() -> None:
    app = Quart("shop")
    app.register_error_handler(Exception, answering("nothing was stored"))

    class InDoubt:
        def __init__(self, exchange: object) -> None:
            self.active = True

        async def begin(self) -> None: ...

        async def commit(self) -> None:
            raise CommitInDoubt("who knows")

        async def rollback(self) -> None: ...

        async def close(self) -> None: ...

    @app.post("/")
    async def place() -> str:
        return "stored"

    PostResponse(app, unit_of_work=InDoubt)
    answer, body = asked(app, "/")
    assert answer.status_code == 503
    assert "unknown" in body


def test_the_extension_is_flasks_in_its_habits(caplog: pytest.LogCaptureFixture) -> None:
    extension, app = PostResponse(), Quart("shop")

    @app.post("/orders/<int:number>")
    async def place(number: int) -> str:
        return str(number)

    extension.init_app(app)
    with caplog.at_level(logging.INFO, "postresponse.access"):
        assert asked(app)[1] == "7"
    lines = [record.getMessage() for record in caplog.records if record.name == "postresponse.access"]
    assert [line.partition(": handed_over")[0] for line in lines] == ["POST /orders/<int:number> 200"]
    with pytest.raises(ConfigurationError, match="has a PostResponse already: leave out this init_app"):
        PostResponse(app)
    with pytest.raises(ConfigurationError, match="no option 'COMIT'; did you mean 'COMMIT'"):
        PostResponse(_with(POSTRESPONSE_COMIT="head"))
    with pytest.raises(ConfigurationError, match="expected the Quart application itself"):
        rendered_by(app.asgi_app)  # type: ignore[arg-type]
    gone = weakref.ref(app)
    del app, place
    gc.collect()
    assert gone() is None


def _with(**settings: Any) -> Quart:
    app = Quart("shop")
    app.config.update(settings)
    return app


def test_its_commands_are_quarts() -> None:
    app = _with(POSTRESPONSE_CLEANUP_TIMEOUT=2.0)
    PostResponse(app)
    printed = app.test_cli_runner().invoke(args=["postresponse", "config"])
    assert ["cleanup_timeout", "POSTRESPONSE_CLEANUP_TIMEOUT", "2.0"] in map(str.split, printed.output.splitlines())
    missing = app.test_cli_runner().invoke(args=["postresponse", "relay"])
    assert missing.exit_code == 2
    assert "set POSTRESPONSE_RELAY" in missing.output


@pytest.mark.parametrize("debug", [True, False])
def test_in_debug_mode_there_is_the_inspector(debug: bool) -> None:
    app = Quart("shop")
    app.debug = debug
    PostResponse(app)

    async def ask() -> int:
        answer = await app.test_client().get("/__postresponse__/", scope_base={"client": ("127.0.0.1", 1)})
        return answer.status_code

    assert anyio.run(ask) == (200 if debug else 404)
