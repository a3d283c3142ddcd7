"""What the server iterates and closes: the application's body, its end, its errors and its `close` seen.

Python looks at each part only where it has to: to count the bytes against Content-Length, or because the body is an
iterator whose errors could not be told from the server's own. All else passes at C speed, with a mark behind it. The
first part is looked at always: the head leaves with the first bytes, and what a body does from then on is late.
"""

import itertools
import sys
from collections.abc import Iterable, Iterator
from time import monotonic_ns
from types import GeneratorType
from typing import Any, Protocol

__all__ = ["Body", "SizedBody", "body_of"]


class Watching(Protocol):
    """The exchange, as a body sees it."""

    _asked: bool
    _bytes: int
    _first_byte: int | None
    _tallied: bool

    @property
    def _passes_through(self) -> bool: ...

    _declared: int | None

    def _ended_by(self, error: BaseException) -> bool: ...

    def _closed(self, flight: BaseException | None, close: Any) -> None: ...

    def _close_inner(self) -> None: ...


def body_of(exchange: Watching, source: Any, chunks: Iterable[bytes], length: int | None) -> "Body":
    """Return what the server iterates.

    Args:
        exchange: Is told of the end, of errors and of `close`.
        source: What the application returned.
        chunks: What is left of it, and what is held before that.
        length: The number of parts, where it is known: some servers derive Content-Length from a single one.
    """
    return Body(exchange, source, chunks) if length is None else SizedBody(exchange, source, chunks, length)


class Body:
    """An iterable with `close`, and no generator: a server may close it before the first part, or ask twice."""

    __slots__ = ("_chunks", "_exchange", "_iterator", "_source")

    def __init__(self, exchange: Watching, source: Any, chunks: Iterable[bytes]) -> None:
        self._exchange: Watching | None = exchange
        self._source = source
        self._chunks = chunks
        self._iterator: Iterator[bytes] | None = None

    def __iter__(self) -> Iterator[bytes]:
        exchange, iterator = self._exchange, self._iterator
        if iterator is None:
            if exchange is None:
                return iter(())
            if exchange._passes_through and type(self._source) in _PLAIN:
                exchange._tallied = False
                iterator = self._at_c_speed(exchange)
            else:
                iterator = _counted(self, exchange, self._chunks)
            self._iterator = iterator
        return iterator

    def _at_c_speed(self, exchange: Watching) -> Iterator[bytes]:
        if type(self._source) is GeneratorType:
            chunks = iter(self._chunks)
            return itertools.chain(_First(self, chunks), chunks, _Mark(self))
        exchange._first_byte = exchange._first_byte or monotonic_ns()  # nothing of the application's runs in between
        return itertools.chain(self._chunks, _Mark(self))

    def close(self) -> None:
        """Tell the exchange that the server takes no more."""
        self._end(sys.exc_info()[1])

    def __del__(self) -> None:
        # One bridge never calls close() (asgiref's WsgiToAsgi): better late than never.
        if self._exchange is not None:
            self._end(None)

    def _end(self, flight: BaseException | None) -> None:
        exchange, iterator, source = self._exchange, self._iterator, self._source
        self._exchange = self._iterator = self._source = None
        self._chunks = ()
        if exchange is None:
            return
        if type(iterator) is GeneratorType:
            if not exchange._asked:
                iterator.close()  # and the bytes are counted
        elif type(source) is GeneratorType and source.gi_frame is None and not exchange._asked:
            # It ended, and not by its end: the error in flight is its own, and not the server's.
            exchange._ended_by(flight or RuntimeError("the body's iterator raised"))
        exchange._closed(flight, exchange._close_inner)


class SizedBody(Body):
    """One whose number of parts is known."""

    __slots__ = ("_length",)

    def __init__(self, exchange: Watching, source: Any, chunks: Iterable[bytes], length: int) -> None:
        self._exchange = exchange
        self._source = source
        self._chunks = chunks
        self._iterator = None
        self._length = length

    def __len__(self) -> int:
        return self._length


_PLAIN = (list, tuple, GeneratorType)
"""What raises no error of its own, or shows that it did."""


class _First:
    """Stands before the parts of a body, gives them until the first bytes leave, and notes when that is."""

    __slots__ = ("_body", "_chunks")

    def __init__(self, body: Body, chunks: Iterator[bytes]) -> None:
        self._body = body
        self._chunks = chunks

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        exchange = self._body._exchange
        if exchange is None or exchange._first_byte is not None:
            raise StopIteration
        chunk = next(self._chunks)
        if chunk:
            exchange._first_byte = monotonic_ns()
        return chunk


class _Mark:
    """Stands behind the last part, and notes that the server asked for more."""

    __slots__ = ("_body",)

    def __init__(self, body: Body) -> None:
        self._body = body

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        exchange = self._body._exchange
        if exchange is not None:
            exchange._asked = True
        raise StopIteration


def _counted(body: Body, exchange: Watching, chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Give *chunks*, and count their bytes; holds *body*, which nobody else may hold while it is iterated."""
    size = exchange._bytes
    try:
        chunks = iter(chunks)
        for chunk in chunks:
            size += len(chunk)
            if size and exchange._first_byte is None:
                exchange._first_byte = monotonic_ns()
            yield chunk
            if size:
                break
        for chunk in chunks:
            size += len(chunk)
            yield chunk
        exchange._asked = True
    except GeneratorExit:
        raise
    except BaseException as error:
        exchange._bytes = size
        exchange._ended_by(error)
        raise
    finally:
        exchange._bytes = size
