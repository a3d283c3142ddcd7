"""What no response header may hold (RFC 9110, section 5.5)."""

import itertools
import re
from collections.abc import Sequence
from typing import Final

from postresponse.exceptions import InvalidHeader

__all__ = ["check_headers"]

_FORGING: Final = re.compile(r"[\r\n\0]")


def check_headers(headers: Sequence[tuple[str, str]]) -> None:
    """Refuse headers that a server would refuse, or be fooled by, once the transaction has committed.

    Raises:
        InvalidHeader: A name or value holds CR, LF or NUL, or a character that is not in Latin-1.
    """
    together = "".join(itertools.chain.from_iterable(headers))
    if together.isascii() and not _FORGING.search(together):
        return
    for name, value in headers:
        if _FORGING.search(name) or _FORGING.search(value):
            raise InvalidHeader(f"header {name!r}: {value!r} holds CR, LF or NUL; strip them or encode the value")
        try:
            (name + value).encode("latin-1")
        except UnicodeEncodeError:
            raise InvalidHeader(f"header {name!r}: {value!r} is not Latin-1; encode the value") from None
