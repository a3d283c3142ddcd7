"""Which errors say that an engine cannot be reached, rather than that something is wrong with a message."""

from typing import Any, Final

from postresponse.exceptions import ConfigurationError, Unreachable

__all__ = ["OUTAGES", "check_errors", "is_trouble", "unreachable"]

OUTAGES: Final[tuple[type[BaseException], ...]] = (OSError,)
"""What a relay may see beside `Unreachable`: its own TimeoutError, of a batch that hung in spite of all timeouts."""
NAMES: Final = frozenset({"AMQPConnectionError", "ChannelInvalidStateError", "ConnectionError", "TimeoutError"})
"""What drivers call theirs: known by name, since which driver a broker stands on is the application's choice."""


def is_trouble(error: BaseException | None) -> bool:
    """Tell whether *error*, or what caused it, is one of a connection."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, OSError) or any(kind.__name__ in NAMES for kind in type(error).__mro__):
            return True
        seen.add(id(error))
        error = error.__cause__
    return False


def unreachable(what: str, error: BaseException) -> Unreachable:
    """Return the error for messages to *what* that wait, with *error* as its cause."""
    made = Unreachable(f"{what} cannot be reached: {str(error) or type(error).__name__}")
    made.__cause__ = error
    return made


def check_errors(option: str, errors: Any) -> tuple[type[BaseException], ...]:
    """Return *errors*.

    Raises:
        ConfigurationError: They are no tuple of exception classes.
    """
    if not isinstance(errors, tuple) or not all(
        isinstance(each, type) and issubclass(each, Exception) for each in errors
    ):
        raise ConfigurationError(f"{option}: expected a tuple of exception classes, found {errors!r}")
    return errors
