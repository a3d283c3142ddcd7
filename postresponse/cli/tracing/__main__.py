"""Runs the server that the command line names, or the first that is installed: `... PORT [SERVER]`."""

import signal
import sys

from postresponse.cli.tracing import servers
from postresponse.cli.tracing.application import load
from postresponse.core.settings import is_asgi
from postresponse.exceptions import ConfigurationError


def main(port: int, name: str = "") -> None:
    """Load the application, and serve it until the process is told to end."""
    try:
        app = load()
        server = servers.chosen(name, asgi=is_asgi(app))
    except ConfigurationError as error:
        print(error, file=sys.stderr)
        raise SystemExit(servers.WRONG) from None
    # One that does not heed SIGTERM would end with its work left behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    server.serve(app, port)


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
