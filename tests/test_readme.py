"""The README does what it says: each code block runs, each command is the real one, each name exists."""

import asyncio
import dataclasses
import functools
import importlib
import inspect
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import textwrap
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import anyio
import httpx2
import pytest
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from sqlalchemy.exc import IntegrityError
from starlette.testclient import TestClient
from werkzeug.test import Client as WSGIClient

from postresponse import CommitPolicy, Outcome, Retry, asgi, testing, wsgi
from postresponse.core.exchange import Exchange
from postresponse.core.lifecycle import CommitPoint, Ending, Moments, State, UnitState
from postresponse.core.policy import Head
from postresponse.demo.report import HEADINGS
from postresponse.demo.ways import HEAD, WAYS
from postresponse.inspector import Inspector
from postresponse.observing.late import tally
from postresponse.tenancy import asgi as asgi_tenancy
from postresponse.tenancy import wsgi as wsgi_tenancy
from postresponse.work import BulkheadLimits, JobState, TaskSupervisor
from tests.servers.client import Client
from tests.services.ports import free_port
from tests.work.waiting import until

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())

Namespace = dict[str, Any]


@dataclass(frozen=True)
class Block:
    """A fenced block, under its nearest heading, and the line of its first line of code."""

    heading: str
    language: str
    code: str
    line: int


def blocks() -> Iterator[Block]:
    """Find every fenced block."""
    heading, language, start, lines = "", "", 0, list[str]()
    for number, line in enumerate(README.splitlines(), 1):
        if start and line == "```":
            yield Block(heading, language, "\n".join(lines) + "\n", start)
            start, lines = 0, []
        elif start:
            lines.append(line)
        elif line.startswith("```"):
            language, start = line.removeprefix("```"), number + 1
        elif line.startswith("#"):
            heading = line.lstrip("# ")
    assert not start, "a block is not closed"


BLOCKS = list(blocks())


def of(language: str, heading: str) -> list[Block]:
    """The blocks of one language under one heading."""
    return [block for block in BLOCKS if (block.language, block.heading) == (language, heading)]


# -- what the Python blocks do ------------------------------------------------------------------------------------


def rows(name: str) -> list[str]:
    """Look into the database that a block made."""
    with closing(sqlite3.connect(f"{name}.sqlite3")) as connection:
        return [item for (item,) in connection.execute("SELECT item FROM orders ORDER BY rowid")]


def post(found: Namespace, path: str) -> Any:
    """Post to a Flask application, and close the response as a server does."""
    return found["app"].test_client().post(path, buffered=True)


def post_to_asgi(found: Namespace, *paths: str) -> list[httpx2.Response]:
    """Post to an ASGI application, and give its connections back on the loop that opened them."""

    async def ask() -> list[httpx2.Response]:
        transport = httpx2.ASGITransport(found["app"], raise_app_exceptions=False)
        async with httpx2.AsyncClient(transport=transport, base_url="http://readme") as client:
            answers = [await client.post(path) for path in paths]
        await found["db"]._make.kw["bind"].dispose()
        return answers

    return asyncio.run(ask())


def check_first_lines(found: Namespace) -> None:
    assert post(found, "/orders/tea").status_code == 201
    assert rows("shop") == ["tea"]


def check_observing(found: Namespace) -> None:
    tally.begin_anew()
    assert TestClient(found["observed"]).post("/orders/tea").status_code == 201
    assert rows("observed") == ["tea"]
    (late,) = found["late_commits"]()
    commit = next(line for line, code in enumerate(README.splitlines(), 1) if "session.commit()" in code)
    assert (late.requests, late.late, late.failed) == (1, 1, 0)
    assert late.where == f"get_db (README.md:{commit})"
    warned, summed_up = of("text", "Observe first")[0].code.splitlines()
    assert (
        re.sub(r"[\d.]+", "", warned.partition(" (shop.py")[0])
        == "POST /orders/{item}: committed  ms after the first byte, in get_db"
    )
    assert re.sub(r"[\d.]+", "", str(late)) == re.sub(r"[\d.]+", "", summed_up.partition(";")[0])
    found["engine"].dispose()
    tally.begin_anew()  # which else tells of it when the tests end
    assert post(found, "/nowhere").status_code == 404
    (outcome,) = found["outcomes"]
    assert (outcome.ending, outcome.unit_of_work, outcome.status) == ("handed_over", "none", 404)


