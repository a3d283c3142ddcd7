"""A request body under WSGI that can be read again: `wsgi.input`, recorded as far as it is read."""

from collections.abc import Iterator
from io import BytesIO
from typing import Any

__all__ = ["RecordedInput"]


class RecordedInput:
    """A `wsgi.input` (PEP 3333) that keeps what is read through it, up to a limit.

    Nothing is read ahead, so that a server answers "100 Continue" only when the application asks for the body.

    Args:
        stream: The server's.
        limit: Bytes that are kept at most; once more were read, nothing is.
    """

    def __init__(self, stream: Any, limit: int) -> None:
        self._stream = stream
        self._limit = limit
        self._record = BytesIO()
        self._replay = BytesIO()
        self._ended = False
        self.whole: bool = True

    def rewind(self) -> None:
        """Give what was read once more from its start, and then go on reading."""
        self._replay = BytesIO(self._record.getvalue())

    def read(self, size: int | None = -1, /) -> bytes:
        """Read *size* bytes, or all there are."""
        if size is None or size < 0:
            everything = self._replay.read() + self._read_on(self._stream.read, None)
            self._ended = True
            return everything
        again = self._replay.read(size)
        return again if len(again) == size else again + self._read_on(self._stream.read, size - len(again))

    def readline(self, size: int | None = -1, /) -> bytes:
        """Read up to the end of a line, and *size* bytes of it at most."""
        limit = None if size is None or size < 0 else size
        again = self._replay.readline(-1 if limit is None else limit)
        if again.endswith(b"\n") or len(again) == limit:
            return again
        return again + self._read_on(self._stream.readline, None if limit is None else limit - len(again))

    def readlines(self, hint: int | None = None, /) -> list[bytes]:
        """Read all lines, or lines of *hint* bytes and one more at most."""
        lines, size = [], 0
        for line in self:
            lines.append(line)
            size += len(line)
            if hint is not None and 0 < hint <= size:
                break
        return lines

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.readline, b"")

    def _read_on(self, read: Any, size: int | None) -> bytes:
        """Read further than ever before, and record it."""
        if self._ended:
            return b""  # on some servers a read behind the end waits for the client
        data: bytes = read() if size is None else read(size)
        self._ended = not data and size != 0
        if self.whole:
            self._record.write(data)
            if self._record.tell() > self._limit:
                self.whole, self._record = False, BytesIO()
        return data
