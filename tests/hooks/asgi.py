"""The hooks of ASGI frameworks, each in an application of its own: `/` streams two chunks, `/raises` raises."""

from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any

from tests.hooks.stamping import in_view

__all__ = ["CASES"]

Hook = Callable[..., None]


async def raises() -> Any:
    """Be a view that raises."""
    in_view()
    raise ValueError("the view raised")


def streams() -> AsyncIterator[bytes]:
    """Be the other view, and return its body."""
    in_view()
    return chunks()


async def chunks() -> AsyncIterator[bytes]:
    """The body."""
    yield b"first\n"
    yield b"last\n"


# -- Starlette and FastAPI --------------------------------------------------------------------------------------------


def starlette_background_task(hook: Hook) -> Any:
    from starlette.applications import Starlette
    from starlette.background import BackgroundTask
    from starlette.responses import StreamingResponse
    from starlette.routing import Route

    async def task() -> None:
        hook()

    async def view(request: Any) -> Any:
        return StreamingResponse(streams(), background=BackgroundTask(task))

    async def raising(request: Any) -> Any:
        await raises()

    return Starlette(routes=[Route("/", view), Route("/raises", raising)])


def _fastapi(dependency: Any, task: Callable[[], Any] | None = None) -> Any:
    from fastapi import FastAPI
    from fastapi.responses import StreamingResponse
    from starlette.background import BackgroundTask

    app = FastAPI()

    @app.get("/")
    async def view(given: Annotated[None, dependency]) -> Any:
        return StreamingResponse(streams(), background=None if task is None else BackgroundTask(task))

    @app.get("/raises")
    async def raising(given: Annotated[None, dependency]) -> Any:
        await raises()

    return app


def _behind(hook: Hook) -> Any:
    async def dependency() -> AsyncIterator[None]:
        try:
            yield
        finally:
            hook()

    return dependency


def fastapi_dependency(hook: Hook) -> Any:
    from fastapi import Depends

    ran: list[bool] = []

    async def task() -> None:
        ran.append(True)

    def behind_the_tasks() -> None:
        hook()
        assert ran or not served, "the background task comes first"

    served: list[bool] = []
    app = _fastapi(Depends(_behind(behind_the_tasks)), task)

    async def noting(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/":
            served.append(True)
        await app(scope, receive, send)

    return noting


def fastapi_function_dependency(hook: Hook) -> Any:
    from fastapi import Depends

    return _fastapi(Depends(_behind(hook), scope="function"))


# -- Litestar ---------------------------------------------------------------------------------------------------------


def _litestar(background: Any = None, **options: Any) -> Any:
    from litestar import Litestar, get
    from litestar.response import Stream

    @get("/")
    async def view() -> Stream:
        return Stream(streams(), background=background)

    @get("/raises")
    async def raising() -> None:
        await raises()

    return Litestar([view, raising], **options)


def litestar_dependency(hook: Hook) -> Any:
    from litestar import Litestar, get
    from litestar.di import Provide
    from litestar.response import Stream

    @get("/")
    async def view(given: Any) -> Stream:
        return Stream(streams())

    @get("/raises")
    async def raising(given: Any) -> None:
        await raises()

    return Litestar([view, raising], dependencies={"given": Provide(_behind(hook))})


def litestar_after_request(hook: Hook) -> Any:
    async def after(response: Any) -> Any:
        hook()
        return response

    return _litestar(after_request=after)


def litestar_background(hook: Hook) -> Any:
    from litestar.background_tasks import BackgroundTask

    async def task() -> None:
        hook()

    return _litestar(BackgroundTask(task))


def litestar_after_response(hook: Hook) -> Any:
    async def after(request: Any) -> None:
        hook()

    return _litestar(after_response=after)


# -- Quart ------------------------------------------------------------------------------------------------------------


def _quart(before: Callable[[Any], object] = lambda app: None) -> Any:
    from quart import Quart, Response

    app = Quart("hooks")
    app.logger.disabled = True

    @app.get("/")
    async def view() -> Response:
        before(app)
        return Response(streams())

    @app.get("/raises")
    async def raising() -> Response:
        before(app)
        return Response(await raises())

    return app


def quart_after_request(hook: Hook) -> Any:
    async def after(response: Any) -> Any:
        hook()
        return response

    app = _quart()
    app.after_request(after)
    return app


def quart_teardown_request(hook: Hook) -> Any:
    async def teardown(error: Any) -> None:
        hook()

    app = _quart()
    app.teardown_request(teardown)
    return app


def quart_background_task(hook: Hook) -> Any:
    async def task() -> None:
        hook()

    return _quart(lambda app: app.add_background_task(task))


# -- Falcon -----------------------------------------------------------------------------------------------------------


def _falcon(before: Callable[[Any], object] = lambda resp: None, middleware: Any = ()) -> Any:
    from falcon.asgi import App

    class View:
        async def on_get(self, req: Any, resp: Any) -> None:
            before(resp)
            resp.stream = streams()

    class Raising:
        async def on_get(self, req: Any, resp: Any) -> None:
            before(resp)
            await raises()

    app = App(middleware=list(middleware))
    app.add_route("/", View())
    app.add_route("/raises", Raising())
    return app


def falcon_process_response(hook: Hook) -> Any:
    class Middleware:
        async def process_response(self, req: Any, resp: Any, resource: Any, req_succeeded: bool) -> None:
            hook()

    return _falcon(middleware=[Middleware()])


def falcon_schedule(hook: Hook) -> Any:
    async def task() -> None:
        hook()

    return _falcon(lambda resp: resp.schedule(task))


CASES: list[tuple[str, str, Callable[[Hook], Any]]] = [
    ("Starlette", "`BackgroundTask`", starlette_background_task),
    ("FastAPI", "`yield` dependency, behind its background tasks", fastapi_dependency),
    ("FastAPI", '`yield` dependency, `scope="function"`', fastapi_function_dependency),
    ("Litestar", "generator dependency", litestar_dependency),
    ("Litestar", "`after_request`", litestar_after_request),
    ("Litestar", "`background`", litestar_background),
    ("Litestar", "`after_response`", litestar_after_response),
    ("Quart", "`after_request`", quart_after_request),
    ("Quart", "`teardown_request`", quart_teardown_request),
    ("Quart", "`add_background_task`", quart_background_task),
    ("Falcon, ASGI", "`process_response`", falcon_process_response),
    ("Falcon, ASGI", "`resp.schedule`", falcon_schedule),
]
"""Framework, hook, and what makes an application that calls it."""
