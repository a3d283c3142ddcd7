"""A server in a process of its own that serves an application, from its start to what it reports of each exchange."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, Literal

from postresponse.cli.tracing.application import ENVIRONMENT, TARGET
from postresponse.exceptions import ConfigurationError
from postresponse.testing.ports import ServerFailed
from postresponse.testing.processes import Server
from postresponse.testing.servers import KINDS, WERKZEUG, Kind, kinds_named

__all__ = ["SERVERS", "Started", "chosen", "started"]

SERVERS: Final = {**KINDS, WERKZEUG.name: WERKZEUG}
"""Those that can be started."""

DEFAULTS: Final[Mapping[str, tuple[str, ...]]] = {
    "asgi": ("uvicorn", "hypercorn", "daphne", "granian", "gunicorn"),
    "wsgi": ("waitress", "cheroot", "werkzeug"),  # the last comes with this package
}
"""Which one is taken where none is named: the first that is installed."""

POLL: Final = 0.01
AT_THE_END: Final = 10.0
"""Seconds that work may take, and then the server to end."""


def chosen(name: str, protocol: Literal["asgi", "wsgi"]) -> Kind:
    """Return the server called *name*, or the default one where that is empty.

    Raises:
        ConfigurationError: It is not known, not installed, or not for such an application.
    """
    names = [name] if name else DEFAULTS[protocol]
    kinds = [kind for each in names for kind in kinds_named(each, protocol, SERVERS)]
    for kind in kinds:
        if not kind.missing:
            return kind
    if name:
        raise ConfigurationError(f"server: {name} is not installed: pip install {kinds[0].missing}")
    raise ConfigurationError(f"no server for {protocol.upper()} is installed; install one of {', '.join(names)}")


class Started:
    """A server that runs, and its reports.

    Attributes:
        port: Where it listens, on 127.0.0.1.
    """

    def __init__(self, server: Server, reports: Path) -> None:
        self.port: int = server.port
        self._server = server
        self._reports = reports

    def wait_loaded(self, timeout: float) -> None:
        """Wait until the application is there: some servers listen before that.

        Raises:
            ServerFailed: The server ended meanwhile, or it took longer.
        """
        _wait(lambda: self._is_loaded() or not self._server.alive(), timeout)
        if not self._is_loaded():
            raise ServerFailed(f"{self._server.kind} did not load the application:\n{self._server.log()}")

    def _is_loaded(self) -> bool:
        return any(each["kind"] == "loaded" for each in self._told())

    def wait_told(self, count: int, timeout: float = 5.0) -> None:
        """Wait until so many exchanges have been reported: a server may be busy with one that its client has."""
        _wait(lambda: sum(each["kind"] == "exchange" for each in self._told()) >= count, timeout)

    def drain(self) -> list[dict[str, Any]]:
        """Wait for the work that runs, which not every server does, have it end, and return all that it reported."""
        _wait(self._has_worked, AT_THE_END)
        self._server.stop(AT_THE_END)
        return self._told()

    def _has_worked(self) -> bool:
        told = self._told()
        kinds: list[str] = [each["kind"] for each in told]
        due: int = sum(each["work"] for each in told if each["kind"] == "exchange")
        return kinds.count("job") >= max(kinds.count("job began"), due)

    def _told(self) -> list[dict[str, Any]]:
        text = self._reports.read_text() if self._reports.exists() else ""
        return [json.loads(line) for line in text.splitlines()]


@contextmanager
def started(kind: Kind, app: str, *, factory: bool = False, port: int = 0, timeout: float = 30.0) -> Iterator[Started]:
    """Serve the application that a command names for the time of the block, from the working directory.

    Args:
        app: The application, as module:name.
        factory: Whether that is a function which makes it.
        port: Where the server listens; 0 for a free one.
        timeout: Seconds until it has to listen.

    Raises:
        ServerFailed: The port is in use, or the server does not run.
    """
    with TemporaryDirectory(prefix="postresponse-trace-") as made:
        folder, here = Path(made), Path.cwd()
        given = {"app": app, "factory": factory, "report": str(folder / "reports"), "ends": not kind.heeds_sigterm}
        environment = {ENVIRONMENT: json.dumps(given)}
        server = Server(kind, TARGET, folder, environment, paths=[str(here)], port=port, directory=here)
        try:
            server.start(timeout)
            running = Started(server, folder / "reports")
            running.wait_loaded(timeout)
            yield running
        finally:
            server.stop(0)


def _wait(holds: Callable[[], bool], timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while not holds() and time.monotonic() < deadline:
        time.sleep(POLL)
