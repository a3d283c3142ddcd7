"""Routes that commit late: counted, told of once, summed up in the end; and when the libraries begin to be heard."""

import logging
import os
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from postresponse import wsgi
from postresponse.core.lifecycle import Ending, Moments, Outcome, UnitState
from postresponse.observing import LateCommits, ObservedCommit, Trace, late, late_commits
from postresponse.observing.late import Tally
from postresponse.observing.places import place
from tests.fakes import StrictWSGIServer

MILLISECOND = 1_000_000
COMMIT = ObservedCommit(12 * MILLISECOND, 15 * MILLISECOND, True, True, None, "sqlalchemy", "get_db (shop.py:12)")
MOMENTS = Moments(0, 9 * MILLISECOND, None, None, 10 * MILLISECOND, 11 * MILLISECOND, 20 * MILLISECOND)
OUTCOME = Outcome(Ending.HANDED_OVER, UnitState.NONE, 201, 3, None, None, 1, MOMENTS)
TRACE = Trace(1, 0.0, "POST", "/orders/7", "/orders/{id}", "observe", None, OUTCOME, commits=(COMMIT,))
EARLY = replace(TRACE, commits=(replace(COMMIT, late=False),))
READ = replace(TRACE, commits=(replace(COMMIT, wrote=False),))
FAILED = replace(TRACE, commits=(replace(COMMIT, exception=ValueError("no")), replace(COMMIT, ended=None)))


@pytest.fixture
def tally(monkeypatch: pytest.MonkeyPatch) -> Tally:
    """One of the test's own, which does not tell when this process ends."""
    tally = Tally()
    monkeypatch.setattr(late, "tally", tally)
    monkeypatch.setattr("atexit.register", lambda call: None)
    return tally


def told(tally: Tally, *traces: Trace) -> None:
    for trace in traces:
        tally.ended(trace, None)


def test_each_route_that_commits_late_is_counted(tally: Tally, quiet: None) -> None:
    slow = replace(TRACE, commits=(replace(COMMIT, ended=45 * MILLISECOND),))
    other = replace(TRACE, method="PUT", template=None)
    told(tally, TRACE, EARLY, READ, slow, FAILED, other, replace(EARLY, method="GET"))
    assert late_commits() == [
        LateCommits("POST /orders/{id}", 4, 3, 1, 5.0, "get_db (shop.py:12)"),
        LateCommits("PUT /orders/{}", 1, 1, 0, 5.0, "get_db (shop.py:12)"),
    ]


def test_a_route_is_warned_of_once_and_once_more_when_one_fails(tally: Tally, caplog: pytest.LogCaptureFixture) -> None:
    told(tally, EARLY, READ)
    assert caplog.messages == []
    told(tally, TRACE, TRACE, FAILED, FAILED, TRACE)
    advice = "give the session to unit_of_work=, or commit before the response starts"
    place = "5.0 ms after the first byte, in get_db (shop.py:12)"
    assert caplog.messages == [
        f"POST /orders/{{id}}: committed {place}: {advice}",
        f"POST /orders/{{id}}: a commit failed (ValueError) {place}, and the client was told 201: {advice}",
    ]
    assert {record.levelno for record in caplog.records} == {logging.WARNING}


def test_it_is_summed_up_once_and_not_at_all_where_nothing_was_late(
    tally: Tally, caplog: pytest.LogCaptureFixture
) -> None:
    told(tally, EARLY)
    tally.tell()
    assert caplog.messages == []
    told(tally, *[TRACE] * 2, FAILED)
    caplog.clear()
    tally.tell()
    tally.tell()
    assert caplog.messages == [
        "3 of 4 POST /orders/{id} committed after their first byte (median 5.0 ms); 1 of them failed"
    ]
    told(tally, TRACE)
    tally.tell()
    assert len(caplog.messages) == 2


def at(path: str, where: str = "") -> Trace:
    """One of a framework that tells no template."""
    return replace(TRACE, template=None, path=path, commits=(replace(COMMIT, where=where),))


def test_paths_without_a_template_are_bounded(
    tally: Tally, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(late, "ROUTES", 2)
    told(tally, *[at(f"/page-{number}") for number in range(5)])
    assert [(each.route, each.late) for each in tally.late_commits()] == [
        ("(other routes)", 3),
        ("POST /page-0", 1),
        ("POST /page-1", 1),
    ]
    assert len(caplog.messages) == 2
    monkeypatch.setattr(late, "SUMMARY", 2)
    tally.tell()
    assert caplog.messages[2:] == [
        "3 of 3 (other routes) committed after their first byte (median 5.0 ms)",
        "1 of 1 POST /page-0 committed after their first byte (median 5.0 ms)",
        "and 1 more routes did; late_commits() tells of all",
    ]


def test_of_paths_without_a_template_those_with_ids_are_one_route_and_a_place_is_warned_of_once(
    tally: Tally, caplog: pytest.LogCaptureFixture
) -> None:
    ids = ("7", "4711", "0b6f2f5c-4b5e-4e0a-9a52-6a2a1f3f9c1d", "0B6F2F5C4B5E4E0A9A526A2A1F3F9C1D")
    told(
        tally, *[at(f"/orders/{each}/lines", "get_db (shop.py:12)") for each in ids], at("/42a", "get_db (shop.py:12)")
    )
    assert [(each.route, each.late) for each in tally.late_commits()] == [
        ("POST /orders/{}/lines", 4),
        ("POST /42a", 1),
    ]
    assert [message.partition(":")[0] for message in caplog.messages] == ["POST /orders/{}/lines"]


@pytest.mark.parametrize(
    ("file", "found"),
    [
        ("/shop/orders.py", "Shop.close (orders.py:5)"),
        ("/env/lib/site-packages/plugin/orders.py", "Shop.close (plugin/orders.py:5)"),
        ("/env/lib/site-packages/anyio/orders.py", ""),
    ],
    ids=["the application's", "a library's", "what only carries calls"],
)
def test_a_place_is_the_innermost_of_the_application_or_of_a_library_with_a_session(file: str, found: str) -> None:
    names: dict[str, Any] = {"place": place, "found": []}
    source = """
    class Shop:

        def close(self):
            found.append(place())

        def __call__(self, environ, start_response):
            start_response("200 OK", [])
            self.close()
            return [b"all"]
    """
    exec(compile(textwrap.dedent(source), file, "exec"), names)
    StrictWSGIServer().run(wsgi.PostResponseMiddleware(names["Shop"]()))
    assert names["found"] == [found]


PROGRAM = """
import os, sys
from postresponse import wsgi
from tests.fakes import StrictWSGIServer

def app(environ, start_response):
    start_response("200 OK", [])
    yield b"first"
    from sqlalchemy import create_engine, text
    with create_engine("sqlite://").begin() as connection:
        connection.execute(text("CREATE TABLE orders (item TEXT)"))

wrapped = wsgi.PostResponseMiddleware(app)
assert not {"sqlalchemy", "django"} & set(sys.modules)
for _ in range(3):
    StrictWSGIServer().run(wrapped)
if not os.fork():
    StrictWSGIServer().run(wrapped)
    sys.exit()
os.wait()
"""


def test_a_library_that_is_loaded_late_is_heard_from_the_next_request_on_and_a_child_counts_for_itself() -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert ran.returncode == 0, ran.stderr
    summary = [line.partition(" (median")[0] for line in ran.stderr.splitlines() if " of " in line]
    assert summary == [f"{count} of {count} GET /orders committed after their first byte" for count in (1, 2)]
