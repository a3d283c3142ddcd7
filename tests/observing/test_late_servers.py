"""Applications that commit by themselves, on real servers: the commits that came late are found, and no others."""

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.servers.client import Client, ConnectionEnded
from tests.servers.harness import KINDS, Server

SITES = "tests.observing.sites"


@contextmanager
def serving(kind: str, target: str, folder: Path) -> Iterator[Server]:
    """Start a server, and stop it."""
    server = Server(KINDS[kind], f"{SITES}.{target}", folder, {})
    server.start()
    try:
        yield server
    finally:
        server.stop()


def asked(server: Server, method: str, target: str) -> int:
    """Ask on a connection of its own, and return the status; 0 if the server ends that early."""
    with Client(server.port) as client, suppress(ConnectionEnded):
        return client.request(method, target).status
    return 0


def found(server: Server, done: int = 0) -> dict[str, Any]:
    """What was counted of each route, once so many requests are done with: requests, late, failed, where."""
    deadline = time.monotonic() + 10
    while True:
        with Client(server.port) as client:
            answer = json.loads(client.request("GET", "/found").body)
        if answer["done"] >= done:
            return answer["routes"]  # type: ignore[no-any-return]
        assert time.monotonic() < deadline, answer
        time.sleep(0.01)


def line_of(name: str, site: str, statement: str) -> str:
    """How a place in a site is called: the line of *statement* in the function *name*."""
    lines = (Path(__file__).parent / "sites" / f"{site}.py").read_text().splitlines()
    begins = next(number for number, line in enumerate(lines) if f"def {name}(" in line)
    number = next(number for number in range(begins, len(lines)) if statement in lines[number])
    return f"{name} ({site}.py:{number + 1})"


def test_fastapi_with_a_yield_dependency(tmp_path: Path) -> None:
    in_sync = line_of("get_db", "fastapi_site", "session.commit()")
    in_async = line_of("get_async_db", "fastapi_site", "session.commit()")
    with serving("uvicorn-httptools", "fastapi_site:app", tmp_path) as server:
        with ThreadPoolExecutor(4) as threads:
            stored = threads.map(lambda number: asked(server, "POST", f"/sync/{number}"), range(8))
            assert list(stored) == [200] * 8
        targets = ("/async/1", "/async/2", "/function", "/job")
        assert [asked(server, "POST", target) for target in targets] == [200] * 4
        assert asked(server, "GET", "/read") == 200
        with ThreadPoolExecutor(1) as threads:
            slow = threads.submit(asked, server, "POST", "/slow")
            assert asked(server, "POST", "/release") == 200
            assert slow.result() == 200
        # Last: a session that is closed behind a failed commit leaves its connection in the transaction, and locks.
        assert [asked(server, "POST", target) for target in ("/async/3?refused=1", "/sync/9?refused=1")] == [200] * 2
        counted = found(server, done=17)
    assert counted == {
        "POST /sync/{number}": [9, 9, 1, in_sync],
        "POST /async/{number}": [3, 3, 1, in_async],
        "POST /function": [1, 0, 0, ""],
        "POST /slow": [1, 1, 0, in_async],
        "POST /release": [1, 0, 0, ""],
    }
    log = server.log()
    advice = "give the session to unit_of_work=, or commit before the response starts"
    assert log.count(f"ms after the first byte, in {in_sync}: {advice}") == 1
    assert log.count(f"ms after the first byte, in {in_sync}, and the client was told 200: {advice}") == 1
    assert log.count("9 of 9 POST /sync/{number} committed after their first byte (median ") == 1
    assert log.count("); 1 of them failed") == 2
    assert "/function" not in log
    assert "/release" not in log


def test_advanced_alchemys_autocommit_under_starlette(tmp_path: Path) -> None:
    with serving("uvicorn-h11", "alchemy_site:app", tmp_path) as server:
        targets = ("/orders", "/orders", "/orders?refused=1")
        assert [asked(server, "POST", target) for target in targets] == [201] * 3
        assert asked(server, "GET", "/orders") == 200
        counted = found(server, done=4)
    ((route, (requests, late, failed, where)),) = counted.items()
    assert (route, requests, late, failed) == ("POST /orders", 3, 3, 1)
    assert " (advanced_alchemy/extensions/starlette/" in where
    assert "3 of 3 POST /orders committed after their first byte" in server.log()


@pytest.mark.parametrize("kind", ["gunicorn-gthread", "granian-wsgi"])
def test_flask_with_a_teardown_function(kind: str, tmp_path: Path) -> None:
    where = line_of("end_session", "flask_site", "ended.commit()")
    with serving(kind, "flask_site:app", tmp_path) as server:
        with Client(server.port) as client:  # on one connection: a request waits for the end of the one before it
            for method, target in (("POST", "/plain"), ("POST", "/file"), ("POST", "/streamed"), ("GET", "/streamed")):
                assert client.request(method, target).status == 200
            routes = json.loads(client.request("GET", "/found").body)["routes"]
            in_time = [1, 0, 0, ""]
            assert routes == {"POST /plain": in_time, "POST /file": in_time, "POST /streamed": [1, 1, 0, where]}
        asked(server, "POST", "/streamed?refused=1")
        assert found(server)["POST /streamed"] == [2, 2, 1, where]
    assert server.log().count("2 of 2 POST /streamed committed after their first byte (median ") == 1


@pytest.mark.parametrize("kind", ["gunicorn-gthread", "uvicorn-httptools"])
def test_django_with_atomic_requests(kind: str, tmp_path: Path) -> None:
    with serving(kind, f"django_site:{KINDS[kind].protocol}", tmp_path) as server:
        for target in ("plain", "read", "streamed/none", "streamed/one", "streamed/some"):
            assert asked(server, "GET", f"/{target}") == 200
        assert asked(server, "GET", "/streamed/refused") == 0
        counted = found(server, done=6 if KINDS[kind].protocol == "asgi" else 0)
    refused = line_of("write_refused", "django_site", "with transaction.atomic()")
    assert counted == {
        "GET /plain": [1, 0, 0, ""],
        "GET /streamed/one": [1, 1, 0, line_of("write_one", "django_site", "create()")],
        "GET /streamed/some": [1, 1, 0, line_of("write_some", "django_site", "with transaction.atomic()")],
        "GET /streamed/refused": [1, 1, 1, refused],
    }
    said = f"ms after the first byte, in {refused}, and the client was told 200: write before the response starts"
    assert server.log().count(said) == 1
    assert server.log().count("1 of 1 GET /streamed/") == 3
