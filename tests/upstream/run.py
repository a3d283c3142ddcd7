"""Prove transparency: upstream test suites behind PostResponseMiddleware, against the same suites behind nothing.

    python tests/upstream/run.py
    python tests/upstream/run.py --suite starlette,django --mode observe,head

For each suite of suites.toml, in the version that is installed beside this interpreter:

1. download its sdist (a wheel has no tests) and unpack it, both kept in the cache directory;
2. make a virtual environment of its own with the framework, what its tests need, and a wheel of postresponse built from
   this checkout once a run. What this interpreter has too is installed in the same version;
3. run its tests once behind a pass-through wrapper (the baseline) and once for each mode behind the middleware.
   plugin/ is what happens inside: every interpreter of the environment patches the places where applications are
   entered, and the test runner reports every outcome;
4. compare test by test. Newly failing is what did not fail in the baseline and does now, and what passed and now is
   skipped or missing. What differences.toml does not list is run again by itself before it counts;
5. add up what every process noted about requests and units of work, so that an entrance that was missed, or a unit of
   work that was left open, cannot look like success.

The exit status is 0 when nothing fails newly but what differences.toml lists with its rule and reason; 1 when something
does, a listed difference is gone, too few requests went through the wrapper, or a unit of work was used in an
impossible order; 2 when a suite could not be run at all.
"""

import argparse
import contextlib
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # run as a script, which finds what lies beside it and not the package that is part of
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.upstream.judging import BASELINE, HEADING, Run, Tally, judge, read_records, run_again
from tests.upstream.preparing import (
    CHECKOUT,
    NotRunnable,
    Suite,
    build_wheel,
    fetch_source,
    make_environment,
    progress,
)


def command_of(suite: Suite, python: Path) -> list[str]:
    """Return the command that runs the suite's tests and reports them."""
    if suite.runner == "django":
        runtests = [str(python), "tests/runtests.py", "--settings=transparency_settings", "--parallel=1", "--noinput"]
        return [*runtests, *suite.tests]
    pytest = [str(python), "-m", "pytest", "-q", "--tb=short", "--timeout=30", "--continue-on-collection-errors"]
    return [*pytest, "-p", "transparency_pytest", "-p", "no:cacheprovider", *suite.tests]


def run_suite(suite: Suite, mode: str, home: Path, *, python: Path, source: Path, limit: float) -> Run:
    """Run the suite's tests in *mode* and return what became of them; *home* keeps the records and the log.

    Raises:
        NotRunnable: If the run ended before it reported any test.
    """
    report, tally, log = (home / f"{mode}{suffix}" for suffix in (".jsonl", ".tally.jsonl", ".log"))
    for leftover in (report, tally):
        leftover.unlink(missing_ok=True)
    plan = {"suite": suite.name, "mode": mode, "report": str(report), "tally": str(tally)}
    environment = {**os.environ, "TRANSPARENCY": json.dumps(plan), "PYTHONDONTWRITEBYTECODE": "1"}
    if suite.runner == "pytest":
        environment["TRANSPARENCY_LATER"] = "1"
    began = time.monotonic()
    progress(suite, mode, "started")
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(
            command_of(suite, python), cwd=source, env=environment, stdout=output, stderr=output, start_new_session=True
        )
        watch(process, f"{suite} {mode}", report, began + limit)
    outcomes, texts = read_records(read_lines(report))
    if not outcomes:
        raise NotRunnable(f"{suite.name} in {mode}: no test was reported\n{log.read_text(encoding='utf-8')[-4000:]}")
    progress(suite, mode, f"ended after {time.monotonic() - began:.0f} s, {len(outcomes)} tests")
    return Run(mode, outcomes, texts, Tally.of(read_lines(tally), process.pid))


