"""Tenants in front of an ASGI application."""

import logging
import threading
from typing import Any

import anyio
import anyio.to_thread
import pytest

from postresponse.asgi import PostResponseMiddleware
from postresponse.exceptions import ConfigurationError, TooLate, WrongApplication
from postresponse.tenancy import Load
from postresponse.tenancy.asgi import TenantLimitMiddleware
from postresponse.work import BulkheadLimits
from tests.fakes import BODY, START, FakeUnits, StrictASGIServer, run_asgi
from tests.work.waiting import auntil

ONE = BulkheadLimits(max_concurrency=1, max_queue=1, timeout=5)

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def tenant(scope: Any) -> str:
    return str(dict(scope["headers"])[b"tenant"].decode())


async def answer(send: Any, body: bytes = b"done") -> None:
    await send({"type": START, "status": 200, "headers": []})
    await send({"type": BODY, "body": body})


class House:
    """An application that holds each request until it is let go, and says who is inside."""

    def __init__(self, limits: Any = ONE, **options: Any) -> None:
        self.inside: list[str] = []
        self.ended: list[str] = []
        self.served: list[str] = []
        self.go = anyio.Event()
        self.app = TenantLimitMiddleware(self._app, key=tenant, limits=limits, **options)
        self.servers: list[StrictASGIServer] = []

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        name = dict(scope["headers"])[b"name"].decode()
        self.inside.append(name)
        try:
            await self.go.wait()
            await answer(send, name.encode())
            self.served.append(name)
        finally:
            self.ended.append(name)

    def come(self, tasks: Any, name: str, headers: tuple[tuple[bytes, bytes], ...] = ()) -> StrictASGIServer:
        """Let a request of the tenant that *name* begins with come."""
        given = [(b"tenant", name[:1].encode()), (b"name", name.encode()), *headers]
        server = StrictASGIServer(headers=given)
        self.servers.append(server)
        tasks.start_soon(server.run, self.app)
        return server


async def test_a_full_tenant_waits_and_is_refused_while_the_other_is_served_at_once() -> None:
    house = House()
    async with anyio.create_task_group() as tasks:
        house.come(tasks, "a1")
        await auntil(lambda: house.inside == ["a1"])
        waiting = house.come(tasks, "a2")
        await auntil(lambda: house.app.load() == [Load("a", None, 1, 1)])
        refused = house.come(tasks, "a3")
        other = house.come(tasks, "b1")
        await auntil(lambda: refused.complete and house.inside == ["a1", "b1"])
        assert refused.status == 429
        assert (b"retry-after", b"1") in refused.headers
        assert (b"content-type", b"application/problem+json") in refused.headers
        assert not waiting.messages
        house.go.set()
    assert [other.body, waiting.body] == [b"b1", b"a2"]
    assert house.inside == ["a1", "b1", "a2"]
    assert house.app.load() == []


async def test_without_a_key_the_refusal_is_503_and_in_html_where_that_is_preferred() -> None:
    held = anyio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await held.wait()
        await answer(send)

    limited = TenantLimitMiddleware(app, key=None, limits=BulkheadLimits(1, 0), retry_after=2.5)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(StrictASGIServer().run, limited)
        await auntil(limited.load)
        server = await StrictASGIServer(headers=[(b"accept", b"text/html")]).run(limited)
        head = await StrictASGIServer("HEAD").run(limited)
        held.set()
    assert (server.status, head.status, head.body) == (503, 503, b"")
    assert (b"retry-after", b"3") in server.headers
    assert server.body.startswith(b"<!doctype html>")


async def test_who_leaves_while_it_waits_is_never_served_and_its_place_is_free_at_once() -> None:
    house = House()
    async with anyio.create_task_group() as tasks:
        house.come(tasks, "a1")
        await auntil(lambda: house.inside == ["a1"])
        gone = house.come(tasks, "a2")
        await auntil(lambda: house.app.load() == [Load("a", None, 1, 1)])
        gone.leave()
        await auntil(lambda: house.app.load() == [Load("a", None, 1, 0)])
        house.come(tasks, "a3")
        await auntil(lambda: house.app.load() == [Load("a", None, 1, 1)])
        house.go.set()
    assert house.served == ["a1", "a3"]
    assert house.inside == ["a1", "a3"]
    assert not gone.messages


