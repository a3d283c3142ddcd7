"""What the units of work cannot be imported without is installed with the package."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

PYPROJECT = tomllib.loads((Path(__file__).resolve().parents[2] / "pyproject.toml").read_text())


@pytest.mark.parametrize("module", ["sqlalchemy", "composite", "two_phase", "branch", "recovery"])
def test_greenlet_is_required_where_a_unit_of_work_does_not_import_without_it(module: str) -> None:
    """SQLAlchemy brings it by itself until 2.1, and on most machines only; sync sessions do not run on it."""
    code = f"import sys; sys.modules['greenlet'] = None; import postresponse.unit_of_work.{module}"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    required = [re.split(r"[<>=]", line)[0] for line in PYPROJECT["project"]["dependencies"]]
    assert ran.returncode == 0 or "greenlet" in required, ran.stderr
