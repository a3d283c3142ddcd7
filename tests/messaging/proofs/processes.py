"""Relays in processes of their own, started as everybody starts them, and an outbox on a real database."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Engine, create_engine, select
from sqlalchemy.orm import Session

from postresponse.messaging import Message
from postresponse.messaging.store import Stats, Store
from tests.messaging.databases import database
from tests.messaging.proofs.programs import OUTBOX, STRANGE
from tests.services.children import die_with_parent

ROOT = Path(__file__).parents[3]


def until(holds: Callable[[], Any], what: str, timeout: float = 60.0, every: float = 0.02) -> Any:
    """Wait until *holds*, looked at *every* so many seconds, and return what it gives."""
    deadline = time.monotonic() + timeout
    while not (value := holds()):
        assert time.monotonic() < deadline, f"it did not come true: {what}"
        time.sleep(every)
    return value


class Place:
    """A folder, and a database with the tables of the outbox.

    Attributes:
        url: Of the database, as it is given to other processes.
    """

    def __init__(self, folder: Path, url: str, engine: Engine) -> None:
        self.folder = folder
        self.url = url
        self.engine = engine

    def enlist(self, *messages: Message) -> list[str]:
        """Enlist *messages* in one transaction, and return their ids."""
        with Session(self.engine) as session:
            ids = [str(OUTBOX.enlist(message, into=session)) for message in messages]
            session.commit()
        return ids

    def rows(self, *, dead: bool = False) -> list[Any]:
        """What waits, or is dead, as it stands there."""
        table = OUTBOX.tables.dead if dead else OUTBOX.tables.waiting
        with self.engine.connect() as connection:
            return list(connection.execute(select(table).order_by(table.c.id)))

    def stats(self) -> Sequence[Stats]:
        """What there is, by destination."""
        with self.engine.connect() as connection:
            return Store(OUTBOX.tables).stats(connection)

    def lines(self, file: str) -> list[str]:
        """The whole lines of a file that a process of the test's writes."""
        path = self.folder / file
        return path.read_text().split("\n")[:-1] if path.exists() else []


@contextmanager
def place(name: str, folder: Path) -> Iterator[Place]:
    """Make the tables in an empty database of the kind *name*."""
    with database(name, folder) as (found, connect_args):
        url: URL = found.update_query_dict({"timeout": "60"} if name == "sqlite" else connect_args)
        engine = create_engine(url)
        OUTBOX.tables.waiting.metadata.create_all(engine)
        try:
            yield Place(folder, url.render_as_string(hide_password=False), engine)
        finally:
            engine.dispose()


class RelayProcess:
    """`postresponse outbox relay` with a program of these proofs, in a process of its own.

    Args:
        place: Whose messages it sends.
        program: The module that has the relay.
        log: The file that it writes its log to.
        options: What else its environment has.
    """

    def __init__(self, place: Place, program: str, log: str = "relay.log", **options: object) -> None:
        self._place = place
        self._log = log
        own = {"FOLDER": place.folder, "URL": place.url, "LOG": log}
        given = {"PYTHONFAULTHANDLER": "1", **{f"PROOF_{name}": value for name, value in own.items()}, **options}
        with (place.folder / f"{log}.out").open("ab") as out:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "postresponse", "outbox", "relay", f"tests.messaging.proofs.{program}:relay"],
                cwd=ROOT,
                env={**os.environ, **{name: str(value) for name, value in given.items()}},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                preexec_fn=die_with_parent,
            )

    @property
    def log(self) -> list[str]:
        """The lines that it has logged."""
        return self._place.lines(self._log)

    @property
    def is_stopped(self) -> bool:
        """Whether it is paused by a signal."""
        assert self._process.poll() is None, self.said()
        return os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WNOHANG | os.WNOWAIT) is not None

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self._process.poll() is None, self.said()
        self._process.send_signal(number)

    def said(self) -> str:
        """What it wrote, for who wants to know why it ended."""
        return "\n".join([*self._place.lines(f"{self._log}.out"), *self.log])

    def stop(self) -> None:
        """Let it drain, and look whether it has ended well."""
        self.signal(signal.SIGTERM)
        assert self._process.wait(60) == 0, self.said()
        assert [line for line in self.log if STRANGE in line] == []

    def kill(self) -> None:
        """End it, however it is."""
        self._process.kill()
        self._process.wait()

    def tell(self) -> None:
        """End it, and print what it wrote and where its threads were, for who reads of a test that failed."""
        self._process.send_signal(signal.SIGABRT)
        self._process.send_signal(signal.SIGCONT)
        self._process.wait(10)
        print(self.said())


@contextmanager
def relay(place: Place, program: str, log: str = "relay.log", **options: object) -> Iterator[RelayProcess]:
    """A relay that has ended at the end; in good order, unless the test has failed or has ended it."""
    made = RelayProcess(place, program, log, **options)
    try:
        yield made
    except BaseException:
        made.tell()
        raise
    finally:
        made.kill()
