"""Which way imports point: every module has a rank, nothing imports upwards, and nothing in a circle."""

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import pytest

import postresponse

PACKAGE: Final = "postresponse"

RANKS: Final[Mapping[str, int]] = {
    "postresponse.exceptions": 0,
    "postresponse.typing": 0,
    "postresponse.core": 1,
    "postresponse.held": 2,
    "postresponse.onlookers": 2,
    "postresponse.shielding": 2,
    "postresponse.connection": 2,
    "postresponse.watchdog": 2,
    "postresponse.performing": 2,
    "postresponse.aperforming": 2,
    "postresponse.error_response": 2,
    "postresponse.unit_of_work": 2,
    "postresponse.work": 2,
    "postresponse": 3,  # the everyday names of the bands below
    "postresponse.asgi": 3,
    "postresponse.wsgi": 3,
    "postresponse.tenancy": 3,
    "postresponse.messaging": 3,
    "postresponse.observing": 3,
    "postresponse.importing": 2,
    "postresponse.stack": 3,
    "postresponse.wire": 2,
    "postresponse.doctor": 4,
    "postresponse.configuration": 3,
    "postresponse.extension": 4,
    "postresponse.integrations": 4,
    "postresponse.testing": 4,
    "postresponse.pytest_plugin": 4,
    "postresponse.telemetry": 4,
    "postresponse.inspector": 3,
    "postresponse.cli": 4,
    "postresponse.__main__": 4,
    "postresponse.demo": 4,
}
"""Every module, or the folder that it stands in, by the bands of the architecture."""

TESTS: Final = (
    *("postresponse.cli.conformance", "postresponse.cli.trace", "postresponse.cli.tracing"),
    "postresponse.pytest_plugin",
)
"""What is a test by itself, and loaded by nothing but its own name: commands that start servers, the plugin."""

APART: Final = (("postresponse.asgi", "postresponse.wsgi"), ("postresponse.tenancy.asgi", "postresponse.tenancy.wsgi"))


