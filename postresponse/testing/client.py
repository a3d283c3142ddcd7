"""An HTTP/1.1 client on a bare socket, for tests that are about bytes and the moments they arrive.

A client library hides what is measured here: it retries, pools and reconnects behind one's back, and none says when the
last byte came or closes with a reset. This one does a single thing at a time, and says so when the peer does not.
"""

import socket
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

__all__ = ["Client", "Connection", "ConnectionEnded", "Fields", "Head", "Response", "Sink"]

Sink = Callable[[bytes], object]
"""What takes a body piece by piece instead of holding it."""

Fields = tuple[tuple[str, str], ...]
"""Header fields: lower-case names, in the order they came."""


class ConnectionEnded(Exception):
    """The server ended the connection in the middle of a response, or before one began."""

    def __init__(self, state: str, received: bytes = b"") -> None:
        super().__init__(f"the server ended the connection {state}; received so far: {received[:200]!r}")
        self.state: str = state
        self.received: bytes = received


@dataclass(frozen=True)
class Head:
    """A status line and header fields, with the monotonic nanosecond of the first byte."""

    version: str
    status: int
    fields: Fields
    first_byte: int

    def get(self, name: str) -> str | None:
        """Return the first field of that name, or None."""
        return next((value for key, value in self.fields if key == name.lower()), None)

    @property
    def keeps_alive(self) -> bool:
        """Whether the server promised to answer another request on this connection."""
        token = (self.get("connection") or "").lower()
        return token == "keep-alive" if self.version == "HTTP/1.0" else token != "close"

    @property
    def text(self) -> str:
        """The fields as one text, for a search in all of them."""
        return "\n".join(f"{name}: {value}" for name, value in self.fields)


@dataclass(frozen=True)
class Response:
    """A whole response, with the monotonic nanoseconds at which its parts had come.

    Attributes:
        first_byte: When the head had begun to come.
        first_body_byte: When the first of its body had come; None if it has none.
        last_byte: When nothing of it was missing.
    """

    head: Head
    body: bytes
    last_byte: int
    first_body_byte: int | None = None

    @property
    def first_byte(self) -> int:
        """When the head had begun to come."""
        return self.head.first_byte

    @property
    def status(self) -> int:
        """The status of the head."""
        return self.head.status


