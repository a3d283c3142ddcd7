"""A connection cut off under a call that hangs on it, from another thread."""

import os
import socket
from typing import Any

__all__ = ["shut_down"]


def shut_down(driver: Any) -> None:
    """Shut down the socket of a driver's connection: psycopg and mysqlclient have `fileno`, PyMySQL its socket.

    By a duplicate: the driver is not to notice before its call fails, and closes its own.
    """
    own = getattr(driver, "_sock", None)
    if isinstance(own, socket.socket):
        own.shutdown(socket.SHUT_RDWR)
        return
    with socket.socket(fileno=os.dup(driver.fileno())) as duplicate:
        duplicate.shutdown(socket.SHUT_RDWR)
