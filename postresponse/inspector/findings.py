"""What is known of the set-up: the options of each middleware, and what somebody has found to say about them."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from postresponse.core.policy import CommitPolicy

__all__ = ["Finding", "Findings", "found", "options_in_words"]


@dataclass(frozen=True, slots=True)
class Finding:
    """Something to say about the set-up.

    Attributes:
        text: What was found.
        way_out: What to do about it, if anything.
        problem: Whether it is one.
    """

    text: str
    way_out: str = ""
    problem: bool = False


Findings = Callable[[], Iterable[Finding | str]]
"""Returns what there is to say, each time that somebody looks."""


def found(sources: Iterable[Findings]) -> list[Finding]:
    """Ask all *sources*; one that raises is a finding itself."""
    said: list[Finding] = []
    for source in sources:
        try:
            said += [each if isinstance(each, Finding) else Finding(str(each)) for each in source()]
        except Exception as error:  # noqa: BLE001 (said)
            said.append(Finding(f"{_name(source)} failed: {type(error).__name__}: {error}", problem=True))
    return said


def options_in_words(options: Mapping[str, Any]) -> dict[str, str]:
    """Return the *options* of a middleware as text: names and numbers, and nothing of what an object holds."""
    return {name: _in_words(value) for name, value in options.items() if value is not None and value != ()}


def _in_words(value: Any) -> str:
    if isinstance(value, CommitPolicy):
        default = CommitPolicy()
        names = [each.name for each in fields(value) if getattr(value, each.name) != getattr(default, each.name)]
        said = [f"{name}={_in_words(getattr(value, name))}" for name in names]
        return str(value.at) if names in ([], ["at"]) else ", ".join(said)
    if isinstance(value, list | tuple):
        return ", ".join(map(_in_words, value))
    if value is None or isinstance(value, str | int | float | bool):
        return str(value)
    return _name(value)


def _name(value: Any) -> str:
    """The name of a function, or of the class of anything else."""
    return str(getattr(value, "__qualname__", None) or type(value).__qualname__)