def modules_of(root: Path) -> dict[str, Path]:
    """Every module below the package *root*, by name."""
    found = {}
    for path in sorted(root.rglob("*.py")):
        parts = (root.name, *path.relative_to(root).with_suffix("").parts)
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports_of(path: Path, modules: Mapping[str, Path]) -> Iterator[str]:
    """Every module of the package that *path* imports, wherever in the file: in functions and for type checkers too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import hides where it points"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name in modules:
                yield name
            elif name.rpartition(".")[0] in modules:
                yield name.rpartition(".")[0]


def rank_of(module: str) -> int | None:
    """The rank of *module*, or of the folder that it stands in; the package itself lends its rank to nobody."""
    name = module
    while name:
        if name in RANKS and (name != PACKAGE or module == PACKAGE):
            return RANKS[name]
        name = name.rpartition(".")[0]
    return None


def is_in(module: str, folder: str) -> bool:
    """Whether *module* is *folder*, or stands in it."""
    return f"{module}.".startswith(f"{folder}.")


def integration_of(module: str) -> str:
    """The integration that *module* is, or stands in the folder of."""
    _, _, inside = module.partition(f"{PACKAGE}.integrations.")
    return inside.partition(".")[0]


def faults(root: Path) -> list[str]:
    """What is wrong with the imports of the package *root*."""
    modules = modules_of(root)
    graph = {name: set(imports_of(path, modules)) - {name} for name, path in modules.items()}
    found = [f"{name} has no rank" for name in modules if rank_of(name) is None]
    for name, imported in graph.items():
        for other in sorted(imported):
            above, below = rank_of(name), rank_of(other)
            if above is not None and below is not None and below > above:
                found.append(f"{name} ({above}) imports {other} ({below}), which is above it")
            if other.startswith(f"{PACKAGE}.testing") and not name.startswith((f"{PACKAGE}.testing", *TESTS)):
                found.append(f"{name} imports {other}, which nothing may")
            if integration_of(name) and integration_of(other) not in ("", integration_of(name)):
                found.append(f"{name} imports {other}, another integration")
            if any((is_in(name, a) and is_in(other, b)) or (is_in(name, b) and is_in(other, a)) for a, b in APART):
                found.append(f"{name} meets {other}")
    return found + [f"a circle: {' -> '.join(circle)}" for circle in circles(graph)]


def circles(graph: Mapping[str, set[str]]) -> Iterator[list[str]]:
    """Every circle that a walk along the imports runs into first."""
    done: set[str] = set()

    def walk(name: str, path: list[str]) -> Iterator[list[str]]:
        if name in path:
            yield [*path[path.index(name) :], name]
        elif name not in done:
            for other in sorted(graph[name]):
                yield from walk(other, [*path, name])
            done.add(name)

    for name in sorted(graph):
        yield from walk(name, [])


def test_no_import_points_up_or_in_a_circle() -> None:
    assert postresponse.__file__ is not None
    root = Path(postresponse.__file__).parent
    assert {"postresponse", "postresponse.asgi", "postresponse.core.exchange"} <= set(modules_of(root))
    assert faults(root) == []


@pytest.mark.parametrize(
    ("files", "fault"),
    [
        ({"core/policy.py": "import postresponse.asgi"}, "postresponse.core.policy (1) imports postresponse.asgi (3)"),
        (
            {"typing.py": "def late():\n    from postresponse.core import policy"},
            "postresponse.typing (0) imports postresponse.core.policy (1)",
        ),
        (
            {"held.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from postresponse.wsgi import W"},
            "postresponse.held (2) imports postresponse.wsgi (3)",
        ),
        ({"unit_of_work/__init__.py": "from postresponse import doom"}, "postresponse.unit_of_work (2) imports"),
        ({"asgi.py": "from postresponse.wsgi import W"}, "postresponse.asgi meets postresponse.wsgi"),
        ({"wsgi.py": "from postresponse import asgi"}, "postresponse.wsgi meets postresponse.asgi"),
        (
            {"connection.py": "from postresponse.held import a", "held.py": "import postresponse.connection"},
            "a circle: postresponse.connection -> postresponse.held -> postresponse.connection",
        ),
        (
            {"asgi/__init__.py": "", "asgi/exchange.py": "from postresponse.wsgi.exchange import E", "asgi.py": None}
            | {"wsgi/__init__.py": "", "wsgi/exchange.py": "", "wsgi.py": None},
            "postresponse.asgi.exchange meets postresponse.wsgi.exchange",
        ),
        ({"surprise.py": ""}, "postresponse.surprise has no rank"),
        ({"cli.py": "from postresponse.testing import a"}, "postresponse.cli imports postresponse.testing"),
        (
            {"integrations/flask.py": "from postresponse.integrations import django", "integrations/django.py": ""},
            "postresponse.integrations.flask imports postresponse.integrations.django, another integration",
        ),
    ],
)
def test_the_check_finds_what_it_is_for(tmp_path: Path, files: dict[str, str | None], fault: str) -> None:
    root = tmp_path / PACKAGE
    sound = dict.fromkeys(("__init__", "core/__init__", "core/policy", "asgi", "wsgi", "testing", "typing"), "")
    for name, text in ({f"{name}.py": text for name, text in sound.items()} | files).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        if text is not None:
            (root / name).write_text(text)
    assert any(found.startswith(fault) for found in faults(root)), faults(root)


def test_a_sound_tree_has_no_faults(tmp_path: Path) -> None:
    root = tmp_path / PACKAGE
    (root / "core").mkdir(parents=True)
    (root / "__init__.py").write_text("from postresponse.core.policy import a")
    (root / "core" / "__init__.py").write_text("")
    (root / "core" / "policy.py").write_text("from postresponse.typing import b\nimport logging")
    (root / "typing.py").write_text("import typing")
    (root / "asgi.py").write_text("import postresponse.core.policy\nfrom postresponse import typing")
    assert faults(root) == []


def test_the_everyday_names_load_no_event_loop_and_no_library() -> None:
    heavy = ("asyncio", "anyio", "trio", "sqlalchemy", "werkzeug", "asgiref")
    code = f"import sys, postresponse; print(*sorted(set({heavy!r}) & set(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == ""
