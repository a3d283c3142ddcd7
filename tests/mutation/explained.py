"""The survivors that are explained."""

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.mutation.mutants import Mutant

__all__ = ["FILE", "Explained", "explained"]

FILE: Final = Path(__file__).with_name("survivors.toml")


@dataclass(frozen=True)
class Explained:
    """One survivor, and why no test can or need tell it from the original."""

    function: str
    was: str
    becomes: str
    reason: str

    def is_of(self, mutant: Mutant) -> bool:
        """Whether this explains *mutant*."""
        return (self.function, self.was, self.becomes) == (mutant.function, mutant.was, mutant.becomes)


def explained(file: Path = FILE) -> list[Explained]:
    """Read them."""
    with file.open("rb") as stream:
        groups = tomllib.load(stream)["reason"]
    return [
        Explained(survivor["function"], survivor["was"], survivor["becomes"], group["text"])
        for group in groups
        for survivor in group["survivors"]
    ]
