"""The ASGI application with limits for each tenant, and `/load` beside it."""

from typing import Any

from postresponse.tenancy.asgi import TenantLimitMiddleware
from tests.servers.apps.asgi import app as unlimited
from tests.servers.apps.tenants import LIMITS, tenant_of, told

limited = TenantLimitMiddleware(unlimited, key=tenant_of, limits=LIMITS)


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Go through the limits; but for who asks how many do."""
    if scope.get("path") != "/load":
        await limited(scope, receive, send)
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": told(limited.load())})
