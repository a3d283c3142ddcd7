"""The hooks of WSGI frameworks, each in an application of its own: `/` streams two chunks, `/raises` raises."""

import io
from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["CASES"]

Hook = Callable[..., None]


def raises(*args: Any) -> Any:
    """A view."""
    raise ValueError("the view raised")


def chunks() -> Iterator[bytes]:
    """The body of the other one."""
    yield b"first\n"
    yield b"last\n"


# -- Flask ------------------------------------------------------------------------------------------------------------


def _flask(view: Callable[[], Any] | None = None) -> Any:
    from flask import Flask, Response

    app = Flask("hooks")
    app.logger.disabled = True
    app.add_url_rule("/", "view", view or (lambda: Response(chunks())))
    app.add_url_rule("/raises", "raises", raises)
    return app


def flask_after_request(hook: Hook) -> Any:
    def after(response: Any) -> Any:
        hook()
        return response

    app = _flask()
    app.after_request(after)
    return app


def flask_teardown_request(hook: Hook) -> Any:
    app = _flask()
    app.teardown_request(hook)
    return app


def flask_teardown_appcontext(hook: Hook) -> Any:
    app = _flask()
    app.teardown_appcontext(hook)
    return app


def _closing(app: Any, hook: Hook) -> Any:
    def after(response: Any) -> Any:
        response.call_on_close(hook)
        return response

    app.after_request(after)
    return app


def flask_call_on_close(hook: Hook) -> Any:
    return _closing(_flask(), hook)


def flask_call_on_close_of_a_file(hook: Hook) -> Any:
    from flask import send_file

    return _closing(_flask(lambda: send_file(io.BytesIO(b"".join(chunks())), mimetype="text/plain")), hook)


# -- Django -----------------------------------------------------------------------------------------------------------


def _django(before: Callable[[], object] = lambda: None) -> Any:
    import django
    from django.conf import settings
    from django.core.wsgi import get_wsgi_application
    from django.http import StreamingHttpResponse
    from django.urls import clear_url_caches, path

    if not settings.configured:
        database = {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:", "ATOMIC_REQUESTS": True}
        settings.configure(
            DATABASES={"default": database}, ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], LOGGING_CONFIG=None
        )
        django.setup()

    def view(request: Any) -> Any:
        before()
        return StreamingHttpResponse(chunks())

    def raising(request: Any) -> Any:
        before()
        raises()

    urlpatterns[:] = [path("", view), path("raises", raising)]
    clear_url_caches()
    return get_wsgi_application()


urlpatterns: list[Any] = []
"""Of Django's, filled anew by each application."""


def django_on_commit(hook: Hook) -> Any:
    from django.db import transaction

    return _django(lambda: transaction.on_commit(hook))


def django_request_finished(hook: Hook) -> Any:
    from django.core.signals import request_finished

    app = _django()

    def finished(**signal: Any) -> None:
        hook()

    request_finished.receivers.clear()  # of the application before
    request_finished.connect(finished, weak=False)
    return app


# -- Pyramid ----------------------------------------------------------------------------------------------------------


def _pyramid(register: Callable[[Any], object]) -> Any:
    from pyramid.config import Configurator
    from pyramid.events import NewRequest
    from pyramid.response import Response

    config = Configurator()
    config.add_subscriber(lambda event: register(event.request), NewRequest)
    for name, pattern in (("view", "/"), ("raises", "/raises")):
        config.add_route(name, pattern)
    config.add_view(lambda request: Response(app_iter=chunks()), route_name="view")
    config.add_view(raises, route_name="raises")
    config.add_view(lambda error, request: Response("failed", status=500), context=ValueError)
    return config.make_wsgi_app()


def pyramid_response_callback(hook: Hook) -> Any:
    return _pyramid(lambda request: request.add_response_callback(lambda request, response: hook()))


def pyramid_finished_callback(hook: Hook) -> Any:
    return _pyramid(lambda request: request.add_finished_callback(lambda request: hook()))


# -- Falcon -----------------------------------------------------------------------------------------------------------


def falcon_process_response(hook: Hook) -> Any:
    import falcon

    class View:
        def on_get(self, req: Any, resp: Any) -> None:
            resp.stream = chunks()

    class Raising:
        on_get = staticmethod(raises)

    class Middleware:
        def process_response(self, req: Any, resp: Any, resource: Any, req_succeeded: bool) -> None:
            hook()

    app = falcon.App(middleware=[Middleware()])
    app.add_route("/", View())
    app.add_route("/raises", Raising())
    return app


CASES: list[tuple[str, str, Callable[[Hook], Any]]] = [
    ("Flask", "`after_request`", flask_after_request),
    ("Flask", "`teardown_request`", flask_teardown_request),
    ("Flask", "`teardown_appcontext`", flask_teardown_appcontext),
    ("Flask", "`response.call_on_close`", flask_call_on_close),
    ("Flask", "`response.call_on_close` of `send_file`", flask_call_on_close_of_a_file),
    ("Django", "`on_commit` under `ATOMIC_REQUESTS`", django_on_commit),
    ("Django", "`request_finished`", django_request_finished),
    ("Pyramid", "`add_response_callback`", pyramid_response_callback),
    ("Pyramid", "`add_finished_callback`", pyramid_finished_callback),
    ("Falcon, WSGI", "`process_response`", falcon_process_response),
]
"""Framework, hook, and what makes an application that calls it."""
