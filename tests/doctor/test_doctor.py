"""The command `postresponse doctor`: an application with each fault, and one beside it that only looks like it."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from sqlalchemy import create_engine

from postresponse.cli import main
from postresponse.doctor import findings_of, servers
from postresponse.doctor.outbox import findings_of_relays
from postresponse.messaging import Function, Outbox, Relay
from tests.servers.harness import KINDS
from tests.services import mariadb, postgres
from tests.services.ports import free_port
from tests.test_readme import table

Captured = pytest.CaptureFixture[str]
APPS = """
from asgiref.wsgi import WsgiToAsgi
from fastapi import Depends, FastAPI
from flask import Flask
from sqlalchemy import create_engine
from sqlalchemy.orm import sessionmaker
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.gzip import GZipMiddleware
from postresponse import asgi, wsgi

print("this is not the command's output")
Session = sessionmaker(create_engine("sqlite://"))

async def dispatch(request, call_next):
    return await call_next(request)

def get_session():
    with Session.begin() as session:
        yield session

def application(session=None, **keywords):
    api = FastAPI(**keywords)
    if session is not None:
        api.add_api_route("/orders", lambda session=session: None, methods=["POST"])
    return api

sound = asgi.PostResponseMiddleware(application(Depends(get_session, scope="function")))
flask_app = Flask(__name__)
flask_app.wsgi_app = wsgi.PostResponseMiddleware(flask_app.wsgi_app)
bare = application()
late = asgi.PostResponseMiddleware(application(Depends(get_session)))
base_inside = asgi.PostResponseMiddleware(Starlette(middleware=[Middleware(BaseHTTPMiddleware, dispatch=dispatch)]))
base_outside = BaseHTTPMiddleware(sound, dispatch=dispatch)
gzip_outside = GZipMiddleware(sound)
gzip_inside = asgi.PostResponseMiddleware(GZipMiddleware(application()))
twice = asgi.PostResponseMiddleware(application(middleware=[Middleware(asgi.PostResponseMiddleware)]))
bridged = asgi.PostResponseMiddleware(WsgiToAsgi(Flask("shop")))
not_an_application = 3
"""


@pytest.fixture(scope="module", autouse=True)
def module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("doctored")
    (folder / "doctored.py").write_text(APPS)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "path", [str(folder), *sys.path])
        yield folder
    sys.modules.pop("doctored", None)


def doctored(capsys: Captured, *argv: str) -> tuple[int, dict[str, Any]]:
    """Run the command, and return its exit code and the findings that are more than information, by their codes."""
    code = main(["doctor", *argv, "--json"])
    found = json.loads(capsys.readouterr().out)
    return code, {each["code"]: each for each in found if each["severity"] != "info"}


@pytest.mark.parametrize(
    ("app", "expected"),
    [
        ("bare", "not_installed"),
        ("late", "dependency_commits_late"),
        ("base_inside", "base_http_middleware_inside"),
        ("base_outside", "inside_base_http_middleware"),
        ("gzip_outside", "below_compression"),
        ("twice", "installed_twice"),
        ("bridged", "bridge_never_closes"),
    ],
)
def test_each_fault_is_found_and_no_other(app: str, expected: str, capsys: Captured) -> None:
    code, found = doctored(capsys, f"doctored:{app}", "--server", "uvicorn")
    assert (code, list(found)) == (1, [expected])
    assert all(found[expected][name] for name in ("found", "where", "way_out"))


@pytest.mark.parametrize("app", ["sound", "gzip_inside"])
def test_near_misses_have_no_finding(app: str, capsys: Captured) -> None:
    assert doctored(capsys, f"doctored:{app}", "--server", "uvicorn") == (0, {})


def test_a_late_dependency_is_told_with_its_line_and_the_way_out(module: Path, capsys: Captured) -> None:
    assert main(["doctor", "doctored:late", "--server", "uvicorn"]) == 1
    told = capsys.readouterr()
    line = APPS.splitlines().index("    with Session.begin() as session:") + 1
    assert told.out.splitlines() == [
        "error: the dependency get_session of POST /orders commits by Session.begin() behind its yield: when the "
        "response has left, so that a commit that fails was answered 2xx",
        f"  where:   get_session, {module}/doctored.py:{line}",
        "  way out: Depends(get_session, scope='function'); or leave the commit to a unit_of_work of "
        "PostResponseMiddleware",
    ]
    assert main(["doctor", "doctored:sound", "--server", "uvicorn"]) == 0
    assert capsys.readouterr().out == "nothing was found\n"


# -- servers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("server", "app", "expected"),
    [
        ("uvicorn", "sound", []),
        ("hypercorn", "sound", []),
        ("granian", "sound", ["server_hides_disconnects", "server_kills_at_once"]),
        ("daphne", "sound", ["server_hides_disconnects", "server_kills_at_once"]),
        ("gunicorn", "sound", ["server_cancels_behind_the_client"]),
        ("granian", "flask_app", ["server_kills_at_once"]),
        ("uwsgi", "flask_app", ["server_without_threads"]),
        ("gunicorn", "flask_app", []),
        ("waitress-serve", "flask_app", []),
        ("cheroot", "flask_app", []),
        ("werkzeug", "flask_app", []),
    ],
)
def test_a_server_is_judged_by_what_it_is_given_to_serve(
    server: str, app: str, expected: list[str], capsys: Captured
) -> None:
    code, found = doctored(capsys, f"doctored:{app}", "--server", server)
    assert (code, list(found)) == (int(bool(expected)), expected)


def test_a_wsgi_server_is_said_to_tell_of_a_leaving_by_an_early_close_alone(capsys: Captured) -> None:
    assert main(["doctor", "doctored:flask_app", "--server", "waitress"]) == 0
    assert "waitress tells of a client that left by an early close()" in capsys.readouterr().out


def test_a_server_that_is_only_installed_is_mentioned_and_no_reason_to_fail(capsys: Captured) -> None:
    assert main(["doctor", "doctored:sound"]) == 0
    told = capsys.readouterr().out
    assert "info: granian tells that a client left only when the rest was sent" in told
    assert "where:   granian, which is installed" in told


def test_what_is_known_of_servers_is_what_the_readme_and_their_tests_say() -> None:
    named = {row[0].split()[0].strip(",").lower() for row in table("server", "## What a server can tell")}
    assert named <= set(servers.KNOWN)
    for kind in KINDS.values():
        facts = servers.KNOWN[kind.name.partition("-")[0]]
        codes = {fact.told[0] for fact in facts if fact.protocol in (kind.protocol, "")}
        assert ("server_hides_disconnects" in codes) == kind.tells_late
        assert ("disconnect_by_early_close" in codes) == (kind.protocol == "wsgi")


@pytest.mark.parametrize(
    ("argv", "name"),
    [
        (["/usr/bin/uvicorn"], "uvicorn"),
        (["/lib/python/site-packages/granian/__main__.py"], "granian"),
        (["/usr/bin/waitress-serve"], "waitress"),
        (["/usr/bin/pytest"], None),
        ([""], None),
        ([], None),
    ],
)
def test_the_server_that_a_process_is_is_known_by_its_command(
    argv: list[str], name: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", argv)
    assert servers.running_server() == name


def test_under_gunicorn_the_worker_and_its_options_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None: ...

    def codes() -> list[str]:
        return [finding.code for finding in findings_of(app) if finding.code != "not_installed"]

    monkeypatch.setattr(sys, "argv", ["/usr/bin/gunicorn", "-k", "asgi", "shop:app"])
    assert codes() == ["server_cancels_behind_the_client"]
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--asgi-disconnect-grace-period=60"])
    assert codes() == []
    monkeypatch.setattr(sys, "argv", ["/usr/bin/gunicorn", "-k", "uvicorn_worker.UvicornWorker", "shop:app"])
    monkeypatch.setitem(sys.modules, "uvicorn_worker", ModuleType("uvicorn_worker"))
    assert servers.running_server() == "uvicorn"
    assert codes() == []


@pytest.mark.parametrize(("option", "code"), [([], "['server_without_threads']"), (["--enable-threads"], "[]")])
def test_inside_of_uwsgi_its_own_options_decide(option: list[str], code: str, module: Path, capsys: Captured) -> None:
    pytest.importorskip("pyuwsgi")
    (module / "inside.py").write_text(
        "from doctored import flask_app as application\n"
        "from postresponse.doctor import findings_of\n"
        "found = findings_of(application)\n"
        "print('FOUND', [each.code for each in found if each.severity != 'info'], flush=True)\n"
        "raise SystemExit\n"
    )
    port = free_port()
    command = [sys.executable, "-c", "import pyuwsgi, sys; pyuwsgi.run(sys.argv[1:])"]
    arguments = ["--http-socket", f"127.0.0.1:{port}", "--module", "inside", "--need-app", *option]
    ran = subprocess.run([*command, *arguments], cwd=module, capture_output=True, text=True, timeout=60, check=False)
    assert f"FOUND {code}" in ran.stdout + ran.stderr


# -- the outbox -------------------------------------------------------------------------------------------------------


def test_an_outbox_on_sqlite_has_one_writer(tmp_path: Path, capsys: Captured) -> None:
    url = f"sqlite:///{tmp_path}/outbox.db?timeout=5"
    code, found = doctored(capsys, "doctored:sound", "--server", "uvicorn", "--outbox", url)
    assert (code, list(found)) == (1, ["outbox_without_skip_locked"])
    assert found["outbox_without_skip_locked"]["severity"] == "warning"
    assert "one writer" in found["outbox_without_skip_locked"]["found"]
    assert found["outbox_without_skip_locked"]["where"] == f"sqlite:///{tmp_path}/outbox.db"


def test_the_relay_of_the_application_is_found_in_its_module(module: Path, capsys: Captured) -> None:
    (module / "with_relay.py").write_text(
        "from doctored import sound as app\n"
        "from postresponse.messaging import Function, Outbox, Relay\n"
        "outbox = Outbox({'mail': ['send']})\n"
        "relay = Relay(outbox, 'sqlite+aiosqlite:///mail.db', {'mail': Function(print)})\n"
    )
    code, found = doctored(capsys, "with_relay:app", "--server", "uvicorn")
    assert (code, list(found)) == (1, ["outbox_without_skip_locked"])


@pytest.mark.service("postgresql")
def test_an_outbox_on_postgresql_is_sound(capsys: Captured) -> None:
    url = postgres.url().replace("postgresql://", "postgresql+psycopg://")
    assert doctored(capsys, "doctored:sound", "--server", "uvicorn", "--outbox", url) == (0, {})


@pytest.mark.service("mariadb")
@pytest.mark.parametrize(("version", "expected"), [((10, 5, 29), ["outbox_without_skip_locked"]), ((10, 6, 0), [])])
def test_an_outbox_on_mariadb_is_judged_by_its_version(version: tuple[int, ...], expected: list[str]) -> None:
    engine = create_engine(mariadb.url())
    engine.connect().close()
    dialect: Any = engine.dialect  # of a newer one that says to be that old
    dialect.server_version_info = version
    with suppress(AttributeError):  # newer releases of SQLAlchemy have it made from the other one
        dialect._mariadb_normalized_version_info = version
    relay = Relay(Outbox({"mail": ["send"]}), engine, {"mail": Function(print)})
    found = list(findings_of_relays([relay]))
    engine.dispose()
    assert [each.code for each in found] == expected
    for each in found:
        assert each.severity == "error"
        assert "mariadb 10.5.29 has no SKIP LOCKED" in each.found
        assert "root" in each.where


def test_an_old_database_that_skips_locked_rows_is_refused_for_what_it_lacks(tmp_path: Path) -> None:
    engine = create_engine("sqlite://")
    engine.connect().close()
    engine.dialect.server_version_info = (3, 34, 1)
    relay = Relay(Outbox({"mail": ["send"]}), engine, {"mail": Function(print)})
    (found,) = findings_of_relays([relay])
    engine.dispose()
    assert found.severity == "error"
    assert "needs sqlite 3.35 or newer, and this is 3.34.1" in found.found


def test_an_outbox_that_is_away_is_told_and_no_password_with_it(capsys: Captured) -> None:
    url = f"postgresql+psycopg://app:secret@127.0.0.1:{free_port()}/orders?password=secret"
    assert main(["doctor", "doctored:sound", "--server", "uvicorn", "--outbox", url]) == 1
    told = capsys.readouterr()
    assert "the outbox cannot be looked into: " in told.out
    assert "app:***@127.0.0.1" in told.out
    assert "secret" not in told.out + told.err


# -- called wrongly ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["doctored:soud"], "did you mean 'sound'?"),
        (["doctored:not_an_application"], "is 3; an ASGI or WSGI application is wanted"),
        (["doctored:Flask"], "give --factory"),
        (["doctored:sound", "--factory"], "wants arguments"),
        (["doctored:not_an_application", "--factory"], "a function that makes one is wanted"),
        (["nosuch:app"], "there is no module 'nosuch'"),
        (["doctored:sound", "--server", "granain"], "did you mean 'granian'?"),
        (["doctored:sound", "--outbox", "nowhere"], "Could not parse SQLAlchemy URL"),
        (["doctored:sound", "--outbox", "nosuch://"], "Can't load plugin"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_call_that_means_nothing_ends_with_2_and_says_what_was_tried(
    argv: list[str], said: str, capsys: Captured
) -> None:
    assert main(["doctor", *argv]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert said in captured.err
