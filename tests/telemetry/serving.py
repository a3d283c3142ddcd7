"""Real servers in a thread of this process, so that a test sees what the application tells."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
import waitress.server

from tests.work.waiting import until

__all__ = ["serving_asgi", "serving_wsgi"]


@contextmanager
def serving_asgi(app: Any) -> Iterator[int]:
    """Serve *app* by uvicorn, and give the port."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, lifespan="off"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        until(lambda: server.started)
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(10)
    assert not thread.is_alive()


@contextmanager
def serving_wsgi(app: Any) -> Iterator[int]:
    """Serve *app* by waitress, and give the port."""
    server: Any = waitress.server.create_server(app, host="127.0.0.1", port=0, threads=4)

    def stop() -> None:
        for channel in list(server.active_channels.values()):
            channel.handle_close()
        server.close()

    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield int(server.effective_port)
    finally:
        server.trigger.pull_trigger(stop)
        thread.join(10)
        server.task_dispatcher.shutdown()
    assert not thread.is_alive()
