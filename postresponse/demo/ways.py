"""The three ways that are compared; the names are the paths that they are served under."""

from dataclasses import dataclass
from typing import Final

__all__ = ["AFTER_SEND", "HEAD", "WAYS", "YIELD", "Way"]


@dataclass(frozen=True, slots=True)
class Way:
    """One way to commit.

    Attributes:
        name: How the JSON and the server call it.
        title: How the table calls it.
        ours: Whether this package commits.
        tells: Whether it promises that nobody is told 2xx before the commit succeeded.
    """

    name: str
    title: str
    ours: bool
    tells: bool


YIELD: Final = Way("yield", "FastAPI yield dependency", ours=False, tells=False)
HEAD: Final = Way("head", "postresponse, commit='head'", ours=True, tells=True)
AFTER_SEND: Final = Way("after_send", "postresponse, commit='after_send'", ours=True, tells=False)
WAYS: Final = (YIELD, HEAD, AFTER_SEND)
