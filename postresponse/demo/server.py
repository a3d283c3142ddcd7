"""A uvicorn in a process of its own, that ends when nobody holds its standard input any more.

So it ends however its parent does: by itself, by Ctrl-C or by SIGKILL.

    python -m postresponse.demo.server DATABASE
"""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

__all__ = ["ServerFailed", "running"]


class ServerFailed(Exception):
    """The server did not start; the message holds what it printed."""


@contextmanager
def running(database: Path, log: Path) -> Iterator[int]:
    """Run the shops on *database* and give the port that they listen on; what the server prints goes to *log*.

    Raises:
        ServerFailed: It ended before it listened.
    """
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(database)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=output,
            start_new_session=True,  # Ctrl-C is for the client, which then ends the server in order
        )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        with closing(process.stdout) as said:
            port = said.readline()
        if not port:
            process.wait()
            raise ServerFailed(log.read_text(errors="replace"))
        yield int(port)
    finally:
        process.stdin.close()
        try:
            process.wait(timeout=5)
        finally:
            process.kill()
            process.wait()


def main(database: Path) -> None:
    """Serve until the end of standard input; print the port once connections are taken."""
    import uvicorn

    from postresponse.demo.shop import make_app

    config = uvicorn.Config(make_app(database), log_level="warning", access_log=False, timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)

    def end_with_parent() -> None:
        os.read(sys.stdin.fileno(), 1)  # not sys.stdin.read(), whose lock would be held when the interpreter ends
        server.should_exit = True

    # With the protocol named, as uvicorn's own socket has it: asyncio sets TCP_NODELAY for no other.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        threading.Thread(target=end_with_parent, daemon=True).start()
        print(listener.getsockname()[1], flush=True)
        with suppress(KeyboardInterrupt):
            server.run(sockets=[listener])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
