"""One HTTP/1.1 request over a socket, with the moment at which each piece of its answer arrived.

The standard library reads the response; its socket is one that writes down when each read of the kernel returned. So a
stamp says when the bytes were here, and not when somebody came to look at them. Nothing is retried, pooled or followed.
"""

import http.client
import io
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from time import monotonic_ns
from typing import Any, Final
from urllib.parse import SplitResult, quote, urlsplit

from postresponse.exceptions import ConfigurationError

__all__ = ["Answer", "Connection", "Piece", "split_url", "target_of"]

AT_MOST: Final = 65536
"""Bytes of one piece: what comes faster than it is read is one piece all the same."""

Fields = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes of a body that arrived together.

    Attributes:
        at: When the last of them was there, in nanoseconds of the monotonic clock.
        size: How many.
    """

    at: int
    size: int


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back for one request; its times are nanoseconds of the monotonic clock.

    Attributes:
        reused: Whether the connection had carried a request before.
        began: When the request began to be sent.
        sent: When the last byte of the request was handed to the kernel.
        first_byte: When the first byte of the status line arrived; None if none did.
        head: When the head was complete.
        pieces: The body, as it arrived.
        ended: When it was known that the response, or the connection, had ended.
        status: The status; None if no head came.
        fields: The header fields, in order.
        keeps_alive: Whether the server said that the connection may be used again.
        fault: Why the response is not whole, or an empty string.
        is_bounded: Whether it says where it ends; else that is the end of the connection, and one that is cut looks
            whole.
    """

    reused: bool
    began: int
    sent: int
    first_byte: int | None
    head: int | None
    pieces: tuple[Piece, ...]
    ended: int
    status: int | None
    fields: tuple[tuple[str, str], ...]
    keeps_alive: bool
    fault: str
    is_bounded: bool

    @property
    def last_byte(self) -> int | None:
        """When the last byte of the body arrived, or of the head where there is no body."""
        return self.pieces[-1].at if self.pieces else self.head

    @property
    def size(self) -> int:
        """The bytes of the body that arrived."""
        return sum(piece.size for piece in self.pieces)


def split_url(url: str) -> SplitResult:
    """Return the parts of an absolute URL of http or https.

    Raises:
        ConfigurationError: It is none.

    Example:
        >>> split_url("http://127.0.0.1:8000/orders").port
        8000
    """
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and (parts.port is None or parts.port > 0)
    except ValueError as error:
        raise ConfigurationError(f"{url!r} is no URL: {error}") from error
    if not usable:
        raise ConfigurationError(f"{url!r} is no URL to ask: expected http://HOST[:PORT]/PATH, or https://")
    return parts


def target_of(url: SplitResult) -> str:
    """Return what of *url* a request names, with what may not stand there in per cent signs.

    Example:
        >>> target_of(split_url("http://127.0.0.1/a b?c=d%20e#f"))
        '/a%20b?c=d%20e'
    """
    return quote(url.path or "/", safe=_SAFE) + (f"?{quote(url.query, safe=_SAFE)}" if url.query else "")


_SAFE: Final = "%/:?@!$&'()*+,;=[]"


