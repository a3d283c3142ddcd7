"""What `error_response` may return, and what is made of the rest."""

from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import FileResponse
from werkzeug.wrappers import Response

from postresponse import asgi, wsgi
from postresponse.error_response import ErrorResponse
from tests.fakes import FakeUnits, run_asgi, run_wsgi

BOTH = pytest.mark.parametrize("protocol", ["asgi", "wsgi"])


def ask(protocol: str, error_response: Callable[[Any], Any], **request: Any) -> tuple[int, dict[str, str], bytes]:
    """Let a commit fail, and return status, headers and body of what *error_response* made of it."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body"})

    def wsgi_app(environ: Any, start_response: Any) -> list[bytes]:
        environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
        start_response("200 OK", [])
        return []

    options: Any = {"error_response": error_response}
    fails = {"commit": LookupError()}
    if protocol == "asgi":
        site = asgi.PostResponseMiddleware(app, unit_of_work=FakeUnits(fails, is_async=True), **options)
        server = run_asgi(site, **request)
        assert server.status is not None
        return server.status, {name.decode(): value.decode() for name, value in server.headers}, server.body
    other = run_wsgi(wsgi.PostResponseMiddleware(wsgi_app, unit_of_work=FakeUnits(fails), **options), **request)
    assert other.code is not None
    return other.code, {name.lower(): value for name, value in other.headers}, other.body


def is_default(answer: tuple[int, dict[str, str], bytes]) -> bool:
    return (answer[0], answer[1]["content-type"]) == (500, "application/problem+json")


@BOTH
@pytest.mark.parametrize("status", [99, 101, 600, 1000, "409", 409.0, True, None])
def test_a_status_that_is_none_is_refused_by_name(protocol: str, status: Any, caplog: pytest.LogCaptureFixture) -> None:
    assert is_default(ask(protocol, lambda failure: ErrorResponse(status, (), b"x")))
    assert f"error_response: expected a status from 200 to 599, found {status!r}" in caplog.text


@BOTH
def test_a_body_of_text_is_refused_by_name(protocol: str, caplog: pytest.LogCaptureFixture) -> None:
    assert is_default(ask(protocol, lambda failure: ErrorResponse(409, (), "x")))  # type: ignore[arg-type]
    assert "error_response: expected a body of bytes, found 'x'" in caplog.text


@BOTH
@pytest.mark.parametrize("status", [204, 304])
def test_a_status_without_a_body_is_sent_without_one(protocol: str, status: int) -> None:
    assert ask(protocol, lambda failure: ErrorResponse(status, (("x", "y"),), b"z")) == (status, {"x": "y"}, b"")


@BOTH
def test_the_length_is_counted_whatever_was_said(protocol: str) -> None:
    wrong = (("Content-Length", "7"), ("Transfer-Encoding", "chunked"))
    answer = ask(protocol, lambda failure: ErrorResponse(HTTPStatus.CONFLICT, wrong, b"x"))
    assert answer == (409, {"content-length": "1"}, b"x")


@BOTH
def test_a_head_request_is_told_the_length_of_what_get_would_have(protocol: str, tmp_path: Path) -> None:
    path = tmp_path / "page"
    path.write_bytes(b"0123456789")
    made: Any = FileResponse(path, 409) if protocol == "asgi" else Response("0123456789", 409)
    status, headers, body = ask(protocol, lambda failure: made, method="HEAD")
    assert (status, headers["content-length"], body) == (409, "10", b"")


def test_a_file_is_sent_as_its_bytes_where_the_server_would_take_its_path(tmp_path: Path) -> None:
    path = tmp_path / "page"
    path.write_bytes(b"0123456789")
    answer = ask("asgi", lambda failure: FileResponse(path, 409), extensions=["http.response.pathsend"])
    assert (answer[0], answer[2]) == (409, b"0123456789")


def test_an_application_that_does_not_end_its_response_falls_back() -> None:
    async def half(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 409})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})

    assert is_default(ask("asgi", lambda failure: half))


@BOTH
def test_a_system_exit_stays_here(protocol: str) -> None:
    def leave(failure: object) -> None:
        raise SystemExit(3)

    assert is_default(ask(protocol, leave))


def test_the_body_is_not_asked_of_the_server_again() -> None:
    async def asking(scope: Any, receive: Any, send: Any) -> None:
        message = await receive()
        assert message == {"type": "http.request", "body": b"", "more_body": False}
        await send({"type": "http.response.start", "status": 409})
        await send({"type": "http.response.body"})

    assert ask("asgi", lambda failure: asking, method="POST", body=[b"item=", b"tea"])[0] == 409

    def asking_wsgi(environ: Any, start_response: Any) -> list[bytes]:
        start_response("409 Conflict", [])
        return [environ["wsgi.input"].read(), environ["CONTENT_LENGTH"].encode()]

    assert ask("wsgi", lambda failure: asking_wsgi, method="POST", content=b"item=tea")[2] == b"0"


def test_an_application_that_waits_for_the_disconnect_behind_its_response_gets_one() -> None:
    heard: list[str] = []

    async def waiting(scope: Any, receive: Any, send: Any) -> None:
        heard.append((await receive())["type"])
        await send({"type": "http.response.start", "status": 409, "headers": []})
        await send({"type": "http.response.body", "body": b"taken"})
        heard.append((await receive())["type"])

    assert ask("asgi", lambda failure: waiting) == (409, {"content-length": "5"}, b"taken")
    assert heard == ["http.request", "http.disconnect"]
