"""Over the wire: uvicorn on a loopback socket, and the processor time that its process spends on a request.

The server is a process of its own; this one asks, on a few connections that stay open, a request on each and then the
answer of each, so that no more is ever under way than there are connections. The server says what it has spent when
asked for `/cpu`, which is answered outside of the contender. That counts parsing, the loop, the request's task and
the writes, and not what asking costs. HTTP is parsed by httptools, and the loop is asyncio's.

`python -m tests.benchmarks.wire NAME DESCRIPTOR` is the server: NAME of `asgi_contenders.WAYS`, on that socket.
"""

import socket
import statistics
import subprocess
import sys
import time
import zlib
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from tests.benchmarks.asgi import App, single
from tests.benchmarks.asgi_contenders import WAYS
from tests.benchmarks.runner import Response, Subject, environment, package

__all__ = ["WireSubject"]

ROOT: Final = Path(__file__).parents[2]
CONNECTIONS: Final = 8
PATIENCE: Final = 30.0
"""Seconds that a server may take to answer, the first time with all its imports."""


class WireSubject(Subject):
    """A way to stand around an application, in a uvicorn of its own.

    Args:
        name: Which, of `WAYS`.
    """

    def __init__(self, name: str) -> None:
        self._resources = ExitStack()
        self._latencies: list[float] = []
        try:
            address = self._start(name)
            self._connections = [self._connect(address) for _ in range(CONNECTIONS)]
            self._length = len(self._ask("/orders"))
        except BaseException:
            self.close()
            raise

    def response(self) -> Response:
        """Serve one request and return what came of it."""
        head, _, body = self._ask("/orders").partition(b"\r\n\r\n")
        return Response(int(head.split()[1]), len(body), zlib.crc32(body))

    def seconds(self, count: int) -> float:
        """Serve *count* requests and return the processor time that they cost the server."""
        began = self._processor_time()
        for first in range(0, count, CONNECTIONS):
            self._ask_all(self._connections[: count - first])
        return self._processor_time() - began

    def facts(self) -> dict[str, Any]:
        """Tell how long the slowest hundredth of the requests took."""
        hundredths = statistics.quantiles(self._latencies, n=100)
        return {"p50 us": round(hundredths[49] * 1e6), "p99 us": round(hundredths[98] * 1e6)}

    def close(self) -> None:
        """Stop the server."""
        self._resources.close()

    def _start(self, name: str) -> Any:
        with socket.create_server(("127.0.0.1", 0), backlog=CONNECTIONS) as listener:
            descriptor = listener.fileno()
            server = subprocess.Popen(
                [sys.executable, "-m", "tests.benchmarks.wire", name, str(descriptor)],
                cwd=ROOT,
                env=environment(),
                pass_fds=[descriptor],
                stdin=subprocess.DEVNULL,
            )
            self._resources.callback(_stop, server)
            return listener.getsockname()

    def _connect(self, address: Any) -> socket.socket:
        connection = socket.create_connection(address, timeout=PATIENCE)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self._resources.enter_context(connection)

    def _ask(self, path: str) -> bytes:
        """Ask on the first connection, and return the whole answer."""
        connection, answer = self._connections[0], b""
        connection.sendall(_request(path))
        while b"\r\n\r\n" not in answer:
            answer += _received(connection)
        head = answer.partition(b"\r\n\r\n")[0]
        lengths = [
            int(line.partition(b":")[2]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-l")
        ]
        while len(answer) < len(head) + 4 + lengths[0]:
            answer += _received(connection)
        return answer

    def _ask_all(self, connections: list[socket.socket]) -> None:
        """Ask on each connection, and then read from each as much as the first answer had."""
        request, began = _request("/orders"), []
        for connection in connections:
            began.append(time.perf_counter())
            connection.sendall(request)
        for connection, asked in zip(connections, began, strict=True):
            left = self._length
            while left > 0:
                left -= len(_received(connection))
            self._latencies.append(time.perf_counter() - asked)
            assert left == 0, "an answer was longer than the first"

    def _processor_time(self) -> float:
        return float(self._ask("/cpu").partition(b"\r\n\r\n")[2])


def _request(path: str) -> bytes:
    return (
        f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: benchmark/1\r\nAccept: */*\r\n"
        "Accept-Encoding: gzip, deflate\r\nAccept-Language: en\r\nCookie: session=1\r\n\r\n"
    ).encode()


def _received(connection: socket.socket) -> bytes:
    data = connection.recv(65536)
    if not data:
        raise ConnectionError("the server closed the connection")
    return data


def _stop(server: "subprocess.Popen[bytes]") -> None:
    server.terminate()
    try:
        server.wait(10)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


def with_processor_time(app: App) -> App:
    """Answer `/cpu` in the place of *app*."""

    async def door(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["path"] != "/cpu":
            await app(scope, receive, send)
            return
        spent = repr(time.process_time()).encode()
        headers = [(b"content-length", str(len(spent)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": spent})

    return door


def main(name: str, descriptor: int) -> None:
    """Serve the way *name* on the socket *descriptor* until SIGTERM."""
    uvicorn = package("uvicorn")
    app = with_processor_time(WAYS[name].wrap(single))
    config = uvicorn.Config(
        app,
        loop="asyncio",
        http="httptools",
        access_log=False,
        log_level="warning",
        timeout_keep_alive=600,  # while it is the others' turn
    )
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=descriptor)])


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