class Connection:
    """A connection to a server, for one request after another.

    Args:
        host: Where it listens.
        port: Where it listens.
        tls: Whether to speak TLS, whose certificates are checked as the system says.
        timeout: Seconds that a single read or write may wait.

    Raises:
        OSError: Nobody listens there, or the certificate is not good.
    """

    def __init__(self, host: str, port: int, *, tls: bool = False, timeout: float = 30.0) -> None:
        self._timeout = timeout
        self._used = False
        self._name = f"{host}:{port}" if ":" not in host else f"[{host}]:{port}"
        self._socket = socket.create_connection((host, port), timeout)
        try:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if tls:
                self._socket = ssl.create_default_context().wrap_socket(self._socket, server_hostname=host)
        except BaseException:
            self._socket.close()
            raise
        self._reads = _Reads(self._socket)

    def close(self) -> None:
        """Leave."""
        self._socket.close()

    @property
    def is_open(self) -> bool:
        """Whether the server has not ended the connection by now."""
        try:
            self._socket.settimeout(0.0)
            return bool(self._socket.recv(1, 0 if isinstance(self._socket, ssl.SSLSocket) else socket.MSG_PEEK))
        except (BlockingIOError, ssl.SSLWantReadError):
            return True
        except OSError:
            return False
        finally:
            if self._socket.fileno() >= 0:
                self._socket.settimeout(self._timeout)

    def ask(self, method: str, target: str, fields: Fields = (), body: bytes = b"") -> Answer:
        """Send one request, read the whole answer, and say when what of it was there.

        A connection that ends too early, or a server that says nothing for too long, is an answer with a `fault`.
        """
        reused, self._used = self._used, True
        self._reads.first = None
        began = monotonic_ns()
        try:
            self._socket.sendall(self._request(method, target, fields, body))
        except OSError as error:
            fault = f"the request could not be sent: {_said(error)}"
            return Answer(reused, began, began, None, None, (), monotonic_ns(), None, (), False, fault, True)
        return self._read(method, reused, began, monotonic_ns())

    def _request(self, method: str, target: str, fields: Fields, body: bytes) -> bytes:
        given = {name.lower() for name, _ in fields}
        lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in fields)]
        if "host" not in given:
            lines.insert(1, f"Host: {self._name}")
        if (body or method in ("POST", "PUT", "PATCH")) and not given & {"content-length", "transfer-encoding"}:
            lines.append(f"Content-Length: {len(body)}")
        return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body

    def _read(self, method: str, reused: bool, began: int, sent: int) -> Answer:
        reads, coming, fault = self._reads, _Coming(), ""
        try:
            fault = coming.read(reads, method)
        except TimeoutError:
            fault = f"nothing more came within {self._timeout:g} s"
        except (http.client.HTTPException, OSError, ValueError) as error:
            fault = _said(error)
        response = coming.response
        return Answer(
            reused=reused,
            began=began,
            sent=sent,
            first_byte=reads.first,
            head=coming.head,
            pieces=tuple(coming.pieces),
            ended=monotonic_ns() if fault else reads.last,
            status=None if response is None else response.status,
            fields=() if response is None else tuple(response.getheaders()),
            keeps_alive=response is not None and not fault and not response.will_close,
            fault=fault,
            is_bounded=coming.is_bounded,
        )


@dataclass(slots=True)
class _Coming:
    """A response while it comes; what of it is there stays if the rest does not come."""

    response: http.client.HTTPResponse | None = None
    head: int | None = None
    pieces: list[Piece] = field(default_factory=list)
    is_bounded: bool = True

    def read(self, reads: "_Reads", method: str) -> str:
        """Read all of it, and return what is missing, or an empty string."""
        response = _begun(reads, method)
        while response.status < 200 and response.status != 101:  # an early hint: the response is still to come
            response = _begun(reads, method)
        self.response, self.head = response, reads.last
        self.is_bounded = response.chunked or response.length is not None
        while data := response.read1(AT_MOST):
            self.pieces.append(Piece(reads.last, len(data)))
        # Which `read1` does not mind.
        return f"{response.length} bytes of its Content-Length never came" if response.length else ""


def _begun(reads: "_Reads", method: str) -> http.client.HTTPResponse:
    feed: Any = reads  # no socket, and all that a response wants of one
    response = http.client.HTTPResponse(feed, method=method)
    response.begin()
    return response


def _said(error: Exception) -> str:
    """What a failure means for who waits for a response."""
    if isinstance(error, http.client.RemoteDisconnected):
        return "the server ended the connection and answered nothing"
    if isinstance(error, http.client.IncompleteRead):
        return "the connection ended inside the body"
    if isinstance(error, ConnectionResetError):
        return "the connection was reset"
    if isinstance(error, http.client.BadStatusLine):
        return f"what came is no HTTP: {str(error)[:60]}"
    return str(error) or type(error).__name__


class _Reads(io.RawIOBase):
    """Reads from a socket, and keeps when; what `HTTPResponse` takes for a socket.

    Attributes:
        first: When something came first since this was set to None.
        last: When something came last, or the end did.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._file = _Kept(self)
        self.first: int | None = None
        self.last = 0

    def makefile(self, mode: str) -> "_Kept":
        return self._file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = self._connection.recv_into(buffer)
        self.last = monotonic_ns()
        if self.first is None and count:
            self.first = self.last
        return count


class _Kept(io.BufferedReader):
    """What a response closes at its end, and the next one reads on from."""

    def close(self) -> None:
        pass
