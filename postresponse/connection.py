"""What a server lets us see of a connection: whether all it took has left, and whether the client is there."""

import socket
import struct
from typing import Any

try:
    import fcntl
    import termios
except ImportError:  # no such look into the kernel on Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["client_left", "socket_drained", "transport_drained"]


def transport_drained(send: Any) -> bool | None:
    """True where the transport behind *send* shows an empty buffer and is open (uvicorn); None elsewhere."""
    transport: Any = getattr(getattr(send, "__self__", None), "transport", None)
    if transport is None:
        return None
    try:
        return True if transport.get_write_buffer_size() == 0 and not transport.is_closing() else None
    except AttributeError:
        return None


def socket_drained(environ: dict[str, Any]) -> bool | None:
    """True where the kernel shows the socket's queue empty and it is up (gunicorn, Werkzeug); None elsewhere."""
    sock = _socket_of(environ)
    if sock is None or fcntl is None or not hasattr(socket, "TCP_INFO"):
        return None
    try:
        queued = struct.unpack("i", fcntl.ioctl(sock, termios.TIOCOUTQ, b"\0" * 4))[0]
        up = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == 1  # TCP_ESTABLISHED
    except (OSError, ValueError):  # closed meanwhile
        return None
    return True if up and queued == 0 else None


def client_left(environ: dict[str, Any]) -> bool:
    """Whether the client is seen to have hung up (gunicorn, Werkzeug, waitress); False where nothing can be seen."""
    ask = environ.get("waitress.client_disconnected")  # looks, where `channel_request_lookahead` is above 0
    if ask is not None:
        return bool(ask())
    sock = _socket_of(environ)
    if sock is None:
        return False
    try:
        if sock.family != getattr(socket, "AF_UNIX", None) and hasattr(socket, "TCP_INFO"):
            return bool(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] != 1)  # TCP_ESTABLISHED
        return not sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True


def _socket_of(environ: dict[str, Any]) -> Any:
    return environ.get("gunicorn.socket") or environ.get("werkzeug.socket")
