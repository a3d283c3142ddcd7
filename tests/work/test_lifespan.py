"""At the lifespan shutdown work is waited for first: what it needs of the application is still there."""

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

from postresponse.asgi import PostResponseMiddleware
from postresponse.exceptions import SupervisorClosed
from postresponse.work import TaskSupervisor
from tests.work.conftest import Told


async def live(app: Any, meanwhile: Callable[[], Awaitable[None]]) -> list[str]:
    """Start *app* up, let something happen, shut it down, and return what it answered."""
    answers: list[str] = []
    started, ending = anyio.Event(), anyio.Event()
    asked = 0

    async def receive() -> dict[str, str]:
        nonlocal asked
        asked += 1
        if asked == 1:
            return {"type": "lifespan.startup"}
        await ending.wait()
        return {"type": "lifespan.shutdown"}

    async def send(message: Any) -> None:
        answers.append(message["type"])
        started.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(app, {"type": "lifespan"}, receive, send)
        await started.wait()
        await meanwhile()
        ending.set()
    return answers


@pytest.mark.parametrize("answers", [True, False], ids=["an application that knows lifespan", "one that does not"])
@pytest.mark.anyio
async def test_work_ends_before_the_application_shuts_down(
    supervisor: TaskSupervisor, told: Told, quiet: None, answers: bool
) -> None:
    said: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if not answers:
            raise AssertionError("no such scope")
        for kind in ("startup", "shutdown"):
            assert (await receive())["type"] == f"lifespan.{kind}"
            said.append(kind)
            await send({"type": f"lifespan.{kind}.complete"})

    async def work() -> None:
        await anyio.sleep(0.02)
        said.append("work")

    async def meanwhile() -> None:
        supervisor.launch(work)

    complete = ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    middleware = PostResponseMiddleware(app, supervisor=supervisor)
    for _ in range(2):  # it is opened again by the next startup
        said.clear()
        assert await live(middleware, meanwhile) == complete
        assert said == (["startup", "work", "shutdown"] if answers else ["work"])
        with pytest.raises(SupervisorClosed):
            supervisor.launch(work)
    assert (told.errors, told.dropped) == ([], [])


@pytest.mark.anyio
async def test_the_last_of_several_applications_closes_the_supervisor_they_share(supervisor: TaskSupervisor) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None: ...

    async def inner() -> None:
        await live(PostResponseMiddleware(app, supervisor=supervisor), nothing)
        assert await supervisor.launch(anyio.sleep, 0) is None

    async def nothing() -> None: ...

    await live(PostResponseMiddleware(app, supervisor=supervisor), inner)
    with pytest.raises(SupervisorClosed):
        supervisor.launch(anyio.sleep, 0)
