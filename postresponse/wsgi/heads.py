"""What `start_response` is called with: read, and written."""

import functools
from http import HTTPStatus

__all__ = ["code_of", "content_type_of", "status_line"]


@functools.lru_cache(maxsize=256)
def code_of(status: str) -> int:
    """The code of a status line."""
    return int(status[:3])


def status_line(code: int) -> str:
    """A status line for *code*."""
    try:
        return f"{code} {HTTPStatus(code).phrase}"
    except ValueError:
        return f"{code} Unknown"


def content_type_of(headers: list[tuple[str, str]]) -> str:
    """The content type among *headers*, or an empty string."""
    return next((value for name, value in headers if len(name) == 12 and name.lower() == "content-type"), "")
