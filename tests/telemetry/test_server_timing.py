"""Server-Timing on the way out, in every mode."""

import re
from typing import Any

import pytest

from postresponse import asgi, current_exchange, wsgi
from postresponse.telemetry.server_timing import ServerTiming
from tests.fakes import FakeUnits, run_asgi, run_wsgi


def timings(protocol: str, status: int = 200, *, early: bool = False, **options: Any) -> dict[str, float]:
    """What a response says of its times."""
    options["observers"] = [ServerTiming()]
    if protocol == "wsgi":

        def wsgi_app(environ: Any, start_response: Any) -> list[bytes]:
            start_response(f"{status} Said", [("Content-Length", "4"), ("Server-Timing", "db;dur=1.5")])
            return [b"body"]

        headers = run_wsgi(wsgi.PostResponseMiddleware(wsgi_app, **options)).headers
    else:

        async def asgi_app(scope: Any, receive: Any, send: Any) -> None:
            if early:
                exchange: Any = current_exchange()
                await exchange._commit_early()
            headers = [(b"content-length", b"4"), (b"server-timing", b"db;dur=1.5")]
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": b"body"})

        seen = run_asgi(asgi.PostResponseMiddleware(asgi_app, **options)).headers
        headers = [(name.decode(), value.decode()) for name, value in seen]
    said = [value for name, value in headers if name.lower() == "server-timing"]
    parts = [re.fullmatch(r"(\w+);dur=(\d+\.\d+)", each) for each in said]
    return {part[1]: float(part[2]) for part in parts if part}


PROTOCOLS = pytest.mark.parametrize("protocol", ["asgi", "wsgi"])


@PROTOCOLS
@pytest.mark.parametrize("commit", ["head", "buffered"])
def test_the_handler_and_the_commit_are_told_before_the_head(protocol: str, commit: str) -> None:
    found = timings(protocol, unit_of_work=FakeUnits(), commit=commit)
    assert list(found) == ["db", "handler", "commit"]
    assert all(duration >= 0 for duration in found.values())


@PROTOCOLS
def test_a_rollback_is_told_as_one(protocol: str) -> None:
    assert list(timings(protocol, 409, unit_of_work=FakeUnits())) == ["db", "handler", "rollback"]


@PROTOCOLS
def test_what_comes_after_the_head_cannot_be_told_in_it(protocol: str) -> None:
    assert list(timings(protocol, unit_of_work=FakeUnits(), commit="after_send")) == ["db", "handler"]
    assert list(timings(protocol)) == ["db", "handler"]


@PROTOCOLS
def test_an_error_response_has_none(protocol: str, quiet: None) -> None:
    assert timings(protocol, unit_of_work=FakeUnits({"commit": OSError("no answer")})) == {}


def test_a_commit_ahead_of_the_answer_is_told_as_any_other() -> None:
    found = timings("asgi", unit_of_work=FakeUnits(is_async=True), early=True)
    assert list(found) == ["db", "handler", "commit"]
