"""Starlette: each tenant has one report at a time, and three that wait; the others do not notice.

.venv/bin/uvicorn --app-dir examples tenants_app:app --port 8000
for i in 1 2 3 4 5 6; do curl -s -w ' %{http_code}\\n' -H 'Tenant: a' localhost:8000/report & done   # four, and two 429
curl -i -H 'Tenant: b' localhost:8000/report       # at once, whatever a does
curl -i localhost:8000/report                      # 401: whose is it?
curl localhost:8000/health                         # no limits, and no tenant
"""

import asyncio

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.types import Scope

from postresponse.tenancy.asgi import TenantLimitMiddleware
from postresponse.work import BulkheadLimits

SMALL = BulkheadLimits(max_concurrency=1, max_queue=3, timeout=30.0)
LARGE = BulkheadLimits(max_concurrency=8, max_queue=100, timeout=30.0)
paying = {"big-corp"}


def tenant(scope: Scope) -> str:
    """Say whose request it is; an error answers `on_key_error`."""
    return Request(scope).headers["tenant"]


def limits(tenant: str) -> BulkheadLimits:
    """Say what a tenant may; asked at each request, so that an upgrade holds at once."""
    return LARGE if tenant in paying else SMALL


async def report(request: Request) -> PlainTextResponse:
    """Work for a while."""
    await asyncio.sleep(0.5)
    return PlainTextResponse(f"the report of {request.headers['tenant']}")


async def health(_request: Request) -> PlainTextResponse:
    """Answer the load balancer."""
    return PlainTextResponse("up")


app = Starlette(
    routes=[Route("/report", report), Route("/health", health)],
    middleware=[
        Middleware(TenantLimitMiddleware, key=tenant, limits=limits, views={"/health": None}, on_key_error=401)
    ],
)
