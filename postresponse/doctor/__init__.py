"""What is wrong with the way in which an application is put together, found without a request."""

from collections.abc import Iterable, Iterator
from typing import Any

from postresponse import stack
from postresponse.doctor.dependencies import findings_of_dependencies
from postresponse.doctor.django import findings_of_django
from postresponse.doctor.outbox import findings_of_database, findings_of_relays
from postresponse.doctor.servers import findings_of_server
from postresponse.stack import Finding

__all__ = ["Finding", "findings_of"]


def findings_of(
    *apps: Any, server: str | None = None, outbox: str | None = None, relays: Iterable[Any] = ()
) -> list[Finding]:
    """Judge the layers of *apps*, their dependencies, their server and an outbox; the gravest finding first.

    Nothing of the application is called. The databases of an outbox are looked into, and nothing in them is changed.

    Args:
        apps: The outermost objects that servers are given: one, or one for each protocol.
        server: The name of the server; None for the one that this process is, or those that are installed.
        outbox: The URL of the database of an outbox; None for none.
        relays: Relays whose databases are judged too.

    Raises:
        ConfigurationError: *server* is not known, *outbox* is no URL of a database, or one of *apps* no application.
    """
    found = [
        *(found for app in apps for found in _findings_of(app, server)),
        *(() if outbox is None else findings_of_database(outbox)),
        *findings_of_relays(relays),
        *findings_of_django(),
    ]
    return sorted(dict.fromkeys(found), key=_gravity)


def _findings_of(app: Any, server: str | None) -> Iterator[Finding]:
    yield from stack.findings_of(app)
    yield from findings_of_dependencies(app)
    yield from findings_of_server(app, server)


def _gravity(finding: Finding) -> int:
    return ("error", "warning", "info").index(finding.severity)
