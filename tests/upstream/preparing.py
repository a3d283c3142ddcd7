"""What a run needs: the suites of suites.toml, their sources, their environments, and a wheel of postresponse."""

import dataclasses
import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import tomllib
import venv
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

__all__ = ["CHECKOUT", "HERE", "NotRunnable", "Suite", "build_wheel", "fetch_source", "make_environment", "progress"]

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parents[1]


class NotRunnable(Exception):
    """A suite could not be downloaded, installed or started; says which step and its output."""


@dataclasses.dataclass(frozen=True)
class Suite:
    """One table of suites.toml, with the version to test."""

    name: str
    distribution: str
    version: str
    runner: str
    tests: list[str]
    requests: int
    failing: int
    unfinished: int
    modes: list[str]
    short: list[str] = dataclasses.field(default_factory=list)
    extras: list[str] = dataclasses.field(default_factory=list)
    groups: list[str] = dataclasses.field(default_factory=list)
    leave_out: list[str] = dataclasses.field(default_factory=list)
    also: list[str] = dataclasses.field(default_factory=list)
    instead: list[str] = dataclasses.field(default_factory=list)

    @classmethod
    def read_all(cls) -> dict[str, Self]:
        """Return every suite of suites.toml by its name."""
        tables = tomllib.loads((HERE / "suites.toml").read_text(encoding="utf-8"))
        here = {project_name(found.metadata["Name"]): found.version for found in importlib.metadata.distributions()}
        return {
            name: cls(name=name, **(table | {"version": here.get(table["distribution"]) or table.get("version")}))
            for name, table in tables.items()
        }

    def in_short(self) -> Self:
        """Return this suite with the tests and modes of its short form, in which few requests are not suspicious."""
        return dataclasses.replace(self, tests=self.short, requests=1, modes=["observe", "head"])

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


def progress(*words: object) -> None:
    """Say on stderr what happens, while it happens."""
    print(time.strftime("%H:%M:%S"), *words, file=sys.stderr, flush=True)


def execute(command: Sequence[str], step: str, **options: Any) -> None:
    """Run *command* to its end.

    Raises:
        NotRunnable: If it fails; the message ends with its output.
    """
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, **options)
    if done.returncode:
        raise NotRunnable(f"{step}: exit status {done.returncode}\n{done.stdout[-4000:]}")


def build_wheel(package: Path, cache: Path) -> Path:
    """Build a wheel of postresponse, so that every run sees one state of the package, whatever is edited meanwhile."""
    progress("building a wheel of", package)
    target = cache / "wheel"
    shutil.rmtree(target, ignore_errors=True)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(target), str(package)]
    execute(command, "the wheel of postresponse")
    return next(target.glob("*.whl"))


def fetch_source(suite: Suite, home: Path) -> Path:
    """Download and unpack the suite's sdist unless the cache has it, and return the unpacked directory."""
    unpacked = home / "source"
    if not unpacked.is_dir():
        progress(suite, "downloading its sdist")
        requirement = f"{suite.distribution}=={suite.version}"
        options = ["-q", "--no-binary", suite.distribution, "--no-deps", "-d", str(home)]
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
    """Return what the environment needs: the framework and its extras, what its tests and postresponse need."""
    groups = tomllib.loads((source / "pyproject.toml").read_text(encoding="utf-8")).get("dependency-groups", {})
    wanted = [entry for group in suite.groups for entry in groups[group] if isinstance(entry, str)]
    kept = [entry for entry in wanted if project_name(entry) not in suite.leave_out]
    framework = f"{suite.distribution}{[*suite.extras]}=={suite.version}".replace("'", "")
    ours = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    # pytest-timeout makes a hang one failed test instead of a lost run.
    return [framework, *kept, *suite.also, *suite.instead, *ours, "pytest", "pytest-timeout"]


def constraints(suite: Suite) -> list[str]:
    """Return the versions that this interpreter has: the suites run on what the project itself is tested on."""
    free = {"pip", "setuptools", "postresponse", *map(project_name, suite.instead)}
    here = {project_name(found.metadata["Name"]): found.version for found in importlib.metadata.distributions()}
    return sorted(f"{name}=={version}" for name, version in here.items() if name not in free)


def make_environment(suite: Suite, source: Path, home: Path, wheel: Path) -> Path:
    """Make the suite's environment unless the cache has it, install the wheel, and return its interpreter."""
    root, stamp, versions = home / "venv", home / "venv.json", home / "constraints.txt"
    python = root / "bin" / "python"
    pip = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    wanted, pins = requirements(suite, source), constraints(suite)
    recipe = json.dumps([sys.version, wanted, pins], indent=1)
    versions.write_text("\n".join(pins), encoding="utf-8")
    if not stamp.exists() or stamp.read_text(encoding="utf-8") != recipe:
        progress(suite, "making its environment")
        stamp.unlink(missing_ok=True)
        venv.create(root, clear=True, with_pip=True)
        execute([*pip, "-c", str(versions), *wanted], f"installation of {suite.name}'s requirements")
        stamp.write_text(recipe, encoding="utf-8")
    execute([*pip, "--no-deps", "--force-reinstall", str(wheel)], "installation of postresponse")
    # Read by every interpreter of the environment, also in the servers that tests start with a PYTHONPATH of their own.
    (packages,) = root.glob("lib/python*/site-packages")
    (packages / "transparency.pth").write_text(f"{HERE / 'plugin'}\nimport transparency_start\n", encoding="utf-8")
    return python
