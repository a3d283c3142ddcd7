"""Server-sent events that end with the session: logging out ends every stream of it, and no other one.

.venv/bin/uvicorn --app-dir examples sse_sessions:app --port 8000
curl -c ann -X POST localhost:8000/login ; curl -N -b ann localhost:8000/events &
curl -b ann -X POST localhost:8000/logout          # the stream says bye, and ends
curl -i -b ann localhost:8000/events               # 204: an EventSource that comes back gives up
"""

import itertools
import secrets
from collections.abc import AsyncIterator
from contextlib import aclosing

from sse_starlette import EventSourceResponse
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from postresponse.asgi import PostResponseMiddleware
from postresponse.work import ValveGroup, distinct_until_changed, poll

sessions: set[str] = set()
valves: ValveGroup[str] = ValveGroup()
ticks = itertools.count()
streams: set[object] = set()


async def login(_request: Request) -> Response:
    """Begin a session."""
    sessions.add(session := secrets.token_hex(8))
    response = PlainTextResponse("welcome")
    response.set_cookie("session", session)
    return response


async def logout(request: Request) -> Response:
    """End the session, and its streams with it."""
    sessions.discard(session := request.cookies.get("session", ""))
    return PlainTextResponse(f"{valves.close(session, 'logged out')} streams ended")


async def events(request: Request) -> Response:
    """Send a number whenever it has changed, and a last event when the session ends."""
    valve = valves.open(session := request.cookies.get("session", ""))  # first: a logout from now on closes it
    if session not in sessions:
        return Response(status_code=204)

    async def stream() -> AsyncIterator[dict[str, str]]:
        streams.add(valve)
        try:
            numbers = distinct_until_changed(poll(lambda: next(ticks) // 4, interval=0.05))
            async with aclosing(valve.guard(numbers)) as guarded:
                async for number in guarded:
                    yield {"event": "number", "data": str(number)}
            yield {"event": "bye", "data": str(valve.reason)}
        finally:
            streams.discard(valve)

    return EventSourceResponse(stream(), ping=1)  # a client that is gone is noticed by the next ping


async def count(_request: Request) -> Response:
    """How many streams are open."""
    return PlainTextResponse(str(len(streams)))


routes = [
    Route("/login", login, methods=["POST"]),
    Route("/logout", logout, methods=["POST"]),
    Route("/events", events),
    Route("/streams", count),
]
app = PostResponseMiddleware(Starlette(routes=routes))
