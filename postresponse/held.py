"""A held body: in memory first, then in a temporary file, never joined.

Chunks stay the objects that the application gave until they are over the memory limit; then all of them are written to
a raw temporary file at once and let go. Whoever runs on an event loop calls `spill` on a thread, and takes on a thread
what is not `ready`; a file just written is in the page cache, and a turn of a thread costs more than to read it there.
"""

import os
import tempfile
from collections import deque
from collections.abc import Iterator
from typing import Any, Final

__all__ = ["HeldBody"]

_READ: Final = 128 * 1024
_NOT_WAITING: Final[int] = getattr(os, "RWF_NOWAIT", 0)
"""The flag of a read that fails where it would wait; 0 where the system has none (other than Linux)."""
_VECTORS: Final = min(1024, os.sysconf("SC_IOV_MAX") if hasattr(os, "sysconf") else 1024)


class HeldBody:
    """Bytes in order, with marks between them for what is no bytes.

    Args:
        max_memory: Bytes kept in memory before `is_full` asks for a `spill`.
    """

    __slots__ = (
        "_ahead",
        "_at",
        "_buffer",
        "_file",
        "_in_memory",
        "_max_memory",
        "_order",
        "chunks",
        "marked",
        "size",
    )

    def __init__(self, max_memory: int) -> None:
        self._max_memory = max_memory
        self._in_memory = 0
        self._file: Any = None
        self._at = 0
        self._ahead: bytes | None = None
        self._buffer: bytearray | None = None
        # Bytes are kept as themselves until they are spilled, then as the number that the file holds of them.
        self._order: deque[Any] = deque()
        self.size: int = 0
        self.chunks: int = 0
        self.marked: bool = False

    def append(self, chunk: bytes) -> bool:
        """Add *chunk*; True if the memory limit is passed and `spill` is due."""
        self._order.append(chunk)
        self.chunks += 1
        size = len(chunk)
        self.size += size
        self._in_memory += size
        return self._in_memory > self._max_memory

    def mark(self, mark: dict[str, Any]) -> None:
        """Add something that is no bytes and is given back between them."""
        self._order.append(mark)
        self.marked = True

    @property
    def spilled(self) -> bool:
        """Whether a file holds a part of it."""
        return self._file is not None

    def spill(self) -> None:
        """Write what is in memory to the file."""
        if self._file is None:
            self._file = tempfile.TemporaryFile(prefix="postresponse-", buffering=0)  # noqa: SIM115
        pending = [item for item in self._order if isinstance(item, bytes | bytearray | memoryview) and len(item)]
        for first in range(0, len(pending), _VECTORS):
            _write_all(self._file.fileno(), pending[first : first + _VECTORS])
        shorter: deque[Any] = deque()
        for item in self._order:
            if isinstance(item, dict):
                shorter.append(item)
                continue
            size = item if isinstance(item, int) else len(item)
            if size == 0:
                continue
            if shorter and isinstance(shorter[-1], int):
                shorter[-1] += size
            else:
                shorter.append(size)
        self._order = shorter
        self._in_memory = 0

    def ready(self) -> bool:
        """Whether the next item is there without waiting for a disk; what the page cache has is read by asking."""
        if self._ahead is None and self._order and isinstance(size := self._order[0], int):
            self._ahead = self._read_cached(size)
            return self._ahead is not None
        return True

    def take(self) -> Iterator[Any]:
        """Give everything back in order and let it go: chunks, marks, and what the file holds in pieces of 128 KiB."""
        order = self._order
        try:
            while order:
                item = order.popleft()
                if not isinstance(item, int):
                    yield item
                    continue
                piece, self._ahead = self._ahead or os.pread(self._file.fileno(), min(_READ, item), self._at), None
                if not piece:
                    raise OSError("the temporary file of a held body was cut short")
                self._at += len(piece)
                if item > len(piece):
                    order.appendleft(item - len(piece))
                yield piece
        finally:
            self.close()

    def _read_cached(self, size: int) -> bytes | None:
        """Read up to *size* bytes that follow, or None where that would wait or the file system cannot tell."""
        if not _NOT_WAITING:
            return None
        if self._buffer is None:
            self._buffer = bytearray(_READ)
        try:
            read = os.preadv(self._file.fileno(), [memoryview(self._buffer)[:size]], self._at, _NOT_WAITING)
        except OSError:  # it would wait, or the file system cannot tell; a real error is met again on the thread
            return None
        return bytes(memoryview(self._buffer)[:read])

    def close(self) -> None:
        """Let everything go."""
        self._order.clear()
        if self._file is not None:
            self._file.close()
            self._file = None


def _write_all(descriptor: int, chunks: list[Any]) -> None:
    """Write all of *chunks*; a file system that takes only a part of them gets the rest again."""
    left = sum(map(len, chunks))
    while True:
        left -= (written := os.writev(descriptor, chunks))
        if left <= 0:
            return
        while written >= len(chunks[0]):
            written -= len(chunks.pop(0))
        chunks[0] = memoryview(chunks[0])[written:]
