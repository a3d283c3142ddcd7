"""Servers that run in a thread of this process."""

import importlib.util
from collections.abc import Callable, Mapping
from typing import Any, Final

from postresponse.core.policy import did_you_mean
from postresponse.exceptions import ConfigurationError
from postresponse.testing.ports import ServerFailed
from postresponse.testing.servers import KINDS

__all__ = ["Start", "starter"]

Serve = Callable[[], object]
Start = Callable[[Any, int], tuple[Serve, Serve]]
"""Takes an application and a port; returns what serves until it is stopped, and what stops it."""

THREADS: Final = 8


def _uvicorn(app: Any, port: int) -> tuple[Serve, Serve]:
    from uvicorn import Config, Server

    config = Config(app, host="127.0.0.1", port=port, log_config=None, access_log=False, timeout_graceful_shutdown=1)
    server = Server(config)

    def stop() -> None:
        server.should_exit = True

    return server.run, stop


def _hypercorn(app: Any, port: int) -> tuple[Serve, Serve]:
    import asyncio

    from hypercorn.asyncio import serve
    from hypercorn.config import Config

    config = Config()
    config.bind = [f"127.0.0.1:{port}"]
    config.graceful_timeout = 1
    loop, stopped = asyncio.new_event_loop(), asyncio.Event()

    def run() -> None:
        asyncio.set_event_loop(loop)
        try:
            loop.run_until_complete(serve(app, config, shutdown_trigger=stopped.wait, mode="asgi"))
        finally:
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()

    return run, lambda: loop.is_closed() or loop.call_soon_threadsafe(stopped.set)


def _waitress(app: Any, port: int) -> tuple[Serve, Serve]:
    from waitress.server import create_server

    channels: dict[int, Any] = {}
    server = create_server(app, map=channels, host="127.0.0.1", port=port, threads=THREADS)

    def end() -> None:  # in the server's own thread, whose loop is over once it has nothing to look at
        for channel in list(channels.values()):
            channel.close()

    def stop() -> None:
        server.task_dispatcher.shutdown()
        server.trigger.pull_trigger(end)

    return server.run, stop


def _cheroot(app: Any, port: int) -> tuple[Serve, Serve]:
    from cheroot.wsgi import Server

    server = Server(("127.0.0.1", port), app, numthreads=THREADS, shutdown_timeout=1)
    return server.start, server.stop


def _werkzeug(app: Any, port: int) -> tuple[Serve, Serve]:
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        """Writes no line for each request."""

        protocol_version = "HTTP/1.1"

        def log(self, type: str, message: str, *args: Any) -> None: ...

    server = make_server("127.0.0.1", port, app, threaded=True, request_handler=Quiet)

    def serve() -> None:
        try:
            server.serve_forever(poll_interval=0.05)
        finally:
            server.server_close()

    return serve, server.shutdown


STARTERS: Final[Mapping[str, tuple[str, Start]]] = {
    "uvicorn": ("asgi", _uvicorn),
    "hypercorn": ("asgi", _hypercorn),
    "waitress": ("wsgi", _waitress),
    "cheroot": ("wsgi", _cheroot),
    "werkzeug": ("wsgi", _werkzeug),
}


def starter(name: str, protocol: str) -> Start:
    """Return what starts the server *name* in a thread.

    Raises:
        ConfigurationError: There is none, or it serves the other protocol.
        ServerFailed: It is not installed.
    """
    found = STARTERS.get(name)
    if found is None:
        if any(kind == name or kind.startswith(f"{name}-") for kind in KINDS):
            raise ConfigurationError(
                f"server: {name} runs in a process of its own, and is given the name of an application: 'shop.web:app'"
            )
        near = did_you_mean(name, [*STARTERS, *KINDS])
        raise ConfigurationError(f"server: there is no {name!r}{near}; known: {', '.join([*STARTERS, *KINDS])}")
    speaks, start = found
    if speaks != protocol:
        raise ConfigurationError(f"server: {name} serves {speaks}, and the application is {protocol}")
    if importlib.util.find_spec(name) is None:
        raise ServerFailed(f"{name} is not installed: pip install {name}")
    return start