async def test_a_server_that_cancels_a_request_that_waits_gets_its_place_back() -> None:
    house = House()
    async with anyio.create_task_group() as tasks:
        house.come(tasks, "a1")
        await auntil(lambda: house.inside == ["a1"])
        async with anyio.create_task_group() as cancelled:
            house.come(cancelled, "a2")
            await auntil(lambda: house.app.load() == [Load("a", None, 1, 1)])
            cancelled.cancel_scope.cancel()
        assert house.app.load() == [Load("a", None, 1, 0)]
        house.go.set()
    assert house.app.load() == []


async def test_who_leaves_while_it_is_served_is_cancelled_and_its_finally_runs() -> None:
    house = House()
    async with anyio.create_task_group() as tasks:
        gone = house.come(tasks, "a1")
        await auntil(lambda: house.inside == ["a1"])
        house.come(tasks, "a2")
        await auntil(lambda: house.app.load() == [Load("a", None, 1, 1)])
        gone.leave()
        await auntil(lambda: house.ended == ["a1"] and house.inside == ["a1", "a2"])
        house.go.set()
    assert house.served == ["a2"]


async def test_a_thread_keeps_its_slot_until_it_ends() -> None:
    held, started = threading.Event(), anyio.Event()
    inside: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        inside.append(1)
        started.set()
        await anyio.to_thread.run_sync(held.wait, 5)
        await answer(send)

    limited = TenantLimitMiddleware(app, key=tenant, limits=ONE)
    server = StrictASGIServer(headers=[(b"tenant", b"a")])
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.run, limited)
        await started.wait()
        tasks.start_soon(StrictASGIServer(headers=[(b"tenant", b"a")]).run, limited)
        await auntil(lambda: limited.load() == [Load("a", None, 1, 1)])
        server.leave()
        await anyio.sleep(0.05)
        assert limited.load() == [Load("a", None, 1, 1)]
        assert len(inside) == 1
        held.set()
    assert len(inside) == 2
    assert limited.load() == []


async def test_what_waits_too_long_is_answered_with_503_and_is_never_served() -> None:
    house = House(BulkheadLimits(1, 1, timeout=0.05))
    endless = House(BulkheadLimits(1, 1, timeout=None))
    async with anyio.create_task_group() as tasks:
        endless.come(tasks, "a1")
        late = House(BulkheadLimits(1, 1, timeout=0.05))
        late.app._admission.enter({"headers": [(b"tenant", b"a")]}, "/", int)  # somebody else's slot, held
        server = late.come(tasks, "a2")
        await auntil(lambda: server.complete)
        assert endless.inside == ["a1"]
        endless.go.set()
    assert server.status == 503
    assert b"waited too long" in server.body
    assert (b"retry-after", b"1") in server.headers
    assert late.inside == []
    assert late.app.load() == [Load("a", None, 1, 0)]
    assert house.app.load() == []


async def test_what_is_served_too_long_is_cancelled_and_answered_with_503(caplog: pytest.LogCaptureFixture) -> None:
    house = House(BulkheadLimits(1, 1, timeout=0.02))
    async with anyio.create_task_group() as tasks:
        server = house.come(tasks, "a1")
    assert server.status == 503
    assert b"took too long" in server.body
    assert house.ended == ["a1"]
    assert [record.getMessage() for record in caplog.records] == [
        "GET /orders: cut off, because it took longer than 0.02 s"
    ]


async def test_a_stream_that_takes_too_long_is_cut_off_by_an_error_that_the_server_sees() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": START, "status": 200, "headers": []})
        while True:
            await send({"type": BODY, "body": b"x", "more_body": True})
            await anyio.sleep(0.005)

    limited = TenantLimitMiddleware(app, key=None, limits=BulkheadLimits(1, 1, timeout=0.03))
    server = StrictASGIServer()
    with pytest.raises(TooLate, match=r"not complete after 0\.03 s"):
        await server.run(limited)
    assert server.status == 200
    assert limited.load() == []


