"""A network that goes dark: nothing arrives any more, and nobody is told."""

import socket
import threading
from contextlib import suppress


class Blackhole:
    """A proxy in front of a service that at a word stops to pass anything on, with both ends still open.

    Attributes:
        dark: Set while nothing is passed on.
        refuses: Whether who connects is cut off at once; so it is where nobody listens behind it.
        connections: How often somebody has connected.
    """

    def __init__(self, host: str, port: int) -> None:
        self.target = (host, port)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.dark = threading.Event()
        self.refuses = self.is_closed = False
        self.connections = 0
        self.sockets: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self.listener.accept()
            except OSError:
                return
            self.connections += 1
            far = None if self.refuses else self._connected()
            if far is None:
                near.close()
                continue
            self.sockets += [near, far]
            if self.is_closed:
                self.close()
                return
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    def _connected(self) -> socket.socket | None:
        with suppress(OSError):
            return socket.create_connection(self.target)
        return None

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                if not self.dark.is_set():
                    sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            return

    def cut(self) -> None:
        """Cut every connection there is."""
        for opened in self.sockets:
            with suppress(OSError):
                opened.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.is_closed = True
        for opened in [self.listener, *self.sockets]:
            with suppress(OSError):
                opened.shutdown(socket.SHUT_RDWR)  # or who is in accept() holds the port
            opened.close()
