"""The command line: what it takes, what it answers, and its exit codes."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import pytest

from postresponse import __version__
from postresponse.cli import COMMANDS, main
from postresponse.demo import measurement
from postresponse.demo.measurement import Tally
from postresponse.demo.ways import WAYS, Way
from postresponse.unit_of_work import recovery
from postresponse.unit_of_work.recovery import Recovered
from tests.test_readme import table

Captured = pytest.CaptureFixture[str]
SCRIPT = Path(sys.executable).parent / "postresponse"


def tallies(**spoiled: int) -> list[Tally]:
    """What a run of one order and one failure would count, with figures of the head mode replaced by *spoiled*."""
    found = [Tally(way, answered=1, failed=1, next_ok=1, milliseconds=[1.0]) for way in WAYS]
    for name, figure in spoiled.items():
        setattr(found[1], name, figure)
    return found


def measuring(found: list[Tally]) -> Callable[..., list[Tally]]:
    """Stand in for a measurement."""

    def measure(*, orders: int, failures: int, progress: Callable[[Way, int, int], object]) -> list[Tally]:
        for tally in found:
            progress(tally.way, orders + failures, orders + failures)
        return found

    return measure


@pytest.mark.parametrize("command", [[str(SCRIPT)], [sys.executable, "-m", "postresponse"]], ids=["script", "module"])
def test_the_command_and_the_module_say_their_version(command: list[str]) -> None:
    said = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True)
    assert said.stdout == f"postresponse {__version__}\n"


@pytest.mark.parametrize("argv", [[], ["dmeo"], ["demo", "--jsno"]])
def test_a_call_that_means_nothing_ends_with_2_and_says_what_there_is(argv: list[str], capsys: Captured) -> None:
    with pytest.raises(SystemExit) as ended:
        main(argv)
    assert ended.value.code == 2
    assert "usage: postresponse" in capsys.readouterr().err


def test_the_help_of_the_demo_documents_every_exit_code(capsys: Captured) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["demo", "--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert [line.split()[0] for line in shown.split("exit codes:\n")[1].splitlines()] == [
        *("0", "1", "2", "3", "130", "141")
    ]


@pytest.mark.parametrize("missing", ["fastapi", "uvicorn", "aiosqlite"])
def test_without_the_extra_the_demo_says_how_to_install_it(
    missing: str, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    assert main(["demo"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert f"needs {missing}, " in captured.err
    assert "pip install 'postresponse[demo]'" in captured.err


def test_a_demo_that_finds_the_promises_kept_ends_with_0(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    monkeypatch.setattr(measurement, "measure", measuring(tallies()))
    assert main(["demo"]) == 0
    captured = capsys.readouterr()
    assert "did NOT" not in captured.out
    assert captured.err.splitlines() == [f"... {way.title}" for way in WAYS]


@pytest.mark.parametrize("spoiled", [{"missed": 1}, {"false_success": 1}, {"next_ok": 0}], ids=str)
def test_a_demo_that_finds_a_promise_broken_says_so_and_ends_with_1(
    spoiled: dict[str, int], monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setattr(measurement, "measure", measuring(tallies(**spoiled)))
    assert main(["demo"]) == 1
    assert "postresponse, commit='head' did NOT do what it promises." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("uvicorn", "said"),
    [
        ("raise SystemExit('it is broken')", "it is broken"),
        (
            "class Config:\n def __init__(self, *_, **__): pass\n"
            "class Server(Config):\n def run(self, sockets): 1 / 0\n",
            "1 / 0",
        ),
    ],
    ids=["does not start", "dies at once"],
)
def test_a_server_that_does_not_run_ends_the_demo_with_3_and_is_quoted(
    uvicorn: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    tmp_path.joinpath("uvicorn.py").write_text(uvicorn)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert main(["demo"]) == 3
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "the server of the demo did not run" in captured.err
    assert said in captured.err


def test_the_command_also_works_off_the_main_thread_where_no_signal_can_be_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(measurement, "measure", measuring(tallies()))
    with ThreadPoolExecutor() as threads:
        assert threads.submit(main, ["demo"]).result() == 0


def test_an_interrupted_demo_ends_with_130(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    def interrupted(**_options: object) -> list[Tally]:
        raise KeyboardInterrupt

    monkeypatch.setattr(measurement, "measure", interrupted)
    assert main(["demo"]) == 130
    assert capsys.readouterr().err.strip() == "interrupted"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "the following arguments are required: NAME=URL"),
        (["orders"], "expected NAME=URL, found 'orders'"),
        (["=postgresql://"], "expected NAME=URL, found '=postgresql://'"),
        (["orders="], "expected NAME=URL, found 'orders='"),
        (["orders=x", "--older-than", "-1"], "expected seconds, zero or more, found '-1'"),
        (["orders=x", "--older-than", "soon"], "expected seconds, zero or more, found 'soon'"),
        (["orders=x", "--older-than", "inf"], "expected seconds, zero or more, found 'inf'"),
        (["orders=x"], "Could not parse SQLAlchemy URL"),
        (["orders=nosuch://"], "Can't load plugin: sqlalchemy.dialects:nosuch"),
        (["orders=sqlite://", "orders=sqlite://"], "each name can be given once"),
        (["orders=sqlite://"], "orders is on sqlite, which keeps no prepared transactions"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_recovery_that_is_called_wrongly_ends_with_2_and_says_why(
    arguments: list[str], said: str, capsys: Captured
) -> None:
    with pytest.raises(SystemExit) as ended:
        sys.exit(main(["recover", *arguments]))
    captured = capsys.readouterr()
    assert (ended.value.code, captured.out) == (2, "")
    assert said in captured.err


@pytest.mark.parametrize(("found", "code"), [([], 0), ([Recovered("orders", "pr_1", "left", "nobody knows")], 1)])
def test_a_recovery_is_told_as_json_too(
    found: list[Recovered], code: int, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setattr(recovery, "recover", lambda engines, **options: found)
    assert main(["recover", "orders=sqlite://", "--json"]) == code
    assert json.loads(capsys.readouterr().out) == [asdict(each) for each in found]


def test_a_recovery_without_the_driver_says_which(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    assert main(["recover", "orders=postgresql+psycopg://127.0.0.1/orders"]) == 2
    assert "psycopg" in capsys.readouterr().err


def test_the_help_of_the_recovery_documents_every_exit_code(capsys: Captured) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["recover", "--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert [line.split()[0] for line in shown.split("exit codes:\n")[1].splitlines()] == ["0", "1", "2", "130", "141"]


def exit_codes(command: str, capsys: Captured) -> str:
    """The exit codes that the help of *command* documents."""
    with pytest.raises(SystemExit):
        main([command, "--help"])
    documented = capsys.readouterr().out.split("exit codes:\n")[1].splitlines()
    return ", ".join(line.split()[0] for line in documented)


def test_the_table_of_the_readme_has_every_command_with_the_exit_codes_of_its_help(capsys: Captured) -> None:
    rows = {row[0].strip("`").split()[1]: f"{row[2]}, 130, 141" for row in table("command", "## The command")}
    assert rows == {command: exit_codes(command, capsys) for command in COMMANDS}


@pytest.mark.parametrize(
    "arguments",
    [
        ["-m", "postresponse", "outbox", "sql", "sqlite://"],
        ["-m", "postresponse", "outbox", "sql", "nosuch://"],
        ["-m", "postresponse", "trace", "--help"],
        ["-m", "flask", "--app", "shop_site:app", "postresponse", "config"],
        ["-W", "ignore", "-m", "django", "postresponse", "config"],
    ],
    ids=lambda value: " ".join(value),
)
def test_a_command_whose_output_nobody_reads_ends_quietly(arguments: list[str], tmp_path: Path) -> None:
    (tmp_path / "shop_site.py").write_text(
        "from flask import Flask\nfrom postresponse.integrations.flask import PostResponse\n"
        "app = Flask('site')\nPostResponse(app)\n"
    )
    (tmp_path / "project.py").write_text("INSTALLED_APPS = ['postresponse.integrations.django']\n")
    reads, writes = os.pipe()
    os.close(reads)
    ran = subprocess.run(
        [sys.executable, *arguments],
        cwd=tmp_path,
        env={**os.environ, "DJANGO_SETTINGS_MODULE": "project", "PYTHONPATH": str(tmp_path), "PYTHONUNBUFFERED": ""},
        stdout=writes,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )
    os.close(writes)
    wrote = "nosuch://" not in arguments  # what has said all there is to say on the other stream ends as ever
    assert (ran.returncode, "Traceback" in ran.stderr) == (141 if wrote else 2, False), ran.stderr
    assert (ran.stderr == "") == wrote


def test_each_command_prints_json_where_it_is_asked_to(capsys: Captured) -> None:
    for command in COMMANDS:
        with pytest.raises(SystemExit):
            main([command, "stats", "--help"] if command == "outbox" else [command, "--help"])
        assert "--json" in capsys.readouterr().out


def test_the_command_loads_no_database_library_before_it_recovers() -> None:
    code = "import sys, postresponse.cli; print(*sorted({'sqlalchemy', 'asyncio'} & set(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == ""
