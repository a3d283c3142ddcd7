"""Ports for servers of a test's own, which no other process of tests is given meanwhile."""

import fcntl
import functools
import os
import random
import socket
import tempfile
from pathlib import Path

__all__ = ["ServerFailed", "check_port", "free_port", "listener"]

# Below those that Linux takes for outgoing connections, and for servers that ask for any: 32768 and more.
_left = set(range(20000, 32768))


@functools.cache
def _taken() -> int:
    """A file of which a byte is locked for each port that is taken, by the process that took it, until that ends."""
    return os.open(Path(tempfile.gettempdir()) / f"postresponse-ports-{os.getuid()}", os.O_RDWR | os.O_CREAT, 0o600)


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on, and that is this process's until it ends.

    To ask the system for one, and to let it go for a server that is to take it, gives it to whoever asks next.
    """
    while True:
        port = random.choice(list(_left))
        _left.discard(port)
        try:
            fcntl.lockf(_taken(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
            with socket.create_server(("127.0.0.1", port)):
                return port
        except OSError:
            continue


class ServerFailed(Exception):
    """A server did not start; the message says why, with what it printed."""


def listener(port: int) -> socket.socket:
    """Return a socket that listens on *port* of 127.0.0.1, or on one that is free for 0.

    Raises:
        ServerFailed: The port is in use.
    """
    try:
        return socket.create_server(("127.0.0.1", port or free_port()))
    except OSError as error:
        raise ServerFailed(
            f"port {port} of 127.0.0.1 cannot be listened on: {error.strerror}; without one, a free one is taken"
        ) from error


def check_port(port: int) -> None:
    """Refuse a *port* that somebody listens on.

    Raises:
        ServerFailed: It is in use.
    """
    listener(port).close()
