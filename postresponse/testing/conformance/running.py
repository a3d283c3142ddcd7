"""The kit at work: server after server, started, asked, held against what is known, and stopped."""

import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

from postresponse.exceptions import ConfigurationError
from postresponse.testing.conformance import served, shop
from postresponse.testing.conformance.expected import EXPECTED, PROMISED
from postresponse.testing.conformance.facts import AT_THE_END, FACTS
from postresponse.testing.conformance.place import Place
from postresponse.testing.conformance.promises import PROMISES
from postresponse.testing.conformance.record import RECORD
from postresponse.testing.ports import ServerFailed
from postresponse.testing.processes import Server
from postresponse.testing.servers import Kind

__all__ = ["Finding", "Verdict", "conformance"]

Verdict = Literal["ok", "differs", "not available here"]

MORE: Final[dict[str, tuple[str, ...]]] = {"daphne": ("--application-close-timeout", "2")}
"""So that nobody waits for the 10 seconds after which it cancels."""


@dataclass(frozen=True)
class Finding:
    """One check on one server.

    Attributes:
        server: Which one.
        check: What was asked.
        found: What it does, or why that was not found out.
        expected: What it is known to do.
        verdict: Whether that is the same.
    """

    server: str
    check: str
    found: str
    expected: str
    verdict: Verdict


def conformance(
    kinds: Sequence[Kind],
    app: str = "",
    *,
    factory: bool = False,
    method: str = "",
    path: str = "/",
    port: int = 0,
    progress: Callable[[str], object] = str,
) -> Iterator[Finding]:
    """Hold each server to what is known of it, and the package on it to what it promises.

    Args:
        kinds: The servers.
        app: The application, as `"shop.web:app"`; empty for the built-in one. It is found from the working directory,
            and has to be one for all of *kinds*.
        factory: Whether *app* is a function that makes it.
        method: Of the requests that it gets; by default GET, or POST for the built-in one.
        path: What they ask for. They are sent some thirty times, and what they store is stored.
        port: Where the servers listen; 0 for one that is free.
        progress: Told what is done next.

    Raises:
        ServerFailed: The port is in use.
    """
    for kind in kinds:
        progress(kind.name)
        if kind.missing:
            yield Finding(kind.name, "installed", f"no: pip install {kind.missing}", "", "not available here")
            continue
        with_method = method or ("GET" if app else "POST")
        yield from _of(kind, app, with_method, path, port, factory=factory)


def _of(kind: Kind, app: str, method: str, path: str, port: int, *, factory: bool) -> Iterator[Finding]:
    try:
        with _running(kind, app, method, path, port, factory=factory) as place:
            if app:
                _give_unit_of_work(place)
            checks = (*(FACTS[kind.protocol] if not app else ()), *PROMISES, *(AT_THE_END if not app else ()))
            for check in checks:
                for name, found in _asked(check, place):
                    yield _judged(kind, name, found)
    except ServerFailed as error:
        if "cannot be listened on" in str(error):
            raise
        yield Finding(kind.name, "starts", str(error), "it starts", "differs")


def _asked(check: Callable[[Place], Any], place: Place) -> Iterator[tuple[str, str]]:
    try:
        yield from check(place)
    except (OSError, LookupError, ValueError) as error:
        yield check.__name__.replace("_", " "), f"could not be asked: {error!r}; its log ends: {place.tail()}"


def _judged(kind: Kind, check: str, found: str) -> Finding:
    row = EXPECTED.get(kind.name)
    known = row.of(check) if row is not None else ((PROMISED[check],) if check in PROMISED else ())
    return Finding(kind.name, check, found, " or ".join(known) or "(not known)", "ok" if found in known else "differs")


def _give_unit_of_work(place: Place) -> None:
    """Look whether the application has a unit of work around what is asked of it, and have it get one if not.

    Raises:
        ConfigurationError: It does not answer there.
    """
    asked = place.asked("looked at")
    with place.connection() as connection:
        status = place.ask(connection, asked).status
    if status >= 400:
        raise ConfigurationError(
            f"path: {place.method} {place.path} is answered {status}; name a request that the application answers "
            "well, by --path and --method"
        )
    finished = place.wait_for(asked.key, "finished", patience=5.0 if place.events(asked.key) else 0.2)
    if finished is None or finished["mode"] == "observe":
        with place.connection() as connection:
            place.ask(connection, place.asked("given one", stands_in=1))


@contextmanager
def _running(kind: Kind, app: str, method: str, path: str, port: int, *, factory: bool = False) -> Iterator[Place]:
    with tempfile.TemporaryDirectory(prefix="postresponse-conformance-", ignore_cleanup_errors=True) as made:
        folder = Path(made)
        shop.prepare(str(folder / "shop.db"))
        environment = {
            RECORD: str(folder / "record.jsonl"),
            shop.DATABASE: str(folder / "shop.db"),
            served.APP: app,
            served.FACTORY: "yes" if factory else "",
            served.PROTOCOL: kind.protocol,
        }
        more = MORE.get(kind.name, ())
        if more:
            command = kind.command
            kind = replace(kind, command=lambda target, at: [*command(target, at)[:2], *more, *command(target, at)[2:]])
        paths = [os.getcwd(), *(each for each in sys.path if each)]
        target = f"postresponse.testing.conformance.served:{kind.protocol}"
        directory = Path.cwd() if app else None  # as it finds its files when it is served by hand
        server = Server(kind, target, folder, environment, paths=paths, port=port, directory=directory)
        try:
            server.start()
            yield Place(server, folder / "record.jsonl", method=method, path=path, own=not app)
        finally:
            server.stop()