def check_policy(found: Namespace) -> None:
    statuses = [post(found, path).status_code for path in ("/dry-run", "/failed-login", "/report", "/import?quick")]
    assert statuses == [200, 403, 200, 200]
    assert rows("policy") == ["failed-login", "report-0", "report-1", "report-2", "import"]


def check_hooks(found: Namespace) -> None:
    answers = post_to_asgi(found, "/orders", "/orders?fail")
    assert [answer.status_code for answer in answers] == [200, 500]
    assert found["told"] == [
        "after_commit",
        "receipt",
        "on_finished: handed_over, committed",
        "on_finished: handed_over, failed",
    ]
    assert rows("hooks") == ["tea"]


def check_work(found: Namespace) -> None:
    assert [post(found, path).status_code for path in ("/orders/tea", "/orders/gold", "/orders")] == [201, 422, 404]
    deadline = time.monotonic() + 5
    while len(found["sent"]) < 3 and time.monotonic() < deadline:
        time.sleep(0.001)
    assert sorted(found["sent"]) == ["event for tea", "gold was refused", "receipt for tea"]


def check_flow(found: Namespace) -> None:
    assert found["result"].value == "to whom it may concern: tea, paid by transfer"
    shown = [line.rstrip() for line in of("text", "Work of several steps")[0].code.splitlines()]
    drawn = [line.rstrip() for line in str(found["result"]).splitlines()]
    assert [line[:34].rstrip() for line in shown] == [line[:34].rstrip() for line in drawn]
    assert [line.split()[-1] for line in drawn] == ["done"] * 6


def check_worker_exit(found: Namespace) -> None:
    supervisor = TaskSupervisor()
    job = supervisor.launch(time.sleep, 0.05)
    found["default_supervisor"] = lambda: supervisor
    found["worker_exit"](None, None)
    assert job.state is JobState.DONE


def check_streams(found: Namespace) -> None:
    anyio.run(found["import_rows"], range(250))
    assert [len(batch) for batch in found["stored"]] == [100, 100, 50]
    assert [row for batch in found["stored"] for row in batch] == list(range(250))


def check_messages(found: Namespace) -> None:
    assert [post(found, path).status_code for path in ("/orders/tea", "/orders/gold")] == [201, 422]
    deadline = time.monotonic() + 5
    while not found["sent"] and time.monotonic() < deadline:
        time.sleep(0.001)
    assert found["sent"] == [("send_receipt", {"item": "tea"})]
    found["relay"].stop()
    found["relay"]._job.result(5)


def check_tenants(found: Namespace) -> None:
    client = TestClient(found["app"])
    assert client.get("/report", headers={"tenant": "a"}).text == "your report"
    assert client.get("/report").status_code == 401
    assert client.get("/health").status_code == 404  # of the application: no tenant is asked for there


def check_testing(found: Namespace) -> None:
    assert found["names"] == ["send_receipt"]
    assert found["sent"] == ["milk"]  # of the one that ran at once
    assert found["response"].status == 201
    assert [trace.route for trace in found["traces"]][:1] == ["/orders/milk"]
    found["sent"].clear()
    with testing.captured() as work:
        found["test_a_receipt_follows_its_response"](work)


def check_error_response(found: Namespace) -> None:
    answer = post(found, "/orders")
    assert (answer.status_code, answer.text) == (500, "Your order was not taken.\n")
    assert "Location" not in answer.headers

    def order() -> str:
        exchange = found["current_exchange"]()
        exchange.before_commit(functools.partial(fail, IntegrityError("INSERT", None, Exception())))
        return "stored"

    def fail(error: Exception) -> None:
        raise error

    found["shop"].add_url_rule("/orders", view_func=order, methods=["POST"])
    rendered = found["shop"].test_client().post("/orders", buffered=True)
    assert (rendered.status_code, rendered.text) == (409, "Somebody was faster.\n")


