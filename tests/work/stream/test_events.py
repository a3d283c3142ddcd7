"""A stream as server-sent events: the bytes, the heartbeat, the terminal event, and who asks again."""

from typing import Any

import anyio
import anyio.lowlevel
import pytest
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from postresponse.exceptions import ConfigurationError, NotAFunction, StreamClosed, StreamInUse
from postresponse.work import ServerSentEvent, Stream
from tests.fakes import StrictASGIServer
from tests.work.test_virtual_clock import run
from tests.work.waiting import auntil


@pytest.mark.parametrize(
    ("event", "sent"),
    [
        (ServerSentEvent(), "data: \n\n"),
        (ServerSentEvent(data="tea"), "data: tea\n\n"),
        (ServerSentEvent(data="a\nb\r\nc\rd\n"), "data: a\ndata: b\ndata: c\ndata: d\ndata: \n\n"),
        (ServerSentEvent(data={"ü": [1]}, event="order", id=7), 'id: 7\nevent: order\ndata: {"ü": [1]}\n\n'),
        (ServerSentEvent(data="x", retry=2.5), "retry: 2500\ndata: x\n\n"),
    ],
)
def test_an_event_is_what_the_standard_says(event: ServerSentEvent, sent: str) -> None:
    assert event.encode().decode() == sent


@pytest.mark.parametrize("options", [{"event": "a\nb"}, {"id": "1\r"}, {"id": "\0"}])
def test_a_name_and_an_id_are_one_line(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="expected one line"):
        ServerSentEvent(**options)


@pytest.mark.anyio
async def test_items_come_with_their_numbers_and_then_the_terminal_event() -> None:
    stream: Stream[Any] = Stream("s1")
    stream.put_nowait("tea", {"done": 1}, ServerSentEvent(data=2, event="progress"))
    stream.done()
    assert [sent async for sent in stream.events(retry=3.0)] == [
        b"retry: 3000\n\n",
        b"id: 1\ndata: tea\n\n",
        b'id: 2\ndata: {"done": 1}\n\n',
        b"event: progress\ndata: 2\n\n",
        b"event: end\ndata: \n\n",
    ]
    assert stream.over


@pytest.mark.anyio
async def test_a_format_makes_the_data_or_the_event() -> None:
    stream: Stream[int] = Stream("s1", batch_size=2)
    stream.put_nowait(1, 2, 3)
    stream.done()
    events = stream.events(format=lambda batch: ServerSentEvent(data=sum(batch), event="sum"), end="over")
    assert [sent async for sent in events] == [
        b"event: sum\ndata: 3\n\n",
        b"event: sum\ndata: 3\n\n",
        b"event: over\ndata: \n\n",
    ]


@pytest.mark.anyio
async def test_a_failure_is_told_without_a_word_of_it_and_then_raised() -> None:
    stream: Stream[int] = Stream("s1")
    stream.put_nowait(1)
    stream.error(LookupError("secret"))
    events = stream.events()
    assert [await anext(events), await anext(events)] == [b"id: 1\ndata: 1\n\n", b"event: failed\ndata: \n\n"]
    with pytest.raises(LookupError):
        await anext(events)
    with pytest.raises(StopAsyncIteration):
        await anext(events)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_comment_is_sent_while_nothing_comes(backend: str) -> None:
    async def main() -> None:
        stream: Stream[str] = Stream("s1")
        began, got = anyio.current_time(), []

        async def produce() -> None:
            await anyio.sleep(70)
            await stream.put("tea")
            stream.done()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(produce)
            async for sent in stream.events(heartbeat=30.0):
                got.append((sent, round(anyio.current_time() - began)))
        assert got == [
            (b": heartbeat\n\n", 30),
            (b": heartbeat\n\n", 60),
            (b"id: 1\ndata: tea\n\n", 70),
            (b"event: end\ndata: \n\n", 70),
        ]

    run(backend, main)


@pytest.mark.anyio
async def test_a_response_that_is_cancelled_or_dropped_has_broken_off() -> None:
    cancelled: Stream[int] = Stream("s1")
    with anyio.move_on_after(0.01):
        async for _ in cancelled.events():
            raise AssertionError
    assert cancelled.reason == "its response was cancelled"
    left: Stream[int] = Stream("s2")
    left.put_nowait(1)
    async for _ in left.events():
        break
    assert left.reason == "its consumer broke off"
    closed: Stream[int] = Stream("s3")
    events: Any = closed.events()
    await events.aclose()
    assert closed.reason == "its consumer closed it"
    unread: Stream[int] = Stream("s4")
    unread.events()
    assert not unread.closed  # nobody had asked for anything


@pytest.mark.anyio
async def test_options_that_cannot_be_are_refused_and_leave_the_stream_alone() -> None:
    stream: Stream[int] = Stream("s1")
    with pytest.raises(NotAFunction, match="format"):
        stream.events(format="json")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="heartbeat: expected seconds above 0"):
        stream.events(heartbeat=0)
    with pytest.raises(ConfigurationError, match="retry: expected seconds from 0"):
        stream.events(retry=-1)
    with pytest.raises(ConfigurationError, match="event: expected one line"):
        stream.events(end="a\nb")
    stream.done()
    assert [sent async for sent in stream.events()] == [b"event: end\ndata: \n\n"]


# -- in an application ------------------------------------------------------------------------------------------------


def starlette(stream: Stream[Any]) -> Any:
    async def events(request: Request) -> Response:
        if stream.over:
            return Response(status_code=204)
        try:
            return StreamingResponse(stream.events(heartbeat=0.02), media_type="text/event-stream")
        except StreamInUse:
            return Response(status_code=409)

    return Starlette(routes=[Route("/orders", events)])


def plain(stream: Stream[Any]) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if stream.over:
            await send({"type": "http.response.start", "status": 204})
            await send({"type": "http.response.body"})
            return
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        async for sent in stream.events():
            await send({"type": "http.response.body", "body": sent, "more_body": True})
        await send({"type": "http.response.body"})

    return app


@pytest.mark.anyio
@pytest.mark.parametrize("made", [starlette, plain])
async def test_a_response_is_sent_as_items_come_and_who_asks_again_has_a_204(made: Any) -> None:
    stream: Stream[str] = Stream("s1")
    app, server, again = made(stream), StrictASGIServer(), StrictASGIServer()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.run, app)
        for number, item in enumerate(("tea", "milk"), 1):
            await stream.put(item)
            await auntil(lambda number=number: server.body.count(b"id: ") == number)  # type: ignore[misc]
        stream.done()
    assert server.status == 200
    assert (
        server.body.replace(b": heartbeat\n\n", b"")
        == b"id: 1\ndata: tea\n\nid: 2\ndata: milk\n\nevent: end\ndata: \n\n"
    )
    await again.run(app)
    assert (again.status, again.body) == (204, b"")


@pytest.mark.anyio
async def test_a_client_that_left_is_noticed_at_the_heartbeat_and_frees_the_producer() -> None:
    stream: Stream[int] = Stream("s1", maxsize=1)
    server = StrictASGIServer(leaves_at=2, tells=True)

    async def serve() -> None:
        with pytest.raises(ClientDisconnect):
            await server.run(starlette(stream))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(serve)
        await stream.put(0)
        await auntil(lambda: server.left)
        await auntil(lambda: stream.closed)
        with pytest.raises(StreamClosed, match="its consumer broke off"):
            await stream.put_all(range(100))
    assert server.body == b"id: 1\ndata: 0\n\n"
