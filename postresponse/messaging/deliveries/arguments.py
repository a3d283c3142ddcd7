"""How a payload becomes the arguments of a task or an actor."""

from typing import Any

__all__ = ["arguments"]


def arguments(payload: Any) -> tuple[list[Any], dict[str, Any]]:
    """Return the positional and the keyword arguments that *payload* stands for.

    A dictionary gives keyword arguments, a list positional ones, and None none at all; anything else is the one
    argument.
    """
    if payload is None:
        return [], {}
    if isinstance(payload, dict):
        return [], payload
    if isinstance(payload, list):
        return payload, {}
    return [payload], {}