@dataclass
class Connection:
    """One connection to a server on the loopback interface.

    Args:
        port: Where the server listens.
        timeout: Seconds that a single read or write may wait.
        receive_buffer: Bytes of the kernel's receive buffer; small ones make a slow reader's server feel it.
    """

    port: int
    timeout: float = 15.0
    receive_buffer: int | None = None
    _buffer: bytearray = field(default_factory=bytearray, repr=False)
    _method: str = field(default="GET", repr=False)

    def __post_init__(self) -> None:
        self.socket: socket.socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        if self.receive_buffer is not None:  # before connect: the window is agreed on there
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.receive_buffer)
        self.socket.settimeout(self.timeout)
        try:
            self.socket.connect(("127.0.0.1", self.port))
        except OSError:
            self.socket.close()
            raise
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leave in good order (FIN)."""
        self.socket.close()

    def reset(self) -> None:
        """Leave at once (RST), whatever is still under way."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def request(self, method: str, target: str, headers: Fields = (), body: bytes = b"") -> Response:
        """Send one request and read the whole response to it."""
        self.send(method, target, headers, body)
        return self.read_response()

    def send(self, method: str, target: str, headers: Fields = (), body: bytes = b"") -> None:
        """Send one request and read nothing."""
        self._method = method
        lines = [f"{method} {target} HTTP/1.1", f"Host: 127.0.0.1:{self.port}"]
        lines += [f"{name}: {value}" for name, value in headers]
        if body or method in {"POST", "PUT", "PATCH"}:
            lines.append(f"Content-Length: {len(body)}")
        self.socket.sendall("\r\n".join(lines).encode("ascii") + b"\r\n\r\n" + body)

    def read_response(self, sink: Sink | None = None) -> Response:
        """Read a head and its body to the end; *sink* takes the pieces instead of the response."""
        head = self.read_head()
        collected, began = bytearray(), None
        for piece in self.read_body(head):
            began = began or time.monotonic_ns()
            (collected.extend if sink is None else sink)(piece)
        return Response(head, bytes(collected), time.monotonic_ns(), began)

    def read_head(self) -> Head:
        """Read up to the blank line of the next final response; interim ones are passed over."""
        while True:
            first = self._peek("before the head")
            block = self._read_until(b"\r\n\r\n", "inside the head").decode("latin-1")
            status_line, *lines = block.split("\r\n")
            version, status, *_ = status_line.split(" ", 2)
            pairs = (line.partition(":") for line in lines if line)
            head = Head(version, int(status), tuple((n.lower(), v.strip()) for n, _, v in pairs), first)
            if head.status >= 200:
                return head

    def read_body(self, head: Head) -> Iterator[bytes]:
        """Yield the body piece by piece, as it comes; the end of the iterator is the end of the response."""
        if self._method == "HEAD" or head.status in {204, 304}:
            return
        if (head.get("transfer-encoding") or "").lower() == "chunked":
            yield from self._read_chunks()
        elif (length := head.get("content-length")) is not None:
            yield from self._read_exactly(int(length), "before all bytes of Content-Length")
        else:
            while piece := self.read_some():
                yield piece

    def read_some(self, limit: int = 65536) -> bytes:
        """Return at most *limit* bytes, waiting for the first of them; empty at the end of the connection."""
        if not self._buffer:
            return self.socket.recv(limit)
        piece = bytes(self._buffer[:limit])
        del self._buffer[:limit]
        return piece

    def ended(self) -> bool:
        """Whether the server has ended the connection, or ends it within the timeout, with nothing more to read."""
        try:
            return not self.read_some()
        except ConnectionResetError:
            return True

    def _peek(self, state: str) -> int:
        if not self._buffer:
            self._fill(state)
        return time.monotonic_ns()

    def _fill(self, state: str) -> None:
        try:
            piece = self.socket.recv(65536)
        except ConnectionResetError as error:
            raise ConnectionEnded(f"{state} (reset)", bytes(self._buffer)) from error
        if not piece:
            raise ConnectionEnded(state, bytes(self._buffer))
        self._buffer += piece

    def _read_until(self, mark: bytes, state: str) -> bytes:
        while (at := self._buffer.find(mark)) < 0:
            self._fill(state)
        found = bytes(self._buffer[:at])
        del self._buffer[: at + len(mark)]
        return found

    def _read_exactly(self, count: int, state: str) -> Iterator[bytes]:
        while count:
            if not self._buffer:
                self._fill(state)
            piece = bytes(self._buffer[:count])
            del self._buffer[:count]
            count -= len(piece)
            yield piece

    def _read_chunks(self) -> Iterator[bytes]:
        while size := int(self._read_until(b"\r\n", "before a chunk").split(b";")[0], 16):
            yield from self._read_exactly(size, "inside a chunk")
            self._read_until(b"\r\n", "after a chunk")
        while self._read_until(b"\r\n", "before the last chunk was ended"):
            pass  # trailers


class Client:
    """Requests one after another on one connection, opened anew only where the server said that it would close it."""

    def __init__(self, port: int, timeout: float = 15.0) -> None:
        self.port: int = port
        self.timeout: float = timeout
        self.connections: int = 0
        self._connection: Connection | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._drop()

    def request(self, method: str, target: str, headers: Fields = (), body: bytes = b"") -> Response:
        """Send one request and read the whole response to it.

        Raises:
            ConnectionEnded: If the server dropped a connection that it had promised to keep.
        """
        if self._connection is None:
            self._connection = Connection(self.port, self.timeout)
            self.connections += 1
        try:
            response = self._connection.request(method, target, headers, body)
        except (ConnectionEnded, OSError):
            self._drop()
            raise
        if not response.head.keeps_alive:
            self._drop()
        return response

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
