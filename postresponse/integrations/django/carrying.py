"""An exchange through one request and response of Django's: what the core says becomes the response's own."""

import weakref
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from time import monotonic_ns
from typing import Any

from asgiref.sync import async_to_sync, sync_to_async
from django.http import HttpResponse

from postresponse.core.current import current
from postresponse.core.exchange import KEY
from postresponse.core.lifecycle import MOVES, CommitPoint, Event, State
from postresponse.core.settings import Settings
from postresponse.integrations.django.rendering import REQUEST
from postresponse.integrations.django.routes import tell_route
from postresponse.shielding import shielded
from postresponse.unit_of_work.django import begin_units
from postresponse.wsgi.exchange import WSGIExchange

__all__ = ["Carried", "on_thread"]

Head = tuple[str, list[tuple[str, str]]]


class Carried:
    """The exchange of one request, between the entry and the rest of Django.

    Django closes each response, and then says `request_finished`, at which connections are closed: what is left to be
    done is done by a closer of the response, which comes before.
    """

    def __init__(self, settings: Settings, request: Any) -> None:
        self._request = request
        self._left: Head = ("", [])
        self.exchange: WSGIExchange = WSGIExchange(settings, request.META, monotonic_ns(), None, self._take_head)
        request.META[KEY] = self.exchange
        vars(self.exchange)[REQUEST] = weakref.ref(request)
        current.set(self.exchange)
        if settings.observers:
            self.exchange._begin_observed(settings.observers)

    def _take_head(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> None:
        """What stands for the server's `start_response`."""
        self._left = (status, headers)

    def begin(self) -> Any:
        """Begin the unit of work; return what answers where that fails, else None."""
        if self.exchange._settings.unit_of_work is not None and not self.exchange._open():
            return self._replacement(self.exchange._replaced(), None)
        begin_units(self.exchange)
        return None

    def answer(self, response: Any) -> Any:
        """Take *response* to its decision, and return what Django is to send."""
        if response.streaming and response.is_async and hasattr(self._request, "scope"):
            return self._answer_stream_here(response)
        head, size = self._start(response)
        parts: Any = [response.content] if not response.streaming else iter(response)
        body = self.exchange._take(parts)
        if self._is_replaced:
            return self._replacement(body, response)
        if self._left != head:
            _give_head(response, self._left)
        if response.streaming:
            response.streaming_content = body  # which has it closed with the response
        elif hasattr(body, "close"):
            _take_all(body, size)
            response._resource_closers.append(body.close)
        return response

    async def answer_stream(self, response: Any) -> Any:
        """Do the same with an async stream, which stays in the task that Django iterates it in."""
        source, fed = response.streaming_content, _Fed()
        exchange = self.exchange
        try:
            head, _ = await on_thread(self._start, response)
            if exchange._state is State.DECIDED:
                await fed.fill(source, self._needed())
            body = await on_thread(exchange._take, fed)
        except BaseException:
            await source.aclose()
            raise
        if self._is_replaced:
            await source.aclose()
            return self._replacement(body, response)
        return self._streamed(response, head, body, source, fed)

    def _answer_stream_here(self, response: Any) -> Any:
        """Do that on the request's thread, where a middleware further in has no async form.

        At the head it is decided before the body begins: its first part would be made in another task than the others.
        """
        source, fed = response.streaming_content, _Fed()
        exchange = self.exchange
        head, _ = self._start(response)
        if exchange._state is State.DECIDED and exchange._moves is MOVES[CommitPoint.BUFFERED]:
            async_to_sync(fed.fill)(source, self._needed())
        elif exchange._state is State.DECIDED:
            exchange._reach(Event.BODY)
        body = exchange._take(fed)
        if self._is_replaced:
            async_to_sync(source.aclose)()
            return self._replacement(body, response)
        return self._streamed(response, head, body, source, fed)

    def _streamed(self, response: Any, head: Head, body: Any, source: Any, fed: "_Fed") -> Any:
        if self._left != head:
            _give_head(response, self._left)
        response.streaming_content = self._passed(body, source, fed)
        response._resource_closers.append(body.close)
        return response

    def break_off(self, error: BaseException) -> None:
        """End the exchange since *error* passes, unless it has ended."""
        self.exchange._ended_by(error)

    def _start(self, response: Any) -> tuple[Head, int]:
        """Give the exchange the head of *response*; return it, and the length of a body that is no stream."""
        tell_route(self._request, self._request.META)
        headers = [*response.items(), *(("Set-Cookie", each.OutputString()) for each in response.cookies.values())]
        size = 0 if response.streaming else len(response.content)
        is_sized = not response.streaming and response.status_code not in (204, 304)
        if is_sized and not response.has_header("Content-Length"):
            headers.append(("Content-Length", str(size)))  # else it could not be told from one that is cut off
        head = (f"{response.status_code} {response.reason_phrase}", headers)
        self.exchange.start_response(head[0], list(headers))
        return head, size

    def _needed(self) -> float:
        """How many bytes the exchange wants before it decides."""
        if self.exchange._moves is not MOVES[CommitPoint.BUFFERED]:
            return 1
        limit = self.exchange.policy.max_body
        return float("inf") if limit is None else limit + 1

    @property
    def _is_replaced(self) -> bool:
        return self.exchange._state is State.REPLACED

    def _replacement(self, body: Any, dropped: Any) -> Any:
        """Make the response that stands for *dropped*, whose resources are closed with it."""
        length = next((int(value) for name, value in self._left[1] if name.lower() == "content-length"), 0)
        made = HttpResponse(_take_all(body, length))
        _give_head(made, self._left)
        if dropped is not None:
            made._resource_closers.extend(dropped._resource_closers)
        made._resource_closers.append(body.close)
        return made

    async def _passed(self, body: Any, source: Any, fed: "_Fed") -> AsyncIterator[bytes]:
        """Give the parts of *source* on, each through the exchange, which counts them and sees the end."""
        try:
            for part in body:
                if part:
                    yield part
                elif fed.is_dry:
                    await fed.fill(source, 1)
        except Exception as error:
            await on_thread(self.break_off, error)
            raise
        finally:
            await source.aclose()


async def on_thread(call: Callable[..., Any], *args: Any) -> Any:
    """Call on the thread of the request's views, to the end whatever is cancelled meanwhile."""
    return await shielded(sync_to_async(call, thread_sensitive=True), *args)


class _Fed:
    """The body of an async stream as the exchange takes it: it is given its parts, and without one it gives b""."""

    def __init__(self) -> None:
        self._parts: deque[bytes] = deque()
        self._has_ended = False

    @property
    def is_dry(self) -> bool:
        """Whether it wants a part."""
        return not self._parts and not self._has_ended

    async def fill(self, source: Any, size: float) -> None:
        """Take so many bytes of *source*, or all there are."""
        while size > 0:
            try:
                part = await anext(source)
            except StopAsyncIteration:
                self._has_ended = True
                return
            if part:
                self._parts.append(part)
                size -= len(part)

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if self._parts:
            return self._parts.popleft()
        if self._has_ended:
            raise StopIteration
        return b""


def _take_all(body: Any, size: int) -> bytes:
    """Take *size* bytes of *body*, and do not ask for its end: that is the server's, which is not seen here."""
    taken: list[bytes] = []
    parts = iter(body)
    while size > 0:
        part = next(parts, None)
        if part is None:
            break
        taken.append(part)
        size -= len(part)
    return b"".join(taken)


def _give_head(response: Any, head: Head) -> None:
    """Have *response* say what the exchange would have told a server."""
    status, headers = head
    response.status_code, response.reason_phrase = int(status[:3]), status[4:]
    for name in [name for name, _ in response.items()]:
        del response[name]
    response.cookies.clear()
    for name, value in headers:
        if name.lower() == "set-cookie":
            response.cookies.load(value)
        else:
            response[name] = f"{response[name]}, {value}" if response.has_header(name) else value