async def test_what_runs_behind_a_complete_response_is_not_cancelled_by_its_client() -> None:
    ran = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await answer(send)
        await anyio.sleep(0.02)
        ran.append((await receive())["type"])

    server = await StrictASGIServer().run(TenantLimitMiddleware(app, key=None, limits=ONE))
    assert server.body == b"done"
    assert ran == ["http.disconnect"]


async def test_an_application_that_raises_gives_its_slot_back() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise KeyError("mine")

    limited = TenantLimitMiddleware(app, key=None, limits=ONE)
    with pytest.raises(KeyError, match="mine"):
        await StrictASGIServer().run(limited)
    assert limited.load() == []


async def test_the_request_body_reaches_the_application_whole() -> None:
    got = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while True:
            message = await receive()
            got.append(message["body"])
            if not message["more_body"]:
                break
        await answer(send)

    server = StrictASGIServer("POST", body=[b"a", b"b", b"c"])
    await server.run(TenantLimitMiddleware(app, key=None, limits=ONE))
    assert got == [b"a", b"b", b"c"]


async def test_nothing_is_read_before_the_application_wants_it_where_the_client_waits_for_100_continue() -> None:
    house = House()
    async with anyio.create_task_group() as tasks:
        server = house.come(tasks, "a1", headers=((b"expect", b"100-continue"),))
        await auntil(lambda: house.inside == ["a1"])
        await anyio.sleep(0.01)
        assert not server._receiving
        assert server._requests == [b""]
        house.go.set()
    assert house.served == ["a1"]


async def test_a_client_that_leaves_rolls_the_unit_of_work_inside_back() -> None:
    units, started = FakeUnits(is_async=True), anyio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        started.set()
        await anyio.sleep_forever()

    limited = TenantLimitMiddleware(PostResponseMiddleware(app, unit_of_work=units), key=None, limits=ONE)
    server = StrictASGIServer()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.run, limited)
        await started.wait()
        server.leave()
    assert units.log == ["begin", "rollback", "close"]
    assert limited.load() == []


async def test_a_failing_key_is_answered_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await answer(send)

    server = await StrictASGIServer().run(TenantLimitMiddleware(app, key=tenant))
    assert server.status == 500
    assert caplog.records[0].levelno == logging.ERROR
    served = await StrictASGIServer().run(TenantLimitMiddleware(app, key=tenant, on_key_error="admit"))
    assert served.body == b"done"


async def test_what_is_no_request_passes() -> None:
    seen = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["type"])

    limited = TenantLimitMiddleware(app, key=tenant)
    for kind in ("websocket", "lifespan", "unknown"):
        await limited({"type": kind}, None, None)
    assert seen == ["websocket", "lifespan", "unknown"]


def test_two_event_loops_share_the_limits_of_one_application(anyio_backend: str) -> None:
    held, inside = threading.Event(), []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        inside.append(threading.get_ident())
        if len(inside) == 1:
            await anyio.to_thread.run_sync(held.wait, 5)
        await answer(send)

    limited = TenantLimitMiddleware(app, key=None, limits=ONE)
    threads = [threading.Thread(target=run_asgi, args=(limited, anyio_backend)) for _ in range(2)]
    threads[0].start()
    anyio.run(auntil, lambda: len(inside) == 1)
    threads[1].start()
    anyio.run(auntil, lambda: limited.load() == [Load(None, None, 1, 1)])
    held.set()
    for thread in threads:
        thread.join(5)
    assert len(set(inside)) == 2
    assert limited.load() == []


def test_options_are_checked_where_they_are_given() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None: ...

    def wsgi_app(environ: Any, start_response: Any) -> Any: ...

    with pytest.raises(ConfigurationError, match="did you mean 'limits'"):
        TenantLimitMiddleware(app, key=tenant, limit=ONE)  # type: ignore[call-arg]
    with pytest.raises(WrongApplication, match=r"use postresponse\.tenancy\.wsgi\.TenantLimitMiddleware"):
        TenantLimitMiddleware(wsgi_app, key=tenant)  # type: ignore[arg-type]
