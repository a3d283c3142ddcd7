"""What it costs to import, beside the bare interpreter: each time in a new one."""

import json
import subprocess
import sys
from resource import RUSAGE_CHILDREN, getrusage
from typing import Any, Final

from tests.benchmarks.runner import Contender, Kind, Subject, environment

__all__ = ["HEAVY", "contenders"]

HEAVY: Final = ("asyncio", "sqlalchemy", "werkzeug")
"""What `import postresponse` must not load."""

PROGRAM: Final = """\
import sys
before = set(sys.modules)
{statement}
loaded = set(sys.modules) - before
import json
print(json.dumps({{"modules": len(loaded), "heavy": sorted(loaded & {heavy!r})}}))
"""


class ImportSubject(Subject):
    """A statement that a new interpreter runs."""

    def __init__(self, statement: str) -> None:
        self._statement = statement
        self._run("pass")  # bytecode is written

    def seconds(self, count: int) -> float:
        """Start *count* interpreters and return the processor time that they cost."""
        before = getrusage(RUSAGE_CHILDREN)
        for _ in range(count):
            self._run(self._statement)
        after = getrusage(RUSAGE_CHILDREN)
        return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime

    def facts(self) -> dict[str, Any]:
        """Count the modules, and say which of the heavy ones are among them."""
        found = json.loads(self._run(PROGRAM.format(statement=self._statement, heavy=set(HEAVY))))
        return {"modules": found["modules"], "heavy": len(found["heavy"]), "which": " ".join(found["heavy"]) or "none"}

    def _run(self, program: str) -> str:
        return subprocess.run(
            [sys.executable, "-c", program], env=environment(), stdout=subprocess.PIPE, text=True, check=True
        ).stdout


def contenders() -> list[Contender]:
    """The bare interpreter, this package and others."""
    return [
        _contender("pass", "limit"),
        _contender("import starlette.applications", "peer", "starlette"),
        _contender("import svcs", "peer", "svcs"),
        Contender("import postresponse", "ours", lambda: ImportSubject("import postresponse"), (), None, {"heavy": 0}),
        _contender("import postresponse.asgi", "ours"),
        _contender("import postresponse.wsgi", "ours"),
    ]


def _contender(statement: str, kind: Kind, *needs: str) -> Contender:
    return Contender(statement, kind, lambda: ImportSubject(statement), needs)