def check_retry(found: Namespace) -> None:
    assert [answer.json() for answer in post_to_asgi(found, "/count", "/charge")] == [
        {"attempt": 1, "last": False},
        {"last": True},
    ]


def check_several_databases(found: Namespace) -> None:
    assert post(found, "/orders").status_code == 201
    assert [rows("orders"), rows("audit")] == [["tea"], ["tea"]]


def check_fastapi(found: Namespace) -> None:
    assert [answer.status_code for answer in post_to_asgi(found, "/orders")] == [201]
    assert rows("fastapi") == ["tea"]


def check_session_of(found: Namespace) -> None:
    answers = post_to_asgi(found, "/orders/tea", "/orders/tea", "/orders/gold")
    assert [answer.status_code for answer in answers] == [201, 409, 422]
    assert rows("fastapi") == ["tea"]


def check_litestar(found: Namespace) -> None:
    assert [answer.status_code for answer in post_to_asgi(found, "/orders/tea", "/orders/tea")] == [201, 409]
    assert rows("litestar") == ["tea"]


def check_advanced_alchemy(found: Namespace) -> None:
    assert [found["policy"].commit_if(Head(status)) for status in (200, 204, 302, 404)] == [True, True, False, False]


def check_own_middleware(found: Namespace) -> None:
    assert [answer.status_code for answer in post_to_asgi(found, "/orders")] == [201]
    assert rows("own") == ["tea"]


def check_flask(found: Namespace) -> None:
    assert post(found, "/orders").status_code == 201
    assert rows("flask") == ["tea"]


def check_opentelemetry(found: Namespace) -> None:
    exporter = InMemorySpanExporter()
    found["tracers"].add_span_processor(SimpleSpanProcessor(exporter))
    assert post(found, "/orders").status_code == 201
    until(lambda: len(exporter.get_finished_spans()) == 2)
    spans = {span.name: span for span in exporter.get_finished_spans()}
    assert [link.context for link in spans["job receipt"].links] == [spans["POST /orders"].context]


def check_prometheus(found: Namespace) -> None:
    client = TestClient(found["app"])
    assert client.post("/orders/tea").status_code == 201
    counted = 'postresponse_responses_total{ending="handed_over",method="POST",route="/orders/{item}"} 1.0'
    assert counted in client.get("/metrics/").text
    until(lambda: 'postresponse_jobs_total{job="receipt",outcome="done"} 1.0' in client.get("/metrics/").text)


def check_inspector(found: Namespace) -> None:
    client = found["app"].test_client()
    assert client.get("/orders/7", buffered=True).status_code == 200
    assert client.get("/__postresponse__/", buffered=True).content_type == "text/html; charset=utf-8"
    (row,) = client.get("/__postresponse__/changes", buffered=True).json["requests"]
    assert (row["path"], row["verdict"]) == ("/orders/7", "nothing was committed")
    elsewhere = {"REMOTE_ADDR": "10.0.0.7"}
    assert client.get("/__postresponse__/", buffered=True, environ_overrides=elsewhere).status_code == 404


def check_flask_extension(found: Namespace) -> None:
    app = found["create_app"]()
    assert post({"app": app}, "/orders/tea").status_code == 201
    assert rows("shop") == ["tea"]
    config = app.test_cli_runner().invoke(args=["postresponse", "config"]).output
    assert ["commit", "POSTRESPONSE_COMMIT", "'buffered'"] in map(str.split, config.splitlines())


def check_flask_sqlalchemy(found: Namespace) -> None:
    assert post(found, "/orders/tea").status_code == 201
    db, order = found["db"], found["Order"]
    with found["app"].app_context():
        assert [each.item for each in db.session.scalars(db.select(order))] == ["tea"]
        engine = db.engine
    engine.dispose()


