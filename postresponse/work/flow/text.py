"""The text of a flow, read: `a + (b | c) + d`."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

from postresponse.exceptions import FlowError

__all__ = ["Node", "parsed"]

_TOKEN: Final = re.compile(r"\s*(?:(?P<name>[^\W\d][\w.-]*)|(?P<sign>[+|()])|(?P<end>$)|(?P<strange>.))", re.DOTALL)


@dataclass(frozen=True)
class Node:
    """A name, or what a sign puts together.

    Attributes:
        position: Where it begins in the text, from 0 on.
        name: Of a step.
        sign: `+` or `|`.
        parts: What stands between the signs.
    """

    position: int
    name: str = ""
    sign: str = ""
    parts: "tuple[Node, ...]" = ()

    def first(self, name: str) -> int:
        """The position of the first *name* in it."""
        found = [each.first(name) for each in self.parts] or [self.position if self.name == name else -1]
        return min((each for each in found if each >= 0), default=-1)


class _Token(NamedTuple):
    position: int
    text: str
    kind: str

    def __str__(self) -> str:
        return repr(self.text) if self.text else "the end"


def parsed(text: str) -> Node:
    """Read *text*.

    Raises:
        FlowError: It cannot be read; where, and what was expected there.
    """
    reader = _Reader(text)
    node = reader.sequence()
    reader.end()
    return node


class _Reader:
    """One token after the other; `|` binds tighter than `+`."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._next = self._token(0)

    def _token(self, start: int) -> _Token:
        found = _TOKEN.match(self._text, start)
        assert found is not None
        assert found.lastgroup is not None
        return _Token(found.start(found.lastgroup), found[found.lastgroup], found.lastgroup)

    def _take(self) -> _Token:
        taken = self._next
        self._next = self._token(taken.position + len(taken.text))
        return taken

    def sequence(self) -> Node:
        return self._together("+", self._parallel)

    def _parallel(self) -> Node:
        return self._together("|", self._part)

    def _together(self, sign: str, part: Callable[[], Node]) -> Node:
        found = [part()]
        while self._next.text == sign:
            self._take()
            found.append(part())
        if len(found) == 1:
            return found[0]
        parts = [one for each in found for one in (each.parts if each.sign == sign else [each])]  # (a + b) + c
        return Node(parts[0].position, sign=sign, parts=tuple(parts))

    def _part(self) -> Node:
        token = self._next
        if token.kind == "name":
            return Node(self._take().position, name=token.text)
        if token.text != "(":
            raise self._expected("a step or '('")
        self._take()
        node = self.sequence()
        if self._next.text != ")":
            raise self._expected(f"'+', '|' or the ')' of the '(' at {token.position + 1}")
        self._take()
        return node

    def end(self) -> None:
        if self._next.kind != "end":
            raise self._expected("'+', '|' or the end")

    def _expected(self, what: str) -> FlowError:
        return FlowError.at(self._text, self._next.position, f"expected {what}, found {self._next}")
