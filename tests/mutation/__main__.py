"""`python -m tests.mutation`: mutate, test, and compare the survivors with those that are explained."""

import argparse
import itertools
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tests.mutation.explained import explained
from tests.mutation.mutants import Fate, Mutant, is_wording, mutants_of

__all__ = ["main", "report"]

FOLDER = Path("mutants")


def main(arguments: Sequence[str] | None = None) -> int:
    """Return 0 if every survivor is explained, 1 if one is not, 2 if mutmut could not run."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("names", nargs="*", help="only mutants with such names, as postresponse.core.policy.*")
    parser.add_argument("--children", type=int, default=2, metavar="N", help="how many to test beside each other")
    parser.add_argument("--report", action="store_true", help="compare what the last run left, and run nothing")
    options = parser.parse_args(arguments)
    if not options.report:
        if sys.version_info < (3, 12):
            print("Python 3.12 or later is needed: mutmut's call tracking crashes 3.11.", file=sys.stderr)
            return 2
        command = [sys.executable, "-m", "mutmut", "run", "--max-children", str(options.children), *options.names]
        environment = {**os.environ, "POSTRESPONSE_FEW_EXAMPLES": "1"}
        if subprocess.run(command, check=False, env=environment).returncode != 0:
            return 2
    return report(list(mutants_of(FOLDER)))


def report(mutants: list[Mutant]) -> int:
    """Print what became of *mutants*; 1 if a survivor is not explained."""
    known = explained()
    survivors = [mutant for mutant in mutants if mutant.fate == "survived"]
    wording = [mutant for mutant in survivors if is_wording(mutant)]
    rest = [mutant for mutant in survivors if mutant not in wording]
    unknown = [mutant for mutant in rest if not any(one.is_of(mutant) for one in known)]
    print(_table(mutants, wording, unknown))
    for mutant in unknown:
        print(f"\n{mutant.function}\n- {mutant.was}\n+ {mutant.becomes}")
    killed = [one for one in known if not any(one.is_of(mutant) for mutant in rest)]
    if not any(mutant.fate == "not run" for mutant in mutants):
        for one in killed:
            print(f"\nexplained, and not among the survivors any more: {one.function}\n- {one.was}\n+ {one.becomes}")
    return 1 if unknown else 0


def _table(mutants: list[Mutant], wording: list[Mutant], unknown: list[Mutant]) -> str:
    def module(mutant: Mutant) -> str:
        parts = mutant.function.split(".")[:-1]
        return ".".join(itertools.takewhile(lambda part: not part.lstrip("_")[:1].isupper(), parts))

    columns: tuple[Fate, ...] = ("killed", "timeout", "survived", "not run")
    counts = {
        name: Counter(mutant.fate for mutant in mutants if module(mutant) == name) for name in map(module, mutants)
    }
    words, left = Counter(map(module, wording)), Counter(map(module, unknown))
    lines = ["| module | mutants | killed | by time | survived | of these wording | not explained | not run |"]
    lines.append("| --- | --- | --- | --- | --- | --- | --- | --- |")
    total = Counter(mutant.fate for mutant in mutants)
    rows = [*((name, counts[name], words[name], left[name]) for name in sorted(counts))]
    for name, count, of_wording, of_unknown in [*rows, ("all", total, len(wording), len(unknown))]:
        killed, timeout, survived, not_run = (count[column] for column in columns)
        cells = (name, count.total(), killed, timeout, survived, of_wording, of_unknown, not_run)
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