def check_quart(found: Namespace) -> None:
    async def ask() -> int:
        answer = await found["app"].test_client().post("/orders/tea")
        return int(answer.status_code)

    assert asyncio.run(ask()) == 201
    deadline = time.monotonic() + 5
    while not found["sent"] and time.monotonic() < deadline:
        time.sleep(0.001)
    assert found["sent"] == ["tea"]


def check_posting(found: Namespace) -> None:
    answer = WSGIClient(found["app"]).post("/orders/tea", buffered=True)
    assert answer.status_code == 201


CHECKS: dict[str, Callable[[Namespace], None]] = {
    "postresponse": check_first_lines,
    "Observe first": check_observing,
    "Flask": check_flask_extension,
    "Flask-SQLAlchemy and Flask-SQLAlchemy-Lite": check_flask_sqlalchemy,
    "Quart": check_quart,
    "Falcon": check_posting,
    "Pyramid": check_posting,
    "Policy: when, and whether": check_policy,
    "Hooks": check_hooks,
    "Work after the response": check_work,
    "Where your server stops background work": check_worker_exit,
    "Work of several steps": check_flow,
    "Bounded streams": check_streams,
    "Messages that must not be lost": check_messages,
    "Limits for each tenant": check_tenants,
    "OpenTelemetry": check_opentelemetry,
    "Prometheus": check_prometheus,
    "The inspector": check_inspector,
    "When a commit fails": check_error_response,
    "Testing": check_testing,
    "When two requests want the same": check_retry,
    "Several databases": check_several_databases,
    "Starlette and FastAPI": check_session_of,
    "Litestar": check_litestar,
    "From a FastAPI `yield` dependency": check_fastapi,
    "From advanced-alchemy's autocommit": check_advanced_alchemy,
    "From a Flask teardown function": check_flask,
    "From a middleware of your own": check_own_middleware,
}
"""By heading; the blocks under one heading share a namespace. Django's has a test of its own."""

DJANGO = "From Django's ATOMIC_REQUESTS"
DJANGO_SETTINGS = "Django"


def test_no_python_block_is_left_out() -> None:
    assert {block.heading for block in BLOCKS if block.language == "python"} == {*CHECKS, DJANGO, DJANGO_SETTINGS}


