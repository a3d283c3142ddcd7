"""Django: the applications for servers, the entry of MIDDLEWARE, the pages, the checks and the commands.

Put `postresponse.integrations.django` into INSTALLED_APPS, and tell in `POSTRESPONSE` what the middleware is told:

    POSTRESPONSE = {"UNIT_OF_WORK": "default", "COMMIT": "head"}

Then let `wsgi.py` and `asgi.py` get their application from here. Where that cannot be, the first entry of MIDDLEWARE
does most of the same.
"""

from postresponse.integrations.django.applications import get_asgi_application, get_wsgi_application
from postresponse.integrations.django.middleware import PostResponseMiddleware
from postresponse.integrations.django.rendering import rendered_by

__all__ = ["PostResponseMiddleware", "get_asgi_application", "get_wsgi_application", "rendered_by"]
