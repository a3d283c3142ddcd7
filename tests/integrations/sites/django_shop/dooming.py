"""A middleware that rolls a request back whose header says so, whatever its view has done."""

from collections.abc import Callable
from typing import Any

from django.http import HttpRequest, HttpResponse

from postresponse import doom

__all__ = ["Dooming"]


class Dooming:
    """Dooms what is sent with `X-Doomed`."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> Any:
        """Handle one request."""
        if "X-Doomed" in request.headers:
            doom("asked for")
        return self._get_response(request)
