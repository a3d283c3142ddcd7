"""The conformance kit finds what servers do, and what does not agree with what is known of them."""

import json
import re
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from postresponse.cli import main
from postresponse.onlookers import observing_all
from postresponse.testing import immediate, serving
from postresponse.testing.conformance import EXPECTED, Finding, conformance, facts, promises, served, shop
from postresponse.testing.conformance.expected import PROMISED
from postresponse.testing.conformance.facts import FACTS, ends
from postresponse.testing.conformance.place import Place
from postresponse.testing.conformance.promises import PROMISES
from postresponse.testing.conformance.record import RECORD
from postresponse.testing.conformance.running import _give_unit_of_work, _judged, _running
from postresponse.testing.conformance.telling import Teller
from postresponse.testing.servers import KINDS, Kind, kinds_named
from tests.conftest import Scale

README = (Path(__file__).resolve().parents[2] / "README.md").read_text()
APPS = "tests.testing.user_apps"

BROKEN = """
import sys
from importlib import import_module
from wsgiref import simple_server

class Handler(simple_server.ServerHandler):
    http_version = "1.1"
    def close(self):  # which is to close the body
        self.result = self.headers = self.status = self.environ = None

class Request(simple_server.WSGIRequestHandler):
    def handle(self):
        self.raw_requestline = self.rfile.readline(65537)
        if self.parse_request():
            handler = Handler(self.rfile, self.wfile, self.get_stderr(), self.get_environ(), multithread=False)
            handler.request_handler = self
            handler.run(self.server.get_app())

module, _, name = sys.argv[1].partition(":")
app = getattr(import_module(module), name)
simple_server.make_server("127.0.0.1", int(sys.argv[2]), app, handler_class=Request).serve_forever()
"""


def broken_command(target: str, port: int) -> Sequence[str]:
    return ["-c", BROKEN, target, str(port)]


def test_what_is_known_is_what_the_readme_says() -> None:
    table = README.partition("## What a server can tell")[2].partition("That is with default settings")[0]
    cells = r"^\| (.*?) \| (.*?) \| (.*?) \| (.*?) ?\| (.*?) \|$"
    rows = {row: tuple(found) for row, *found in re.findall(cells, table, re.MULTILINE)}
    known = {each.row: (each.taken, each.left, "yes" if each.drained else "", each.code) for each in EXPECTED.values()}
    assert {row: found for row, found in rows.items() if row not in ("server", "---")} == known
    assert set(EXPECTED) == set(KINDS)


def test_a_server_that_breaks_the_rules_is_told_from_the_one_that_it_takes_the_name_of() -> None:
    kind = Kind("cheroot", "wsgi", broken_command, keeps_alive=False)
    with _running(kind, "", "POST", "/", 0) as place:
        found = {check: _judged(kind, check, said) for check, said in ends(place)}
    assert found["close() was called"] == Finding("cheroot", "close() was called", "never", "once", "differs")
    assert found["the end was taken"].verdict == "differs"
    assert found["drained"].verdict == "ok"


@dataclass
class Here:
    """A server in a thread, as the kit sees one in a process."""

    kind: Kind
    port: int
    leave: Callable[[], object]

    def log(self) -> str:
        return ""

    def stop(self, timeout: float = 0.0) -> None:
        self.leave()


@contextmanager
def served_here(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, *, app: str = "") -> Iterator[Place]:
    """What the kit serves, on a server in a thread of this process."""
    kind = KINDS[name]
    monkeypatch.setenv(RECORD, str(folder / "record.jsonl"))
    monkeypatch.setenv(shop.DATABASE, str(folder / "shop.db"))
    monkeypatch.setenv(served.APP, app)
    monkeypatch.setattr(served, "_apps", {})
    shop.prepare(str(folder / "shop.db"))
    shop._db.cache_clear()
    with observing_all(Teller()), immediate(), ExitStack() as running:
        site = running.enter_context(serving(getattr(served, kind.protocol), name.partition("-")[0]))
        here: Any = Here(kind, site.port, running.close)
        method, path = ("GET", "/orders") if app else ("POST", "/")
        yield Place(here, folder / "record.jsonl", method=method, path=path, own=not app)
    shop._db()._make.kw["bind"].dispose()
    shop._db.cache_clear()


def judged(place: Place, *checks: Callable[[Place], Any]) -> dict[str, Finding]:
    """What was found, by check."""
    return {name: _judged(place.server.kind, name, said) for check in checks for name, said in check(place)}


