"""The orders service keeps its contract: asked over sockets, with a ledger of the tests' own, and killed meanwhile."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text

from tests.conftest import Scale
from tests.messaging.databases import database
from tests.servers.client import Client, Connection
from tests.services.ports import free_port

PROGRAM = Path(__file__).resolve().parents[2] / "examples" / "orders_service.py"
JSON = (("Content-Type", "application/json"),)
NOTE = "a note that nobody else may read"


class Ledger:
    """What the service tells, and whether it is heard."""

    def __init__(self) -> None:
        self.told: defaultdict[str, list[str]] = defaultdict(list)
        self.refuses: Callable[[str], bool] = lambda order_id: False
        ledger = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                said = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                refused = ledger.refuses(said["order_id"])
                if not refused:
                    ledger.told[said["order_id"]].append(said["message_id"])
                self.send_response(500 if refused else 204)
                self.end_headers()

            def log_message(self, *args: object) -> None:
                """Nothing."""

        self._handler = Handler
        self.port = 0
        self.server: ThreadingHTTPServer | None = None

    def open(self) -> None:
        self.server = ThreadingHTTPServer(("127.0.0.1", self.port), self._handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        if self.server is not None:
            self.server.shutdown()
            self.server.server_close()
            self.server = None


@dataclass
class Service:
    """The program, in a process of its own."""

    folder: Path
    ledger: Ledger
    url: str
    options: dict[str, Any]
    arguments: list[str]
    instance: str = "1"
    port: int = 0
    process: "subprocess.Popen[bytes] | None" = field(default=None)

    def start(self) -> None:
        self.port = free_port()
        environment = {
            **os.environ,
            "CHECK_PORT": str(self.port),
            "CHECK_SINK": f"http://127.0.0.1:{self.ledger.port}/",
            "CHECK_DB": self.url,
            "CHECK_DIR": str(self.folder),
            "CHECK_INSTANCE": self.instance,
            "PYTHONUNBUFFERED": "1",
        }
        with (self.folder / "service.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(PROGRAM), *self.arguments],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        until(self.is_ready, f"ready:\n{self.log()}")

    def is_ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log()
        with suppress(OSError), Client(self.port, timeout=5) as client:
            return client.request("GET", "/healthz").status == 200
        return False

    def kill(self) -> None:
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def stop(self) -> int:
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(30)

    def log(self) -> str:
        return (self.folder / "service.log").read_text(errors="replace")[-4000:]

    def order(self, order_id: str, query: str = "") -> tuple[int, bytes]:
        with Client(self.port, timeout=20) as client:
            body = json.dumps({"id": order_id, "note": NOTE}).encode()
            answer = client.request("POST", f"/orders{query}", JSON, body)
            return answer.status, answer.body

    def has(self, order_id: str) -> bool:
        with Client(self.port, timeout=20) as client:
            status = client.request("GET", f"/orders/{order_id}").status
        assert status in (200, 404)
        return status == 200

    def checked_out(self) -> int:
        with Client(self.port, timeout=20) as client:
            found: int = json.loads(client.request("GET", "/stats").body)["checked_out"]
            return found


def until(holds: Callable[[], Any], what: str, timeout: float = 30.0) -> None:
    deadline = time.monotonic() + timeout
    while not holds():
        if time.monotonic() > deadline:
            pytest.fail(f"not within {timeout} s: {what}")
        time.sleep(0.02)


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    made = Ledger()
    made.open()
    yield made
    made.close()


KINDS = [
    pytest.param((name, arguments), id=f"{framework}-{name}", marks=marks)
    for framework, arguments in (("fastapi", []), ("flask", ["--flask"]))
    for name, marks in (("sqlite", []), ("postgresql", [pytest.mark.service("postgresql")]))
]


@pytest.fixture(params=KINDS)
def service(request: pytest.FixtureRequest, tmp_path: Path, ledger: Ledger) -> Iterator[Service]:
    name, arguments = request.param
    with ExitStack() as stack:
        url, options = stack.enter_context(database(name, tmp_path))
        if options:  # the schema of this test
            url = url.update_query_dict({"options": options["options"]})
        made = Service(tmp_path, ledger, url.render_as_string(hide_password=False), options, arguments)
        made.start()
        yield made
        with suppress(ProcessLookupError):
            made.kill()


def orders_in(service: Service) -> set[str]:
    engine = create_engine(service.url.replace("postgresql://", "postgresql+psycopg://"))
    with closing(engine.connect()) as connection:
        found = set(connection.execute(text("SELECT id FROM orders")).scalars())
    engine.dispose()
    return found


def left(service: Service) -> int:
    engine = create_engine(service.url.replace("postgresql://", "postgresql+psycopg://"))
    with closing(engine.connect()) as connection:
        found = connection.scalar(text("SELECT count(*) FROM postresponse_outbox"))
    engine.dispose()
    return int(found or 0)


def test_each_answer_is_what_the_database_has_and_the_ledger_hears(service: Service, ledger: Ledger) -> None:
    expected = {
        "": (201, True),
        "?fail=raise": (500, False),
        "?fail=status": (409, False),
        "?fail=commit": (500, False),
        "?fail=after": (201, True),
        "?stream=3": (201, True),
    }
    for number, (query, (status, kept)) in enumerate(expected.items()):
        found, body = service.order(f"o-{number}", query)
        assert (query, found) == (query, status), service.log()
        if status == 201:
            assert f"o-{number}".encode() in body
        else:
            for secret in (NOTE.encode(), b"Traceback", b"SQL", b"INSERT", b"behind both writes"):
                assert secret not in body
        assert service.has(f"o-{number}") is kept
    assert len(service.order("o-large", "?stream=3")[1]) > 3 << 20
    assert service.order("o-0")[0] == 500  # it is there already
    with pytest.raises(Exception, match=r"(?i)incomplete|ended|closed|truncated|short"):
        service.order("o-cut", "?fail=raise_stream")
    told = {"o-0", "o-4", "o-5", "o-large", "o-cut"}
    until(lambda: set(ledger.told) == told, f"{set(ledger.told)}:\n{service.log()}")
    until(lambda: left(service) == 0, "nothing waits")
    assert {len(ids) for ids in ledger.told.values()} == {1}
    assert service.checked_out() == 0
    assert service.stop() == 0


def test_a_message_that_is_always_refused_holds_up_nobody_and_a_ledger_that_is_away_is_waited_for(
    service: Service, ledger: Ledger
) -> None:
    ledger.refuses = lambda order_id: order_id == "poison"
    assert service.order("poison")[0] == 201
    for number in range(20):
        assert service.order(f"before-{number}")[0] == 201
    until(lambda: len(ledger.told) == 20, "the others were told")
    ledger.close()
    for number in range(20):
        assert service.order(f"away-{number}")[0] == 201
    time.sleep(1.5)
    ledger.refuses = lambda order_id: False
    ledger.open()
    until(lambda: len(ledger.told) == 41, f"{len(ledger.told)} of 41")
    assert {len(ids) for ids in ledger.told.values()} == {1}
    assert service.stop() == 0


def test_two_instances_tell_each_order_once(service: Service, ledger: Ledger) -> None:
    (service.folder / "second").mkdir()
    second = Service(service.folder / "second", ledger, service.url, service.options, service.arguments, "2")
    second.start()
    try:
        for number in range(40):
            assert (second if number % 2 else service).order(f"o-{number}")[0] == 201
        until(lambda: len(ledger.told) == 40, "all were told")
        until(lambda: left(service) == 0, "nothing waits")
        assert {len(ids) for ids in ledger.told.values()} == {1}
        assert second.stop() == 0
    finally:
        with suppress(ProcessLookupError):
            second.kill()


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_a_service_that_is_killed_under_load_loses_nothing_and_tells_nothing_that_did_not_commit(
    service: Service, ledger: Ledger, scale: Scale, capsys: pytest.CaptureFixture[str]
) -> None:
    kills = scale.of(off=2, short=4, full=100)
    chance, answers, lock = random.Random(7), dict[str, int | None](), threading.Lock()
    ended = threading.Event()
    counts: defaultdict[str, int] = defaultdict(int)

    def load(seed: int) -> None:
        mine = random.Random(seed)
        while not ended.is_set():
            order_id, query = f"o-{uuid.uuid4().hex}", mine.choice(["", "", "", "?fail=commit", "?fail=raise"])
            leaves = mine.random() < 0.1
            status: int | None = None
            try:
                if leaves:
                    with Connection(service.port, timeout=5) as connection:
                        body = json.dumps({"id": order_id, "note": NOTE}).encode()
                        connection.send("POST", "/orders?stream=1", JSON, body)
                else:
                    status = service.order(order_id, query)[0]
            except Exception:  # killed meanwhile: nobody knows
                time.sleep(0.02)
            with lock:
                answers[order_id] = status
                counts["disconnects"] += leaves
                counts["refused commits"] += query == "?fail=commit" and not leaves and status == 500

    clients = [threading.Thread(target=load, args=(seed,)) for seed in range(6)]
    for client in clients:
        client.start()
    try:
        for _ in range(kills):
            time.sleep(chance.uniform(0.1, 0.8))
            service.kill()
            service.start()
        time.sleep(0.3)
    finally:
        ended.set()
        for client in clients:
            client.join()
    until(lambda: left(service) == 0, f"{left(service)} wait:\n{service.log()}", timeout=60)
    kept = orders_in(service)
    for order_id, status in answers.items():
        if status is not None and status < 300:
            assert order_id in kept, f"{order_id} was answered {status}, and is not there"
        elif status is not None:
            assert order_id not in kept, f"{order_id} was answered {status}, and is there"
    assert kept == set(ledger.told), "lost, or told of what did not commit"
    assert {len(set(ids)) for ids in ledger.told.values()} == {1}  # one id each
    twice = sum(len(ids) - 1 for ids in ledger.told.values())
    assert twice <= kills * 8, "more duplicates than what can be in flight"
    assert service.stop() == 0
    with capsys.disabled():
        print(
            f"\n{kills} kills, {len(answers)} orders, {len(kept)} kept and told, {twice} told twice, "
            f"{counts['refused commits']} commits refused, {counts['disconnects']} clients left: 0 lost, 0 untrue"
        )
