"""One application in each mode behind one server; a request says by its header `Mode` which of them it is for.

A server takes most of its time to start for its imports, so that a server for each mode would take three times as long.
"""

from asyncio import Queue, TaskGroup
from collections.abc import Callable
from typing import Any, Final

__all__ = ["MODES", "for_asgi", "for_wsgi"]

MODES: Final = ("head", "buffered", "after_send")


def for_wsgi(create: Callable[[Any], Any]) -> Any:
    """Create the application in each mode; what is returned chooses by the header."""
    apps = {mode: create(mode) for mode in MODES}

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        return apps[environ["HTTP_MODE"]](environ, start_response)

    return app


def for_asgi(create: Callable[[Any], Any]) -> Any:
    """The same for ASGI: each of them has its whole lifespan."""
    apps = {mode.encode(): create(mode) for mode in MODES}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await _live([*apps.values()], scope, receive, send)
        else:
            await apps[dict(scope["headers"])[b"mode"]](scope, receive, send)

    return app


async def _live(apps: list[Any], scope: Any, receive: Any, send: Any) -> None:
    async with TaskGroup() as group:
        lines: list[tuple[Queue[Any], Queue[Any]]] = [(Queue(), Queue()) for _ in apps]
        for app, (heard, said) in zip(apps, lines, strict=True):
            group.create_task(app({**scope}, heard.get, said.put))
        for kind in ("lifespan.startup", "lifespan.shutdown"):
            message = await receive()
            for heard, said in lines:
                await heard.put(message)
                assert (await said.get())["type"] == f"{kind}.complete"
            await send({"type": f"{kind}.complete"})