@pytest.mark.parametrize("heading", CHECKS)
def test_the_python_blocks_under_a_heading_run_and_do_what_is_said(
    heading: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    # Of this process, and not the README's to change.
    monkeypatch.setattr("logging.basicConfig", lambda **_: None)
    monkeypatch.setattr("logging.config.dictConfig", lambda *_: None)  # as Litestar does
    monkeypatch.setattr("signal.signal", lambda *_: None)
    found: Namespace = vars(module := ModuleType("readme"))
    monkeypatch.setitem(sys.modules, "readme", module)  # where Litestar looks names up, and Pyramid who calls it
    for block in of("python", heading):
        # The line numbers of a traceback are the README's.
        exec(compile("\n" * (block.line - 1) + block.code, ROOT / "README.md", "exec"), found)
    CHECKS[heading](found)
    for made in (found.get("db"), found.get("Session")):
        engine = getattr(getattr(made, "_make", made), "kw", {}).get("bind")
        if engine is not None and not hasattr(engine, "sync_engine"):
            engine.dispose()


def test_the_django_block_runs_and_a_404_commits_only_as_the_text_says(tmp_path: Path) -> None:
    (block,) = of("python", DJANGO)
    (tmp_path / "wsgi.py").write_text(block.code)
    (tmp_path / "site_settings.py").write_text(
        textwrap.dedent(
            """
            import os
            from pathlib import Path

            FOLDER = Path(__file__).parent
            ATOMIC = bool(os.environ.get("README_ATOMIC"))
            SECRET_KEY = "x"
            ALLOWED_HOSTS = ["*"]
            ROOT_URLCONF = "site_urls"
            DATABASES = {
                "default": {
                    "ENGINE": "django.db.backends.sqlite3", "NAME": FOLDER / "django.sqlite3", "ATOMIC_REQUESTS": ATOMIC
                }
            }
            """
        )
    )
    (tmp_path / "site_urls.py").write_text(
        textwrap.dedent(
            """
            from django.db import connection
            from django.http import Http404, HttpResponse
            from django.urls import path

            def store(item):
                with connection.cursor() as cursor:
                    cursor.execute("INSERT INTO orders VALUES (%s)", [item])

            def place(request):
                store("placed")
                return HttpResponse(status=201)

            def returned(request):
                store("returned 404")
                return HttpResponse(status=404)

            def raised(request):
                store("raised 404")
                raise Http404

            urlpatterns = [path("placed", place), path("returned", returned), path("raised", raised)]
            """
        )
    )
    (tmp_path / "drive.py").write_text(
        textwrap.dedent(
            """
            import os
            import sys

            import wsgi
            from postresponse import CommitPolicy
            from werkzeug.test import Client

            application = wsgi.application
            if os.environ.get("README_ATOMIC"):
                policy = CommitPolicy(commit_if=lambda head: True)
                application = wsgi.PostResponseMiddleware(
                    application.app, unit_of_work=wsgi.DjangoUnitOfWork(), commit=policy
                )
            for path in sys.argv[1:]:
                print(Client(application).post(path, buffered=True).status_code)
            """
        )
    )
    with closing(sqlite3.connect(tmp_path / "django.sqlite3")) as connection:
        connection.execute("CREATE TABLE orders (item TEXT)")
    stored = []
    for environment in ({}, {"README_ATOMIC": "1"}):
        ran = subprocess.run(
            [sys.executable, "drive.py", "/placed", "/returned", "/raised"],
            cwd=tmp_path,
            env={**os.environ, "DJANGO_SETTINGS_MODULE": "site_settings", **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.stdout.split() == ["201", "404", "404"], ran.stderr
        with closing(sqlite3.connect(tmp_path / "django.sqlite3")) as connection:
            stored.append([item for (item,) in connection.execute("SELECT item FROM orders")])
            connection.execute("DELETE FROM orders")
            connection.commit()
    assert stored == [["placed"], ["placed", "returned 404"]]


def test_the_django_settings_install_what_they_say(tmp_path: Path) -> None:
    settings, application, tasks = of("python", DJANGO_SETTINGS)
    needed = """
        SECRET_KEY, ALLOWED_HOSTS, ROOT_URLCONF, WSGI_APPLICATION = "x", ["*"], "site_urls", "site_wsgi.application"
        DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "django.sqlite3"}}
    """
    urls = """
        from django.db import connection
        from django.http import HttpResponse
        from django.urls import path

        def place(request, status):
            with connection.cursor() as cursor:
                cursor.execute("INSERT INTO orders VALUES (%s)", [status])
            return HttpResponse(status=status)

        urlpatterns = [path("<int:status>", place)]
    """
    drive = """
        from importlib.util import find_spec

        from werkzeug.test import Client

        import site_wsgi
        from django.core.management import call_command

        call_command("check", "--fail-level", "WARNING")
        for status in (201, 404):
            print(Client(site_wsgi.application).post(f"/{status}", buffered=True).status_code)
        if find_spec("django.tasks"):
            from django.tasks import task_backends

            print(*(type(each).__name__ for each in task_backends.all()))
    """
    code = settings.code + textwrap.dedent(needed) + tasks.code
    code += 'INSTALLED_APPS.append("postresponse.integrations.django_outbox")\n'
    files = {"site_settings": code, "site_wsgi": application.code, "site_urls": urls, "drive": drive}
    for name, text in files.items():
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(text))
    with closing(sqlite3.connect(tmp_path / "django.sqlite3")) as connection:
        connection.execute("CREATE TABLE orders (item TEXT)")
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "site_settings"}
    ran = subprocess.run(
        [sys.executable, "drive.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    told = [line for line in ran.stdout.splitlines() if not line.startswith("System check")]
    assert told[:2] == ["201", "404"], ran.stdout + ran.stderr
    assert told[2:] in ([], ["OutboxBackend AfterResponseBackend"])
    with closing(sqlite3.connect(tmp_path / "django.sqlite3")) as connection:
        assert [item for (item,) in connection.execute("SELECT item FROM orders")] == ["201"]


# -- the first screen -----------------------------------------------------------------------------------------------


def test_the_two_commands_come_first_and_are_what_the_project_provides() -> None:
    first = BLOCKS[0]
    assert first.language == "sh"
    assert first.code.splitlines() == [
        "python3 -m venv .venv && .venv/bin/pip install -e '.[dev]' && .venv/bin/postresponse demo",
        ".venv/bin/pytest",
    ]
    assert PYPROJECT["project"]["scripts"]["postresponse"] == "postresponse.cli:main"
    extras = PYPROJECT["project"]["optional-dependencies"]
    assert any(re.fullmatch(r"postresponse\[.*\bdemo\b.*\]", needed) for needed in extras["dev"])
    assert any(needed.startswith("pytest>") for needed in extras["dev"])
    checks = (ROOT / ".ci" / "run").read_text()
    assert "python3 -m venv .venv\n" in checks
    assert re.search(r"^\.venv/bin/pip install .*-e '\.\[dev\]'$", checks, re.MULTILINE)


def test_the_output_that_is_shown_has_the_form_of_the_demo_of_today() -> None:
    shown = BLOCKS[1]
    assert shown.language == "text"
    assert re.match(r"POST /orders on FastAPI [\d.]+, uvicorn [\d.]+, SQLite [\d.]+, Python [\d.]+;\n", shown.code)
    lines = shown.code.splitlines()[-len(WAYS) - 2 :]
    table = [tuple(cell.strip() for cell in re.split(r"\s{2,}", line)) for line in lines]
    assert table[0] == HEADINGS
    assert [row[0] for row in table[2:]] == [way.title for way in WAYS]
    assert table[2 + WAYS.index(HEAD)][1:4] == ("0 of 100", "0 of 10", "10 of 10")
    for heading in ("missed reads", "false 2xx", "next request ok", "last byte"):
        assert f"- **{heading}**: " in README


def test_fifteen_lines_that_run_are_there_by_line_forty() -> None:
    (block,) = of("python", "postresponse")
    lines = block.code.splitlines()
    assert len(lines) <= 15
    assert block.line + len(lines) - 1 <= 40


def test_the_fifteen_lines_serve_orders_with_the_commands_below_them(tmp_path: Path) -> None:
    (block,) = of("python", "postresponse")
    serve, ask = of("sh", "postresponse")[1].code.splitlines()
    (tmp_path / "shop.py").write_text(block.code)
    port = str(free_port())
    command = serve.replace("8000", port).split()
    command[0] = str(Path(sys.executable).parent / Path(command[0]).name)
    request = re.fullmatch(r"curl -i -X (POST) localhost:8000(/\S+)", ask)
    assert request is not None
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=log)
    try:
        wait_for(int(port), server)
        with Client(int(port)) as client:
            assert client.request(request[1], request[2]).status == 201
            with closing(sqlite3.connect(tmp_path / "shop.sqlite3")) as connection:
                assert connection.execute("SELECT item FROM orders").fetchall() == [("tea",)]
    finally:
        server.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            server.wait(5)
        server.kill()
        server.wait()


def wait_for(port: int, server: subprocess.Popen[bytes]) -> None:
    """Wait until *server* listens."""
    deadline = time.monotonic() + 20
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        assert server.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)


# -- what is neither Python nor a command ---------------------------------------------------------------------------


def test_every_block_is_of_a_kind_that_is_tested() -> None:
    others = [(block.language, block.heading) for block in BLOCKS if block.language != "python"]
    assert others == [
        ("sh", "postresponse"),
        ("text", "postresponse"),
        ("sh", "postresponse"),
        ("text", "Three moments"),
        ("text", "Observe first"),
        ("text", "Work of several steps"),
        ("text", "Several databases"),
        ("text", "The command"),
        ("text", "The command"),
        ("text", "From advanced-alchemy's autocommit"),
        ("text", "From pyramid_tm"),
        ("text", "From fastapi-sqla"),
        ("text", "From repoze.tm2"),
    ]


def test_the_diagram_has_the_states_and_commit_points_of_the_package() -> None:
    (diagram,) = of("text", "Three moments")
    states = [State.PENDING, State.DECIDED, State.SENDING, State.SENT]
    assert re.search(r"\s+[|]\s+".join(state.words for state in states), diagram.code)
    assert re.findall(r'^"(\w+)"', diagram.code, re.MULTILINE) == [point.value for point in CommitPoint]
    columns = {line.split('"')[1]: line.split("|") for line in diagram.code.splitlines() if line.startswith('"')}
    assert {name: [n for n, cell in enumerate(cells) if "commit" in cell] for name, cells in columns.items()} == {
        "head": [1],  # in the column "decided"
        "buffered": [1],
        "after_send": [3],  # in the column "sent"
    }


@pytest.mark.parametrize(
    "heading",
    ["From advanced-alchemy's autocommit", "From pyramid_tm", "From fastapi-sqla", "From repoze.tm2"],
)
def test_what_a_change_adds_is_of_this_package(heading: str) -> None:
    (change,) = of("text", heading)
    added = "\n".join(line[2:] for line in change.code.splitlines() if line.startswith("+ "))
    names = set(re.findall(r"\b(\w*UnitOfWork|PostResponse\w+)\(", added))
    module = importlib.import_module("postresponse.unit_of_work.sqlalchemy")
    assert len(names) == 2
    assert all(hasattr(module, name) or hasattr(asgi, name) for name in names)


# -- names ----------------------------------------------------------------------------------------------------------


def table(first: str, under: str) -> list[list[str]]:
    """The rows of the table whose first heading is *first*, the first one behind the text *under*."""
    behind = README[README.index(under) :]
    lines = behind[behind.index(f"| {first} |") :].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def names(first: str, under: str) -> list[str]:
    """The first column of a table."""
    return [row[0].strip("`") for row in table(first, under)]


def public(kind: type) -> set[str]:
    """The public names of a class."""
    return {name for name in vars(kind) if not name.startswith("_")}


def keywords(middleware: type) -> list[str]:
    """The options that can only be given by name."""
    parameters = inspect.signature(middleware).parameters.values()
    return [parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]


def test_the_tables_of_options_name_every_option_and_no_other() -> None:
    for middleware in (asgi.PostResponseMiddleware, wsgi.PostResponseMiddleware):
        assert names("option", "Of both middleware classes") == keywords(middleware)
    for limited in (asgi_tenancy.TenantLimitMiddleware, wsgi_tenancy.TenantLimitMiddleware):
        assert names("option", "## Limits for each tenant") == keywords(limited)
    assert names("option", "Of `CommitPolicy`") == [field.name for field in dataclasses.fields(CommitPolicy)]
    assert names("option of `Inspector`", "## The inspector") == keywords(Inspector)
    options = names("option of `Retry`", "## When two requests want the same")
    assert options == [field.name for field in dataclasses.fields(Retry)]


def test_the_defaults_in_the_tables_are_the_defaults() -> None:
    defaults = {row[0].strip("`"): row[1].strip("`") for row in table("option", "Of `CommitPolicy`")}
    policy = CommitPolicy()
    assert defaults["at"] == f'"{policy.at}"'
    assert defaults["on_disconnect"] == f'"{policy.on_disconnect}"'
    assert defaults["on_overflow"] == f'"{policy.on_overflow}"'
    assert defaults["stream_if"] == str(policy.stream_if)
    assert (defaults["max_memory"], policy.max_memory) == ("1 MiB", 1 << 20)
    assert (defaults["max_body"], policy.max_body) == ("64 MiB", 64 << 20)
    parameters = inspect.signature(asgi.PostResponseMiddleware).parameters
    said = {row[0].strip("`"): row[1].strip("`") for row in table("option", "Of both middleware classes")}
    for name in ("unit_of_work", "on_commit_failed", "on_finished", "on_error", "cleanup_timeout"):
        assert said[name] == str(parameters[name].default)
    said = {row[0].strip("`"): row[1].strip("`") for row in table("option", "## Limits for each tenant")}
    assert eval(said.pop("limits"), {"BulkheadLimits": BulkheadLimits}) == BulkheadLimits()
    assert said.pop("key") == "(required)"
    for name, parameter in inspect.signature(asgi_tenancy.TenantLimitMiddleware).parameters.items():
        assert said.get(name) == (str(parameter.default) if name in said else None)


def test_the_tables_of_the_exchange_and_the_outcome_name_everything_public() -> None:
    assert set(names("name", "On `current_exchange()`")) == public(Exchange)
    assert set(names("name", "Of an `Outcome`")) == public(Outcome)
    moments = next(row[1] for row in table("name", "Of an `Outcome`") if row[0] == "`moments`")
    assert re.findall(r"`(\w+)`", moments) == [field.name for field in dataclasses.fields(Moments)]
    hooks = [name for name in public(Exchange) if re.match(r"on_|before_|after_", name)]
    assert sorted(names("hook", "## Hooks")) == sorted(hooks)


def test_every_ending_and_every_end_of_a_unit_of_work_is_named() -> None:
    rows_of_outcome = {row[0].strip("`"): row[1] for row in table("name", "Of an `Outcome`")}
    assert re.findall(r"`(\w+)`", rows_of_outcome["ending"]) == [ending.value for ending in Ending]
    assert re.findall(r"`(\w+)`", rows_of_outcome["unit_of_work"]) == [state.value for state in UnitState]
    explained = README[README.index("## What a server can tell") : README.index("| server |")]
    assert re.findall(r"`([a-z_]+)` \(", explained) == [ending.value for ending in Ending]


def test_the_table_of_extras_names_every_extra() -> None:
    assert names("extra", "## Installing") == list(PYPROJECT["project"]["optional-dependencies"])
    needed = [re.split(r"[<>=]", line)[0] for line in PYPROJECT["project"]["dependencies"]]
    assert f"Required: {', '.join(needed)}." in README
    assert f"Python {PYPROJECT['project']['requires-python'].removeprefix('>=')} or later" in README


@pytest.mark.parametrize("dotted", sorted(set(re.findall(r"`(postresponse\.[\w.]*\w)`", README))))
def test_a_dotted_name_exists(dotted: str) -> None:
    if dotted == "postresponse.access":  # a logger
        assert importlib.import_module("postresponse.core.log").access.name == dotted
        return
    module, _, name = dotted.rpartition(".")
    try:
        importlib.import_module(dotted)
    except ModuleNotFoundError:
        assert hasattr(importlib.import_module(module), name)


def test_every_link_leads_somewhere_and_every_example_is_linked() -> None:
    headings = {
        re.sub(r"[^\w -]", "", line.lstrip("# ").lower()).replace(" ", "-")
        for line in README.splitlines()
        if line.startswith("#")
    }
    for target in re.findall(r"\]\(([^)]+)\)", README):
        assert target[1:] in headings if target.startswith("#") else (ROOT / target).is_file(), target
    linked = re.findall(r"\]\(examples/(\w+\.py)\)", README)
    assert sorted(linked) == sorted(path.name for path in (ROOT / "examples").glob("*.py"))


def test_the_place_for_the_figures_is_marked() -> None:
    begin, end = "<!-- server figures: begin -->\n", "<!-- server figures: end -->\n"
    assert README.count(begin) == README.count(end) == 1
    figures = README[README.index(begin) + len(begin) : README.index(end)]
    assert all(line.startswith("|") for line in figures.splitlines() if line)


def test_the_changelog_has_the_version_of_the_package() -> None:
    version = importlib.import_module("postresponse").__version__
    assert f"\n## [{version}]" in (ROOT / "CHANGELOG.md").read_text()
