"""What mutmut found: each mutant, what it changes, and what became of it."""

import difflib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

__all__ = ["Fate", "Mutant", "is_wording", "mutants_of"]

Fate = Literal["killed", "timeout", "survived", "not run"]

_FATES: Final[dict[int | None, Fate]] = {0: "survived", 5: "survived", 33: "survived", None: "not run", 2: "not run"}
"""By the exit code of its tests; no test at all (5, 33) lets a mutant live as well. All else killed it, or time did."""
_TIMEOUTS: Final = (36, 24, -24, 152, 255)


@dataclass(frozen=True)
class Mutant:
    """One change of one function.

    Attributes:
        function: Where, as `module.Class.method`.
        was: The lines that it changes, stripped.
        becomes: What they become; empty where they go.
    """

    function: str
    was: str
    becomes: str
    fate: Fate


def mutants_of(folder: Path) -> Iterator[Mutant]:
    """Yield all mutants that a run of mutmut left in *folder*."""
    for meta in sorted(folder.rglob("*.py.meta")):
        codes = json.loads(meta.read_text())["exit_code_by_key"]
        if codes:
            yield from _mutants_in(meta.with_suffix(""), codes)


def _mutants_in(module: Path, codes: dict[str, int | None]) -> Iterator[Mutant]:
    lines = module.read_text().splitlines()
    spans = json.loads(module.with_name(module.name + ".spans").read_text())["spans"]

    def source(name: str) -> list[str]:
        first, last = spans[name]
        return [line.strip().replace(name, plain) for line in lines[first - 1 : last]]

    for key, code in codes.items():
        name = key.rpartition(".")[2]
        mangled, plain = name.partition("__mutmut_")[0], _readable(key).rpartition(".")[2]
        was, becomes = _difference(source(mangled + "__mutmut_orig"), source(name))
        fate: Fate = "timeout" if code in _TIMEOUTS else _FATES.get(code, "killed")
        yield Mutant(_readable(key), was, becomes, fate)


def _readable(key: str) -> str:
    """`a.b.xǁCǁm__mutmut_1` is of `a.b.C.m`, and `a.b.x_f__mutmut_1` of `a.b.f`."""
    module, _, name = key.partition("__mutmut_")[0].rpartition(".")
    _, _, rest = name.partition("x")
    return f"{module}.{rest.removeprefix('_').strip('ǁ').replace('ǁ', '.')}" if "ǁ" in rest else f"{module}.{rest[1:]}"


def _difference(before: list[str], after: list[str]) -> tuple[str, str]:
    """Return the lines that differ."""
    was: list[str] = []
    becomes: list[str] = []
    for line in difflib.ndiff(before, after):
        if line.startswith("- "):
            was.append(line[2:])
        elif line.startswith("+ "):
            becomes.append(line[2:])
    return "\n".join(was), "\n".join(becomes)


def is_wording(mutant: Mutant) -> bool:
    """Whether *mutant* changes nothing but the letters of a sentence."""
    plain = mutant.becomes.replace("XX", "")
    if plain.casefold() != mutant.was.casefold():
        return False
    sentences = re.findall(r"""(?:"[^"]* [^"]*"|'[^']* [^']*')""", mutant.was)
    rest_was, rest_becomes = mutant.was, plain
    for sentence in sentences:
        at = rest_was.index(sentence)
        rest_was = rest_was[:at] + rest_was[at + len(sentence) :]
        rest_becomes = rest_becomes[:at] + rest_becomes[at + len(sentence) :]
    return bool(sentences) and rest_was == rest_becomes
