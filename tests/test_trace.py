"""The command `postresponse trace`: real servers in processes of their own, and bare sockets that misbehave."""

import json
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from postresponse.cli import main
from postresponse.cli.tracing.application import ENVIRONMENT
from postresponse.cli.tracing.started import SERVERS, chosen
from postresponse.exceptions import ConfigurationError
from tests.services.ports import free_port
from tests.test_readme import README

Captured = pytest.CaptureFixture[str]
SHOP = """
import asyncio, time
from flask import Flask
from sqlalchemy import create_engine, event, text
from sqlalchemy.orm import sessionmaker
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route
from postresponse import after_response, asgi, wsgi
from postresponse.unit_of_work.sqlalchemy import SQLAlchemyUnitOfWork

print("this is not the command's output")
engine = create_engine("sqlite:///shop.sqlite3")
event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA foreign_keys=ON"))
db = SQLAlchemyUnitOfWork(sessionmaker(engine))

with engine.begin() as connection:
    reference = "REFERENCES customer (id) DEFERRABLE INITIALLY DEFERRED"
    connection.execute(text("CREATE TABLE IF NOT EXISTS customer (id INTEGER PRIMARY KEY)"))
    connection.execute(text(f"CREATE TABLE IF NOT EXISTS orders (customer INTEGER {reference})"))

def store(customer):
    db.session.execute(text("INSERT INTO orders VALUES (:customer)"), {"customer": customer})

def receipt():
    time.sleep(0.05)

def order(request):
    store(99 if "fail" in request.query_params else None)
    after_response(receipt)
    return JSONResponse({"stored": True}, 201)

async def parts():
    for number in range(3):
        yield b"part\\n"
        await asyncio.sleep(0.05)

async def stream(request):
    return StreamingResponse(parts())

async def echo(request):
    return JSONResponse({"body": (await request.body()).decode(), "kind": request.headers.get("content-type")})

async def hang(request):
    await asyncio.sleep(60)

writing = [Route("/hang", hang), Route("/orders", order, methods=["POST"])]
routes = [Route("/stream", stream), Route("/echo", echo, methods=["PUT"])]
plain = Starlette(routes=routes)
app = asgi.PostResponseMiddleware(Starlette(routes=writing + routes), unit_of_work=db)
late = asgi.PostResponseMiddleware(Starlette(routes=writing + routes), unit_of_work=db, commit="after_send")
class Once:
    made = 0

    def __init__(self, app):
        assert not Once.made, "made a second time"
        Once.made += 1
        self.app = app

    async def __call__(self, *arguments):
        await self.app(*arguments)

ours = Middleware(asgi.PostResponseMiddleware, unit_of_work=db)
added = Starlette(routes=writing, middleware=[Middleware(Once), ours])
flask_app = Flask(__name__)
flask_app.wsgi_app = wsgi.PostResponseMiddleware(flask_app.wsgi_app, unit_of_work=db)

@flask_app.post("/orders")
def place():
    store(None)
    after_response(receipt)
    return {"stored": True}, 201

def make():
    return app

def broken():
    raise ValueError("no database")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("traced")
    (folder / "traced_shop.py").write_text(SHOP)
    return folder


@pytest.fixture(autouse=True)
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    (folder / "shop.sqlite3").unlink(missing_ok=True)


def traced(capsys: Captured, *argv: str) -> tuple[int, list[dict[str, Any]]]:
    """Run the command, and return its exit code and what it printed as JSON."""
    code = main(["trace", *argv, "--json"])
    return code, json.loads(capsys.readouterr().out)


def moments(found: dict[str, Any], side: str) -> list[str]:
    return [event["name"] for event in found["events"] if event["side"] == side]


def first(found: dict[str, Any], side: str, name: str) -> float:
    return next(float(e["ms"]) for e in found["events"] if (e["side"], e["name"]) == (side, name))


# -- an application on a real server ----------------------------------------------------------------------------------


FAMILIES = sorted({(kind.package, kind.protocol) for kind in SERVERS.values()})


@pytest.mark.parametrize(("package", "protocol"), FAMILIES)
def test_a_commit_is_shown_before_the_head_that_the_client_has_and_the_work_behind_it(
    package: str, protocol: str, capsys: Captured
) -> None:
    app, name = f"traced_shop:{'app' if protocol == 'asgi' else 'flask_app'}", package.removeprefix("py")
    code, (found,) = traced(capsys, "post", "/orders", "--app", app, "--server", name)
    assert (code, found["status"], found["whole"], found["mode"]) == (0, 201, True, "head")
    assert found["verdict"].endswith("before the first byte")
    # The server has the request behind its begin, and the client the head behind the commit: both on one clock.
    told = ["request.start", "handler.head", "commit.start", "commit.done", "head.sent", "body.last", "request.end"]
    assert moments(found, "server") == [*told, "job.start", "job.done"]
    assert 0 < first(found, "server", "request.start") < first(found, "server", "commit.done")
    assert first(found, "server", "commit.done") < first(found, "client", "head")


def test_pieces_are_shown_as_they_arrive_and_the_same_connection_carries_the_next_request(capsys: Captured) -> None:
    code, found = traced(capsys, "GET", "/stream", "--app", "traced_shop:app", "--server", "uvicorn", "--repeat", "2")
    assert code == 0
    assert [each["connection"] for each in found] == [
        {"reused": False, "keeps_alive": True, "open": True},
        {"reused": True, "keeps_alive": True, "open": True},
    ]
    for each in found:
        assert (each["bytes"], moments(each, "client").count("body")) == (15, 3)
        assert first(each, "client", "head") <= first(each, "client", "body") <= each["milliseconds"]["last_byte"]
        # What is behind the last piece, which is chunked, comes when the application has ended: it has slept meanwhile.
        assert each["milliseconds"]["end"] - first(each, "server", "head.sent") > 100


def test_a_commit_that_fails_behind_the_clients_back_is_whole_for_the_client_and_ends_with_1(capsys: Captured) -> None:
    code, (found,) = traced(capsys, "POST", "/orders?fail", "--app", "traced_shop:late", "--server", "uvicorn")
    assert (code, found["status"], found["whole"]) == (1, 201, True)
    assert found["verdict"] == "the commit failed, behind the client's back"
    assert first(found, "server", "commit.failed") > first(found, "server", "body.last")


def test_an_application_without_the_middleware_is_observed_and_gets_what_was_given(
    folder: Path, capsys: Captured
) -> None:
    (folder / "body.json").write_text('{"item": "tea"}')
    header = ["--header", "Content-Type: application/json"]
    code = main(["trace", "PUT", "/echo", "--app", "traced_shop:plain", "--data", "@body.json", *header])
    shown = capsys.readouterr().out
    assert code == 0
    assert shown.startswith("PUT /echo: 200 OK, ")
    assert "\nobserve: nothing was committed\n" in shown
    lines = [line.split("|")[1].split() for line in shown.splitlines() if "|" in line]
    assert lines[0] == ["request"]
    assert ["request.start"] in lines
    assert "this is not the command's output" not in shown


def test_a_middleware_that_the_application_makes_late_is_made_once_and_told_of(capsys: Captured) -> None:
    code, (found,) = traced(capsys, "POST", "/orders", "--app", "traced_shop:added", "--server", "uvicorn")
    assert (code, found["status"], found["mode"]) == (0, 201, "head")


def test_a_server_that_listens_before_it_has_loaded_the_application_is_waited_for(
    folder: Path, capsys: Captured
) -> None:
    slow = f"import os, time\nif {ENVIRONMENT!r} in os.environ:\n    time.sleep(4)\n"
    (folder / "slow_shop.py").write_text(f"{slow}from traced_shop import flask_app as app\n")
    code, (found,) = traced(capsys, "POST", "/orders", "--app", "slow_shop:app", "--server", "gunicorn")
    assert (code, found["status"]) == (0, 201)
    assert found["milliseconds"]["end"] < 3000


def test_a_factory_is_called(capsys: Captured) -> None:
    code, (found,) = traced(capsys, "GET", "/nowhere", "--app", "traced_shop:make", "--factory")
    assert (code, found["status"], found["mode"]) == (0, 404, "head")


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--app", "nosuch:app"], "there is no module 'nosuch'"),
        (["--app", "traced_shop:broken", "--factory"], "raised ValueError: no database"),
        (["--app", "traced_shop:app", "--server", "uvicron"], "did you mean 'uvicorn'?"),
        (["--app", "traced_shop:app", "--server", "waitress"], "'waitress' serves wsgi, and the application is asgi"),
        (["--server", "uvicorn"], "--server is for --app"),
        (["--app", "traced_shop:app", "--data", "@nosuch"], "nosuch cannot be read"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_loaded_ends_with_2_and_says_what_was_tried(
    argv: list[str], said: str, capsys: Captured
) -> None:
    assert main(["trace", "GET", "/orders", *argv]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert said in captured.err


def test_with_an_application_the_url_is_a_path_of_it(capsys: Captured) -> None:
    assert main(["trace", "GET", "http://127.0.0.1:8000/orders", "--app", "traced_shop:app"]) == 2
    assert "the URL is a path of the application, as /orders" in capsys.readouterr().err


def test_without_a_server_for_it_those_that_would_do_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("uvicorn", "hypercorn", "daphne", "granian", "gunicorn"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigurationError, match="for ASGI is installed; install one of uvicorn, hypercorn, daphne"):
        chosen("", "asgi")
    assert chosen("", "wsgi").name == "waitress"


def test_a_server_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    monkeypatch.setitem(sys.modules, "hypercorn", None)
    assert main(["trace", "GET", "/orders", "--app", "traced_shop:app", "--server", "hypercorn"]) == 2
    assert "hypercorn is not installed: pip install hypercorn" in capsys.readouterr().err


def test_a_port_in_use_ends_with_3(capsys: Captured) -> None:
    with socket.create_server(("127.0.0.1", free_port())) as taken:
        port = str(taken.getsockname()[1])
        assert main(["trace", "GET", "/orders", "--app", "traced_shop:app", "--port", port]) == 3
    assert f"port {port} of 127.0.0.1 cannot be listened on: Address already in use" in capsys.readouterr().err


def test_a_server_that_dies_at_its_start_is_quoted_and_ends_with_3(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    command = ["-c", "raise SystemExit('it is broken')"]
    kind = replace(SERVERS["hypercorn"], command=lambda target, port: command)
    monkeypatch.setitem(SERVERS, "hypercorn", kind)
    assert main(["trace", "GET", "/orders", "--app", "traced_shop:app", "--server", "hypercorn"]) == 3
    assert "it is broken" in capsys.readouterr().err


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_a_trace_that_is_ended_leaves_no_server_behind(folder: Path) -> None:
    port = free_port()
    command = [sys.executable, "-m", "postresponse", "trace", "GET", "/hang", "--app", "traced_shop:app"]
    tracing = subprocess.Popen([*command, "--port", str(port)], cwd=folder, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not listens(port):
        assert tracing.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    tracing.send_signal(signal.SIGTERM)
    _, said = tracing.communicate(timeout=30)
    assert (tracing.returncode, said.splitlines()[-1]) == (130, "interrupted")
    assert not listens(port)


# -- a server that misbehaves -----------------------------------------------------------------------------------------


@contextmanager
def answering(
    answer: bytes, then: Callable[[socket.socket], object] = socket.socket.close, tls: ssl.SSLContext | None = None
) -> Iterator[str]:
    """Answer one request on a bare socket with *answer*, do *then* with the connection, and give the URL."""
    with socket.create_server(("127.0.0.1", free_port())) as listening:

        def serve() -> None:
            connection, _ = listening.accept()
            if tls is not None:
                try:
                    connection = tls.wrap_socket(connection, server_side=True)
                except ssl.SSLError:  # the client does not like the certificate
                    connection.close()
                    return
            with connection:
                while b"\r\n\r\n" not in connection.recv(65536):
                    pass
                connection.sendall(answer)
                then(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http{'' if tls is None else 's'}://127.0.0.1:{listening.getsockname()[1]}/"
        finally:
            thread.join(10)


def waits_for_the_client(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.recv(1)


def resets(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    connection.close()


@pytest.mark.parametrize(
    ("answer", "then", "code", "fault"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nfour", socket.socket.close, 1, "5 bytes of its Content-Length"),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nfour\r\n",
            socket.socket.close,
            1,
            "inside the body",
        ),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nfour",
            waits_for_the_client,
            1,
            "nothing more came within 0.3 s",
        ),
        (b"", socket.socket.close, 3, "answered nothing"),
        (b"", resets, 3, "the connection was reset"),
        (b"", waits_for_the_client, 3, "nothing more came within 0.3 s"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", socket.socket.close, 3, "what came is no HTTP"),
    ],
    ids=["short", "cut chunks", "silent in the body", "closed", "reset", "silent", "no HTTP"],
)
def test_a_response_that_is_not_whole_says_why(
    answer: bytes, then: Any, code: int, fault: str, capsys: Captured
) -> None:
    with answering(answer, then) as url:
        found = main(["trace", "GET", url, "--timeout", "0.3"])
    shown = capsys.readouterr().out
    assert found == code
    assert fault in shown.splitlines()[0]
    assert ("TRUNCATED" in shown) == (code == 1)
    assert " broken " in shown


def test_a_connection_that_was_to_be_kept_and_is_dropped_is_told(capsys: Captured) -> None:
    def ends_with_its_last_byte(connection: socket.socket) -> None:
        connection.send(b"k", socket.MSG_MORE)  # in one segment with the end
        connection.shutdown(socket.SHUT_WR)

    hint = b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n"
    with answering(hint + b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no", ends_with_its_last_byte) as url:
        assert main(["trace", "GET", url]) == 0
    shown = capsys.readouterr().out.splitlines()[0]
    assert shown.startswith(f"GET {url}: 200 OK, 2 bytes")
    assert shown.endswith(", whole; a new connection, which the server was to keep and has DROPPED")


def test_a_body_that_says_no_length_may_be_whole_or_cut(capsys: Captured) -> None:
    with answering(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nall there is?") as url:
        code, (found,) = traced(capsys, "GET", url)
    assert (code, found["whole"], found["bytes"]) == (0, None, 13)
    with answering(b"HTTP/1.0 200 OK\r\n\r\nall there is?") as url:
        assert main(["trace", "GET", url]) == 0
    assert "13 bytes, ended by the end of its connection, so that nobody knows" in capsys.readouterr().out


def test_the_middle_of_a_long_body_is_counted_and_not_shown(capsys: Captured) -> None:
    chunks = b"".join(b"1\r\nx\r\n" for _ in range(100))
    answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n" + chunks + b"0\r\n\r\n"
    with answering(answer) as url:
        assert main(["trace", "GET", url]) == 0
    shown = capsys.readouterr().out
    assert "100 bytes in 100 pieces, whole; a new connection, which the server does not keep" in shown
    assert "body 76 pieces, 76 bytes" in shown
    assert shown.count("body 1 bytes") == 24


def certificate(folder: Path) -> Path:
    """Make a certificate of 127.0.0.1 that signs itself, with its key, and return the file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    made = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    made = made.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
    made = made.add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
    made = made.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    plain = serialization.NoEncryption()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    file = folder / "certificate.pem"
    file.write_bytes(pem + made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    return file


def test_https_is_spoken_with_who_has_a_good_certificate(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    file = certificate(folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    with answering(answer, waits_for_the_client, context) as url:
        monkeypatch.setenv("SSL_CERT_FILE", str(file))
        code, (found,) = traced(capsys, "GET", url)
    assert (code, found["status"], found["whole"]) == (0, 200, True)
    assert found["connection"] == {"reused": False, "keeps_alive": True, "open": True}
    monkeypatch.delenv("SSL_CERT_FILE")
    with answering(answer, waits_for_the_client, context) as url:
        assert main(["trace", "GET", url]) == 3
    assert "CERTIFICATE_VERIFY_FAILED" in capsys.readouterr().err


def test_the_readme_names_the_servers_that_it_starts() -> None:
    section = README[README.index("## The command") : README.index("## When native hooks")].lower()
    assert [name for name, _ in FAMILIES if name.removeprefix("py") not in section] == []


def test_nobody_who_listens_ends_with_3_and_says_what_to_do(capsys: Captured) -> None:
    assert main(["trace", "GET", f"http://127.0.0.1:{free_port()}/"]) == 3
    assert "connection refused; start the server, or give --app" in capsys.readouterr().err


def test_a_server_that_does_not_take_the_request_is_told(capsys: Captured) -> None:
    with answering(b"", resets) as url:  # when it has the head, and before it has read the body
        assert main(["trace", "POST", url, "--data", "x" * 20_000_000]) == 3
    assert "the request could not be sent: " in capsys.readouterr().out


@pytest.mark.parametrize("url", ["/orders", "ftp://host/", "http://", "http://host:99999/", "http://[::1/"])
def test_what_is_no_url_ends_with_2(url: str, capsys: Captured) -> None:
    assert main(["trace", "GET", url]) == 2
    assert "URL" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["G ET", "http://a/"], "expected a method as GET"),
        (["GET", "http://a/", "--header", "nothing"], "expected 'NAME: VALUE'"),
        (["GET", "http://a/", "--header", "a: b\r\nc: d"], "expected 'NAME: VALUE'"),
        (["GET", "http://a/", "--header", "a: \u20ac"], "expected 'NAME: VALUE'"),
        (["GET", "http://a/", "--port", "0"], "expected a port from 1 to 65535"),
        (["GET", "http://a/", "--repeat", "0"], "expected a number from 1 on"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_call_that_means_nothing_ends_with_2(argv: list[str], said: str, capsys: Captured) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["trace", *argv])
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_the_command_loads_neither_a_database_library_nor_a_framework() -> None:
    code = "import sys, postresponse.cli; print(*sorted({'sqlalchemy', 'asyncio', 'rich'} & set(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == ""
