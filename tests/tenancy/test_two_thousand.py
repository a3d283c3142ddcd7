"""Two thousand requests of two tenants at once: whose work is it, in what order, and what does it see?"""

from collections import Counter, defaultdict
from contextvars import ContextVar
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from fastapi import FastAPI, Request
from starlette.middleware.base import BaseHTTPMiddleware

from postresponse import after_response
from postresponse.asgi import PostResponseMiddleware
from postresponse.tenancy.asgi import TenantLimitMiddleware
from postresponse.work import BulkheadLimits, TaskSupervisor
from tests.fakes import StrictASGIServer
from tests.work.waiting import aidle

REQUESTS = 2000
LIMITS = BulkheadLimits(max_concurrency=20, max_queue=REQUESTS, timeout=100.0)
who: ContextVar[str] = ContextVar("who", default="nobody")


@pytest.mark.parametrize("with_base", [False, True], ids=["", "BaseHTTPMiddleware"])
def test_no_work_is_swapped_its_order_is_kept_and_it_sees_what_its_request_saw(with_base: bool) -> None:
    ran: defaultdict[str, list[str]] = defaultdict(list)
    inside, most = Counter[str](), Counter[str]()

    def note(key: str, step: str) -> None:
        ran[key].append(f"{step} {who.get()}")

    async def note_later(key: str, step: str) -> None:
        await anyio.lowlevel.checkpoint()
        note(key, step)

    def leave_work(key: str) -> None:
        who.set(key)
        for step in ("1", "2", "3"):
            after_response(note, key, step)
        after_response(note_later, key, "a")
        who.set("somebody else")

    application = FastAPI()

    @application.get("/async/{key}")
    async def answer(key: str, request: Request) -> str:
        inside[key[0]] += 1
        most[key[0]] = max(most[key[0]], inside[key[0]])
        await anyio.sleep(0.001)
        leave_work(key)
        inside[key[0]] -= 1
        return key

    @application.get("/sync/{key}")
    def answer_on_a_thread(key: str) -> str:
        leave_work(key)
        return key

    async def through(request: Request, call_next: Any) -> Any:
        return await call_next(request)

    async def main() -> list[StrictASGIServer]:
        supervisor = TaskSupervisor(max_threads=8)
        if with_base:
            application.add_middleware(BaseHTTPMiddleware, dispatch=through)
        served = PostResponseMiddleware(application, supervisor=supervisor)
        limited = TenantLimitMiddleware(served, key=lambda scope: scope["path"][-6], limits=LIMITS)
        servers = []
        async with anyio.create_task_group() as tasks:
            for number in range(REQUESTS):
                server = StrictASGIServer()
                server.scope["path"] = f"/{('async', 'sync')[number // 2 % 2]}/{'ab'[number % 2]}{number:05}"
                servers.append(server)
                tasks.start_soon(server.run, limited)
        await aidle(supervisor)
        assert limited.load() == []
        return servers

    servers = anyio.run(main)
    keys = [server.scope["path"].rpartition("/")[2] for server in servers]
    assert [(server.status, server.body.decode()) for server in servers] == [(200, f'"{key}"') for key in keys]
    assert set(ran) == set(keys)
    for key, steps in ran.items():
        assert sorted(steps) == [f"{step} {key}" for step in ("1", "2", "3", "a")]
        assert [step for step in steps if step[0] != "a"] == [f"{step} {key}" for step in ("1", "2", "3")]
    assert 1 < most["a"] <= 20
    assert 1 < most["b"] <= 20
