"""What the server does to who has left, and to what runs behind the last byte."""

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Literal

from postresponse.core.policy import did_you_mean
from postresponse.core.settings import protocol_of
from postresponse.exceptions import ConfigurationError
from postresponse.stack import Finding, layers_of

__all__ = ["KNOWN", "findings_of_server", "running_server"]

_HIDES: Final = (
    "server_hides_disconnects",
    "tells that a client left only when the rest was sent to nobody: such a response ends as 'handed_over', and "
    "on_disconnect='rollback' seldom applies",
    "serve with uvicorn or hypercorn, or do not decide by whether the client is there",
)
_EARLY_CLOSE: Final = (
    "disconnect_by_early_close",
    "tells of a client that left by an early close() of the body, and by nothing else: who leaves before the first "
    "chunk, or behind the last one, is not noticed",
    "nothing has to be done, unless on_disconnect='rollback' shall decide: that takes ASGI",
)


@dataclass(frozen=True, slots=True)
class _Fact:
    """Something to know of a server.

    Attributes:
        protocol: Of the application that it is served to; empty for both.
        severity: As of a `Finding`.
        told: The code, what it does, and the way out.
        unless: Options of its command line, of which one changes that.
    """

    protocol: Literal["asgi", "wsgi", ""]
    severity: Literal["error", "warning", "info"]
    told: tuple[str, str, str]
    unless: tuple[str, ...] = ()


KNOWN: Final[Mapping[str, tuple[_Fact, ...]]] = {
    "uvicorn": (),
    "hypercorn": (
        _Fact(
            "asgi",
            "info",
            (
                "server_cancels_after_sigterm",
                "cancels what runs 3 s after SIGTERM",
                "give it time by --graceful-timeout",
            ),
            ("graceful-timeout",),
        ),
    ),
    "granian": (
        _Fact("asgi", "warning", _HIDES),
        _Fact("wsgi", "info", _EARLY_CLOSE),
        _Fact(
            "",
            "warning",
            (
                "server_kills_at_once",
                "ends its workers at once with SIGTERM: work after the response that runs, or waits, is lost",
                "write what must not be lost to an outbox; --workers-kill-timeout gives the requests time",
            ),
        ),
    ),
    "gunicorn": (
        _Fact(
            "asgi",
            "warning",
            (
                "server_cancels_behind_the_client",
                "cancels what an application of its asgi worker still does 3 s after its client has left",
                "set --asgi-disconnect-grace-period, or use the worker of uvicorn",
            ),
            ("asgi-disconnect-grace-period",),
        ),
        _Fact("wsgi", "info", _EARLY_CLOSE),
    ),
    "daphne": (
        _Fact("asgi", "warning", _HIDES),
        _Fact(
            "asgi",
            "warning",
            (
                "server_kills_at_once",
                "ends at once with SIGTERM, without lifespan.shutdown, and cancels what runs 10 s behind the last "
                "byte: work after the response is lost",
                "write what must not be lost to an outbox, or serve with uvicorn",
            ),
        ),
    ),
    "uwsgi": (
        _Fact("wsgi", "info", _EARLY_CLOSE),
        _Fact(
            "wsgi",
            "warning",
            (
                "server_without_threads",
                "runs no thread beside a request without --enable-threads or --threads: work after the response "
                "would stand still",
                "start it with --enable-threads",
            ),
            ("enable-threads", "threads"),
        ),
    ),
    "waitress": (_Fact("wsgi", "info", _EARLY_CLOSE),),
    "cheroot": (_Fact("wsgi", "info", _EARLY_CLOSE),),
    "werkzeug": (_Fact("wsgi", "info", _EARLY_CLOSE),),
}
"""By the name of the command; measured with default settings, as the README's table of servers says."""

_ALIASES: Final = {"waitress-serve": "waitress", "pyuwsgi": "uwsgi"}


def findings_of_server(app: Any, server: str | None = None) -> Iterator[Finding]:
    """Judge the server of *app*: the one that is named, the one that this process is, or those that are installed.

    What is only installed is mentioned, and is no warning: nobody knows that it is what serves.

    Raises:
        ConfigurationError: There is no such server; or *app* is called neither as ASGI nor as WSGI applications are.
    """
    yield from _bridged(app)
    named = _known(server) if server is not None else running_server()
    protocol = protocol_of(app)
    for name in [named] if named is not None else [each for each in KNOWN if _is_installed(each)]:
        for fact in KNOWN[name]:
            if fact.protocol in (protocol, "") and not _is_met(fact):
                code, told, way_out = fact.told
                where = f"{name}, which {'serves' if named is not None else 'is installed'}"
                yield Finding(code, fact.severity if named is not None else "info", f"{name} {told}", where, way_out)


def running_server() -> str | None:
    """Return the name of the server that this process is, or None where it is none that is known."""
    if "uwsgi" in sys.modules:  # which is there inside of uWSGI, and nowhere else
        return "uwsgi"
    if "uvicorn.workers" in sys.modules or "uvicorn_worker" in sys.modules:  # under gunicorn
        return "uvicorn"
    command = Path(sys.argv[0]) if sys.argv and sys.argv[0] else Path("python")
    name = command.parent.name if command.name == "__main__.py" else command.name
    if name == "flask" and "run" in sys.argv:  # its other commands serve nothing
        return "werkzeug"
    name = _ALIASES.get(name, name)
    return name if name in KNOWN else None


def _known(server: str) -> str:
    name = _ALIASES.get(server, server)
    if name not in KNOWN:
        raise ConfigurationError(f"--server: nothing is known of {server!r}{did_you_mean(server, KNOWN)}")
    return name


def _is_installed(name: str) -> bool:
    return find_spec("pyuwsgi" if name == "uwsgi" else name) is not None


def _is_met(fact: _Fact) -> bool:
    """Whether the server that this process is was given an option that changes what it does by default."""
    uwsgi: Any = sys.modules.get("uwsgi")
    given = {str(name, "utf-8") if isinstance(name, bytes) else name for name in getattr(uwsgi, "opt", ())}
    given |= {argument.partition("=")[0].lstrip("-") for argument in sys.argv[1:]}
    return not given.isdisjoint(fact.unless)


def _bridged(app: Any) -> Iterator[Finding]:
    for layer in layers_of(app):
        if (layer.module, layer.name) == ("asgiref.wsgi", "WsgiToAsgi"):
            yield Finding(
                "bridge_never_closes",
                "error",
                "asgiref's WsgiToAsgi never calls close() of a body: the end of a response is not known, and a "
                "commit after_send, and on_finished, wait for the garbage collector",
                f"{layer.position}: {layer}",
                "serve the application by WSGI, or bridge it with a2wsgi.WSGIMiddleware",
            )
