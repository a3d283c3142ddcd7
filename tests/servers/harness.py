"""Real servers for these tests: those of the package, started where the tests can be imported."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from postresponse.testing import processes
from postresponse.testing.ports import ServerFailed as StartFailed
from postresponse.testing.servers import KINDS, THREADS, Kind, gunicorn

__all__ = ["GTHREAD_PRELOADED", "KINDS", "THREADS", "Kind", "Server", "StartFailed"]

TESTS = Path(__file__).resolve().parents[1]

GTHREAD_PRELOADED: Final = Kind("gunicorn-preload", "wsgi", gunicorn("gthread", "--threads", "4", "--preload"))
"""One that loads the application before it forks its worker."""


class Server(processes.Server):
    """One running server, with a path entry that holds nothing but a link to these tests.

    The checkout would shadow an installed wheel.
    """

    def __init__(self, kind: Kind, target: str, folder: Path, environment: Mapping[str, str], port: int = 0) -> None:
        link = folder / "path" / "tests"
        if not link.exists():
            link.parent.mkdir(parents=True)
            link.symlink_to(TESTS, target_is_directory=True)
        super().__init__(kind, target, folder, environment, paths=[str(link.parent)], port=port)
