"""The shop of the scenarios in Litestar, with the plugin, beside the one of advanced-alchemy whose session it gives."""

from pathlib import Path
from typing import Any

from advanced_alchemy.extensions.litestar import SQLAlchemyAsyncConfig, SQLAlchemyPlugin
from litestar import Litestar, Request, Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath
from litestar.response import Stream
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from postresponse import after_response
from postresponse.integrations.litestar import PostResponsePlugin
from postresponse.unit_of_work.sqlalchemy import AsyncSQLAlchemyUnitOfWork
from tests.integrations.shop import Shop
from tests.integrations.sites.modes import for_asgi
from tests.integrations.sites.trading import aparts, ordered, slowly

shop = Shop(Path("shop.sqlite3"))


@post("/orders/{item:str}")
async def place(item: FromPath[str], db_session: NamedDependency[AsyncSession]) -> Response[str]:
    db_session.add(ordered(item))
    return Response("stored", headers={"Location": f"/orders/{item}"}, media_type="text/plain")


@get("/stream/{item:str}")
async def stream(item: FromPath[str], db_session: NamedDependency[AsyncSession]) -> Stream:
    db_session.add(ordered(item))
    return Stream(aparts(item))


@post("/slow/{item:str}")
async def slow(item: FromPath[str], db_session: NamedDependency[AsyncSession]) -> str:
    db_session.add(ordered(item))
    after_response(slowly, item)
    return "stored"


def refused(request: Request[Any, Any, Any], error: IntegrityError) -> Response[str]:
    return Response("refused", status_code=409, media_type="text/plain")


def create_app(mode: Any) -> Litestar:
    alchemy = SQLAlchemyAsyncConfig(engine_instance=shop.async_engine)
    db = AsyncSQLAlchemyUnitOfWork(alchemy.create_session_maker())
    return Litestar(
        [place, stream, slow],
        plugins=[PostResponsePlugin(unit_of_work=db, commit=mode), SQLAlchemyPlugin(alchemy)],
        exception_handlers={IntegrityError: refused},
    )


app = for_asgi(create_app)
