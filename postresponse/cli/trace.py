"""The command `postresponse trace`: one request, and when what of its response arrived, and why then."""

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import SplitResult

from postresponse.cli.application import add_factory_to
from postresponse.cli.arguments import count, port, seconds
from postresponse.cli.ending import exit_codes

__all__ = ["add_to", "run"]

TRACE: Final = """
Send one request over a socket, and show when its head, each piece of its body and its end arrived.

With --app the application is served by a real server in a process of its own, and what happened there is shown beside
it: when the unit of work committed, when head and body were handed to the server, and the work that ran afterwards.
The request is a real one: what it writes is written.

  postresponse trace GET http://127.0.0.1:8000/orders
  postresponse trace POST /orders --app shop:app --header 'Content-Type: application/json' --data '{"item": "tea"}'"""
EXIT_CODES: Final = exit_codes(
    "each response came, and is whole; whatever its status is",
    "a response is not whole, or with --app its verdict is one to look at",
    "called wrongly, or the application or the server cannot be loaded",
    "nobody answered: no connection, a port in use, a server that does not start, no response in time",
)


def add_to(commands: Any) -> None:
    """Add the command."""
    trace = commands.add_parser(
        "trace",
        help="send a request, and show when what of its response arrived",
        description=TRACE.strip(),
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    trace.add_argument("method", metavar="METHOD", type=_method, help="GET, POST, ...")
    trace.add_argument("url", metavar="URL", help="what to ask; with --app its path, as /orders")
    trace.add_argument("--header", action="append", default=[], type=_header, metavar="'NAME: VALUE'")
    trace.add_argument("--data", default="", help="the body; of a file with @PATH")
    trace.add_argument(
        "--repeat", type=count, default=1, metavar="N", help="ask so often, on one connection if it stays"
    )
    trace.add_argument("--timeout", type=seconds, default=30.0, metavar="SECONDS", help="silence at most (default: 30)")
    trace.add_argument("--app", help="serve this application, given as module:name")
    add_factory_to(trace)
    trace.add_argument(
        "--server",
        default="",
        metavar="NAME",
        help="by this server, as gunicorn or gunicorn-gthread (default: one installed)",
    )
    trace.add_argument("--port", type=port, help="on this port (default: a free one)")
    trace.add_argument("--json", action="store_true", help="print JSON")


def _method(text: str) -> str:
    if not text.isascii() or not text.isalpha():
        raise argparse.ArgumentTypeError(f"expected a method as GET, found {text!r}")
    return text.upper()


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip() or " " in name.strip() or not text.isprintable() or not _is_latin(text):
        raise argparse.ArgumentTypeError(f"expected 'NAME: VALUE', found {text!r}")
    return name.strip(), value.strip()


def _is_latin(text: str) -> bool:
    return all(ord(sign) < 256 for sign in text)


def run(options: argparse.Namespace) -> int:
    """Ask, print what came, and return the exit code."""
    from postresponse.exceptions import ConfigurationError
    from postresponse.testing.ports import ServerFailed

    try:
        asked, reports = _traced(options)
    except (ConfigurationError, _Wrong) as error:
        print(f"postresponse trace: {error}", file=sys.stderr)
        return 2
    except ServerFailed as error:
        print(f"postresponse trace: {error}", file=sys.stderr)
        return 3
    except OSError as error:
        print(f"postresponse trace: {_unreachable(options.url, error)}", file=sys.stderr)
        return 3
    found = [_Found(options, answer, is_open, told) for (answer, is_open), told in zip(asked, reports, strict=True)]
    if options.json:
        print(json.dumps([each.as_json() for each in found], indent=2))
    else:
        print("\n\n".join(each.as_text() for each in found))
    return max(each.code for each in found)


class _Wrong(Exception):
    """The command was called wrongly."""


def _unreachable(url: str, error: OSError) -> str:
    if isinstance(error, ConnectionRefusedError):
        return f"nobody listens at {url}: connection refused; start the server, or give --app to have it started"
    return f"{url} cannot be reached: {error.strerror or error}"


def _traced(options: argparse.Namespace) -> tuple[list[tuple[Any, bool]], list[list[Any]]]:
    """Return each answer, whether its connection was open afterwards, and what the server reported of its exchange."""
    from postresponse.wire import split_url

    body = _body(options.data)
    if options.app is None:
        for name in ("server", "port", "factory"):
            if getattr(options, name):
                raise _Wrong(f"--{name} is for --app: there is no server to start without it")
        return _asked(options, split_url(options.url), body), [[] for _ in range(options.repeat)]
    if not options.url.startswith("/"):
        raise _Wrong(f"with --app the URL is a path of the application, as /orders, and not {options.url!r}")
    from postresponse.cli.tracing.started import chosen, started
    from postresponse.core.settings import protocol_of
    from postresponse.importing import application_named

    protocol = protocol_of(application_named(options.app, factory=options.factory))
    kind = chosen(options.server, protocol)
    with started(kind, options.app, factory=options.factory, port=options.port or 0) as server:
        url = split_url(f"http://127.0.0.1:{server.port}{options.url}")
        answers = _asked(options, url, body, server.wait_told)
        return answers, _by_exchange(server.drain(), [answer.began for answer, _ in answers])


def _body(text: str) -> bytes:
    if not text.startswith("@"):
        return text.encode()
    try:
        return Path(text[1:]).read_bytes()
    except OSError as error:
        raise _Wrong(f"--data: {text[1:]} cannot be read: {error.strerror}") from error


def _asked(options: argparse.Namespace, url: SplitResult, body: bytes, told: Any = None) -> list[tuple[Any, bool]]:
    """Ask so often; *told* waits until the server has reported so many, whose end may be behind that of the client."""
    from postresponse.wire import Connection, target_of

    port = url.port or (443 if url.scheme == "https" else 80)
    answers: list[tuple[Any, bool]] = []
    connection: Connection | None = None
    try:
        for number in range(1, options.repeat + 1):
            if connection is None:
                connection = Connection(str(url.hostname), port, tls=url.scheme == "https", timeout=options.timeout)
            answer = connection.ask(options.method, target_of(url), options.header, body)
            if told is not None:
                told(number)
            answers.append((answer, connection.is_open))
            if not (answer.keeps_alive and answers[-1][1]):
                connection.close()
                connection = None
    finally:
        if connection is not None:
            connection.close()
    return answers


def _by_exchange(reports: Sequence[Mapping[str, Any]], begins: Sequence[int]) -> list[list[Mapping[str, Any]]]:
    """Give each request, by when it began, the reports of its exchange, and of the jobs that came from that."""
    found = []
    for began, next_began in zip(begins, [*begins[1:], math.inf], strict=True):
        own = [each for each in reports if each["kind"] == "exchange" and began <= each["began"] < next_began]
        numbers = [each["number"] for each in own]
        found.append([*own, *(each for each in reports if each["kind"] == "job" and each["exchange"] in numbers)])
    return found


class _Found:
    """One request, and what came of it."""

    def __init__(self, options: argparse.Namespace, answer: Any, is_open: bool, reports: Sequence[Any]) -> None:
        from postresponse.cli.tracing.waterfall import events_of

        self._options = options
        self._answer = answer
        self._is_open = is_open
        self._exchange = next(iter(reports), None)
        self._events = events_of(answer, reports)

    @property
    def code(self) -> int:
        """The exit code that it makes."""
        if self._answer.status is None:
            return 3
        return int(bool(self._answer.fault) or bool(self._exchange and self._exchange["is_problem"]))

    def as_text(self) -> str:
        """Return it for somebody who reads it."""
        from postresponse.cli.tracing.waterfall import heading, lines_of

        lines = [heading(self._options.method, self._options.url, self._answer, is_open=self._is_open)]
        if self._exchange is not None:
            lines.append(f"{self._exchange['mode']}: {self._exchange['verdict']}")
        elif self._options.app is not None:
            lines.append("the server told of no exchange")
        return "\n".join([*lines, "", *lines_of(self._events, both=self._options.app is not None)])

    def as_json(self) -> dict[str, Any]:
        """Return it for a program."""
        answer, first = self._answer, self._answer.began
        return {
            "method": self._options.method,
            "url": self._options.url,
            "status": answer.status,
            "headers": [list(field) for field in answer.fields],
            "bytes": answer.size,
            "pieces": len(answer.pieces),
            "whole": None if not answer.fault and not answer.is_bounded else not answer.fault,
            "fault": answer.fault,
            "connection": {"reused": answer.reused, "keeps_alive": answer.keeps_alive, "open": self._is_open},
            "milliseconds": {
                name: None if at is None else (at - first) / 1e6
                for name, at in (
                    ("first_byte", answer.first_byte),
                    ("head", answer.head),
                    ("last_byte", answer.last_byte),
                    ("end", answer.ended),
                )
            },
            "mode": self._exchange and self._exchange["mode"],
            "verdict": self._exchange and self._exchange["verdict"],
            "events": [
                {"ms": (event.at - first) / 1e6, "side": event.side, "name": event.name, "detail": event.detail}
                for event in self._events
            ],
        }
