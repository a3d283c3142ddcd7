"""The servers that `postresponse trace` can start, and how."""

import sys
from dataclasses import dataclass
from importlib.util import find_spec
from runpy import run_module
from typing import Any, Final

from postresponse.core.policy import did_you_mean
from postresponse.exceptions import ConfigurationError

__all__ = ["SERVERS", "TARGET", "WRONG", "Server", "chosen"]

TARGET: Final = "postresponse.cli.tracing.application:application"
WRONG: Final = 3
"""How the process ends that cannot load the application, or has not the server."""


@dataclass(frozen=True, slots=True)
class Server:
    """How a server is started in this process.

    Attributes:
        name: Of the distribution and the module.
        asgi: Whether it serves ASGI applications.
        arguments: Its command line, with `{target}` and `{port}`; None for the one that comes with this package.
    """

    name: str
    asgi: bool
    arguments: str | None

    def serve(self, app: Any, port: int) -> None:
        """Serve *app*, which stands at `TARGET`, until the process is told to end."""
        if self.arguments is None:
            from werkzeug.serving import run_simple

            run_simple("127.0.0.1", port, app, threaded=True)
            return
        sys.argv = [self.name, *self.arguments.format(target=TARGET, port=port).split()]
        run_module(self.name, run_name="__main__", alter_sys=True)


SERVERS: Final = {
    server.name: server
    for server in (
        Server("uvicorn", True, "{target} --host 127.0.0.1 --port {port} --no-access-log"),
        Server("hypercorn", True, "{target} --bind 127.0.0.1:{port} --workers 0"),  # none: in this process
        Server("daphne", True, "-b 127.0.0.1 -p {port} {target}"),
        Server("waitress", False, "--host 127.0.0.1 --port {port} {target}"),
        Server("cheroot", False, "{target} --bind 127.0.0.1:{port}"),
        Server("werkzeug", False, None),
    )
}


def chosen(name: str, *, asgi: bool) -> Server:
    """Return the server called *name*, or the first one installed where that is empty.

    Raises:
        ConfigurationError: It is not known, not installed, or not for such an application.
    """
    fitting = [each for each in SERVERS.values() if each.asgi is asgi]
    installed = [each for each in fitting if find_spec(each.name) is not None]
    protocol = "ASGI" if asgi else "WSGI"
    if not name:
        if not installed:
            known = ", ".join(each.name for each in fitting)
            raise ConfigurationError(f"no server for {protocol} is installed; install one of {known}")
        return installed[0]
    found = SERVERS.get(name)
    if found is None:
        raise ConfigurationError(f"--server: there is no {name!r}{did_you_mean(name, SERVERS)}")
    if found not in fitting:
        known = ", ".join(each.name for each in installed) or "none of those that are installed"
        raise ConfigurationError(f"--server: {name} does not serve {protocol} applications as this one; {known} does")
    if found not in installed:
        raise ConfigurationError(f"--server: {name} is not installed: pip install {name}")
    return found
