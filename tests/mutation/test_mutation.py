"""The comparison can tell a survivor from a sentence, and what is explained is still there."""

import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.mutation import __main__ as command
from tests.mutation.explained import Explained, explained
from tests.mutation.mutants import Mutant, is_wording, mutants_of

GENERATED = """\
class C:
    def xǁCǁm__mutmut_orig(self, a):
        if a > 1:
            return "one and more"

    def xǁCǁm__mutmut_1(self, a):
        if a >= 1:
            return "one and more"

    def xǁCǁm__mutmut_2(self, a):
        if a > 1:
            return "XXone and moreXX"
"""
SPANS = {"xǁCǁm__mutmut_orig": [2, 4], "xǁCǁm__mutmut_1": [6, 8], "xǁCǁm__mutmut_2": [10, 12]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What a run of mutmut leaves."""
    (tmp_path / "a.py").write_text(GENERATED)
    (tmp_path / "a.py.spans").write_text(json.dumps({"version": 1, "spans": SPANS}))
    codes = {"pkg.a.xǁCǁm__mutmut_1": 0, "pkg.a.xǁCǁm__mutmut_2": 1}
    (tmp_path / "a.py.meta").write_text(json.dumps({"exit_code_by_key": codes}))
    return tmp_path


def test_mutants_are_read_with_what_they_change_and_what_became_of_them(folder: Path) -> None:
    first, second = mutants_of(folder)
    assert first == Mutant("pkg.a.C.m", "if a > 1:", "if a >= 1:", "survived")
    assert second == Mutant("pkg.a.C.m", 'return "one and more"', 'return "XXone and moreXX"', "killed")


@pytest.mark.parametrize(
    ("was", "becomes", "expected"),
    [
        ('return "one and more"', 'return "XXone and moreXX"', True),
        ('return "one and more"', 'return "ONE AND MORE"', True),
        ('say("one and more", a)', 'say("ONE AND MORE", None)', False),
        ('say("one and more", a)', 'say("one and more", A)', False),
        ('get("accept")', 'get("XXacceptXX")', False),
        ("if a > 1:", "if a >= 1:", False),
        ("return a", "return A", False),
    ],
)
def test_a_sentence_is_told_from_a_name(was: str, becomes: str, expected: bool) -> None:
    assert is_wording(Mutant("f", was, becomes, "survived")) is expected


def test_a_survivor_that_nobody_explains_fails_the_command(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "FOLDER", folder)
    monkeypatch.setattr(command, "explained", list[Explained])
    assert command.main(["--report"]) == 1
    assert "| pkg.a | 2 | 1 | 0 | 1 | 0 | 1 | 0 |" in capsys.readouterr().out
    monkeypatch.setattr(command, "explained", lambda: [Explained("pkg.a.C.m", "if a > 1:", "if a >= 1:", "equal")])
    assert command.main(["--report"]) == 0
    monkeypatch.setattr(command, "explained", lambda: [Explained("pkg.a.C.m", "if a > 1:", "if a > 2:", "gone")])
    assert command.main(["--report"]) == 1
    assert "not among the survivors any more: pkg.a.C.m" in capsys.readouterr().out


def test_each_explanation_is_of_a_line_that_is_there() -> None:
    for survivor in explained():
        assert survivor.reason.strip()
        lines = {line.strip() for line in _source(survivor.function).splitlines()}
        assert not set(survivor.was.splitlines()) - lines, survivor


def test_nothing_is_explained_twice() -> None:
    names = [(survivor.function, survivor.was, survivor.becomes) for survivor in explained()]
    assert len(names) == len(set(names))


def _source(function: str) -> str:
    parts = function.split(".")
    for end in range(len(parts) - 1, 0, -1):
        if all(part.islower() or part.startswith("_") for part in parts[:end]):
            spec = find_spec(".".join(parts[:end]))
            if spec is not None and spec.origin is not None:
                return Path(spec.origin).read_text()
    raise AssertionError(f"no module of {function}")
