"""What was kept, in a SQLite file that several processes share, and that outlives them."""

import sqlite3
import threading
from contextlib import closing, suppress
from os import PathLike, fspath, getpid
from queue import Empty, Full, Queue
from typing import Final

from postresponse.core.log import logger
from postresponse.exceptions import ConfigurationError
from postresponse.inspector.ring import Changes, Kind, Record, written

__all__ = ["Store"]

WAITING: Final = 1000
"""Records that wait to be written, at most: what comes faster than the disk takes it is left out."""
PATIENCE: Final = 2.0
"""Seconds to wait for another process that writes."""
_TABLE: Final = """
CREATE TABLE IF NOT EXISTS postresponse_inspector_1 (
    mark INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, kind TEXT NOT NULL, record TEXT NOT NULL
)"""
_PUT: Final = "INSERT OR REPLACE INTO postresponse_inspector_1 (id, kind, record) VALUES (?, ?, ?)"
_TRIM: Final = """
DELETE FROM postresponse_inspector_1 WHERE kind = :kind AND mark <= (
    SELECT mark FROM postresponse_inspector_1 WHERE kind = :kind ORDER BY mark DESC LIMIT 1 OFFSET :size
)"""
_LAST: Final = "SELECT seq FROM sqlite_sequence WHERE name = 'postresponse_inspector_1'"
_SINCE: Final = "SELECT kind, record FROM postresponse_inspector_1 WHERE mark > ? AND mark <= ? ORDER BY mark"


class Store:
    """The last records of each kind, of all processes that have the same file.

    They are written by a thread, which begins with the first of them, so that no request waits for the disk.

    Args:
        path: Of the file, which is made if it is not there.
        size: How many of each kind are kept.

    Raises:
        ConfigurationError: It cannot be written.
    """

    def __init__(self, path: str | PathLike[str], size: int) -> None:
        self._path = fspath(path)
        self._size = size
        try:
            with closing(self._connect()) as connection, connection:
                connection.execute("PRAGMA journal_mode = WAL")  # whoever reads holds up nobody who writes
                connection.execute(_TABLE)
        except sqlite3.Error as error:
            raise ConfigurationError(
                f"store: {self._path!r} cannot be written as a SQLite database: {error}; give the path of a file in a "
                "folder that exists"
            ) from error
        self._lock = threading.Lock()
        self._pid = 0
        self._queue: Queue[tuple[Kind, Record]] = Queue(WAITING)
        self._is_told = False

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self._path, timeout=PATIENCE)

    def put(self, kind: Kind, record: Record) -> None:
        """Have it written."""
        if self._pid != getpid():  # in a process that was forked there is no thread
            self._begin()
        with suppress(Full):
            self._queue.put_nowait((kind, record))

    def since(self, mark: int) -> Changes:
        """Return what came after *mark*; reads the file, and may wait for it."""
        with closing(self._connect()) as connection:
            until = next((int(last) for (last,) in connection.execute(_LAST)), 0)
            rows = connection.execute(_SINCE, (mark if mark <= until else 0, until)).fetchall()
        found: dict[str, list[str]] = {"requests": [], "jobs": []}
        for kind, record in rows:
            found[kind].append(record)
        return Changes(until, found["requests"], found["jobs"])

    def flush(self) -> None:
        """Wait until all that was put is written, or given up."""
        if self._pid == getpid():
            self._queue.join()

    def _begin(self) -> None:
        with self._lock:
            if self._pid != getpid():
                self._queue = Queue(WAITING)
                threading.Thread(target=self._write, name="postresponse inspector", daemon=True).start()
                self._pid = getpid()

    def _write(self) -> None:
        queue = self._queue
        while True:
            batch = [queue.get()]
            with suppress(Empty):
                while len(batch) < WAITING:
                    batch.append(queue.get_nowait())
            try:
                self._write_all(batch)
            except sqlite3.Error as error:
                if not self._is_told:
                    self._is_told = True
                    logger.warning("the store of the inspector, %s, cannot be written: %s", self._path, error)
            for _ in batch:
                queue.task_done()

    def _write_all(self, batch: list[tuple[Kind, Record]]) -> None:
        with closing(self._connect()) as connection, connection:
            connection.execute("PRAGMA synchronous = OFF")  # a crash of the machine may cost what nobody needs then
            connection.executemany(_PUT, [(record.id, kind, written(record)) for kind, record in batch])
            for kind in {kind for kind, _ in batch}:
                connection.execute(_TRIM, {"kind": kind, "size": self._size})
