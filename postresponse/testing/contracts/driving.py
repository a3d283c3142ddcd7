"""A request through the middleware without a server: what the client is given, and what is so when its head leaves."""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from postresponse import asgi, wsgi
from postresponse.core.exchange import Exchange
from postresponse.core.lifecycle import Outcome

__all__ = ["Answer", "Handler", "Protocol", "ask"]

Protocol = Literal["asgi", "wsgi"]
Handler = Callable[[Exchange], Any]
"""What the application does with a request; awaited under ASGI if it returns something to be awaited."""


@dataclass
class Answer:
    """What came of one request.

    Attributes:
        status: As the client got it; 0 if it got none.
        headers: The names of those that it got.
        body: What it got.
        at_head: What `look` returned when the head left.
        outcome: As it was told; None if it was not.
        raised: What came out of the middleware.
    """

    status: int = 0
    headers: list[str] = field(default_factory=list)
    body: bytes = b""
    at_head: Any = None
    outcome: Outcome | None = None
    raised: BaseException | None = None

    def finished(self, outcome: Outcome) -> None:
        """Take down how it ended."""
        self.outcome = outcome


def ask(
    protocol: Protocol, factory: Any, handler: Handler, look: Callable[[], Any], *, commit: Any, status: int = 201
) -> Answer:
    """Send one request to *handler*, whose response has a status, a cookie and two pieces."""
    answer = Answer()
    if protocol == "wsgi":
        _ask_wsgi(answer, factory, handler, look, commit, status)
    else:
        asyncio.run(_ask_asgi(answer, factory, handler, look, commit, status))
    return answer


def _ask_wsgi(answer: Answer, factory: Any, handler: Handler, look: Any, commit: Any, status: int) -> None:
    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        handler(environ["postresponse.exchange"])
        start_response(f"{status} As asked", [("Set-Cookie", "a=b")])
        return iter([b"sto", b"red"])

    def start_response(said: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        answer.status, answer.headers = int(said.split()[0]), [name.lower() for name, _ in headers]
        answer.at_head = look()
        return lambda data: None

    wrapped = wsgi.PostResponseMiddleware(app, unit_of_work=factory, commit=commit, on_finished=answer.finished)
    environ: dict[str, Any] = {"REQUEST_METHOD": "POST", "PATH_INFO": "/contract", "SERVER_PROTOCOL": "HTTP/1.1"}
    try:
        body = wrapped(environ, start_response)
        try:
            answer.body = b"".join(body)
        finally:
            getattr(body, "close", int)()
    except Exception as error:  # noqa: BLE001 (taken down, as a server does)
        answer.raised = error


async def _ask_asgi(answer: Answer, factory: Any, handler: Handler, look: Any, commit: Any, status: int) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        done = handler(scope["postresponse.exchange"])
        if hasattr(done, "__await__"):
            await done
        await send({"type": "http.response.start", "status": status, "headers": [(b"set-cookie", b"a=b")]})
        await send({"type": "http.response.body", "body": b"sto", "more_body": True})
        await send({"type": "http.response.body", "body": b"red"})

    async def receive() -> Any:
        await asyncio.Event().wait()

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            answer.status, answer.headers = message["status"], [name.decode() for name, _ in message["headers"]]
            answer.at_head = look()
        else:
            answer.body += message.get("body", b"")

    wrapped = asgi.PostResponseMiddleware(app, unit_of_work=factory, commit=commit, on_finished=answer.finished)
    scope = {"type": "http", "method": "POST", "path": "/contract", "headers": []}
    try:
        await wrapped(scope, receive, send)
    except Exception as error:  # noqa: BLE001 (taken down, as a server does)
        answer.raised = error
