"""The README's table of native hooks is what is measured now; and the measuring tells the moments apart."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from tests.hooks.stamping import fired_under_asgi, fired_under_wsgi
from tests.test_readme import README

BEGIN, END = "<!-- native hooks: begin -->\n", "<!-- native hooks: end -->\n"


def test_the_table_in_the_readme_is_what_is_measured() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "tests.hooks"], capture_output=True, text=True, timeout=100, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert README.count(BEGIN) == README.count(END) == 1
    shown = README[README.index(BEGIN) + len(BEGIN) : README.index(END)]
    assert shown == ran.stdout


def wsgi_app(at: str, hook: Callable[[], None]) -> Any:
    def call(name: str) -> None:
        if name == at:
            hook()

    class Body:
        parts = iter([b"first", b"last"])

        def __iter__(self) -> Any:
            call("after the head")
            yield next(self.parts)
            call("between")
            yield next(self.parts)
            call("behind")

        def close(self) -> None:
            call("close")

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        call("before")
        start_response("200 OK", [])
        return Body()

    return app


@pytest.mark.parametrize(
    ("at", "told"),
    [
        ("before", "before the head"),
        ("after the head", "after the head, before the first byte of the body"),
        ("between", "while the body streams"),
        ("behind", "while the body streams"),
        ("close", "in close(), behind the last byte"),
        ("nowhere", "never"),
    ],
)
def test_each_moment_of_wsgi_is_told_from_the_others(at: str, told: str) -> None:
    assert fired_under_wsgi(lambda hook: wsgi_app(at, hook), "/") == told


def asgi_app(at: str, hook: Callable[[], None]) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if at == "before":
            hook()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        if at == "after the head":
            hook()
        await send({"type": "http.response.body", "body": b"first", "more_body": True})
        if at == "between":
            hook()
        await send({"type": "http.response.body", "body": b"last"})
        if at == "behind":
            hook()

    return app


@pytest.mark.parametrize(
    ("at", "told"),
    [
        ("before", "before the head"),
        ("after the head", "after the head, before the first byte of the body"),
        ("between", "while the body streams"),
        ("behind", "behind the last byte, before the application returns"),
        ("nowhere", "never"),
    ],
)
def test_each_moment_of_asgi_is_told_from_the_others(at: str, told: str) -> None:
    assert fired_under_asgi(lambda hook: asgi_app(at, hook), "/") == told
