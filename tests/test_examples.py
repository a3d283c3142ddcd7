"""Each example is started as its docstring says, on a real server, and asked over a real socket."""

import asyncio
import json
import os
import re
import shlex
import socket
import sqlite3
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from email import message_from_bytes
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from kombu import Connection as Broker

from tests.servers.client import Client, Connection, Fields, Response
from tests.services import rabbitmq
from tests.services.ports import free_port

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"
JSON: Fields = (("Content-Type", "application/json"),)
FORM: Fields = (("Content-Type", "application/x-www-form-urlencoded"),)


@dataclass(frozen=True)
class Example:
    """An example and how it wants to be asked."""

    name: str
    fields: Fields = ()
    body: Callable[[str], bytes] = str.encode
    path: str = "/orders"
    items: Callable[[bytes], list[str]] = lambda body: json.loads(body)["items"]

    def __str__(self) -> str:
        return self.name


SHOPS = [
    Example("django_app", FORM, lambda item: f"item={item}".encode()),
    Example("flask_app", FORM, lambda item: f"item={item}".encode()),
    Example("fastapi_app", JSON, lambda item: json.dumps({"item": item}).encode(), items=json.loads),
    Example("litestar_app", JSON, lambda item: json.dumps({"item": item}).encode(), items=json.loads),
    Example("starlette_app", JSON, lambda item: json.dumps({"item": item}).encode()),
    Example("plain_wsgi", path="/", items=lambda body: body.decode().split()),
    Example("plain_asgi", path="/", items=lambda body: body.decode().split()),
    Example("flask_sqlalchemy_app", FORM, lambda item: f"item={item}".encode()),
    Example("quart_app", FORM, lambda item: f"item={item}".encode()),
    Example("falcon_app", JSON, lambda item: json.dumps({"item": item}).encode()),
    Example("pyramid_app", JSON, lambda item: json.dumps({"item": item}).encode()),
    Example("two_databases", FORM, lambda item: f"item={item}&customer={2 if item == 'gold' else 1}".encode()),
]


@dataclass
class Running:
    """An example that is being served."""

    port: int
    folder: Path

    def stored(self) -> list[str]:
        """Look into its database, beside the server."""
        (database,) = self.folder.glob("*/shop.sqlite3")
        with closing(sqlite3.connect(database)) as connection:
            return [item for (item,) in connection.execute("SELECT item FROM orders ORDER BY rowid")]

    def log(self) -> str:
        """What the server printed."""
        return (self.folder / "server.log").read_text()


@contextmanager
def serving(command: str, folder: Path) -> Iterator[Running]:
    """Start an example by *command*, on a free port in the place of 8000, and stop it."""
    port = free_port()
    program, *arguments = shlex.split(command.replace("8000", str(port)))
    running = Running(port, folder)
    environment = {**os.environ, "TMPDIR": str(folder), "PYTHONPATH": str(EXAMPLES), "PYTHONUNBUFFERED": "1"}
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [str(Path(sys.executable).parent / Path(program).name), *arguments],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + 20
        while not listens(port):
            assert process.poll() is None, running.log()
            assert time.monotonic() < deadline, running.log()
            time.sleep(0.01)
        yield running
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(5)
        process.kill()
        process.wait()


def first_command(name: str) -> str:
    """The first command in an example's docstring."""
    found = re.search(r"^ *(\.venv/bin/.*)$", (EXAMPLES / f"{name}.py").read_text(), re.MULTILINE)
    assert found, f"{name} does not say how to run it"
    return found[1]


def listens(port: int) -> bool:
    """Whether somebody listens on *port*."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def until(holds: Callable[[], bool], timeout: float = 10.0) -> bool:
    """Wait for *holds*."""
    deadline = time.monotonic() + timeout
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_an_example_is_short_and_says_what_it_shows_and_how_to_run_it(path: Path) -> None:
    source = path.read_text()
    assert len(source.splitlines()) < (230 if path.stem == "orders_service" else 75)  # that is a whole service
    assert re.match(r'"""[A-Z].*[.]\n\n', source)
    assert f"examples/{path.name}" in first_command(path.stem) or path.stem in first_command(path.stem)


SESSIONS = ("sse_sessions", "sse_flask")
FLOWS = ("flow_order", "flow_celery")  # in tests/work/flow/test_examples.py
STREAMS = ("stream_batches", "stream_events")  # in tests/work/stream/test_examples.py
RECEIVERS = ("receiver_paused", "receiver_degraded")  # in tests/messaging/test_examples_receivers.py


