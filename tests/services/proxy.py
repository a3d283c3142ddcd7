"""A network that fails at the worst moment: a proxy that cuts a connection around COMMIT."""

import enum
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

__all__ = ["CommitProxy", "Cut", "mysql_messages", "postgresql_messages"]

Messages = Callable[["_Line"], Iterator[tuple[bytes, bool]]]
"""Gives what a client says, message by message, and whether it is a COMMIT."""


class Cut(enum.Enum):
    """What becomes of a COMMIT, and of the connection it came on."""

    BEFORE = "before COMMIT"
    """It is not passed on, and both sides are cut."""
    AFTER = "after COMMIT"
    """It is passed on, its answer is waited for and kept, and both sides are cut."""
    UNSEEN = "as COMMIT leaves"
    """It is passed on, and both sides are cut without waiting."""
    LATE = "before a late COMMIT"
    """The client is cut, and COMMIT arrives 0.3 s later all the same, as it does out of a full buffer."""
    DARK = "the client alone"
    """It is not passed on, the client is cut, and the server not told before the proxy is closed."""


class CommitProxy:
    """A proxy in front of a database that waits for a COMMIT once it is armed.

    Args:
        host: The database's.
        port: The database's.
        messages: How the client's side is read: `postgresql_messages` or `mysql_messages`.
    """

    def __init__(self, host: str, port: int, messages: Messages) -> None:
        self._target = (host, port)
        self._messages = messages
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._armed: tuple[Cut, bool] | None = None
        self._lines: list[_Line] = []
        self.refuses = False
        self.cuts = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def arm(self, cut: Cut, *, then_refuse: bool = False) -> None:
        """Do *cut* at the next COMMIT; with *then_refuse*, let nobody connect from then on until `heal`."""
        self._armed = (cut, then_refuse)

    def heal(self) -> None:
        """Let everything pass again."""
        self._armed, self.refuses = None, False

    def close(self) -> None:
        """Cut everything there is."""
        _hang_up(self._listener)  # or the port listens on: whoever is in accept() holds it
        for line in self._lines:
            line.cut()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if self.refuses:
                near.close()
                continue
            line = _Line(near, socket.create_connection(self._target))
            self._lines = [other for other in self._lines if not other.over] + [line]
            threading.Thread(target=line.pump_back, daemon=True).start()
            threading.Thread(target=self._pump, args=(line,), daemon=True).start()

    def _pump(self, line: "_Line") -> None:
        with suppress(OSError):
            for message, commits in self._messages(line):
                armed = self._fire() if commits else None
                if armed is None:
                    line.far.sendall(message)
                else:
                    line.end(armed, message)
                    return
        line.cut()

    def _fire(self) -> Cut | None:
        with self._lock:
            if self._armed is None:
                return None
            (cut, self.refuses), self._armed = self._armed, None
            self.cuts += 1
            return cut


class _Line:
    """One connection through the proxy."""

    def __init__(self, near: socket.socket, far: socket.socket) -> None:
        self.near, self.far = near, far
        self.over = False
        self._muted = False
        self._answered = threading.Event()

    def read(self, count: int) -> bytes:
        """Read exactly *count* bytes of the client's."""
        data = b""
        while len(data) < count:
            part = self.near.recv(count - len(data))
            if not part:
                raise ConnectionResetError("the client left")
            data += part
        return data

    def pump_back(self) -> None:
        """Pass on what the server says, or keep it."""
        with suppress(OSError):
            while data := self.far.recv(65536):
                if self._muted:
                    self._answered.set()
                else:
                    self.near.sendall(data)
        if not self._muted:
            self.cut()

    def end(self, cut: Cut, commit: bytes) -> None:
        """Do with *commit*, and with this connection, what *cut* says."""
        self._muted = True
        if cut in (Cut.AFTER, Cut.UNSEEN):
            self.far.sendall(commit)
        if cut is Cut.AFTER:
            assert self._answered.wait(10)
        if cut in (Cut.LATE, Cut.DARK):
            _hang_up(self.near)
        if cut is Cut.LATE:
            time.sleep(0.3)
            self.far.sendall(commit)
            assert self._answered.wait(10)
        if cut is not Cut.DARK:
            self.cut()

    def cut(self) -> None:
        """Hang up on both sides."""
        self.over = True
        _hang_up(self.near)
        _hang_up(self.far)


def _hang_up(side: socket.socket) -> None:
    with suppress(OSError):
        side.shutdown(socket.SHUT_RDWR)
    side.close()


SSL, GSS = 80877103, 80877104


def postgresql_messages(line: _Line) -> Iterator[tuple[bytes, bool]]:
    """Read PostgreSQL's protocol: COMMIT comes as a simple query, or is parsed to be executed.

    The requests for encryption that come first are answered here, with a no.
    """
    while True:
        head = line.read(8)
        startup = head + line.read(int.from_bytes(head[:4], "big") - 8)
        if int.from_bytes(head[4:], "big") not in (SSL, GSS):
            yield startup, False
            break
        line.near.sendall(b"N")
    while True:
        head = line.read(5)
        body = line.read(int.from_bytes(head[1:], "big") - 4)
        text = body if head[:1] == b"Q" else body.split(b"\0", 2)[1] if head[:1] == b"P" else b""
        yield head + body, text.rstrip(b"\0").rstrip(b"; ").upper() == b"COMMIT"


def mysql_messages(line: _Line) -> Iterator[tuple[bytes, bool]]:
    """Read MySQL's and MariaDB's protocol: COMMIT comes as COM_QUERY, and XA COMMIT does."""
    while True:
        head = line.read(4)
        body = line.read(int.from_bytes(head[:3], "little"))
        words = body[1:].upper().split()
        yield head + body, body[:1] == b"\x03" and (words == [b"COMMIT"] or words[:2] == [b"XA", b"COMMIT"])
