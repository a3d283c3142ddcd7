"""What the servers serve: the application that the kit looks at, and beside it what it asks of a server alone."""

import logging
import os
import sys
from typing import Any, Final

from postresponse import asgi as asgi_package
from postresponse import wsgi as wsgi_package
from postresponse.importing import application_named
from postresponse.onlookers import observing_all
from postresponse.testing.conformance import bare, shop
from postresponse.testing.conformance.telling import StandIn, Teller, asked_of

__all__ = ["APP", "FACTORY", "PROTOCOL", "asgi", "wsgi"]

APP: Final = "POSTRESPONSE_CONFORMANCE_APP"
"""The variable that names the application; the built-in one where it is empty."""
FACTORY: Final = "POSTRESPONSE_CONFORMANCE_FACTORY"
"""The variable that says, by not being empty, that this is a function which makes it."""
PROTOCOL: Final = "POSTRESPONSE_CONFORMANCE_PROTOCOL"
"""Which protocol it speaks."""

_apps: Final[dict[str, Any]] = {}


def _app(protocol: str) -> Any:
    if protocol not in _apps:
        name, factory = os.environ.get(APP, ""), bool(os.environ.get(FACTORY))
        built_in = shop.asgi_shop if protocol == "asgi" else shop.wsgi_shop
        _apps[protocol] = application_named(name, factory=factory) if name else built_in()
    return _apps[protocol]


def _give_unit_of_work(protocol: str) -> None:
    """Put a middleware of ours around an application that has no unit of work: there is one worker, and it is this."""
    package: Any = asgi_package if protocol == "asgi" else wsgi_package
    _apps[protocol] = package.PostResponseMiddleware(_app(protocol), unit_of_work=StandIn)


async def asgi(scope: Any, receive: Any, send: Any) -> None:
    """The ASGI application."""
    asked = asked_of(scope) if scope["type"] == "http" else {}
    if asked.get("stands_in"):
        _give_unit_of_work("asgi")
    if asked.get("bare"):
        await bare.asgi(send, asked)
    else:
        await _app("asgi")({**scope, "conformance": asked}, receive, send)


def wsgi(environ: Any, start_response: Any) -> Any:
    """The WSGI application."""
    asked = asked_of(environ)
    if asked.get("stands_in"):
        _give_unit_of_work("wsgi")
    if asked.get("bare"):
        return bare.wsgi(start_response, asked)
    environ["conformance"] = asked
    return _app("wsgi")(environ, start_response)


if os.environ.get(PROTOCOL):  # else the kit itself has imported this
    _looking = observing_all(Teller())
    _looking.__enter__()  # for as long as the process lives
    if not logging.getLogger("postresponse").handlers:
        logging.getLogger("postresponse").addHandler(logging.StreamHandler(sys.stderr))
    _app(os.environ[PROTOCOL])  # now: what it raises is to end the server, and be told
