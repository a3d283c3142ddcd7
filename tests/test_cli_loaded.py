"""The commands on a framework's command line: on the application that is loaded, and as those of `postresponse` end."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from litestar.cli.main import litestar_group
from sqlalchemy import MetaData, create_engine

from postresponse.cli.loaded import SUMMARIES
from postresponse.messaging import Message, Outbox

SHOP = """
from flask import Flask
from litestar import Litestar
from quart import Quart
from postresponse.integrations import flask, litestar, quart
from postresponse.messaging import Function, Outbox, Relay

sent = []
outbox = Outbox({"mail": ["send"]})
relay = Relay(outbox, "sqlite:///outbox.db", {"mail": Function(lambda delivery: sent.append(delivery.payload))})


def made(framework, package, **settings):
    app = framework("shop")
    app.config.update(settings)
    package.PostResponse(app, cleanup_timeout=2.5)
    return app


named = {"POSTRESPONSE_RELAY": "loaded_shop:relay"}
flask_app, flask_sends = made(Flask, flask), made(Flask, flask, **named)
quart_app, quart_sends = made(Quart, quart), made(Quart, quart, **named)
plugin = litestar.PostResponsePlugin
litestar_app = Litestar(plugins=[plugin(cleanup_timeout=2.5)], logging_config=None)
litestar_sends = Litestar(plugins=[plugin(relay=relay)], logging_config=None)
"""
FRAMEWORKS = ["flask", "quart", "litestar"]
Ran = tuple[int, str]
Run = Callable[..., Ran]


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A module with the applications, and an outbox with one message."""
    (tmp_path / "loaded_shop.py").write_text(SHOP)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    metadata = MetaData()
    outbox, engine = Outbox({"mail": ["send"]}, metadata), create_engine("sqlite:///outbox.db")
    metadata.create_all(engine)
    with engine.begin() as connection:
        outbox.enlist(Message("mail", "send", {"item": "tea"}), into=connection)
    engine.dispose()
    import loaded_shop  # type: ignore[import-not-found]

    yield loaded_shop
    del sys.modules["loaded_shop"]


@pytest.fixture(params=FRAMEWORKS)
def run(request: pytest.FixtureRequest, shop: Any) -> Run:
    """Run a command of a framework on an application of the shop, and return its exit code and what it printed."""
    framework = request.param

    def ran(*arguments: str, sends: bool = False) -> Ran:
        name = f"{framework}_{'sends' if sends else 'app'}"
        if framework == "litestar":
            # Its plugins add their commands to the group once in a process.
            monkey = pytest.MonkeyPatch()
            monkey.setattr(litestar_group, "_prepare_done", False)
            monkey.setattr(litestar_group, "commands", dict(litestar_group.commands))
            result = CliRunner().invoke(litestar_group, ["--app", f"loaded_shop:{name}", "postresponse", *arguments])
            monkey.undo()
        else:
            result = getattr(shop, name).test_cli_runner().invoke(args=["postresponse", *arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, result.output

    return ran


def test_the_doctor_judges_the_application_and_ends_as_its_own_command_does(run: Run) -> None:
    code, printed = run("doctor", "--server", "granian", "--json")
    told = {each["code"]: each for each in json.loads(printed)}
    assert (code, told["server_kills_at_once"]["severity"]) == (1, "warning")
    assert told["server_kills_at_once"]["where"] == "granian, which serves"
    assert "not_installed" not in told
    code, printed = run("doctor", "--server", "cheroot")
    assert (code, "error" in printed) == (0, False)
    code, printed = run("doctor", "--server", "granain")
    assert (code, "did you mean 'granian'" in printed) == (2, True)


def test_the_doctor_judges_the_outbox_of_the_relay_that_the_application_has(run: Run) -> None:
    code, printed = run("doctor", "--server", "uvicorn", "--json", sends=True)
    assert (code, [each["code"] for each in json.loads(printed)]) == (1, ["outbox_without_skip_locked"])


def test_a_server_that_is_not_run_here_is_not_said_to_serve(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/usr/bin/flask", "postresponse", "doctor"])
    assert "which serves" not in run("doctor")[1]


def test_the_options_are_printed_with_where_they_were_given(run: Run) -> None:
    code, printed = run("config", "--json")
    told = {each["name"]: each for each in json.loads(printed)}
    assert (code, told["cleanup_timeout"]) == (0, {"name": "cleanup_timeout", "value": "2.5", "source": "keyword"})
    assert told["commit"]["source"] == "default"
    lines = [line.split() for line in run("config")[1].splitlines()]
    assert lines[0] == ["option", "from", "value"]
    assert ["cleanup_timeout", "keyword", "2.5"] in lines


def test_the_relay_sends_what_the_outbox_holds(run: Run, shop: Any) -> None:
    code, printed = run("relay", "--until-empty", sends=True)
    assert (code, shop.sent) == (0, [{"item": "tea"}]), printed
    assert "delivered: 1" in printed


def test_without_a_relay_it_is_said_where_one_is_given(run: Run) -> None:
    code, printed = run("relay")
    assert code == 2
    assert "POSTRESPONSE_RELAY" in printed or "give PostResponsePlugin a relay=" in printed


def test_one_that_is_interrupted_says_so_and_no_more(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("postresponse.cli.doctor.judge", interrupted)
    assert run("doctor") == (130, "\ninterrupted\n")


def test_each_command_documents_its_exit_codes_and_prints_json(run: Run) -> None:
    for name in SUMMARIES:
        code, printed = run(name, "--help")
        assert code == 0
        assert "--json" in printed
        codes = [line.split()[0] for line in printed.split("exit codes:\n")[1].splitlines()]
        assert codes == {"config": ["0", "2"], "doctor": ["0", "1", "2"], "relay": ["0", "2", "3"]}[name] + [
            "130",
            "141",
        ]
    assert run("doctor", "--jsno")[0] == 2
    listed = run("--help")[1]
    assert [name for name in SUMMARIES if f"  {name}" not in listed] == []


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_the_real_command_line_has_them(framework: str, shop: Any) -> None:
    command = [sys.executable, "-m", framework, "--app", f"loaded_shop:{framework}_app", "postresponse", "doctor"]
    ran = subprocess.run(
        [*command, "--server", "granian", "--json"], capture_output=True, text=True, timeout=60, check=False
    )
    assert ran.returncode == 1, ran.stderr
    assert "server_kills_at_once" in [each["code"] for each in json.loads(ran.stdout)]
    helped = subprocess.run([*command, "--help"], capture_output=True, text=True, timeout=60, check=False)
    assert helped.stdout.startswith(f"usage: python -m {framework} postresponse doctor"), helped.stdout + helped.stderr
