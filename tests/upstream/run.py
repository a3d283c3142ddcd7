"""Prove transparency: upstream test suites behind PostResponseMiddleware, against the same suites behind nothing.

    python tests/upstream/run.py --suite starlette --mode observe,head

For each suite of suites.toml, in the version that is installed beside this interpreter:

1. download its sdist (a wheel has no tests) and unpack it, both kept in the cache directory;
2. make a virtual environment of its own with the framework, the test requirements read from the sdist's
   pyproject.toml, and postresponse built from this checkout. What this interpreter has too is installed in the same
   version. `--python` takes an existing interpreter instead, in which nothing is installed;
3. run its tests once behind a pass-through wrapper (the baseline) and once for each mode behind the middleware;
   plugin/ holds the two pytest plugins that wrap every application and report every outcome, and says how and why;
4. compare test by test. Newly failing is what did not fail in the baseline and does now, and what passed and now is
   skipped or missing.

The exit status is 0 when nothing fails newly but what differences.toml lists with its reason; 1 when something does, a
listed difference is gone, or a unit of work was used in an impossible order; 2 when a suite could not be run at all.
"""

import argparse
import dataclasses
import importlib.metadata
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import venv
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parents[1]
BASELINE = "baseline"
BAD = frozenset({"failed", "error", "missing", "hung"})
WORSE_THAN_PASSED = BAD | {"skipped"}


class NotRunnable(Exception):
    """A suite could not be downloaded, installed or started; says which step and its output."""


@dataclasses.dataclass(frozen=True)
class Suite:
    """One table of suites.toml, with the version to test."""

    name: str
    version: str
    distribution: str
    extras: list[str]
    groups: list[str]
    leave_out: list[str]
    instead: list[str]
    tests: list[str]
    interface: str
    entrance: str
    modes: list[str]

    @classmethod
    def read_all(cls) -> dict[str, Self]:
        """Return every suite of suites.toml by its name."""
        tables = tomllib.loads((HERE / "suites.toml").read_text(encoding="utf-8"))
        return {
            name: cls(name=name, version=importlib.metadata.version(table["distribution"]), **table)
            for name, table in tables.items()
        }


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of a suite: its mode, each test's outcome, the messages of failures, and the plugin's tally."""

    mode: str
    outcomes: dict[str, str]
    texts: dict[str, str]
    tally: dict[str, Any]

    def figures(self) -> str:
        """Return passed/failed/skipped; expected failures count as skipped."""
        count = Counter(self.outcomes.values())
        bad = sum(count[outcome] for outcome in BAD)
        return f"{count['passed']}/{bad}/{count['skipped'] + count['xfailed']}"


# -- preparing ---------------------------------------------------------------------------------------------------------


def execute(command: Sequence[str], step: str, **options: Any) -> None:
    """Run *command* to its end.

    Raises:
        NotRunnable: If it fails; the message ends with its output.
    """
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, **options)
    if done.returncode:
        raise NotRunnable(f"{step}: exit status {done.returncode}\n{done.stdout[-4000:]}")


def fetch_source(suite: Suite, home: Path) -> Path:
    """Download and unpack the suite's sdist unless the cache has it, and return the unpacked directory."""
    unpacked = home / "source"
    if not unpacked.is_dir():
        requirement = f"{suite.distribution}=={suite.version}"
        options = ["-q", "--no-binary", ":all:", "--no-deps", "-d", str(home)]
        execute([sys.executable, "-m", "pip", "download", *options, requirement], f"download of {requirement}")
        with tempfile.TemporaryDirectory(dir=home) as scratch, tarfile.open(next(home.glob("*.tar.gz"))) as archive:
            archive.extractall(scratch, filter="data")
            next(Path(scratch).iterdir()).rename(unpacked)
    return unpacked


def project_name(requirement: str) -> str:
    """Return the normalised name of the project that *requirement* is about."""
    match = re.match(r"[A-Za-z0-9._-]+", requirement)
    return re.sub(r"[-_.]+", "-", match[0]).lower() if match else ""


def requirements(suite: Suite, source: Path) -> list[str]:
    """Return what the environment needs: the framework and its extras, its test groups, what postresponse needs."""
    groups = tomllib.loads((source / "pyproject.toml").read_text(encoding="utf-8")).get("dependency-groups", {})
    wanted = [entry for group in suite.groups for entry in groups[group] if isinstance(entry, str)]
    kept = [entry for entry in wanted if project_name(entry) not in suite.leave_out]
    framework = f"{suite.distribution}[{','.join(suite.extras)}] @ {source.as_uri()}"
    ours = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    # pytest-timeout makes a hang one failed test instead of a lost run.
    return [framework, *kept, *suite.instead, *ours, "pytest", "pytest-timeout"]


