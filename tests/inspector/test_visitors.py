"""Who is shown something, and who gets 404; what is answered, and what passes on to the application."""

import logging
import re
import subprocess
import sys
from base64 import b64encode
from collections.abc import Callable
from hashlib import sha256
from ipaddress import ip_network
from typing import Any

import pytest

from postresponse import asgi, wsgi
from postresponse.exceptions import ConfigurationError
from postresponse.inspector import Inspector
from tests.inspector.asking import PAGE, ask, serve

PROTOCOLS = ("asyncio", "trio", "wsgi")


@pytest.fixture(params=PROTOCOLS)
def protocol(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("peer", ["127.0.0.1", "127.4.5.6", "::1", "::ffff:127.0.0.1"])
def test_who_is_on_this_machine_is_shown_the_page(protocol: str, peer: str) -> None:
    answer = ask(protocol, True, peer=peer)
    assert (answer.status, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert answer.body.startswith(b"<!doctype html>")


OTHERS = ["10.0.0.7", "192.168.1.2", "::ffff:10.0.0.7", "fe80::1%eth0", "8.8.8.8", "", None, "localhost"]


@pytest.mark.parametrize("peer", OTHERS)
def test_who_is_not_gets_404_whatever_is_asked_for(protocol: str, peer: str | None) -> None:
    for place in ("", "changes", "events", "outbox", "set-up"):
        answer = ask(protocol, True, PAGE + place, peer=peer, view=lambda: 200)
        assert (answer.status, answer.body) == (404, b"Not Found\n")


@pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded", "X-Real-IP", "Via", "X-Forwarded-Host"])
def test_a_request_that_a_proxy_passed_on_is_not_from_here(protocol: str, header: str) -> None:
    assert ask(protocol, True, headers={header.lower(): "127.0.0.1"}).status == 404
    networks = Inspector(allow=["127.0.0.0/8"])
    assert ask(protocol, networks, headers={header.lower(): "127.0.0.1"}).status == 404


@pytest.mark.parametrize(
    ("host", "status"),
    [
        *(("localhost", 200), ("shop.localhost:8000", 200), ("127.0.0.1", 200), ("[::1]:8000", 200), ("", 200)),
        *(("evil.example", 404), ("evil.example:8000", 404), ("localhost.evil.example", 404), ("[::2]", 404)),
    ],
)
def test_a_page_elsewhere_whose_name_leads_here_is_shown_nothing(protocol: str, host: str, status: int) -> None:
    assert ask(protocol, True, headers={"host": host}).status == status


@pytest.mark.parametrize("allow", [["10.0.0.0/8"], [ip_network("10.0.0.0/8")], lambda scope: True])
def test_networks_or_a_function_let_others_in(protocol: str, allow: Any) -> None:
    inspector = Inspector(allow=allow)
    assert ask(protocol, inspector, peer="10.0.0.7", headers={"host": "shop.example"}).status == 200
    assert ask(protocol, inspector, peer="11.0.0.7").status == (200 if callable(allow) else 404)


def test_a_function_that_fails_lets_nobody_in(protocol: str, caplog: pytest.LogCaptureFixture) -> None:
    assert ask(protocol, Inspector(allow=lambda scope: scope["no such key"])).status == 404
    assert "allow= of the inspector failed" in caplog.text


def test_in_production_nobody_is_shown_anything_and_nothing_is_kept(
    protocol: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("POSTRESPONSE_ENV", "Production")
    asked_for, said = Inspector(), Inspector(production=False)
    for inspector in (asked_for, Inspector(production=True)):
        assert ask(protocol, inspector, view=lambda: 200).status == 404
        serve(protocol, inspector)
        assert inspector.feed.since(0).requests == []
        assert "the inspector was asked for in production, and is off: /__postresponse__ answers 404" in caplog.text
        caplog.clear()
    assert ask(protocol, said).status == 200
    assert not caplog.records


def test_its_own_requests_are_not_recorded_and_what_only_looks_alike_is(protocol: str) -> None:
    inspector, paths = Inspector(), ["/__postresponse__x", "/a/__postresponse__/", "/__postresponses"]
    for path in paths:
        assert ask(protocol, inspector, path, view=lambda: 200).body == b"body"
    for place in ("", "changes", "outbox", "set-up", "nothing"):
        ask(protocol, inspector, PAGE + place)
    kept = ask(protocol, inspector, f"{PAGE}changes").json["requests"]
    assert [each["path"] for each in kept] == paths


def test_it_is_found_below_the_place_where_the_application_is_mounted(protocol: str) -> None:
    inspector = Inspector(path="/internal/look")
    assert ask(protocol, inspector, "/internal/look/changes", mount="/shop").status == 200
    assert ask(protocol, inspector, PAGE).status == 404


def test_the_path_without_its_slash_leads_to_the_page(protocol: str) -> None:
    answer = ask(protocol, Inspector(path="/internal/look"), "/internal/look")
    assert (answer.status, answer.headers["location"]) == (308, "look/")


def test_nothing_but_reading_is_done(protocol: str) -> None:
    assert ask(protocol, True, method="POST").status == 405
    head = ask(protocol, True, method="HEAD")
    assert (head.status, head.body) == (200, b"")
    assert int(head.headers["content-length"]) > 1000
    assert ask(protocol, True, f"{PAGE}nothing").status == 404
    if protocol != "wsgi":
        assert ask(protocol, True, f"{PAGE}events", method="HEAD").headers["content-type"] == "text/event-stream"


def test_the_browser_is_told_to_load_nothing_and_to_run_what_is_in_the_page_alone(protocol: str) -> None:
    page = ask(protocol, True)
    policy = dict(part.split(" ", 1) for part in page.headers["content-security-policy"].split("; "))
    assert (policy["default-src"], policy["connect-src"], policy["frame-ancestors"]) == ("'none'", "'self'", "'none'")
    assert "unsafe" not in str(policy)
    for tag in ("script", "style"):
        (inside,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page.body.decode(), re.DOTALL)
        assert policy[f"{tag}-src"] == f"'sha256-{b64encode(sha256(inside.encode()).digest()).decode()}'"
    for answer in (page, ask(protocol, True, f"{PAGE}changes")):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cache-control"] == "no-store"


def test_no_line_of_the_page_names_a_foreign_address_or_has_a_handler_in_its_markup() -> None:
    markup, script = re.split(r"<script>", ask("wsgi", True).body.decode())
    addresses = set(re.findall(r"https?://[\w./]+", markup + script))
    assert addresses == {"http://www.w3.org/2000/svg"}  # the name of a namespace, which nobody asks
    assert not re.search(r"""\s(?:on\w+|style)=["']""", markup)
    assert not re.search(r"innerHTML|insertAdjacentHTML|document\.write|\beval\b", script)


def test_where_it_is_off_nothing_of_it_is_loaded_or_asked() -> None:
    for kind, app in ((asgi, lambda scope, receive, send: None), (wsgi, lambda environ, start: None)):
        for off in (None, False):
            made: Any = kind.PostResponseMiddleware(app, inspector=off)
            assert made._inspector is None
            assert made._settings.observers == ()
    code = "import sys, postresponse.asgi, postresponse.wsgi; print(*(x for x in sys.modules if 'inspector' in x))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == ""


@pytest.mark.parametrize("given", ["yes", 1, 0, Inspector])
def test_what_is_no_inspector_is_refused(given: Any) -> None:
    with pytest.raises(ConfigurationError, match="inspector: expected True, False or an Inspector"):
        wsgi.PostResponseMiddleware(lambda environ, start: [], inspector=given)


REFUSED: list[tuple[Callable[[], Any], str]] = [
    (lambda: Inspector(path=""), "path: expected one as"),
    (lambda: Inspector(path="look"), "path: expected one as"),
    (lambda: Inspector(path="/"), "path: expected one as"),
    (lambda: Inspector(size=0), "size: expected a whole number from 1"),
    (lambda: Inspector(allow="10.0.0.0/8"), "allow: expected a list of networks, or a function"),
    (lambda: Inspector(allow=["10.0.0.7/8"]), "allow: 10.0.0.7/8 has host bits set; give networks"),
    (lambda: Inspector(findings="none"), "findings: expected a function"),  # type: ignore[arg-type]
    (lambda: Inspector(store="/no/such/folder/file"), "store: '/no/such/folder/file' cannot be written"),
    (lambda: Inspector(outbox=3), "engine: expected an Engine"),
]


@pytest.mark.parametrize(("make", "says"), REFUSED, ids=[says for _, says in REFUSED])
def test_an_option_that_cannot_be_is_refused_with_the_way_out(make: Callable[[], Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(says)):
        make()


def test_an_inspector_among_the_observers_too_is_told_once(protocol: str, caplog: pytest.LogCaptureFixture) -> None:
    inspector = Inspector()
    with caplog.at_level(logging.WARNING):
        serve(protocol, inspector, observers=[inspector])
    assert len(inspector.feed.since(0).requests) == 1
    assert not caplog.records