def watch(process: subprocess.Popen[bytes], name: str, report: Path, deadline: float) -> None:
    """Wait for *process*, saying now and then how far it has come; then kill what it started, or at *deadline* all."""
    told = time.monotonic()
    while process.poll() is None and time.monotonic() < deadline and not stopping.wait(0.2):
        if time.monotonic() - told > 20:
            told = time.monotonic()
            progress(name, sum(record["phase"] == "started" for record in read_lines(report)), "tests started")
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


stopping = threading.Event()
"""Set when this process is told to end: the runs, which are sessions of their own, would outlive it."""


def stop(number: int, frame: object) -> None:
    """Handle SIGTERM and SIGINT."""
    stopping.set()
    raise SystemExit(128 + number)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the records of a file that may be written to at this moment, or be missing."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line[-1] == "\n"]


def prove(
    suite: Suite, modes: Sequence[str], wheel: Path, arguments: argparse.Namespace
) -> tuple[list[str], list[str]]:
    """Run one suite in the baseline and in each mode; return the rows of the table and all faults."""
    home: Path = arguments.cache / f"{suite.name}-{suite.version}"
    home.mkdir(parents=True, exist_ok=True)
    source = fetch_source(suite, home)
    python = make_environment(suite, source, home, wheel)
    run = functools.partial(run_suite, python=python, source=source, limit=arguments.limit)
    with ThreadPoolExecutor(arguments.jobs) as pool:
        baseline, *others = pool.map(lambda mode: run(suite, mode, home), [BASELINE, *modes])
    if not baseline.tally.ended:  # what half a baseline does not contain could not fail newly
        raise NotRunnable(f"{suite.name}: the baseline did not come to its end in {arguments.limit} s: {home}/*.log")
    rows, faults = [], []
    for ours in others or [baseline]:
        steadied = run_again(suite, baseline, ours, home / "again", run)
        line, against = judge(suite, baseline, steadied)
        rows.append(line)
        faults += [f"{suite}, {ours.mode}: {fault}" for fault in against]
    return rows, faults


def parse_arguments(suites: Mapping[str, Suite], arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(description="Run upstream test suites behind PostResponseMiddleware.")
    parser.add_argument(
        "--suite", help="names of suites.toml, by commas; default: all, with --short those that have one"
    )
    parser.add_argument("--mode", help="silent, head and others, by commas, or none; default: as suites.toml says")
    parser.add_argument("--short", action="store_true", help="only the few tests that suites.toml names for this")
    parser.add_argument("--jobs", type=int, default=2, help="runs of one suite at the same time; default: 2")
    parser.add_argument("--package", type=Path, default=CHECKOUT, help="build postresponse from another directory")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "postresponse-upstream")
    parser.add_argument("--clear-cache", action="store_true", help="download and install everything again")
    parser.add_argument("--limit", type=float, default=1800.0, help="seconds for one run of one suite; default: 1800")
    options = parser.parse_args(arguments)
    known = [name for name, suite in suites.items() if suite.short or not options.short]
    options.suites = known if options.suite is None else options.suite.split(",")
    if strangers := set(options.suites) - set(known):
        parser.error(f"no such suite: {', '.join(sorted(strangers))}; there are {', '.join(known)}")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for, print the table, and return the exit status."""
    suites = Suite.read_all()
    options = parse_arguments(suites, arguments)
    if options.clear_cache:
        shutil.rmtree(options.cache, ignore_errors=True)
    options.cache.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    rows, faults = [], []
    try:
        wheel = build_wheel(options.package, options.cache)
        for name in options.suites:
            suite = suites[name].in_short() if options.short else suites[name]
            modes = suite.modes if options.mode is None else [m for m in options.mode.split(",") if m != "none"]
            more_rows, more_faults = prove(suite, modes, wheel, options)
            rows += more_rows
            faults += more_faults
    except NotRunnable as reason:
        print(reason, file=sys.stderr)
        return 2
    print("\n".join([HEADING, *rows, *faults]))
    return 1 if faults else 0


if __name__ == "__main__":
    raise SystemExit(main())
