"""What `start_response` is called with: read, and written."""

import functools
from http import HTTPStatus
from typing import Any

__all__ = ["code_of", "content_type_of", "path_of", "status_line"]


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


def path_of(environ: dict[str, Any]) -> str:
    """The path of a request, that the application is mounted at included (PEP 3333: bytes as latin-1)."""
    path = f"{environ.get('SCRIPT_NAME', '')}{environ.get('PATH_INFO', '')}"
    return path.encode("latin-1").decode("utf-8", "replace")
