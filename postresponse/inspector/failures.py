"""What is kept of an exception: text, made at once, so that neither it nor its frames live on."""

import re
from dataclasses import dataclass
from traceback import TracebackException
from typing import Final

__all__ = ["FailureRecord", "failure_record"]

LONGEST_MESSAGE: Final = 1000
LONGEST_TRACEBACK: Final = 16_000
_PARAMETERS: Final = re.compile(r"^\[parameters: .*?\]$", re.MULTILINE | re.DOTALL)
"""Where SQLAlchemy writes the values of a statement, which are often those of a request's body."""


@dataclass(frozen=True, slots=True)
class FailureRecord:
    """An exception as text.

    Attributes:
        type: The name of its class, with the module where that is not built in.
        message: What it says.
        traceback: As the log has it; the end of one that is very long.
    """

    type: str
    message: str
    traceback: str


def failure_record(error: BaseException | None) -> FailureRecord | None:
    """Return *error* as text, without the parameters of SQL statements; None where there is none."""
    if error is None:
        return None
    told = TracebackException.from_exception(error)
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    text = _PARAMETERS.sub("[parameters: left out]", "".join(told.format()))
    if len(text) > LONGEST_TRACEBACK:
        text = f"...\n{text[-LONGEST_TRACEBACK:]}"
    return FailureRecord(name, _PARAMETERS.sub("[parameters: left out]", str(told))[:LONGEST_MESSAGE], text)