@pytest.mark.parametrize("name", ["waitress", "uvicorn-h11"])
def test_what_it_serves_does_what_it_is_asked(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quiet: None
) -> None:
    monkeypatch.setattr(facts, "GOES_ON", 0.3)
    with served_here(name, tmp_path, monkeypatch) as place:
        found = judged(place, *FACTS[place.server.kind.protocol], *PROMISES)
        at_the_end = judged(place, facts.told_to_end)
    assert [each for each in found.values() if each.verdict != "ok"] == []
    assert at_the_end["work after the response at SIGTERM"].found == "done"  # at once, and no signal is sent here


@pytest.mark.parametrize(("name", "app"), [("waitress", "plain"), ("uvicorn-h11", "plain_asgi")])
def test_an_application_without_a_unit_of_work_gets_one(
    name: str, app: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quiet: None
) -> None:
    with served_here(name, tmp_path, monkeypatch, app=f"{APPS}:{app}") as place:
        before = judged(place, promises.failed_commit)
        assert {each.verdict for each in before.values()} == {"differs"}
        assert "the commit was not asked for" in before["failed commit, head"].found
        _give_unit_of_work(place)
        assert {each.verdict for each in judged(place, *PROMISES).values()} == {"ok"}


@pytest.mark.long
def test_servers_do_what_is_known_of_them(scale: Scale) -> None:
    few = ("waitress", "uvicorn-httptools")
    more = ("hypercorn", "granian-asgi", "granian-wsgi", "gunicorn-sync", "gunicorn-gthread", "gunicorn-asgi")
    all_kinds = (*few, *more, "cheroot", "daphne")
    names = all_kinds[: scale.of(off=0, short=len(few), full=len(all_kinds))]
    found = list(conformance([kind for name in names for kind in kinds_named(name)]))
    assert [each for each in found if each.verdict != "ok"] == []
    assert {each.server for each in found} == set(names)
    assert all(set(PROMISED) <= {each.check for each in found if each.server == name} for name in names)


def test_a_users_application_is_held_to_the_promises(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["conformance", f"{APPS}:managed", "--server", "waitress", "--path", "/orders", "--json"])
    printed = capsys.readouterr()
    found: list[dict[str, Any]] = json.loads(printed.out)
    assert (code, printed.err) == (0, "... waitress\n")
    assert {each["check"]: each["found"] for each in found} == dict(PROMISED)
    assert {each["verdict"] for each in found} == {"ok"}


def test_an_application_that_a_function_makes_works_where_the_command_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "made_shop.py").write_text(
        "from pathlib import Path\nfrom flask import Flask\n"
        "def make():\n    app = Flask('made')\n"
        "    app.add_url_rule('/here', view_func=lambda: Path('of_the_shop').read_text())\n    return app\n"
    )
    (tmp_path / "of_the_shop").write_text("found")
    argv = ["conformance", "made_shop:make", "--server", "waitress", "--path", "/here"]
    assert main([*argv, "--factory"]) == 0, capsys.readouterr()
    assert main(argv) == 2
    assert "which makes one; give --factory" in capsys.readouterr().err


def test_what_spoils_the_promises_around_the_package_is_found(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["conformance", f"{APPS}:careless", "--server", "waitress", "--path", "/orders"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["server", "check", "verdict", "found"]
    assert "  waitress, failed commit, head: an error with set-cookie of the original, the next request answered; " in (
        "\n".join(lines)
    )
    assert "2 of 6 differ:" in lines


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--server", "waitres"], "did you mean 'waitress'"),
        (["no.such:app"], "tried to import no.such, and there is no module 'no'"),
        ([f"{APPS}:plane"], f"tried to import {APPS}, which has no 'plane'; did you mean 'plain'"),
        ([f"{APPS}:raise_at_import"], "is False; an ASGI or WSGI application is wanted"),
        ([f"{APPS}:plain", "--server", "uvicorn"], "'uvicorn' serves asgi, and the application is wsgi"),
        ([f"{APPS}:plain", "--server", "waitress", "--path", "/order"], "is answered 404; name a request"),
    ],
    ids=["server", "module", "attribute", "no application", "protocol", "path"],
)
def test_what_is_called_wrongly_is_told(argv: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["conformance", *argv]) == 2
    assert says in capsys.readouterr().err


def test_a_port_in_use_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = str(taken.getsockname()[1])
        assert main(["conformance", "--server", "waitress", "--port", port]) == 3
    assert f"port {port} of 127.0.0.1 cannot be listened on: Address already in use" in capsys.readouterr().err


def test_a_server_that_is_not_installed_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "cheroot", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "cheroot" else object())
    assert main(["conformance", "--server", "cheroot"]) == 2
    assert "cheroot  installed  not available here  no: pip install cheroot" in capsys.readouterr().out
