"""Servers that can be started from the command line, and the manners in which they differ."""

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from postresponse.core.policy import did_you_mean
from postresponse.exceptions import ConfigurationError

__all__ = ["KINDS", "THREADS", "WERKZEUG", "Command", "Kind", "gunicorn", "kinds_named"]

THREADS: Final = 20
"""Threads of a threaded server: more than the slow readers of any test."""

Command = Callable[[str, int], Sequence[str]]


@dataclass(frozen=True)
class Kind:
    """A server, how it is started, and the manners in which it differs from the others.

    Attributes:
        name: How it is called.
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

    @property
    def package(self) -> str:
        """What it is installed as."""
        return "pyuwsgi" if self.name == "uwsgi" else self.name.partition("-")[0]

    @property
    def missing(self) -> str:
        """What would have to be installed for it, or an empty string."""
        needed = [self.package, *_ALSO.get(self.name, ())]
        return ", ".join(name for name in needed if importlib.util.find_spec(name) is None)

    def __str__(self) -> str:
        return self.name


_ALSO: Final[Mapping[str, Sequence[str]]] = {
    "uvicorn-httptools": ("httptools",),
    "uvicorn-h11": ("h11",),
    "hypercorn-trio": ("trio",),
    "gunicorn-gevent": ("gevent",),
}


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


def gunicorn(worker: str, *more: str) -> Command:
    """Start gunicorn with one worker of a kind."""

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


def _werkzeug(target: str, port: int) -> Sequence[str]:
    serve = "run_simple('127.0.0.1', int(sys.argv[2]), imported(sys.argv[1], here=True), threaded=True)"
    code = f"import sys; from werkzeug.serving import run_simple; from postresponse.importing import imported; {serve}"
    return ["-c", code, target, str(port)]


KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("uvicorn-httptools", "asgi", _uvicorn("httptools")),
        Kind("uvicorn-h11", "asgi", _uvicorn("h11")),
        Kind("hypercorn", "asgi", _hypercorn("asyncio", 0)),
        Kind("hypercorn-trio", "asgi", _hypercorn("trio", 1), loop="trio"),
        Kind("granian-asgi", "asgi", _granian("asgi"), tells_late=True),
        Kind("gunicorn-asgi", "asgi", gunicorn("asgi", "--asgi-disconnect-grace-period", "1")),
        Kind("daphne", "asgi", _daphne, swallows=True, tells_late=True),
        Kind("granian-wsgi", "wsgi", _granian("wsgi", "--blocking-threads", str(THREADS))),
        Kind("gunicorn-sync", "wsgi", gunicorn("sync"), keeps_alive=False, concurrent=False),
        Kind("gunicorn-gthread", "wsgi", gunicorn("gthread", "--threads", str(THREADS))),
        Kind("gunicorn-gevent", "wsgi", gunicorn("gevent")),
        Kind("uwsgi", "wsgi", _uwsgi, keeps_alive=False, reads_chunked=False),
        Kind("waitress", "wsgi", _waitress, heeds_sigterm=False),
        Kind("cheroot", "wsgi", _cheroot, heeds_sigterm=False),
    )
}


WERKZEUG: Final = Kind("werkzeug", "wsgi", _werkzeug, keeps_alive=False, heeds_sigterm=False)
"""The development server that comes with this package: for a look, and not held to anything."""


def kinds_named(name: str, protocol: str | None = None, among: Mapping[str, Kind] = KINDS) -> list[Kind]:
    """Return the servers that *name* means: one, as `"gunicorn-sync"`, or all of a family, as `"gunicorn"`.

    Args:
        protocol: `"asgi"` or `"wsgi"`, for those of it only.
        among: Those that there are.

    Raises:
        ConfigurationError: There is none.
    """
    family = [kind for kind in among.values() if kind.name.startswith(f"{name}-")]
    found = [among[name]] if name in among else family
    if not found:
        near = did_you_mean(name, dict.fromkeys([*(each.partition("-")[0] for each in among), *among]))
        raise ConfigurationError(f"server: there is no {name!r}{near}")
    fitting = [kind for kind in found if protocol in (None, kind.protocol)]
    if not fitting:
        raise ConfigurationError(f"server: {name!r} serves {found[0].protocol}, and the application is {protocol}")
    return fitting
