"""The watch sees the client leave, keeps what it reads, and reads no further than it may."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest

from postresponse.asgi.watch import Watch

pytestmark = pytest.mark.anyio


class Server:
    def __init__(self) -> None:
        self.send, self.messages = anyio.create_memory_object_stream[Any](10)
        self.asked = 0
        self.left = 0

    async def receive(self) -> Any:
        self.asked += 1
        return await self.messages.receive()

    def gone(self) -> None:
        self.left += 1


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = Server()
    yield server
    server.send.close()
    server.messages.close()


async def settle() -> None:
    for _ in range(6):
        await anyio.lowlevel.checkpoint()


async def test_a_disconnect_is_seen_without_anybody_asking(server: Server) -> None:
    watch = Watch(server.receive, server.gone)
    server.send.send_nowait({"type": "http.request", "body": b"", "more_body": False})
    server.send.send_nowait({"type": "http.disconnect"})
    await settle()
    assert server.left == 1
    assert (await watch.receive())["type"] == "http.request"
    assert (await watch.receive())["type"] == "http.disconnect"
    assert (await watch.receive())["type"] == "http.disconnect"
    watch.stop()


async def test_a_request_body_is_not_read_ahead_of_the_application(server: Server) -> None:
    watch = Watch(server.receive, server.gone)
    for body in (b"1", b"2", b"3"):
        server.send.send_nowait({"type": "http.request", "body": body, "more_body": True})
    await settle()
    assert server.asked == 1
    assert [(await watch.receive())["body"] for _ in range(3)] == [b"1", b"2", b"3"]
    await settle()
    assert server.asked <= 4
    watch.stop()
    await settle()


@pytest.mark.parametrize("read", [False, True])
async def test_what_was_read_is_given_from_its_start_and_a_client_that_left_stays_away(
    server: Server, read: bool
) -> None:
    told: list[str] = []
    watch = Watch(server.receive, lambda: told.append("the first attempt"), record=100)
    server.send.send_nowait({"type": "http.request", "body": b"all", "more_body": False})
    server.send.send_nowait({"type": "http.disconnect"})
    await settle()
    if read:
        assert (await watch.receive())["body"] == b"all"
    watch.replay(lambda: told.append("the second one"))
    assert told == ["the first attempt", "the second one"]
    with anyio.fail_after(5):
        kinds = [(await watch.receive())["type"] for _ in range(3)]
    assert kinds == ["http.request", "http.disconnect", "http.disconnect"]
    watch.stop()


async def test_another_attempt_is_not_told_of_a_client_that_is_there(server: Server) -> None:
    watch = Watch(server.receive, server.gone, record=100)
    server.send.send_nowait({"type": "http.request", "body": b"all", "more_body": False})
    await settle()
    watch.replay(server.gone)
    assert server.left == 0
    assert (await watch.receive())["body"] == b"all"
    with anyio.move_on_after(0) as waiting:
        await watch.receive()
    assert waiting.cancelled_caught
    watch.stop()
    await settle()


async def test_a_cancelled_receive_loses_no_message(server: Server) -> None:
    watch = Watch(server.receive, server.gone)
    await settle()
    with anyio.move_on_after(0):
        await watch.receive()
    server.send.send_nowait({"type": "http.request", "body": b"kept", "more_body": False})
    assert (await watch.receive())["body"] == b"kept"
    assert server.asked <= 2
    watch.stop()
    await settle()


async def test_what_the_server_raises_reaches_whoever_asks() -> None:
    async def receive() -> Any:
        raise ConnectionError("the server failed")

    watch = Watch(receive, lambda: None)
    with pytest.raises(ConnectionError, match="the server failed"):
        await watch.receive()
    watch.stop()


async def test_a_receive_that_always_has_an_empty_body_is_not_read_for_ever() -> None:
    """What a stub in somebody's unit test does."""
    asked = 0

    async def receive() -> Any:
        nonlocal asked
        asked += 1
        return {"type": "http.request", "body": b"", "more_body": False}

    watch = Watch(receive, lambda: None)
    await settle()
    assert asked == 2
    assert [(await watch.receive())["type"] for _ in range(4)] == ["http.request"] * 4
    assert asked == 4
    watch.stop()


async def test_what_is_no_message_is_an_error_of_whoever_asks() -> None:
    async def receive() -> Any:
        return None

    watch = Watch(receive, lambda: None)
    with pytest.raises(TypeError):
        await watch.receive()
    watch.stop()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_stopping_leaves_no_task_behind(server: Server) -> None:
    before = asyncio.all_tasks()
    watch = Watch(server.receive, server.gone)
    await settle()
    watch.stop()
    await settle()
    assert asyncio.all_tasks() == before
    assert server.left == 0
