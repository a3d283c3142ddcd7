"""An application on a real server and a real socket, for one test.

No client in the application's own process can show when a response left: Starlette's waits for the work behind it, and
Flask's does not close it.
"""

import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from time import monotonic, sleep
from typing import Any, Final

from postresponse.core.settings import protocol_of
from postresponse.exceptions import ConfigurationError
from postresponse.testing import threaded
from postresponse.testing.client import Client, Connection, Fields, Response
from postresponse.testing.ports import ServerFailed, check_port, free_port
from postresponse.testing.processes import Server, listens
from postresponse.testing.servers import kinds_named

__all__ = ["ServerFailed", "Site", "serving"]

DEFAULTS: Final = {"asgi": "uvicorn", "wsgi": "werkzeug"}
"""The server that most have: Werkzeug comes with this package."""


class Site:
    """A running application.

    Attributes:
        port: Where it listens, on 127.0.0.1.
        url: The same, for another client.
    """

    def __init__(self, port: int, log: Callable[[], str] = str) -> None:
        self.port: int = port
        self.url: str = f"http://127.0.0.1:{port}"
        self._log = log

    def client(self, *, timeout: float = 15.0) -> Client:
        """A client that keeps its connection from request to request."""
        return Client(self.port, timeout)

    def connection(self, *, timeout: float = 15.0, receive_buffer: int | None = None) -> Connection:
        """One connection, to read a response piece by piece, or to leave early: `close()` in good order, `reset()` not.

        Args:
            receive_buffer: Bytes of the kernel's receive buffer; small ones make a slow reader's server feel it.
        """
        return Connection(self.port, timeout, receive_buffer)

    def request(self, method: str, target: str, headers: Fields = (), body: bytes = b"") -> Response:
        """Send one request on a connection of its own, and read the whole response to it, with its moments."""
        with self.connection() as connection:
            return connection.request(method, target, headers, body)

    def get(self, target: str, headers: Fields = ()) -> Response:
        """`request` it with GET."""
        return self.request("GET", target, headers)

    def post(self, target: str, headers: Fields = (), body: bytes = b"") -> Response:
        """`request` it with POST."""
        return self.request("POST", target, headers, body)

    def log(self) -> str:
        """What the server printed, where it runs in a process of its own."""
        return self._log()


@contextmanager
def serving(app: Any, server: str | None = None, *, port: int = 0, timeout: float = 20.0) -> Iterator[Site]:
    """Serve *app* for the time of the block.

    An application object is served in a thread of this process, where `captured()` sees it, by uvicorn, hypercorn,
    waitress, cheroot or werkzeug. Any other server runs in a process of its own, and is given the name of the
    application: `"shop.web:app"`.

    Args:
        app: The application, or its name.
        server: Which server; None for uvicorn, or werkzeug for a WSGI application.
        port: Where it listens, on 127.0.0.1; 0 for one that is free.
        timeout: Seconds that it has to listen.

    Raises:
        ServerFailed: It did not start; or the port is in use.
        ConfigurationError: There is no such server, or it does not serve such an application.
    """
    inside: AbstractContextManager[Site]
    if isinstance(app, str):
        inside = _in_a_process(app, server, port, timeout)
    else:
        protocol = protocol_of(app)
        start = threaded.starter(server or DEFAULTS[protocol], protocol)
        inside = _in_a_thread(start, app, port, timeout)
    with inside as site:
        yield site


@contextmanager
def _in_a_thread(start: threaded.Start, app: Any, port: int, timeout: float) -> Iterator[Site]:
    port = port or free_port()
    check_port(port)
    serve, stop = start(app, port)
    raised: list[BaseException] = []

    def run() -> None:
        try:
            serve()
        except (Exception, SystemExit) as error:  # noqa: BLE001 (raised where it is waited for)
            raised.append(error)

    thread = threading.Thread(target=run, name="postresponse server", daemon=True)
    thread.start()
    try:
        deadline = monotonic() + timeout
        while not listens(port):
            if not thread.is_alive() or monotonic() > deadline:
                why = f"raised {raised[0]!r}" if raised else "ended, or did not listen in time; its log says why"
                raise ServerFailed(f"the server {why}") from (raised[0] if raised else None)
            sleep(0.005)
        yield Site(port)
    finally:
        stop()
        thread.join(timeout)


@contextmanager
def _in_a_process(name: str, server: str | None, port: int, timeout: float) -> Iterator[Site]:
    if server is None:
        raise ConfigurationError("server: an application that is named runs in a process of its own; say which server")
    (kind, *_) = kinds_named(server)
    if kind.missing:
        raise ServerFailed(f"{kind} is not installed: pip install {kind.missing}")
    with tempfile.TemporaryDirectory(prefix="postresponse-") as folder:
        paths = [os.getcwd(), *(each for each in sys.path if each)]
        running = Server(kind, name, Path(folder), {}, paths=paths, port=port, directory=Path.cwd())
        try:
            running.start(timeout)
            yield Site(running.port, running.log)
        finally:
            running.stop()
