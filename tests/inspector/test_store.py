"""One file that several processes write and read, and that keeps what a process had."""

import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from postresponse.inspector import Inspector
from postresponse.inspector.store import Store
from postresponse.observing import JobTrace
from tests.inspector.asking import PAGE, ask
from tests.inspector.test_records import MS, TRACE

WRITES = """
import sys
from postresponse.inspector import Inspector
from postresponse.wsgi import PostResponseMiddleware

def app(environ, start_response):
    start_response("200 OK", [])
    return [b""]

inspector = Inspector(store=sys.argv[1])
environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/elsewhere"}
body = PostResponseMiddleware(app, inspector=inspector)(environ, lambda status, headers: None)
list(body)
body.close()
inspector.feed.flush()
"""


def store_of(inspector: Inspector) -> Store:
    assert isinstance(inspector.feed, Store)
    inspector.feed.flush()
    return inspector.feed


def ids(inspector: Inspector, mark: int = 0) -> list[Any]:
    return [json.loads(each)["id"] for each in store_of(inspector).since(mark).requests]


def test_processes_with_one_store_show_each_others_requests(tmp_path: Path) -> None:
    path = tmp_path / "inspector.sqlite3"
    inspector = Inspector(store=path)
    inspector.ended(TRACE, None)
    (mine,) = ids(inspector)
    subprocess.run([sys.executable, "-c", WRITES, str(path)], check=True, cwd=tmp_path)
    assert ids(inspector)[0] == mine
    assert len(set(ids(inspector))) == 2
    told = ask("asyncio", inspector, f"{PAGE}changes").json
    assert [each["path"] for each in told["requests"]] == ["/orders/7", "/elsewhere"]
    assert told["shared"] is True
    assert told["since"].startswith("store:")
    again = ask("wsgi", inspector, f"{PAGE}changes", query=f"since={told['since']}").json
    assert again["requests"] == []


def test_a_request_that_changes_comes_again_and_the_store_stays_small(tmp_path: Path) -> None:
    inspector = Inspector(store=tmp_path / "inspector.sqlite3", size=5)
    for number in range(1, 21):
        inspector.ended(replace(TRACE, number=number), None)
    mark = store_of(inspector).since(0).until
    assert [each.rpartition(".")[2] for each in ids(inspector)] == ["16", "17", "18", "19", "20"]
    inspector.job_ended(JobTrace("mail", 17, "", 5 * MS, 7 * MS, 9 * MS, "done", None))
    assert [each.rpartition(".")[2] for each in ids(inspector, mark)] == ["17"]
    changes = store_of(inspector).since(mark)
    assert json.loads(changes.requests[0])["jobs"][0]["name"] == json.loads(changes.jobs[0])["name"] == "mail"
    assert len(store_of(inspector).since(10**9).requests) == 5  # a mark of a file that is gone


def test_a_store_that_cannot_be_written_any_more_costs_rows_and_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "inspector.sqlite3"
    inspector = Inspector(store=path)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DROP TABLE postresponse_inspector_1")
    for _ in range(2):
        inspector.ended(TRACE, None)
        assert isinstance(inspector.feed, Store)
        inspector.feed.flush()
    assert caplog.text.count("the store of the inspector") == 1


def test_what_comes_faster_than_the_disk_takes_it_is_left_out_and_nobody_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("postresponse.inspector.store.WAITING", 3)
    inspector = Inspector(store=tmp_path / "inspector.sqlite3")
    with closing(sqlite3.connect(tmp_path / "inspector.sqlite3", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")  # nobody else writes meanwhile
        for number in range(50):
            inspector.ended(replace(TRACE, number=number), None)
        other.execute("COMMIT")
    assert 1 <= len(ids(inspector)) <= 7


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_process_that_was_forked_writes_with_a_thread_of_its_own(tmp_path: Path) -> None:
    inspector = Inspector(store=tmp_path / "inspector.sqlite3")
    inspector.ended(TRACE, None)
    store = store_of(inspector)
    store._pid = inspector._pid = 0  # as they are in a child
    inspector.ended(TRACE, None)
    assert len(set(ids(inspector))) == 2
