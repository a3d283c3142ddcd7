"""The entry of MIDDLEWARE: an exchange inside of Django's handler, where nobody can put it around.

What Django hands to a middleware is a request and a response, and not the server. So the entry drives an exchange of
the core's through them, always the sync one: the views' database connections live on the request's thread, under ASGI
too, and so do the unit of work, its hooks and the `close` of a response. What it cannot see there it does not claim;
the docstring of the class lists it.
"""

from asyncio import get_running_loop
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from typing import Any

from asgiref.sync import iscoroutinefunction, markcoroutinefunction

from postresponse.core.exchange import KEY
from postresponse.core.settings import Settings
from postresponse.exceptions import ConfigurationError
from postresponse.integrations.django.carrying import Carried, on_thread
from postresponse.integrations.django.options import SETTING, options_for
from postresponse.integrations.django.rendering import page_for
from postresponse.wsgi import PostResponseMiddleware as WSGIMiddleware

__all__ = ["PostResponseMiddleware"]


class PostResponseMiddleware:
    """The middleware as an entry of MIDDLEWARE, the first one; its options are the setting POSTRESPONSE.

    For projects whose `wsgi.py` or `asgi.py` is not theirs, and for Django's test client, which passes by what stands
    there. Inside of `get_wsgi_application()` or `get_asgi_application()` of this package it steps aside, so that both
    may be there. Sync and async; it keeps the rules of when and whether to commit, and these are its limits:

    - The outcome says at best `unconfirmed` of a body that is no stream: Django has taken it, and whether its client
      stayed is not seen; of a response without a body its `handed_over` means no more. Of a stream the end is seen.
    - `Retry` is refused: a request that a view has read cannot be given again.
    - Hooks and callbacks are plain functions, under ASGI too, where `exchange.scope` is `request.META`; work after the
      response may be async.
    - `handler500` answers in place of what could not be committed, and no `process_exception`.
    - A file is sent in parts, and not by the server's `wsgi.file_wrapper`; an async stream that is held `"buffered"` is
      held in memory; behind a middleware without an async form one commits at the head before its first part is made.
    - A server that cancels a request while its response leaves, as at its shutdown, ends no exchange: with
      `"after_send"` the transaction is then lost with its connection, and work after the response does not start.
    - With Django's `AsyncClient` nothing can be committed `"after_send"`: it closes responses on another thread.
    - The lifespan of ASGI is not seen: uvicorn, for one, ends without waiting for the work after responses.

    Raises:
        ConfigurationError: POSTRESPONSE has an unknown option. A value that it cannot have is told of by
            `manage.py check`, or by the first request.
    """

    sync_capable: bool = True
    async_capable: bool = True

    def __init__(self, get_response: Callable[[Any], Any]) -> None:
        self.get_response: Callable[[Any], Any] = get_response
        self._options = options_for(WSGIMiddleware, page_for)
        self._is_async = iscoroutinefunction(get_response)
        if self._is_async:
            markcoroutinefunction(self)

    @cached_property
    def _settings(self) -> Settings:
        """Made when it is needed: what an outer ASGI middleware is told may be none for this one."""
        settings = WSGIMiddleware(_nothing, **self._options)._settings
        if settings.policy.retry is not None:
            raise ConfigurationError(
                f"{SETTING}['COMMIT']: a Retry needs get_wsgi_application() or get_asgi_application() of "
                "postresponse.integrations.django around the project; an entry of MIDDLEWARE cannot run a request again"
            )
        return replace(settings, retries=False)

    def __call__(self, request: Any) -> Any:
        """Handle one request."""
        if self._is_async:
            return self._answer_async(request)
        if _is_carried(request):
            return self.get_response(request)
        carried = Carried(self._settings, request)
        try:
            return carried.begin() or carried.answer(self.get_response(request))
        except BaseException as error:
            carried.break_off(error)
            raise

    async def _answer_async(self, request: Any) -> Any:
        if _is_carried(request):
            return await self.get_response(request)
        carried = Carried(self._settings, request)
        carried.exchange._loop = get_running_loop()
        try:
            refusal = await on_thread(carried.begin)
            if refusal is not None:
                return refusal
            response = await self.get_response(request)
            if response.streaming and response.is_async:
                return await carried.answer_stream(response)
            return await on_thread(carried.answer, response)
        except BaseException as error:
            await on_thread(carried.break_off, error)
            raise


def _is_carried(request: Any) -> bool:
    return KEY in request.META or KEY in getattr(request, "scope", ())


def _nothing(environ: Any, start_response: Any) -> Any:
    raise AssertionError("nobody calls it")
