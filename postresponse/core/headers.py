"""What no response header may hold (RFC 9110, section 5.5)."""

import re
from collections.abc import Iterable
from typing import Final

from postresponse.exceptions import InvalidHeader

__all__ = ["check_headers"]

_FORGING: Final = re.compile(r"[\r\n\0]")


_good: Final[set[tuple[str, str]]] = set()
"""Headers that were found good, as most are that come with every response."""


def check_headers(headers: Iterable[tuple[str, str]]) -> None:
    """Refuse headers that a server would refuse, or be fooled by, once the transaction has committed.

    Raises:
        InvalidHeader: A name or value holds CR, LF or NUL, or a character that is not in Latin-1.
    """
    for pair in headers:
        if pair not in _good:
            _check(*pair)


def _check(name: str, value: str) -> None:
    together = name + value
    if _FORGING.search(together):
        raise InvalidHeader(f"header {name!r}: {value!r} holds CR, LF or NUL; strip them or encode the value")
    try:
        together.encode("latin-1")
    except UnicodeEncodeError:
        raise InvalidHeader(f"header {name!r}: {value!r} is not Latin-1; encode the value") from None
    if len(together) <= 256 and len(_good) < 1024:
        _good.add((name, value))