def constraints(suite: Suite) -> list[str]:
    """Return the versions that this interpreter has: the suites run on what the project itself is tested on.

    A constraint would forbid to install a project from a directory, so the framework and postresponse have none.
    """
    free = {"pip", "setuptools", "postresponse", project_name(suite.distribution), *map(project_name, suite.instead)}
    here = {project_name(found.metadata["Name"]): found.version for found in importlib.metadata.distributions()}
    return sorted(f"{name}=={version}" for name, version in here.items() if name not in free)


def make_environment(suite: Suite, source: Path, home: Path) -> Path:
    """Make the suite's environment unless the cache has it, install postresponse anew, and return its interpreter."""
    root, stamp, versions = home / "venv", home / "venv.json", home / "constraints.txt"
    python = root / "bin" / "python"
    pip = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    wanted, pins = requirements(suite, source), constraints(suite)
    recipe = json.dumps([sys.version, wanted, pins], indent=1)
    versions.write_text("\n".join(pins), encoding="utf-8")
    if not stamp.exists() or stamp.read_text(encoding="utf-8") != recipe:
        stamp.unlink(missing_ok=True)
        venv.create(root, clear=True, with_pip=True)
        execute([*pip, "-c", str(versions), *wanted], f"installation of {suite.name}'s requirements")
        stamp.write_text(recipe, encoding="utf-8")
    # Never editable: one run must see one state of the package, whatever is edited meanwhile.
    execute([*pip, "--no-deps", "--force-reinstall", str(CHECKOUT)], "installation of postresponse")
    return python


# -- running -----------------------------------------------------------------------------------------------------------


