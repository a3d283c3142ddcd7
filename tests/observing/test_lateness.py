"""When a commit is late: by what has really left, under WSGI and beside a unit of work."""

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Engine

from tests.fakes import FakeUnits, StrictWSGIServer
from tests.observing.driving import HEAD, SIZED, Chunks, serve, store


@pytest.mark.parametrize("head", [HEAD, SIZED], ids=["no length", "length"])
@pytest.mark.parametrize("wrapped", [False, True], ids=["generator", "iterator"])
def test_under_wsgi_a_commit_is_late_from_the_first_bytes_on(engine: Engine, head: Any, wrapped: bool) -> None:
    had_left: list[bool] = []

    def app(start_response: Any, server: StrictWSGIServer) -> Any:
        def commit() -> None:
            store(engine)
            had_left.append(server.head_left)

        def body() -> Iterator[bytes]:
            commit()
            yield b""
            commit()
            yield b"first "
            commit()
            yield b"last"
            commit()

        commit()
        start_response(*head)
        commit()
        return Chunks(body(), commit) if wrapped else body()

    told = serve(app)
    assert had_left == [False] * 4 + [True] * (3 if wrapped else 2)
    assert told.seen == [(late, True, False) for late in had_left]


def test_a_list_has_left_when_it_is_closed(engine: Engine) -> None:
    class Closed(list[bytes]):
        def close(self) -> None:
            store(engine)

    def app(start_response: Any, server: StrictWSGIServer) -> Any:
        start_response(*HEAD)
        store(engine)
        return Closed([b"all"])

    assert serve(app).seen == [(False, True, False), (True, True, False)]


def test_what_is_written_by_write_has_left(engine: Engine) -> None:
    def app(start_response: Any, server: StrictWSGIServer) -> Any:
        write = start_response(*HEAD)
        write(b"")
        store(engine)
        write(b"first")
        store(engine)
        return []

    assert serve(app).seen == [(False, True, False), (True, True, False)]


def test_a_response_without_a_body_has_left_when_it_is_closed(engine: Engine) -> None:
    def app(start_response: Any, server: StrictWSGIServer) -> Any:
        start_response(*HEAD)
        return Chunks(iter(()), lambda: store(engine))

    told = serve(app)
    assert told.seen == [(True, True, False)]


def test_the_first_byte_is_when_the_head_leaves(engine: Engine) -> None:
    def app(start_response: Any, server: StrictWSGIServer) -> Any:
        start_response(*HEAD)
        store(engine)
        return Chunks(iter([b"all"]))

    (trace,) = serve(app).traces
    moments, (commit,) = trace.outcome.moments, trace.commits
    assert moments.decided is not None
    assert moments.head_sent is not None
    assert commit.ended is not None
    assert moments.decided <= commit.began < commit.ended <= moments.head_sent
    assert trace.verdict.endswith("ms before the first byte")
    names = [each.name for each in trace.events]
    assert names.index("commit.done") < names.index("head.sent")


@pytest.mark.parametrize("at", ["head", "buffered", "after_send"])
def test_beside_a_unit_of_work_the_commits_of_others_are_told_of(engine: Engine, at: Any) -> None:
    def app(start_response: Any, server: StrictWSGIServer) -> Any:
        def body() -> Iterator[bytes]:
            yield b"first"
            store(engine)
            yield b"last"

        store(engine)
        start_response(*HEAD)
        return body()

    units = FakeUnits()
    told = serve(app, unit_of_work=units, commit=at)
    assert [late for late, _, _ in told.seen] == [False, at != "buffered"]
    assert told.traces[0].mode == at
    assert "commit" in units.log
