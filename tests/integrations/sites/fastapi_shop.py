"""The shop of the scenarios in FastAPI, with the middleware outermost, and the session as a dependency."""

from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request
from fastapi.responses import PlainTextResponse, StreamingResponse
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from postresponse import after_response
from postresponse.asgi import PostResponseMiddleware
from postresponse.integrations.fastapi import session_of
from tests.integrations.shop import Shop
from tests.integrations.sites.modes import for_asgi
from tests.integrations.sites.trading import aparts, ordered, slowly

shop = Shop(Path("shop.sqlite3"))


async def uncommitted() -> AsyncSession:
    """Give the session, and leave the commit to the policy: `session_of` would do it before the response."""
    return shop.adb.session


def create_app(mode: Any) -> PostResponseMiddleware:
    api = FastAPI()
    dependency: Any = Depends(uncommitted) if mode == "after_send" else session_of(shop.adb)
    RequestSession = Annotated[AsyncSession, dependency]

    @api.post("/orders/{item}", status_code=201, response_class=PlainTextResponse)
    async def place(item: str, session: RequestSession) -> PlainTextResponse:
        session.add(ordered(item))
        return PlainTextResponse("stored", 201, {"Location": f"/orders/{item}"})

    @api.get("/stream/{item}")
    async def stream(item: str, session: RequestSession) -> StreamingResponse:
        session.add(ordered(item))
        return StreamingResponse(aparts(item))

    @api.post("/slow/{item}")
    async def slow(item: str, session: RequestSession) -> PlainTextResponse:
        session.add(ordered(item))
        after_response(slowly, item)
        return PlainTextResponse("stored", 201)

    @api.exception_handler(IntegrityError)
    async def refused(request: Request, error: IntegrityError) -> PlainTextResponse:
        return PlainTextResponse("refused", 409)

    return PostResponseMiddleware(api, unit_of_work=shop.adb, commit=mode)


app = for_asgi(create_app)