def run_suite(suite: Suite, mode: str, python: Path, source: Path, home: Path, limit: float) -> Run:
    """Run the suite's tests in *mode* and return what became of them.

    Raises:
        NotRunnable: If the run ended before it reported any test.
    """
    report, tally, log = (home / f"{mode}{suffix}" for suffix in (".jsonl", ".tally.json", ".log"))
    for leftover in (report, tally):
        leftover.unlink(missing_ok=True)
    options = {"report": report, "tally": tally, "entrance": suite.entrance, "interface": suite.interface, "mode": mode}
    command = [str(python), "-m", "pytest", "-q", "--tb=short", "--timeout=20", "--continue-on-collection-errors"]
    command += ["-p", "transparency_wrap", "-p", "transparency_report", "-p", "no:cacheprovider"]
    command += [f"--transparency-{name}={value}" for name, value in options.items()]
    path = os.pathsep.join(filter(None, [str(HERE / "plugin"), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(
            [*command, *suite.tests], cwd=source, env=environment, stdout=output, stderr=output, start_new_session=True
        )
        try:
            process.wait(limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    records = [json.loads(line) for line in report.read_text(encoding="utf-8").splitlines()] if report.exists() else []
    if not records:
        raise NotRunnable(f"{suite.name} in {mode}: no test was reported\n{log.read_text(encoding='utf-8')[-4000:]}")
    outcomes, texts = read_records(records)
    return Run(mode, outcomes, texts, json.loads(tally.read_text(encoding="utf-8")) if tally.exists() else {})


def read_records(records: Iterable[Mapping[str, str]]) -> tuple[dict[str, str], dict[str, str]]:
    """Fold one record a phase into one outcome a test, and collect the messages of failures.

    A failure of set-up or teardown is an error and wins over a passed call; a test that only started is a hung one.
    """
    outcomes: dict[str, str] = {}
    texts: dict[str, str] = {}
    for record in records:
        test, phase, outcome = record["test"], record["phase"], record["outcome"]
        if outcome == "started":
            outcomes[test] = "hung"
        elif outcome == "failed":
            outcomes[test] = "failed" if phase in ("call", "collect") else "error"
            texts[test] = f"{texts.get(test, '')} {record['text']}"
        elif outcomes.get(test) not in ("failed", "error") and (phase == "call" or outcome != "passed"):
            outcomes[test] = outcome
    return outcomes, texts


# -- comparing ---------------------------------------------------------------------------------------------------------


def newly_failing(baseline: Mapping[str, str], ours: Mapping[str, str]) -> list[str]:
    """Return the tests that are worse in *ours* than in *baseline*."""
    worse = []
    for test in [*baseline, *(extra for extra in ours if extra not in baseline)]:
        before, after = baseline.get(test, "absent"), ours.get(test, "missing")
        if after in (WORSE_THAN_PASSED if before == "passed" else BAD) and before not in BAD:
            worse.append(test)
    return worse


def listed_differences(suite: str, mode: str) -> dict[str, str]:
    """Return the known differences of one run: the test, with or without its parameters, and the reason."""
    entries = tomllib.loads((HERE / "differences.toml").read_text(encoding="utf-8")).get("difference", [])
    return {entry["test"]: entry["reason"] for entry in entries if entry["suite"] == suite and mode in entry["modes"]}


def judge(suite: str, baseline: Run, ours: Run) -> tuple[str, list[str]]:
    """Return one row of the table, and what stands against this run."""
    listed = listed_differences(suite, ours.mode)
    worse = newly_failing(baseline.outcomes, ours.outcomes)
    unlisted = [test for test in worse if test not in listed and test.partition("[")[0] not in listed]
    gone = [test for test in listed if not any(test in (name, name.partition("[")[0]) for name in worse)]
    faults = [f"newly failing: {test}: {ours.texts.get(test, 'no failure text').strip()}" for test in unlisted]
    faults += [f"listed in differences.toml, but does not fail: {test}" for test in gone]
    complaints = Counter(ours.tally.get("complaints", ["no tally was written"]))
    faults += [f"{complaint} ({times} times)" for complaint, times in complaints.items()]
    counts = ours.tally.get("counts", {})
    if not counts.get("requests"):
        faults.append("no request went through the wrapper")
    figures = [baseline.figures(), ours.figures(), counts.get("requests", 0), len(unlisted), len(worse) - len(unlisted)]
    return row(suite, ours.mode, *figures), faults


def row(suite: str, mode: str, *figures: object) -> str:
    """Return one line of the table."""
    return f"{suite:<11} {mode:<10}" + "".join(f"{figure!s:>16}" for figure in figures)


HEADING = row("suite", "mode", "baseline p/f/s", "ours p/f/s", "requests", "newly failing", "listed")


def prove(suite: Suite, modes: Sequence[str], arguments: argparse.Namespace) -> tuple[list[str], list[str]]:
    """Run one suite in the baseline and in each mode; return the rows of the table and all faults."""
    home: Path = arguments.cache / f"{suite.name}-{suite.version}"
    home.mkdir(parents=True, exist_ok=True)
    source = fetch_source(suite, home)
    python = arguments.python or make_environment(suite, source, home)
    baseline = run_suite(suite, BASELINE, python, source, home, arguments.limit)
    if not baseline.tally:  # what half a baseline does not contain could not fail newly
        raise NotRunnable(f"{suite.name}: the baseline did not come to its end in {arguments.limit} s: {home}/*.log")
    rows, faults = [], []
    if not modes:
        rows.append(row(suite.name, BASELINE, baseline.figures(), "", baseline.tally["counts"].get("requests", 0)))
    for mode in modes:
        line, against = judge(suite.name, baseline, run_suite(suite, mode, python, source, home, arguments.limit))
        rows.append(line)
        faults += [f"{suite.name} {suite.version}, {mode}: {fault}" for fault in against]
    return rows, faults


def parse_arguments(suites: Mapping[str, Suite], arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(description="Run upstream test suites behind PostResponseMiddleware.")
    parser.add_argument("--suite", default=",".join(suites), help="names of suites.toml, by commas; default: all")
    parser.add_argument("--mode", help="observe, head, buffered, after_send, none; default: as suites.toml says")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "postresponse-upstream")
    parser.add_argument("--clear-cache", action="store_true", help="download and install everything again")
    parser.add_argument("--python", type=Path, help="an interpreter that has all that a suite needs, and postresponse")
    parser.add_argument("--limit", type=float, default=900.0, help="seconds for one run of one suite; default: 900")
    options = parser.parse_args(arguments)
    if strangers := set(options.suite.split(",")) - set(suites):
        parser.error(f"no such suite: {', '.join(sorted(strangers))}; suites.toml has {', '.join(suites)}")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for, print the table, and return the exit status."""
    suites = Suite.read_all()
    options = parse_arguments(suites, arguments)
    if options.clear_cache:
        shutil.rmtree(options.cache, ignore_errors=True)
    rows, faults = [], []
    try:
        for name in options.suite.split(","):
            modes = suites[name].modes if options.mode is None else [m for m in options.mode.split(",") if m != "none"]
            more_rows, more_faults = prove(suites[name], modes, options)
            rows += more_rows
            faults += more_faults
    except NotRunnable as reason:
        print(reason, file=sys.stderr)
        return 2
    print("\n".join([HEADING, *rows, *faults]))
    return 1 if faults else 0


if __name__ == "__main__":
    raise SystemExit(main())
