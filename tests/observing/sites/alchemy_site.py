"""A Starlette application with advanced-alchemy's autocommit, which is at work behind the response."""

from advanced_alchemy.extensions.starlette import AdvancedAlchemy, AsyncSessionConfig, SQLAlchemyAsyncConfig
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from postresponse.asgi import PostResponseMiddleware
from tests.observing.sites.found import around_asgi
from tests.observing.sites.shop import ASYNC_URL, READ, WRITE, customer_of


async def place(request: Request) -> PlainTextResponse:
    """Store an order; the plugin commits it."""
    session = alchemy.get_async_session(request)
    await session.execute(WRITE, customer_of("refused" in request.query_params))
    return PlainTextResponse("stored", status_code=201)


async def read(request: Request) -> PlainTextResponse:
    """Count the orders; the plugin commits that too."""
    session = alchemy.get_async_session(request)
    return PlainTextResponse(str((await session.execute(READ)).scalar_one()))


site = Starlette(routes=[Route("/orders", place, methods=["POST"]), Route("/orders", read, methods=["GET"])])
alchemy = AdvancedAlchemy(
    SQLAlchemyAsyncConfig(
        connection_string=ASYNC_URL,
        commit_mode="autocommit",
        session_config=AsyncSessionConfig(expire_on_commit=False),
    ),
    app=site,
)
app = around_asgi(PostResponseMiddleware(site))
