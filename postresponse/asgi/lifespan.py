"""Lifespan, answered where the application does not."""

from typing import Any, Final

from postresponse.core.log import logger
from postresponse.observing.late import tally
from postresponse.typing import ASGIApplication
from postresponse.work.supervisor import TaskSupervisor

__all__ = ["answer_lifespan"]


# How applications decline a scope that they do not know: an assertion, a key that is missing, a type they refuse. Any
# other error is one of its own, and the server shall see it.
DECLINES: Final = (AssertionError, LookupError, TypeError, ValueError, NotImplementedError)


async def answer_lifespan(
    app: ASGIApplication, scope: Any, receive: Any, send: Any, supervisor: TaskSupervisor
) -> None:
    """Pass lifespan on, and answer it where the application does not know it: it raises or returns without asking.

    At the shutdown the supervisor is drained first: what work needs is the application's, and still there. Then it is
    summed up which routes committed late.
    """
    asked = False

    async def hear() -> Any:
        message = await receive()
        if message["type"] == "lifespan.startup":
            supervisor.open()
        elif message["type"] == "lifespan.shutdown":
            await supervisor.aclose()
            tally.tell()
        return message

    async def ask() -> Any:
        nonlocal asked
        asked = True
        return await hear()

    try:
        await app(scope, ask, send)
    except DECLINES as error:
        if asked:
            raise
        logger.info("the application does not know lifespan, which is answered in its place: %r", error)
    if not asked:
        for kind in ("lifespan.startup", "lifespan.shutdown"):
            if (await hear())["type"] != kind:
                return
            await send({"type": f"{kind}.complete"})
