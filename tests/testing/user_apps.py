"""Applications as users have them, for the conformance kit to look at."""

from collections.abc import Callable, Iterable
from typing import Any

from flask import Flask
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from postresponse.unit_of_work.sqlalchemy import SQLAlchemyUnitOfWork
from postresponse.wsgi import PostResponseMiddleware
from tests.testing.shops import database, place


def _shop(db: SQLAlchemyUnitOfWork | None) -> Flask:
    app = Flask("shop")

    @app.get("/orders")
    def order() -> tuple[str, int, dict[str, str]]:
        if db is not None:
            place(db, early=False)
        return "stored", 201, {"Location": "/orders/1"}

    return app


plain = _shop(None)
"""One without the package."""


async def _stored(request: Request) -> PlainTextResponse:
    return PlainTextResponse("stored", 201, {"Location": "/orders/1"})


plain_asgi = Starlette(routes=[Route("/orders", _stored)])
"""The same for ASGI."""

_db = database()
managed = PostResponseMiddleware(_shop(_db), unit_of_work=_db, commit="buffered")
"""One whose unit of work is the package's."""


def _with_cookies(app: Callable[..., Any]) -> Callable[..., Any]:
    """Set a cookie on whatever leaves, an error response too."""

    def outer(environ: Any, start_response: Any) -> Iterable[bytes]:
        def start(status: str, headers: list[tuple[str, str]], *exc_info: Any) -> Any:
            return start_response(status, [*headers, ("Set-Cookie", "basket=tea")], *exc_info)

        return app(environ, start)  # type: ignore[no-any-return]

    return outer


careless = _with_cookies(managed)
"""One with something around the package that spoils what it promises."""

raise_at_import = False
