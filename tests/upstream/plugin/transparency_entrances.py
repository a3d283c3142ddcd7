"""Where the applications of each suite are entered: one function a suite, which patches those places.

Applications are wrapped where they are entered, not where they are built: a suite builds them in hundreds of ways
(functions, classes, instances, mounted routers, single responses) and enters them at a handful of places.
"""

import functools
import importlib
from collections.abc import Callable
from typing import Any, Final

from transparency_wrap import Wrapping, WsgiCarrier  # type: ignore[import-not-found]

__all__ = ["ENTRANCES"]

# The public classes with a `__call__` of their own. starlette.middleware.wsgi is missing: importing it warns, which its
# own tests expect to happen while they run.
STARLETTE_CLASSES: Final = (
    "starlette.applications:Starlette",
    "starlette.middleware.authentication:AuthenticationMiddleware",
    "starlette.middleware.base:BaseHTTPMiddleware",
    "starlette.middleware.body_limit:RequestBodyLimitMiddleware",
    "starlette.middleware.cors:CORSMiddleware",
    "starlette.middleware.errors:ServerErrorMiddleware",
    "starlette.middleware.exceptions:ExceptionMiddleware",
    "starlette.middleware.gzip:GZipMiddleware",
    "starlette.middleware.httpsredirect:HTTPSRedirectMiddleware",
    "starlette.middleware.opentelemetry:OpenTelemetryMiddleware",
    "starlette.middleware.sessions:SessionMiddleware",
    "starlette.middleware.trustedhost:TrustedHostMiddleware",
    "starlette.responses:FileResponse",
    "starlette.responses:Response",
    "starlette.responses:StreamingResponse",
    "starlette.routing:BaseRoute",
    "starlette.routing:Router",
    "starlette.staticfiles:StaticFiles",
)


def starlette(wrapping: Wrapping) -> None:
    """Wrap what Starlette's test client, httpx's transports and tests that call by hand enter.

    `TestClient` (which the suite's `test_client_factory` calls) and `ASGITransport` of httpx get a carrier for their
    `app`, after the client has turned ASGI 2 and class-based applications into what it calls. Tests that call
    `await app(scope, receive, send)` by hand use neither, so `__call__` of the public classes is patched too.
    """
    from starlette import testclient

    build_client = testclient.TestClient.__init__

    @functools.wraps(build_client)
    def client(self: Any, app: Any, *args: Any, **kwargs: Any) -> None:
        build_client(self, app, *args, **kwargs)
        self.app = self._transport.app = wrapping.asgi(self.app)

    testclient.TestClient.__init__ = client  # type: ignore[method-assign]
    for name in ("httpx", "httpx2"):
        _wrap_transport(importlib.import_module(name).ASGITransport, wrapping)
    for name in STARLETTE_CLASSES:
        module, _, attribute = name.partition(":")
        wrapping.outermost_asgi(getattr(importlib.import_module(module), attribute))


def _wrap_transport(transport: Any, wrapping: Wrapping) -> None:
    build = transport.__init__

    @functools.wraps(build)
    def init(self: Any, app: Any, *args: Any, **kwargs: Any) -> None:
        build(self, wrapping.asgi(app), *args, **kwargs)

    transport.__init__ = init


def flask(wrapping: Wrapping) -> None:
    """Wrap what every WSGI server and test client calls: the Flask object.

    Patching `Flask.__call__` keeps `client.application` the real `Flask` object, which `FlaskClient` needs for its
    contexts and sessions, and a test may still assign its own middleware to `app.wsgi_app`: ours stays outermost.
    """
    from flask import Flask

    def call(self: Any, environ: Any, start_response: Any) -> Any:
        if "_transparency_carrier" not in vars(self):
            self._transparency_carrier = wrapping.wsgi(lambda *args: self.wsgi_app(*args))
        return self._transparency_carrier(environ, start_response)

    Flask.__call__ = call  # type: ignore[method-assign]


def werkzeug(wrapping: Wrapping) -> None:
    """Wrap what Werkzeug's test client, `run_wsgi_app` and development server call, and a response called by hand.

    The development server runs in a process of its own, which patches itself as this one does.
    """
    from werkzeug import serving, test
    from werkzeug.wrappers import Response

    build_client, run, build_server = test.Client.__init__, test.run_wsgi_app, serving.BaseWSGIServer.__init__

    def carried(app: Any) -> Any:
        return app if isinstance(app, WsgiCarrier) else wrapping.wsgi(app)

    @functools.wraps(build_client)
    def client(self: Any, application: Any, *args: Any, **kwargs: Any) -> None:
        build_client(self, carried(application), *args, **kwargs)

    @functools.wraps(run)
    def run_wsgi_app(app: Any, *args: Any, **kwargs: Any) -> Any:
        return run(carried(app), *args, **kwargs)

    @functools.wraps(build_server)
    def server(self: Any, host: Any, port: Any, app: Any, *args: Any, **kwargs: Any) -> None:
        build_server(self, host, port, carried(app), *args, **kwargs)

    test.Client.__init__ = client  # type: ignore[method-assign]
    test.run_wsgi_app = run_wsgi_app
    serving.BaseWSGIServer.__init__ = server  # type: ignore[method-assign]
    wrapping.outermost_wsgi(Response)


def falcon(wrapping: Wrapping) -> None:
    """Wrap what Falcon's simulated requests and the servers that its tests start call: both of its application classes.

    The simulated WSGI server puts `wsgiref.validate` around the application, and so around the middleware too.
    """
    import falcon
    import falcon.asgi

    wrapping.outermost_wsgi(falcon.App, keep=True)
    wrapping.outermost_asgi(falcon.asgi.App, keep=True)


def django(wrapping: Wrapping) -> None:
    """Wrap what Django's servers and test clients enter, and handlers called by hand: see `transparency_django`."""
    from transparency_django import wrap  # type: ignore[import-not-found]

    wrap(wrapping)


ENTRANCES: Final[dict[str, Callable[[Wrapping], None]]] = {
    "starlette": starlette,
    "flask": flask,
    "werkzeug": werkzeug,
    "falcon": falcon,
    "django": django,
}
"""By the name of the suite."""
