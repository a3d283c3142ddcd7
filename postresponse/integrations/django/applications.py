"""What a server runs: Django's own handlers, told to say the route, with the middleware around them."""

from typing import Any

import django
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.wsgi import WSGIHandler

from postresponse.asgi import PostResponseMiddleware as ASGIMiddleware
from postresponse.integrations.django.options import options_for
from postresponse.integrations.django.rendering import rendered_by
from postresponse.integrations.django.routes import tell_route
from postresponse.wsgi import PostResponseMiddleware as WSGIMiddleware

__all__ = ["get_asgi_application", "get_wsgi_application"]


class _WSGIHandler(WSGIHandler):  # type: ignore[misc]
    def resolve_request(self, request: Any) -> Any:
        """Find the view, and tell by which route."""
        found = super().resolve_request(request)
        tell_route(request, request.META)
        return found


class _ASGIHandler(ASGIHandler):  # type: ignore[misc]
    def resolve_request(self, request: Any) -> Any:
        """Find the view, and tell by which route."""
        found = super().resolve_request(request)
        tell_route(request, request.scope)
        return found


def get_wsgi_application() -> WSGIMiddleware:
    """Return the project as a WSGI application, inside of the middleware that the setting POSTRESPONSE describes.

    It stands in `wsgi.py` for the function of Django's of the same name. What a commit that failed did to a response is
    rendered as `rendered_by` says, unless the settings have an ERROR_RESPONSE.

    Raises:
        ConfigurationError: POSTRESPONSE has an unknown option, or a value that it cannot have.

    Example:
        >>> application = get_wsgi_application()
    """
    django.setup(set_prefix=False)
    handler = _WSGIHandler()
    return WSGIMiddleware(handler, **options_for(WSGIMiddleware, rendered_by(handler)))


def get_asgi_application() -> ASGIMiddleware:
    """Return the project as an ASGI application; else as `get_wsgi_application`.

    It answers the lifespan, which Django does not: the work that requests have started ends with the server.

    Raises:
        ConfigurationError: POSTRESPONSE has an unknown option, or a value that it cannot have.

    Example:
        >>> application = get_asgi_application()
    """
    django.setup(set_prefix=False)
    handler = _ASGIHandler()
    return ASGIMiddleware(handler, **options_for(ASGIMiddleware, rendered_by(handler)))
