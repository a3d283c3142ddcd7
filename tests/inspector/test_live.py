"""The stream of a page: what is new comes by itself, comes again where it broke, and holds up no shutdown."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from postresponse import asgi
from postresponse.inspector import Inspector
from postresponse.inspector.asgi_pages import is_stopping
from tests.fakes import StrictASGIServer
from tests.inspector.asking import PAGE, serve
from tests.inspector.browser import send
from tests.inspector.conftest import SHOP, started
from tests.servers.client import Connection
from tests.servers.harness import Server


class Stream:
    """A client of the stream.

    Args:
        server: Whose.
        headers: Of the request.
        since: What the client has seen.
    """

    def __init__(self, server: Server, headers: tuple[tuple[str, str], ...] = (), since: str = "") -> None:
        self.connection = Connection(server.port)
        self.connection.send("GET", f"{PAGE}events?since={since}", headers)
        self.head = self.connection.read_head()
        self._text = ""
        self._pieces = self.connection.read_body(self.head)

    def event(self) -> tuple[str, Any]:
        """Wait for the next event, and return its id and what it says."""
        while True:
            event, end, rest = self._text.partition("\n\n")
            if not end:
                self._text += next(self._pieces).decode()
                continue
            self._text = rest
            fields = dict(line.split(": ", 1) for line in event.splitlines() if not line.startswith(":"))
            if "data" in fields:
                return fields["id"], json.loads(fields["data"])

    def rest(self) -> bytes:
        """Wait for its end."""
        try:
            return b"".join(self._pieces)
        finally:
            self.connection.close()


def paths(told: Any) -> list[str]:
    return [each["path"] for each in told["requests"]]


def test_what_is_new_comes_by_itself_and_a_client_that_comes_again_has_the_rest(shop: Server) -> None:
    send(shop, "GET", "/orders/before")
    stream = Stream(shop)
    assert stream.head.get("content-type") == "text/event-stream"
    mark, told = stream.event()
    assert "/orders/before" in paths(told)
    send(shop, "GET", "/orders/first")
    mark, told = stream.event()
    assert paths(told) == ["/orders/first"]
    stream.connection.reset()
    send(shop, "GET", "/orders/second")
    for again in (Stream(shop, (("Last-Event-ID", mark),)), Stream(shop, since=mark)):
        later, told = again.event()
        assert paths(told) == ["/orders/second"]
        assert later != mark
        again.connection.close()


def test_work_comes_when_it_starts_and_again_when_it_has_ended(shop: Server) -> None:
    send(shop, "GET", "/orders/before")
    stream = Stream(shop)
    told = stream.event()[1]
    assert told["carried"] == []
    send(shop, "POST", "/mails")
    while [each["state"] for each in told["carried"]] != ["running", "waiting"]:
        told = stream.event()[1]
    ids = {each["id"] for each in told["carried"]}
    send(shop, "DELETE", "/mails")
    ended: set[str] = set()
    while told["carried"] or ended != ids:
        told = stream.event()[1]
        ended |= {each["id"] for each in told["jobs"]}
    stream.connection.close()


@pytest.fixture
def stopped(tmp_path: Path) -> Iterator[Server]:
    yield from started(SHOP, "shop:app", tmp_path)


def test_a_server_that_is_told_to_end_is_not_held_up_by_viewers(stopped: Server) -> None:
    streams = [Stream(stopped) for _ in range(3)]
    for each in streams:
        each.event()
    begin = time.monotonic()
    stopped.stop(timeout=20)
    assert time.monotonic() - begin < 5
    assert [each.rest()[-2:] for each in streams] == [b"", b"", b""]
    assert "Finished server process" in stopped.log()


async def app(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"body"})


async def streamed(inspector: Inspector, *, leaves_at: int | None = None, tells: bool = False) -> StrictASGIServer:
    server = StrictASGIServer(leaves_at=leaves_at, tells=tells, headers=[(b"host", b"localhost")])
    server.scope["path"] = f"{PAGE}events"
    with anyio.fail_after(5):
        await server.run(asgi.PostResponseMiddleware(app, inspector=inspector))
    assert not server.broken
    return server


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("tells", [False, True])
def test_a_viewer_that_leaves_ends_its_stream(backend: str, tells: bool) -> None:
    async def main() -> StrictASGIServer:
        return await streamed(Inspector(), leaves_at=3, tells=tells)

    server = anyio.run(main, backend=backend)
    assert server.body.startswith(b"retry: 500\n\nid: ")


@pytest.mark.parametrize("stores", [False, True])
def test_a_stream_says_that_it_is_there_and_ends_after_a_while(
    stores: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, seconds in (("TICK", 0.01), ("HEARTBEAT", 0.02), ("LIFE", 0.3)):
        monkeypatch.setattr(f"postresponse.inspector.asgi_pages.{name}", seconds)
    inspector = Inspector(store=tmp_path / "inspector.sqlite3" if stores else None)
    serve("asyncio", inspector)
    if stores:
        inspector.feed.flush()  # type: ignore[attr-defined]

    async def main() -> StrictASGIServer:
        return await streamed(inspector)

    server = anyio.run(main)
    assert server.complete
    assert server.body.count(b"data: ") == 1
    assert b"/orders" in server.body
    assert server.body.count(b": still here\n\n") >= 2


def test_where_nothing_tells_that_the_server_ends_it_does_not() -> None:
    assert is_stopping() is False
