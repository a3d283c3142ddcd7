"""Run one case with the faults that are given, and say what became of it.

python -m tests.faults "head-wsgi-Fakes-small" "unit.commit#1 exit after + hook.on_finished#1 broken before"
"""

import sys
import tempfile
from pathlib import Path

from tests.faults.runs import Runs, case_of, faults_of
from tests.faults.table import Table


def main(case_text: str, faults_text: str = "") -> int:
    """Print every call and every broken rule; 1 if there is one."""
    case = case_of(case_text)
    with tempfile.TemporaryDirectory() as folder:
        runs = Runs(case.side, case.world, Path(folder), Table())
        trial = runs.these(case, *faults_of(faults_text, case.side))
    print("calls:", *trial.plan.calls, sep="\n    ")
    for outcome in trial.outcomes:
        print(f"{outcome.ending}, {outcome.unit_of_work}, attempt {outcome.attempt}, {outcome.exception!r}")
    print(f"the client got {trial.client}; the server got {trial.raised!r}; hooks: {trial.hooks}")
    for *_, rule, what in runs.violations:
        print(f"{rule}: {what}")
    return 1 if runs.violations else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
