"""The WSGI application with limits for each tenant, and `/load` beside it."""

from typing import Any

from postresponse.tenancy.wsgi import TenantLimitMiddleware
from tests.servers.apps.tenants import LIMITS, tenant_of, told
from tests.servers.apps.wsgi import app as unlimited

limited = TenantLimitMiddleware(unlimited, key=tenant_of, limits=LIMITS)


def app(environ: dict[str, Any], start_response: Any) -> Any:
    """Go through the limits; but for who asks how many do."""
    if environ["PATH_INFO"] != "/load":
        return limited(environ, start_response)
    start_response("200 OK", [("Content-Type", "application/json")])
    return [told(limited.load())]
