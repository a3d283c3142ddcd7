"""A server in a process of its own, from its start to its reports."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from postresponse.cli.tracing.application import ENVIRONMENT
from postresponse.cli.tracing.servers import WRONG
from postresponse.exceptions import ConfigurationError

__all__ = ["StartFailed", "Started"]

POLL: Final = 0.01
AT_THE_END: Final = 20.0
"""Seconds that a server has to end, with the work that runs."""


class StartFailed(Exception):
    """The server ended, or did not listen in time; the message holds what it printed last."""


class Started:
    """Serves the application that a command names, on the loopback interface.

    Args:
        app: The application, as module:name.
        factory: Whether that is a function which makes it.
        server: Of which kind; empty for the first that is installed.
        port: Where it is to listen; None for a free one.
        timeout: Seconds until it has to listen.

    Raises:
        ConfigurationError: The application cannot be loaded, or there is no such server.
        StartFailed: The port is in use, or the server does not run.
    """

    def __init__(
        self, app: str, *, factory: bool = False, server: str = "", port: int | None = None, timeout: float = 30.0
    ) -> None:
        self.port: int = _port(port)
        self._folder = tempfile.TemporaryDirectory(prefix="postresponse-trace-")
        self._reports = Path(self._folder.name, "reports")
        self._log = Path(self._folder.name, "log")
        given = json.dumps({"app": app, "factory": factory, "report": str(self._reports)})
        try:
            with self._log.open("wb") as log:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "postresponse.cli.tracing", str(self.port), *([server] if server else [])],
                    env={**os.environ, ENVIRONMENT: given, "PYTHONUNBUFFERED": "1"},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,  # Ctrl-C is for the command, which then ends it
                )
            self._wait_ready(timeout)
        except BaseException:
            self.stop()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _wait_ready(self, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while not _listens(self.port):
            code = self._process.poll()
            if code == WRONG:
                raise ConfigurationError(self.log)
            if code is not None:
                raise StartFailed(f"the server ended with {code}:\n{self.log}")
            if time.monotonic() > deadline:
                raise StartFailed(f"the server did not listen within {timeout:g} s:\n{self.log}")
            time.sleep(POLL)

    @property
    def log(self) -> str:
        """What the server printed, the last of it."""
        return self._log.read_text(errors="replace").strip()[-2000:] if self._log.exists() else ""

    def wait_told(self, count: int, timeout: float = 5.0) -> None:
        """Wait until so many exchanges have been reported: a server may be busy with one that its client has."""
        deadline = time.monotonic() + timeout
        while sum(each["kind"] == "exchange" for each in self.reports()) < count and time.monotonic() < deadline:
            time.sleep(POLL)

    def reports(self) -> list[dict[str, Any]]:
        """What was reported so far, in order."""
        text = self._reports.read_text() if self._reports.exists() else ""
        return [json.loads(line) for line in text.splitlines()]

    def drain(self) -> list[dict[str, Any]]:
        """Have it end, with the work that runs, and return all that it reported."""
        self._process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(AT_THE_END)
        return self.reports()

    def stop(self) -> None:
        """Kill what is left of it."""
        process = getattr(self, "_process", None)
        if process is not None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self._folder.cleanup()


def _port(wanted: int | None) -> int:
    """Return a port that nobody listens on.

    Raises:
        StartFailed: Somebody does.
    """
    try:
        with socket.create_server(("127.0.0.1", wanted or 0)) as found:
            return int(found.getsockname()[1])
    except OSError as error:
        raise StartFailed(f"port {wanted} of 127.0.0.1 cannot be had: {error.strerror}; leave --port out") from error


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
