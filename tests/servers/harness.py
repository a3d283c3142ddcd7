"""Start a real server in a process of its own, know when it is ready, and stop it.

A server is started from the command line, as a user would, with one worker process and, where it has them, enough
threads. Its output goes to a file: what it logged is part of what a test asserts, and of every error message.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.services.ports import free_port

TESTS = Path(__file__).resolve().parents[1]
THREADS = 20
"""Threads of a threaded server: more than the slow readers of any test."""

Command = Callable[[str, int], Sequence[str]]


@dataclass(frozen=True)
class Kind:
    """A server, how it is started, and the manners in which it differs from the others.

    Attributes:
        name: How the tests and the table call it.
        protocol: asgi or wsgi.
        command: Arguments after the interpreter, made of the target and the port.
        loop: The event loop library; SQLAlchemy's asyncio extension runs on asyncio only.
        keeps_alive: Whether it serves a second request on a connection.
        concurrent: Whether it serves other connections while one request is being handled.
        swallows: Whether it takes a body of any length from the application while the client reads nothing.
        reads_chunked: Whether it gives an application a request's body that comes in chunks.
        tells_late: Whether the rest of a body can be sent to nobody before it tells that the client left.
        heeds_sigterm: Whether it handles SIGTERM; Python by itself ends the process at once.
    """

    name: str
    protocol: str
    command: Command
    loop: str = "asyncio"
    keeps_alive: bool = True
    concurrent: bool = True
    swallows: bool = False
    reads_chunked: bool = True
    tells_late: bool = False
    heeds_sigterm: bool = True

    def __str__(self) -> str:
        return self.name


def _uvicorn(parser: str) -> Command:
    def command(target: str, port: int) -> Sequence[str]:
        options = ["--no-access-log", "--timeout-graceful-shutdown", "1"]
        return ["-m", "uvicorn", target, "--host", "127.0.0.1", "--port", str(port), "--http", parser, *options]

    return command


def _hypercorn(worker: str, workers: int) -> Command:
    def command(target: str, port: int) -> Sequence[str]:
        # No workers means: in this process. One is another interpreter to wait for, and heeds SIGTERM on trio too.
        options = ["--workers", str(workers), "--worker-class", worker, "--graceful-timeout", "1"]
        return ["-m", "hypercorn", target, "--bind", f"127.0.0.1:{port}", *options]

    return command


def _granian(interface: str, *more: str) -> Command:
    def command(target: str, port: int) -> Sequence[str]:
        options = ["--interface", interface, "--workers", "1", "--workers-kill-timeout", "2", *more]
        return ["-m", "granian", target, "--host", "127.0.0.1", "--port", str(port), *options]

    return command


def _gunicorn(worker: str, *more: str) -> Command:
    def command(target: str, port: int) -> Sequence[str]:
        options = ["--workers", "1", "--worker-class", worker, "--graceful-timeout", "3", "--no-control-socket", *more]
        return ["-m", "gunicorn", target, "--bind", f"127.0.0.1:{port}", "--keep-alive", "30", *options]

    return command


def _waitress(target: str, port: int) -> Sequence[str]:
    return ["-m", "waitress", "--host", "127.0.0.1", "--port", str(port), "--threads", str(THREADS), target]


def _cheroot(target: str, port: int) -> Sequence[str]:
    return ["-m", "cheroot", target, "--bind", f"127.0.0.1:{port}", "--threads", str(THREADS)]


def _uwsgi(target: str, port: int) -> Sequence[str]:
    options = ["--http-socket", f"127.0.0.1:{port}", "--module", target, "--need-app", "--master"]
    # SIGTERM lets requests end first: a worker that has one leaves out all that runs at exit.
    options += ["--hook-master-start", "unix_signal:15 gracefully_kill_them_all"]
    # Without threads of its own nothing would run beside a request, the package's threads included.
    options += ["--enable-threads", "--processes", "1", "--threads", str(THREADS), "--worker-reload-mercy", "4"]
    options += ["--add-header", "Connection: close"]  # which it does, and does not say
    return ["-c", "import pyuwsgi, sys; pyuwsgi.run(sys.argv[1:])", *options]


def _daphne(target: str, port: int) -> Sequence[str]:
    return ["-m", "daphne", "-b", "127.0.0.1", "-p", str(port), target]


KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("uvicorn-httptools", "asgi", _uvicorn("httptools")),
        Kind("uvicorn-h11", "asgi", _uvicorn("h11")),
        Kind("hypercorn", "asgi", _hypercorn("asyncio", 0)),
        Kind("hypercorn-trio", "asgi", _hypercorn("trio", 1), loop="trio"),
        Kind("granian-asgi", "asgi", _granian("asgi"), tells_late=True),
        Kind("gunicorn-asgi", "asgi", _gunicorn("asgi", "--asgi-disconnect-grace-period", "1")),
        Kind("daphne", "asgi", _daphne, swallows=True, tells_late=True),
        Kind("granian-wsgi", "wsgi", _granian("wsgi", "--blocking-threads", str(THREADS))),
        Kind("gunicorn-sync", "wsgi", _gunicorn("sync"), keeps_alive=False, concurrent=False),
        Kind("gunicorn-gthread", "wsgi", _gunicorn("gthread", "--threads", str(THREADS))),
        Kind("gunicorn-gevent", "wsgi", _gunicorn("gevent")),
        Kind("uwsgi", "wsgi", _uwsgi, keeps_alive=False, reads_chunked=False),
        Kind("waitress", "wsgi", _waitress, heeds_sigterm=False),
        Kind("cheroot", "wsgi", _cheroot, heeds_sigterm=False),
    )
}

GTHREAD_PRELOADED: Final = Kind("gunicorn-preload", "wsgi", _gunicorn("gthread", "--threads", "4", "--preload"))
"""One that loads the application before it forks its worker."""


class StartFailed(Exception):
    """A server ended, or did not listen in time; the message holds what it printed."""


class Server:
    """One running server.

    Args:
        kind: Which one.
        target: The application, as ``package.module:name``.
        folder: An empty folder for the process: its working directory, log file and path entry.
        environment: Variables added to this process's own.
        port: Where it listens each time that it is started; 0 for another port each time.
    """

    def __init__(self, kind: Kind, target: str, folder: Path, environment: Mapping[str, str], port: int = 0) -> None:
        self.kind = kind
        self.folder = folder
        self._target = target
        self._environment = dict(environment)
        self._process: subprocess.Popen[bytes] | None = None
        self.port = self._port = port

    def start(self, timeout: float = 20.0) -> None:
        """Start the process and return when it listens.

        Raises:
            StartFailed: If it ends before, or does not listen within *timeout* seconds.
        """
        self.port = self._port or free_port()
        with self._log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, *self.kind.command(self._target, self.port)],
                cwd=self.folder,
                env=self._environ(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # so that its workers can be killed with it
            )
        deadline = time.monotonic() + timeout
        while not _listens(self.port):
            if not self.alive():
                raise StartFailed(f"{self.kind} ended with {self._process.returncode} at the start:\n{self.log()}")
            if time.monotonic() > deadline:
                self.stop()
                raise StartFailed(f"{self.kind} did not listen within {timeout} s:\n{self.log()}")
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
        # A path entry that holds nothing but a link to these tests: the checkout would shadow an installed wheel.
        link = self.folder / "path" / "tests"
        if not link.exists():
            link.parent.mkdir(parents=True)
            link.symlink_to(TESTS, target_is_directory=True)
        return {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, [str(link.parent), os.environ.get("PYTHONPATH")])),
            "PYTHONUNBUFFERED": "1",
            **self._environment,
        }


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