def test_every_example_is_run_here() -> None:
    others = {
        "sse_stream",
        "observe_app",
        "retry_app",
        "notify_app",
        "race_app",
        "tenants_app",
        "telemetry_app",
        "celery_outbox",
        "test_orders",
        *SESSIONS,
        *STREAMS,
        *RECEIVERS,
        *FLOWS,
        "inspector_app",  # in tests/inspector/test_example.py
    }
    others.add("orders_service")  # in tests/messaging
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {*others, *(shop.name for shop in SHOPS)}


def test_the_tests_of_a_shop_pass() -> None:
    program, *arguments = shlex.split(first_command("test_orders"))
    command = [str(Path(sys.executable).parent / Path(program).name), *arguments, "-p", "no:cacheprovider"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert ran.returncode == 0, ran.stdout
    assert "3 passed" in ran.stdout


SAID = [pytest.param(shop, first_command(shop.name), id=shop.name) for shop in SHOPS]
ON_WAITRESS = [
    pytest.param(shop, f".venv/bin/waitress-serve --listen=127.0.0.1:8000 {target}", id=f"{shop.name} on waitress")
    for shop in SHOPS
    for target in ("django_app:application", "flask_app:app", "plain_wsgi:app")
    if target.startswith(f"{shop.name}:")
]


@pytest.mark.parametrize(("shop", "command"), [*SAID, *ON_WAITRESS])
def test_an_order_is_stored_when_its_201_is_here_and_one_that_was_refused_is_not(
    shop: Example, command: str, tmp_path: Path
) -> None:
    def order(client: Client, item: str) -> Response:
        return client.request("POST", shop.path, shop.fields, shop.body(item))

    with serving(command, tmp_path) as running, Client(running.port) as client:
        wanted = [f"tea-{number}" for number in range(5)]
        for number, item in enumerate(wanted):
            answer = order(client, item)
            stored = running.stored()
            assert answer.status == 201, running.log()
            assert stored == wanted[: number + 1]
        refused = order(client, "gold")
        assert refused.status == 409, running.log()
        assert running.stored() == wanted
        listed = client.request("GET", shop.path)
        assert (listed.status, shop.items(listed.body)) == (200, wanted), running.log()
        if shop.name == "starlette_app":
            # A receipt is sent behind the response to its order: the last may still be under way.
            assert until(lambda: json.loads(client.request("GET", "/receipts").body) == {"items": wanted})
        if shop.name == "two_databases":
            assert json.loads(listed.body)["entries"] == wanted
            assert json.loads(refused.body) == {"error": "no such customer"}
        if shop.name == "plain_wsgi":
            marks = [response.head.get("x-good") for response in (answer, refused, listed)]
            assert marks == ["yes", "no", "yes"]
        if shop.name == "plain_asgi":
            expected = ["201 handed_over, unit of work committed", "409 handed_over, unit of work rolled_back"]
            assert until(lambda: [line for line in running.log().splitlines() if "unit of" in line][4:6] == expected)
        refuses = ("two_databases", "litestar_app", "flask_sqlalchemy_app")
        assert ("Traceback" in running.log()) == (shop.name in refuses)  # whose COMMIT failed


def test_what_commits_late_is_found_and_what_does_not_is_not(tmp_path: Path) -> None:
    with serving(first_command("observe_app"), tmp_path) as running, Client(running.port) as client:
        for path, item in (("/orders", "tea"), ("/orders", "gold"), ("/early", "tea")):
            assert client.request("POST", path, JSON, json.dumps({"item": item}).encode()).status == 201
        assert until(lambda: running.log().count("ms after the first byte, in get_db (observe_app.py:") == 2)
        (found,) = json.loads(client.request("GET", "/late").body)
    assert (found["route"], found["requests"], found["late"], found["failed"]) == ("POST /orders", 2, 2, 1)
    assert "an order was lost, and its client was told 201" in running.log()
    assert "2 of 2 POST /orders committed after their first byte" in running.log()
    assert running.stored() == ["tea", "tea"]


def test_nobody_is_refused_for_a_conflict_and_no_piece_is_taken_twice(tmp_path: Path) -> None:
    def take(count: int) -> list[dict[str, int]]:
        with Client(running.port) as client:
            answers = [client.request("POST", "/stock") for _ in range(count)]
        assert [answer.status for answer in answers] == [200] * count, running.log()
        return [json.loads(answer.body) for answer in answers]

    with serving(first_command("retry_app"), tmp_path) as running, ThreadPoolExecutor(8) as clients:
        taken = [answer for answers in clients.map(take, [25] * 8) for answer in answers]
        assert sorted(answer["left"] for answer in taken) == list(range(800, 1000))
        assert max(answer["attempt"] for answer in taken) > 1
        with Client(running.port) as client:
            assert client.request("GET", "/stock").body == b"800\n"


def test_subscribers_hear_of_committed_orders_only_and_leave_without_harm(tmp_path: Path) -> None:
    with serving(first_command("sse_stream"), tmp_path) as running, Client(running.port) as client:
        assert client.request("POST", "/orders", body=b"coffee").status == 201
        with Connection(running.port) as subscriber:
            subscriber.send("GET", "/events")
            head = subscriber.read_head()
            events = subscriber.read_body(head)
            assert (head.status, head.get("content-type")) == (200, "text/event-stream; charset=utf-8")
            assert next(events) == b"event: count\ndata: 1\n\n"
            # The pool has one connection, and the stream is open: these would wait for it in vain.
            assert client.request("POST", "/orders", body=b"gold").status == 409
            assert client.request("POST", "/orders", body=b"tea").status == 201
            assert next(events) == b"event: order\ndata: tea\n\n"
            assert running.stored() == ["coffee", "tea"]
        assert client.request("POST", "/orders", body=b"milk").status == 201
        assert running.stored() == ["coffee", "tea", "milk"]
        assert "Traceback" not in running.log()


@contextmanager
def mailbox() -> Iterator[tuple[int, list[str]]]:
    """A mail server that takes a while: its port, and the subjects that it was given."""
    subjects: list[str] = []

    class Handler:
        async def handle_DATA(self, server: object, session: object, envelope: Any) -> str:
            await asyncio.sleep(0.3)
            subjects.append(message_from_bytes(envelope.content)["Subject"])
            return "250 taken"

    port = free_port()
    controller = Controller(Handler(), "127.0.0.1", port)
    controller.start()
    try:
        yield port, subjects
    finally:
        controller.stop()


def test_an_order_is_answered_before_its_mail_and_a_refused_one_is_told_to_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with mailbox() as (port, mails):
        monkeypatch.setenv("SMTP_PORT", str(port))
        with serving(first_command("notify_app"), tmp_path) as running, Client(running.port) as client:
            for item in ("tea", "gold", "milk"):
                status = client.request("POST", "/orders", FORM, f"item={item}".encode()).status
                assert status == (409 if item == "gold" else 201), running.log()
            assert mails == []  # the first takes longer than all three answers
            assert until(lambda: len(mails) == 2), running.log()
            assert mails == ["Your tea", "Your milk"]
            assert json.loads(client.request("GET", "/events").body) == ["tea was ordered", "milk was ordered"]
            assert running.stored() == ["tea", "milk"]
    assert "Traceback" not in running.log()


def test_mails_that_wait_when_the_server_is_stopped_are_sent_before_it_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with mailbox() as (port, mails):
        monkeypatch.setenv("SMTP_PORT", str(port))
        with serving(first_command("notify_app"), tmp_path) as running, Client(running.port) as client:
            for _ in range(3):
                assert client.request("POST", "/orders", FORM, b"item=tea").status == 201, running.log()
        assert mails == ["Your tea"] * 3, running.log()


def test_the_first_store_answers_the_other_one_runs_on_and_its_error_is_logged_once(tmp_path: Path) -> None:
    with serving(first_command("race_app"), tmp_path) as running, Client(running.port) as client:
        answers = [client.request("POST", f"/customers/{name}") for name in ("ann", "bob7", "-", "eve")]
        assert [answer.status for answer in answers] == [201, 201, 422, 201], running.log()
        assert [json.loads(answer.body).get("stored") for answer in answers] == ["near", "far", None, "near"]
        assert json.loads(answers[2].body) == {"detail": ["the near store takes no '-'", "the far store takes no '-'"]}
        stored = {"near": ["ann", "eve"], "far": ["ann", "bob7", "eve"]}
        assert until(lambda: json.loads(client.request("GET", "/customers").body) == stored)
        failed = [line for line in running.log().splitlines() if "the job" in line]
        assert failed == ["the job store_near of POST /customers/{name} failed"]


def test_a_tenant_waits_for_itself_alone_and_is_refused_past_its_queue(tmp_path: Path) -> None:
    def ask(tenant: str | None, path: str = "/report") -> tuple[int, float]:
        begun = time.monotonic()
        with Client(running.port) as client:
            answer = client.request("GET", path, () if tenant is None else (("Tenant", tenant),))
        return answer.status, time.monotonic() - begun

    with serving(first_command("tenants_app"), tmp_path) as running, ThreadPoolExecutor(8) as clients:
        asked = [clients.submit(ask, "a") for _ in range(6)]
        assert until(lambda: sum(each.done() for each in asked) == 2)  # the two that are refused
        status, seconds = ask("b")
        assert (status, ask(None)[0], ask(None, "/health")[0]) == (200, 401, 200)
        answers = sorted(each.result() for each in asked)
        assert [status for status, _ in answers] == [200, 200, 200, 200, 429, 429], running.log()
        assert answers[3][1] > 3.5 * 0.5  # it waited for three, and worked
        assert seconds < answers[3][1] / 2
        many = [clients.submit(ask, "big-corp") for _ in range(8)]
        assert max(each.result() for each in many)[0] == 200


def test_spans_metrics_and_lines_of_the_log_tell_of_an_order_and_of_its_receipt(tmp_path: Path) -> None:
    with serving(first_command("telemetry_app"), tmp_path) as running, Client(running.port) as client:
        assert [client.request("POST", f"/orders/{item}").status for item in ("tea", "gold")] == [201, 409]
        assert until(lambda: "job receipt" in running.log())
        shown = client.request("GET", "/metrics/").body.decode()
        log = running.log()
    names = re.findall(r"^[0-9a-f]{8} ([^,]+), ", log, re.MULTILINE)
    assert {"POST /orders/tea", "commit", "POST /orders/gold", "rollback"} <= set(names), log
    (linked,) = re.findall(r"^[0-9a-f]{8} job receipt, 3\d\d\.\d ms linked to ([0-9a-f]{8})$", log, re.MULTILINE)
    assert re.search(rf"^{linked} commit, ", log, re.MULTILINE)
    assert re.search(r"^request \d+, POST /orders/\{item\}, job receipt: a receipt for tea$", log, re.MULTILINE)
    assert re.search(
        r'commits_total\{.*outcome="rolled_back",position="before_head",route="/orders/\{item\}"\} 1', shown
    )


@pytest.mark.service("rabbitmq")
def test_a_task_reaches_a_worker_of_celerys_if_its_order_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = f"postresponse-{uuid.uuid4().hex}"
    monkeypatch.setenv("BROKER", rabbitmq.url())
    monkeypatch.setenv("QUEUE", queue)
    source = (EXAMPLES / "celery_outbox.py").read_text()
    _, command, *_ = re.findall(r"^ *(\.venv/bin/\S+.*?)(?: {2,}#.*)?$", source, re.MULTILINE)
    program, *arguments = shlex.split(command)
    with (tmp_path / "worker.log").open("wb") as log, ExitStack() as stack:
        stack.callback(delete_queue, queue)
        worker = subprocess.Popen(
            [str(Path(sys.executable).parent / Path(program).name), *arguments, "--without-mingle", "--without-gossip"],
            cwd=ROOT,
            env={**os.environ, "TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        stack.callback(worker.wait)
        stack.callback(worker.kill)
        with serving(first_command("celery_outbox"), tmp_path) as running, Client(running.port) as client:
            answers = [
                client.request("POST", "/orders", FORM, f"item={item}".encode()) for item in ("tea", "gold", "milk")
            ]
            assert [answer.status for answer in answers] == [201, 422, 201], running.log()
            told = tmp_path / "worker.log"
            assert until(lambda: told.read_text().count("a receipt for") == 2, timeout=30), told.read_text()
            assert "a receipt for gold" not in told.read_text()


def delete_queue(name: str) -> None:
    """Leave no queue behind."""
    with Broker(rabbitmq.url()) as connection, suppress(Exception):
        connection.default_channel.queue_delete(name)


@pytest.mark.parametrize("name", SESSIONS)
def test_logging_out_ends_every_stream_of_the_session_and_no_other(name: str, tmp_path: Path) -> None:
    def login() -> Fields:
        cookie = client.request("POST", "/login").head.get("set-cookie")
        assert cookie is not None
        return (("Cookie", cookie.partition(";")[0]),)

    def listen(session: Fields) -> tuple[Connection, Iterator[bytes]]:
        connection = opened.enter_context(Connection(running.port))
        connection.send("GET", "/events", session)
        head = connection.read_head()
        assert (head.status, head.get("content-type")) == (200, "text/event-stream; charset=utf-8")
        events = connection.read_body(head)
        assert b"data: " in next(events)
        return connection, events

    def count() -> int:
        return int(client.request("GET", "/streams").body)

    with serving(first_command(name), tmp_path) as running, Client(running.port) as client, ExitStack() as opened:
        ann, bob = login(), login()
        streams = [listen(ann)[1], listen(ann)[1]]
        other, others_events = listen(bob)
        assert count() == 3
        assert client.request("POST", "/logout", ann).body == b"2 streams ended"
        for stream in streams:
            assert list(stream)[-1].split() == [b"event:", b"bye", b"data:", b"logged", b"out"]
        assert client.request("GET", "/events", ann).status == 204
        assert b"data: " in next(others_events)
        assert count() == 1
        other.close()
        assert until(lambda: count() == 0), running.log()  # the next event, or ping, finds nobody
    assert "Traceback" not in running.log()
