"""A middleware that rolls a request back whose header says so, whatever its view has done."""

from typing import Any

from asgiref.sync import iscoroutinefunction
from django.http import HttpRequest
from django.utils.decorators import sync_and_async_middleware

from postresponse import doom

__all__ = ["dooming"]


@sync_and_async_middleware  # type: ignore[untyped-decorator]
def dooming(get_response: Any) -> Any:
    """Doom what is sent with `X-Doomed`."""

    def look(request: HttpRequest) -> None:
        if "X-Doomed" in request.headers:
            doom("asked for")

    if iscoroutinefunction(get_response):

        async def answer(request: HttpRequest) -> Any:
            look(request)
            return await get_response(request)

        return answer

    def answer_sync(request: HttpRequest) -> Any:
        look(request)
        return get_response(request)

    return answer_sync
