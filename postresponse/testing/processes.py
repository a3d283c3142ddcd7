"""A real server in a process of its own: started from the command line, known to be ready, and stopped.

Its output goes to a file: what it logged is part of what a test asserts, and of every error message.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from postresponse.testing.ports import ServerFailed, check_port, free_port
from postresponse.testing.servers import Kind

__all__ = ["Server", "listens"]


class Server:
    """One running server.

    Args:
        kind: Which one.
        target: The application, as `package.module:name`.
        folder: An empty folder for the process, with its log file.
        environment: Variables added to this process's own.
        paths: Where modules are found, before all others.
        port: Where it listens; 0 for one that is free.
        directory: Where it works, if that is not *folder*.
    """

    def __init__(
        self,
        kind: Kind,
        target: str,
        folder: Path,
        environment: Mapping[str, str],
        *,
        paths: Sequence[str] = (),
        port: int = 0,
        directory: Path | None = None,
    ) -> None:
        self.kind: Kind = kind
        self.folder: Path = folder
        self.port: int = port
        self._target = target
        self._environment = dict(environment)
        self._paths = tuple(paths)
        self._directory = directory or folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, timeout: float = 20.0) -> None:
        """Start the process and return when it listens.

        Raises:
            ServerFailed: If it ends before, or does not listen within *timeout* seconds, or its port is in use.
        """
        if self.port:
            check_port(self.port)
        else:
            self.port = free_port()
        with self._log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, *self.kind.command(self._target, self.port)],
                cwd=self._directory,
                env=self._environ(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # so that its workers can be killed with it
            )
        deadline = time.monotonic() + timeout
        while not listens(self.port):
            if not self.alive():
                raise ServerFailed(f"{self.kind} ended with {self._process.returncode} at the start:\n{self.log()}")
            if time.monotonic() > deadline:
                self.stop()
                raise ServerFailed(f"{self.kind} did not listen within {timeout} s:\n{self.log()}")
            time.sleep(0.01)

    def stop(self, timeout: float = 8.0) -> None:
        """Ask it to end, wait, and kill what is left of it and its workers."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout)
        with suppress(ProcessLookupError):  # the group is empty where everything ended by itself
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    @property
    def pid(self) -> int:
        """The process that was started, whose children the workers may be."""
        assert self._process is not None
        return self._process.pid

    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.poll() is None

    def log(self) -> str:
        """Return what it printed so far, on both streams."""
        return self._log_path.read_text(errors="replace") if self._log_path.exists() else ""

    @property
    def _log_path(self) -> Path:
        return self.folder / "server.log"

    def _environ(self) -> dict[str, str]:
        return {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, [*self._paths, os.environ.get("PYTHONPATH")])),
            "PYTHONUNBUFFERED": "1",
            **self._environment,
        }


def listens(port: int) -> bool:
    """Whether somebody listens on *port* of this machine."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
