"""Flask: server-sent events that end with the session, each on a thread of the server.

.venv/bin/gunicorn --worker-class gthread --threads 20 --chdir examples --bind 127.0.0.1:8000 sse_flask:app
curl -c ann -X POST localhost:8000/login ; curl -N -b ann localhost:8000/events &
curl -b ann -X POST localhost:8000/logout          # the stream says bye, and ends
curl -i -b ann localhost:8000/events               # 204: an EventSource that comes back gives up
"""

import secrets
import time
from collections.abc import Iterator

from flask import Flask, Response, make_response, request

from postresponse.work import Valve, ValveGroup
from postresponse.wsgi import PostResponseMiddleware

app = Flask(__name__)
app.wsgi_app = PostResponseMiddleware(app.wsgi_app)  # type: ignore[method-assign]
sessions: set[str] = set()
valves: ValveGroup[str] = ValveGroup()
streams: set[Valve] = set()


@app.post("/login")
def login() -> Response:
    """Begin a session."""
    sessions.add(session := secrets.token_hex(8))
    response = make_response("welcome")
    response.set_cookie("session", session)
    return response


@app.post("/logout")
def logout() -> str:
    """End the session, and its streams with it."""
    sessions.discard(session := request.cookies.get("session", ""))
    return f"{valves.close(session, 'logged out')} streams ended"


@app.get("/events")
def events() -> Response:
    """Send the time, and a last event when the session ends."""
    valve = valves.open(session := request.cookies.get("session", ""))  # first: a logout from now on closes it
    if session not in sessions:
        return Response(status=204)
    return Response(_stream(valve), mimetype="text/event-stream")


def _stream(valve: Valve) -> Iterator[str]:
    streams.add(valve)
    try:
        yield from valve.guard_sync(_times())
        yield f"event: bye\ndata: {valve.reason}\n\n"
    finally:
        streams.discard(valve)


def _times() -> Iterator[str]:
    """Give something often: a valve is looked at between items, and a client that is gone is noticed by a write."""
    while True:
        yield f"event: time\ndata: {time.time():.1f}\n\n"
        time.sleep(0.1)


@app.get("/streams")
def count() -> str:
    """How many streams are open."""
    return str(len(streams))
