"""The WSGI adapter against strict servers: what leaves, in which order, and how it ended.

The numbers are those of the checklist for a correct middleware that the package keeps.
"""

import gc
import io
import logging
import socket
import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from werkzeug.wrappers import Request, Response

from postresponse import CommitPolicy, Outcome, after_response, current_exchange, scope
from postresponse.core.exchange import KEY, Failure
from postresponse.core.lifecycle import Ending, UnitState
from postresponse.error_response import ErrorResponse
from postresponse.exceptions import InvalidHeader, MessageOrderError, NoExchange, WrongApplication
from postresponse.work import TaskSupervisor
from postresponse.wsgi import PostResponseMiddleware
from tests.fakes import (
    CLOSINGS,
    Closing,
    ConnectionLost,
    FakeUnit,
    FakeUnits,
    FileWrapper,
    StrictWSGIServer,
    linted,
    run_wsgi,
)

MODES = ["head", "buffered", "after_send"]
ALL = [*MODES, "observe"]
TEXT = [("Content-Type", "text/plain")]


class Site:
    """A wrapped application with a fake unit of work, and all that it reported."""

    def __init__(self, app: Any, commit: Any = "head", fails: Any = None, **options: Any) -> None:
        self.units = FakeUnits(fails)
        self.outcomes: list[Outcome] = []
        if commit != "observe":
            options |= {"unit_of_work": self.units, "commit": commit}
        self.app = PostResponseMiddleware(app, on_finished=self.outcomes.append, **options)

    def get(self, **request: Any) -> StrictWSGIServer:
        """Answer one request; nothing may be broken or raised."""
        return run_wsgi(self.app, **request)

    @property
    def outcome(self) -> Outcome:
        (outcome,) = self.outcomes
        return outcome


class Body:
    """An application's iterable, which knows how it was treated."""

    def __init__(self, *chunks: bytes, error: BaseException | None = None) -> None:
        self.chunks = chunks
        self.error = error
        self.closed = 0
        self.given = 0

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self.chunks:
            self.given += 1
            yield chunk
        if self.error is not None:
            raise self.error

    def close(self) -> None:
        self.closed += 1


def answer(body: Any, status: str = "200 OK", headers: Any = TEXT) -> Any:
    """An application that answers with *body*."""

    def app(environ: Any, start_response: Any) -> Any:
        start_response(status, list(headers))
        return body

    return app


def hooked(app: Any) -> Any:
    """The same application with a start hook that changes nothing."""

    def with_hook(environ: Any, start_response: Any) -> Any:
        current_exchange().on_start(lambda exchange: None)
        return app(environ, start_response)

    return with_hook


def late(*chunks: bytes) -> Any:
    """An application that calls start_response as late as it may."""

    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", list(TEXT))
        yield from chunks

    return app


# -- 1, 2: the body that the server gets ------------------------------------------------------------------------------


@pytest.mark.parametrize("commit", ALL)
@pytest.mark.parametrize("closing", CLOSINGS)
def test_the_inner_close_is_called_once_however_the_server_closes(commit: str, closing: Closing) -> None:
    body = Body(b"one", b"two")
    site = Site(answer(body), commit)
    server = StrictWSGIServer(closing=closing).run(site.app)
    assert not server.broken
    del server
    if closing == "never":
        gc.collect()
    assert body.closed == 1
    assert len(site.outcomes) == 1
    if commit != "observe":
        assert site.units.log == ["begin", "commit", "close"]


@pytest.mark.parametrize(
    ("closing", "headers", "ending"),
    [
        ("normal", TEXT, "handed_over"),
        ("twice", TEXT, "handed_over"),
        ("early", TEXT, "aborted"),
        ("unread", TEXT, "aborted"),
        ("in_flight", TEXT, "aborted"),
        ("generator_exit", TEXT, "aborted"),
        ("early", [("Content-Length", "3")], "unconfirmed"),
        ("unread", [("Content-Length", "3")], "aborted"),
        ("in_flight", [("Content-Length", "3")], "aborted"),
        ("generator_exit", [("Content-Length", "3")], "unconfirmed"),
    ],
)
def test_how_the_server_closes_tells_how_it_ended(closing: Closing, headers: Any, ending: str) -> None:
    site = Site(answer([b"one"], headers=headers), "observe")
    StrictWSGIServer(closing=closing).run(site.app)
    assert site.outcome.ending == ending
    assert site.outcome.sent == (ending in ("handed_over", "unconfirmed"))


@pytest.mark.parametrize("commit", ALL)
@pytest.mark.parametrize("make", [lambda *chunks: answer(list(chunks)), lambda *chunks: answer(Body(*chunks)), late])
@pytest.mark.parametrize("chunks", [(), (b"",), (b"one",), (b"", b"one", b"", b"two")])
def test_validators_on_both_sides_have_nothing_to_say(commit: str, make: Any, chunks: Any) -> None:
    outcomes: list[Outcome] = []
    options: Any = {} if commit == "observe" else {"unit_of_work": FakeUnits(), "commit": commit}
    if make is late:  # PEP 3333: start_response is called by the first item, so there is one
        chunks = chunks or (b"",)

    def wrap(app: Any) -> Any:
        return PostResponseMiddleware(app, on_finished=outcomes.append, **options)

    server = run_wsgi(linted(make(*chunks), wrap))
    assert server.body == b"".join(chunks)
    assert [outcome.ending for outcome in outcomes] == [Ending.HANDED_OVER]


def test_len_is_kept_where_the_number_of_chunks_is() -> None:
    assert run_wsgi(Site(answer([b"one"]), "head").app).length == 1
    assert run_wsgi(Site(answer([b"one"]), "observe").app).length == 1
    assert run_wsgi(Site(answer((b"one", b"two")), "after_send").app).length == 2
    assert run_wsgi(Site(answer([b"one"]), "buffered").app).length == 1
    assert run_wsgi(Site(answer(Body(b"one")), "head").app).length is None


def test_next_may_be_called_after_the_end_and_after_close() -> None:
    site = Site(answer(iter([b"one"])), "observe")
    result: Any = site.app(StrictWSGIServer().environ, StrictWSGIServer().start_response)
    assert list(result) == [b"one"]
    iterator = iter(result)
    assert next(iterator, "end") == "end"
    result.close()
    assert next(iterator, "end") == "end"
    assert list(result) == []


# -- what leaves, and when --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [lambda: answer([b"one", b"two"]), lambda: late(b"one", b"two")])
@pytest.mark.parametrize(
    ("commit", "order"),
    [
        ("head", ["begin", "commit", "close", "start_response", "one", "two"]),
        ("buffered", ["begin", "commit", "close", "start_response", "one", "two"]),
        ("after_send", ["begin", "start_response", "one", "two", "commit", "close"]),
    ],
)
def test_the_commit_is_where_the_policy_says(commit: str, order: list[str], make: Any) -> None:
    site = Site(make(), commit)

    def start_response(status: str, headers: Any, exc_info: Any = None) -> Callable[[bytes], object]:
        site.units.log.append("start_response")
        return lambda data: None

    result: Any = site.app(StrictWSGIServer().environ, start_response)
    for chunk in result:
        site.units.log.append(chunk.decode())
    result.close()
    assert site.units.log == order


@pytest.mark.parametrize("commit", MODES)
def test_the_inner_close_runs_after_the_commit(commit: str) -> None:
    seen: list[str] = []

    class Closing(Body):
        def close(self) -> None:
            seen.append(current_exchange().unit_of_work)

    run_wsgi(Site(answer(Closing(b"one")), commit).app)
    assert seen == ["committed"]


def test_in_head_mode_a_list_is_not_pulled_and_a_generator_only_to_its_first_chunk() -> None:
    body = Body(b"", b"one", b"two")
    site = Site(answer(body), "head")
    result: Any = site.app(StrictWSGIServer().environ, StrictWSGIServer().start_response)
    assert body.given == 2
    assert list(result) == [b"one", b"two"]
    result.close()


@pytest.mark.parametrize("commit", ["head", "buffered"])
def test_a_generator_that_fails_at_once_rolls_back(commit: str) -> None:
    body = Body(b"", error=KeyError("at once"))
    site = Site(answer(body), commit)
    server = StrictWSGIServer().run(site.app)
    assert isinstance(server.raised, KeyError)
    assert (server.heads, body.closed) == (0, 1)
    assert site.units.log == ["begin", "rollback", "close"]
    assert (site.outcome.ending, site.outcome.unit_of_work) == ("failed", "rolled_back")


@pytest.mark.parametrize("commit", ALL)
def test_an_application_that_raises_mid_body_is_cut_off(commit: str) -> None:
    body = Body(b"one", b"two", error=KeyError("mid-body"))
    site = Site(answer(body), commit)
    server = StrictWSGIServer().run(site.app)
    assert isinstance(server.raised, KeyError)
    assert not server.ended
    assert body.closed == 1
    assert site.outcome.ending is Ending.FAILED
    expected = {"head": "committed", "observe": "none"}.get(commit, "rolled_back")
    assert site.outcome.unit_of_work == expected


@pytest.mark.parametrize("commit", ALL)
def test_an_application_that_raises_in_its_call_rolls_back(commit: str) -> None:
    def app(environ: Any, start_response: Any) -> Any:
        raise KeyError("in the call")

    site = Site(app, commit)
    assert isinstance(StrictWSGIServer().run(site.app).raised, KeyError)
    assert site.outcome.unit_of_work == ("none" if commit == "observe" else "rolled_back")
    with pytest.raises(NoExchange):
        current_exchange()


@pytest.mark.parametrize("commit", ALL)
def test_what_the_inner_close_raises_passes_through(commit: str) -> None:
    class Closing(Body):
        def close(self) -> None:
            raise KeyError("in close")

    site = Site(answer(Closing(b"one")), commit)
    server = StrictWSGIServer().run(site.app)
    assert isinstance(server.raised, KeyError)
    assert site.outcome.ending is Ending.HANDED_OVER
    assert isinstance(site.outcome.exception, KeyError)


@pytest.mark.parametrize("make", [lambda: answer([b"secret"]), lambda: late(b"secret", b"more")])
@pytest.mark.parametrize("commit", ["head", "buffered"])
def test_nothing_is_left_of_a_response_whose_commit_failed(
    commit: str, make: Any, caplog: pytest.LogCaptureFixture
) -> None:
    site = Site(make(), commit, {"commit": ValueError("the reason")})
    server = site.get()
    assert (server.code, server.declared) == (500, len(server.body))
    assert b"secret" not in server.body
    assert b"reason" not in server.body
    assert {name.lower() for name, _ in server.headers} == {"content-type", "cache-control", "content-length"}
    assert site.units.log == ["begin", "commit!", "rollback", "close"]
    assert (site.outcome.unit_of_work, site.outcome.ending) == ("failed", "handed_over")
    assert "could not commit" in caplog.text


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_of_a_replaced_response_the_outcome_tells_what_left_instead(method: str) -> None:
    site = Site(answer(Body(b"a", b"bc")), fails={"commit": ValueError()})
    server = site.get(method=method)
    outcome = site.outcome
    assert (server.code, outcome.status, outcome.ending) == (500, 500, Ending.HANDED_OVER)
    assert outcome.bytes_sent == len(server.body) == (0 if method == "HEAD" else server.declared)
    assert server.length == (0 if method == "HEAD" else 1)
    assert outcome.moments.settled is not None
    assert outcome.moments.head_sent is not None
    assert outcome.moments.settled <= outcome.moments.head_sent


def test_the_body_of_a_replaced_response_is_closed_once() -> None:
    body = Body(b"secret", b"more")
    Site(answer(body), fails={"commit": ValueError()}).get()
    assert body.closed == 1
    assert body.given == 1


def test_what_the_body_of_a_replaced_response_raises_in_close_is_logged_only(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Closing(Body):
        def close(self) -> None:
            raise KeyError("in close")

    assert Site(answer(Closing(b"secret")), fails={"commit": ValueError()}).get().code == 500
    assert "raised after its response was replaced" in caplog.text


def test_after_send_a_failed_commit_is_told_to_us_only(caplog: pytest.LogCaptureFixture) -> None:
    failures: list[Failure] = []
    site = Site(answer([b"ok"]), "after_send", {"commit": ValueError("late")}, on_commit_failed=failures.append)
    server = site.get()
    assert (server.code, server.body) == (200, b"ok")
    assert site.outcome.unit_of_work is UnitState.FAILED
    assert [str(failure.exception) for failure in failures] == ["late"]


def test_a_head_request_gets_the_head_of_the_error_only() -> None:
    server = Site(answer([]), fails={"commit": ValueError()}).get(method="HEAD")
    assert (server.code, server.body) == (500, b"")
    assert server.declared


def test_a_client_that_prefers_html_gets_html() -> None:
    server = Site(answer([b"ok"]), fails={"commit": ValueError()}).get(accept="text/html")
    assert server.body.startswith(b"<!doctype html>")


# -- 5, 9: held bodies ------------------------------------------------------------------------------------------------


def test_a_held_response_gets_a_content_length_and_others_none() -> None:
    assert Site(late(b"ab", b"c"), "buffered").get().declared == 3
    assert Site(late(b"ab", b"c"), "head").get().declared is None
    assert Site(answer([b"ab"], headers=[("Content-Length", "2")]), "buffered").get().headers == [
        ("Content-Length", "2")
    ]
    assert Site(answer([], "204 No Content", []), "buffered").get().declared is None
    assert Site(answer([b"ab"], headers=[("Transfer-Encoding", "chunked")]), "buffered").get().declared is None


def test_a_large_body_is_held_in_a_file_and_arrives_whole() -> None:
    chunks = [bytes([65 + n]) * 1000 for n in range(20)]
    server = Site(late(*chunks), CommitPolicy("buffered", max_memory=3000)).get()
    assert (server.body, server.declared) == (b"".join(chunks), 20_000)


def test_a_body_over_the_limit_is_an_error_or_commits_and_streams() -> None:
    body = Body(b"12345678", b"9abc", b"d")
    site = Site(answer(body), CommitPolicy("buffered", max_body=10))
    assert site.get().code == 500
    assert site.units.log == ["begin", "rollback", "close"]
    assert body.closed == 1
    site = Site(answer(Body(b"12345678", b"9abc", b"d")), CommitPolicy("buffered", max_body=10, on_overflow="head"))
    server = site.get()
    assert (server.body, server.declared) == (b"123456789abcd", None)
    assert site.units.log == ["begin", "commit", "close"]


def test_what_never_ends_is_known_by_its_content_type_and_by_no_other_header_as_long() -> None:
    for headers in ([("X-Request-Id", "1"), ("Content-Type", "text/event-stream")], [("X-Request-Id", "1")]):
        site, body = Site(answer(Body(b"1", b"2"), headers=headers), "buffered"), None
        body = site.app(StrictWSGIServer().environ, (server := StrictWSGIServer()).start_response)
        assert (server.declared is None) == (len(headers) == 2)
        list(body)
        body.close()  # type: ignore[attr-defined]


def test_a_body_that_is_not_held_gets_no_content_length_and_a_held_one_does() -> None:
    assert ("Content-Length", "0") in Site(answer(Body()), "buffered").get().headers
    for commit in ("head", "after_send", "observe"):
        assert Site(answer(Body()), commit).get().headers == TEXT
        assert Site(hooked(answer(Body())), commit).get().headers == TEXT


@pytest.mark.parametrize("commit", ALL)
def test_when_the_head_left_is_told(commit: str) -> None:
    site = Site(answer(Body(b"one")), commit)
    site.get()
    moments = site.outcome.moments
    assert moments.head_sent is not None
    assert moments.decided is not None
    assert moments.body_sent is not None
    assert moments.began <= moments.decided <= moments.head_sent <= moments.body_sent <= moments.ended


def test_exc_info_reaches_the_server_though_a_hook_stands_before_the_head() -> None:
    given: list[Any] = []

    def app(environ: Any, start_response: Any) -> Any:
        current_exchange().on_start(lambda exchange: exchange.headers.append(("X-Seen", "yes")))
        try:
            raise LookupError("early")
        except LookupError:
            start_response("500 Internal Server Error", list(TEXT), sys.exc_info())
        return [b"failed"]

    class Server(StrictWSGIServer):
        def start_response(self, status: str, headers: Any, exc_info: Any = None, /) -> Any:
            given.append(exc_info)
            return super().start_response(status, headers, exc_info)

    server = Server().run(Site(app, "observe").app)
    assert server.headers == [*TEXT, ("X-Seen", "yes")]
    assert [type(info[1]) for info in given] == [LookupError]


@pytest.mark.parametrize("commit", ALL)
def test_the_error_of_a_body_is_told(commit: str) -> None:
    error = LookupError("in the middle")
    site = Site(answer(Body(b"one", b"two", error=error)), commit)
    StrictWSGIServer().run(site.app)
    assert site.outcome.exception is error
    assert site.outcome.ending is Ending.FAILED


def test_what_never_ends_is_not_held(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr("postresponse.core.log._told", set())
    caplog.set_level(logging.INFO, "postresponse")
    for make in (answer, None):
        body = Body(b"data: 1\n\n", b"data: 2\n\n")

        def lately(environ: Any, start_response: Any, body: Body = body) -> Iterator[bytes]:
            start_response("200 OK", [("Content-Type", "text/event-stream")])
            yield from body

        app = make(body, headers=[("Content-Type", "text/event-stream")]) if make else lately
        site = Site(app, "buffered")
        result: Any = site.app(StrictWSGIServer().environ, StrictWSGIServer().start_response)
        assert body.given == 1
        assert list(result) == list(body.chunks)
        result.close()
    assert caplog.text.count("commits at the head and not buffered") == 1


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_fewer_bytes_than_content_length_are_incomplete_unless_none_are_due(method: str) -> None:
    site = Site(answer([b"ab"] if method == "GET" else [], headers=[("Content-Length", "5")]), "observe")
    result: Any = site.app(StrictWSGIServer(method).environ, StrictWSGIServer().start_response)
    list(result)
    result.close()
    assert site.outcome.ending == ("incomplete" if method == "GET" else "handed_over")


# -- 6: write and exc_info --------------------------------------------------------------------------------------------


def writing(*data: bytes, body: Any = ()) -> Any:
    def app(environ: Any, start_response: Any) -> Any:
        write = start_response("200 OK", list(TEXT))
        for part in data:
            write(part)
        return body

    return app


@pytest.mark.parametrize("commit", ALL)
def test_write_works_and_keeps_its_place(commit: str) -> None:
    site = Site(writing(b"", b"one", b"two", body=[b"three"]), commit)
    assert site.get().body == b"onetwothree"
    assert site.outcome.bytes_sent == 11
    assert site.outcome.ending is Ending.HANDED_OVER


@pytest.mark.parametrize("around", [hooked, lambda app: app], ids=["hooked", "plain"])
@pytest.mark.parametrize("commit", ["after_send", "observe"])
def test_on_a_server_without_write_the_application_is_told_so(commit: str, around: Any) -> None:
    def app(environ: Any, start_response: Any) -> Any:
        assert start_response("200 OK", list(TEXT)) is None
        return [b"ok"]

    assert Site(around(app), commit).get(writes=False).body == b"ok"


@pytest.mark.parametrize("read", [True, False])
@pytest.mark.parametrize("first", [[("X-First", "1"), ("Content-Length", "9")], [("X-First", "1")]])
@pytest.mark.parametrize("commit", ["head", "buffered"])
def test_a_second_head_takes_the_place_of_the_first(commit: str, first: list[tuple[str, str]], read: bool) -> None:
    def app(environ: Any, start_response: Any) -> Any:
        start_response("204 No Content", first)
        if read:
            assert current_exchange().headers == first
        try:
            raise LookupError("early")
        except LookupError:
            start_response("500 Internal Server Error", [("X-Second", "2")], sys.exc_info())
        return Body(b"failed")

    site = Site(app, commit)
    server = site.get()
    assert [pair for pair in server.headers if pair[0].lower() != "content-length"] == [("X-Second", "2")]
    assert server.body == b"failed"
    assert site.outcome.ending is Ending.HANDED_OVER
    assert site.units.log == ["begin", "rollback", "close"]


class Forgiving(StrictWSGIServer):
    """One that does not look whether all the bytes were there."""

    def _end(self) -> None:
        self.ended = True


def test_of_a_second_head_that_has_a_body_bytes_may_be_missing() -> None:
    def app(environ: Any, start_response: Any) -> Any:
        start_response("204 No Content", [])
        try:
            raise LookupError("early")
        except LookupError:
            start_response("500 Internal Server Error", [("Content-Length", "9")], sys.exc_info())
        return Body(b"failed")

    site = Site(app)
    Forgiving().run(site.app)
    assert site.outcome.ending is Ending.INCOMPLETE


@pytest.mark.parametrize("commit", ["head", "buffered"])
def test_a_head_that_forges_another_header_is_refused_the_second_time_too(commit: str) -> None:
    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", list(TEXT))
        try:
            raise LookupError("early")
        except LookupError:
            start_response("500 Oh", [("X-One", "1\r\nSet-Cookie: a")], sys.exc_info())
        return [b"never"]

    site = Site(app, commit)
    assert isinstance(StrictWSGIServer().run(site.app).raised, InvalidHeader)
    assert site.units.log == ["begin", "rollback", "close"]


def test_a_status_that_forges_a_header_is_named() -> None:
    raised = StrictWSGIServer().run(Site(answer([b"never"], "200 OK\r\nSet-Cookie: a")).app).raised
    assert isinstance(raised, InvalidHeader)
    assert "header 'status'" in str(raised)


@pytest.mark.parametrize(
    ("status", "header", "ending"),
    [
        ("304 Not Modified", ("Content-Length", "5"), "handed_over"),
        ("204 No Content", ("Content-Length", "5"), "handed_over"),
        ("200 OK", ("X-Count", "5"), "handed_over"),
        ("200 OK", ("Accept-Charset", "utf-8"), "handed_over"),
        ("200 OK", ("Content-Length", "5"), "incomplete"),
    ],
)
def test_what_has_no_body_misses_no_byte_of_it(status: str, header: tuple[str, str], ending: str) -> None:
    site = Site(answer(Body(), status, headers=[header]), "observe")
    Forgiving().run(site.app)
    assert site.outcome.ending == ending


@pytest.mark.parametrize("commit", ["after_send", "observe"])
def test_nothing_is_read_ahead_where_nothing_is_withheld(commit: str) -> None:
    body = Body(b"one")

    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", list(TEXT))
        yield from body

    result: Any = Site(app, commit).app(StrictWSGIServer().environ, StrictWSGIServer().start_response)
    assert body.given == 0
    assert list(result) == [b"one"]
    result.close()


@pytest.mark.parametrize("commit", ALL)
@pytest.mark.parametrize("kind", [list, tuple])
def test_a_server_that_derives_the_length_still_can(commit: str, kind: Any) -> None:
    assert Site(answer(kind([b"all"])), commit).get().length == 1


@pytest.mark.parametrize("commit", ALL)
def test_a_body_by_the_older_protocol_of_iteration_passes(commit: str) -> None:
    class Sequence:
        def __getitem__(self, index: int) -> bytes:
            return (b"one", b"two")[index]

    assert Site(answer(Sequence()), commit).get().body == b"onetwo"


def test_the_input_stays_the_servers_own_where_nothing_is_run_again() -> None:
    def app(environ: Any, start_response: Any) -> Any:
        seen.append(environ["wsgi.input"])
        return answer([b"ok"])(environ, start_response)

    seen: list[Any] = []
    environ = StrictWSGIServer().environ
    given = environ["wsgi.input"]
    list(Site(app).app(environ, StrictWSGIServer().start_response))
    assert seen == [given]


@pytest.mark.parametrize(("status", "hangs"), [("200 OK", "close"), ("404 Not Found", "rollback")])
def test_a_clean_up_that_hangs_is_cut_off(status: str, hangs: str) -> None:
    severed = threading.Event()

    class Unit(FakeUnit):
        def _call(self, name: str) -> None:
            super()._call(name)
            assert name != hangs or severed.wait(10)

        def sever(self) -> None:
            severed.set()

    app = PostResponseMiddleware(answer([b"ok"], status), unit_of_work=lambda exchange: Unit({}), cleanup_timeout=0.05)
    assert run_wsgi(app).body == b"ok"
    assert severed.is_set()


@pytest.mark.parametrize("commit", ALL)
@pytest.mark.parametrize("around", [hooked, lambda app: app], ids=["hooked", "plain"])
def test_on_a_server_with_write_the_application_gets_one(commit: str, around: Any) -> None:
    def app(environ: Any, start_response: Any) -> Any:
        assert start_response("200 OK", list(TEXT)) is not None
        return [b"ok"]

    assert Site(around(app), commit).get().body == b"ok"


@pytest.mark.parametrize("commit", ALL)
@pytest.mark.parametrize("sized", [True, False])
def test_a_server_may_hold_nothing_but_the_iterator(commit: str, sized: bool) -> None:
    headers = [*TEXT, ("Content-Length", "6")] if sized else TEXT
    site = Site(answer(Body(b"one", b"two"), headers=headers), commit)
    body: Any = site.app(StrictWSGIServer().environ, StrictWSGIServer().start_response)
    iterator = iter(body)
    assert iter(body) is iterator
    del body
    gc.collect()
    assert list(iterator) == [b"one", b"two"]
    del iterator
    gc.collect()
    assert site.outcome.ending is Ending.HANDED_OVER


@pytest.mark.parametrize("in_flight", [True, False])
@pytest.mark.parametrize("commit", ALL)
def test_the_error_of_a_generator_is_its_own_whenever_the_server_closes(commit: str, in_flight: bool) -> None:
    error = LookupError("in the middle")

    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", list(TEXT))
        yield b"one"
        raise error

    class Server(StrictWSGIServer):
        def _normal(self, result: Any, close: Any) -> None:
            with suppress(LookupError):
                self._serve(result)
            close()

    site = Site(app, commit)
    (StrictWSGIServer if in_flight else Server)().run(site.app)
    assert site.outcome.ending is Ending.FAILED
    if in_flight or commit == "buffered":
        assert site.outcome.exception is error
    else:
        assert str(site.outcome.exception) in ("in the middle", "the body's iterator raised")


@pytest.mark.parametrize("commit", ALL)
def test_an_application_may_take_the_exchange_out_of_the_environ(commit: str) -> None:
    def app(environ: Any, start_response: Any) -> Any:
        del environ[KEY]
        return answer([b"ok"])(environ, start_response)

    assert Site(app, commit).get().body == b"ok"


@pytest.mark.parametrize("commit", ["head", "buffered"])
def test_nothing_is_decided_by_writing_nothing(commit: str) -> None:
    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", list(TEXT))(b"")
        assert (current_exchange().state, site.units.log) == ("decided", ["begin"])
        return [b"one"]

    site = Site(app, commit)
    assert site.get().body == b"one"
    assert site.units.log == ["begin", "commit", "close"]


def test_what_ends_the_process_passes_though_the_response_was_replaced() -> None:
    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", list(TEXT))(b"one")
        assert current_exchange().state == "replaced by an error response"
        raise SystemExit(3)

    site = Site(app, fails={"commit": ValueError()})
    with pytest.raises(SystemExit):
        site.get()
    assert site.units.log == ["begin", "commit!", "rollback", "close"]


@pytest.mark.parametrize("commit", MODES)
def test_on_a_server_without_write_it_works_where_the_head_is_withheld(commit: str) -> None:
    site = Site(writing(b"one", b"two", body=[b"three"]), commit)
    server = StrictWSGIServer(writes=False).run(site.app)
    if commit == "after_send":  # the application is told that there is none
        assert isinstance(server.raised, TypeError)
    else:
        assert server.body == b"onetwothree"
        assert site.outcome.bytes_sent == 11


@pytest.mark.parametrize("commit", ["head", "buffered"])
def test_what_is_written_to_a_replaced_response_is_dropped(commit: str) -> None:
    site = Site(writing(b"secret", b"more", body=[b"rest"]), commit, {"commit": ValueError()})
    server = site.get()
    assert server.code == 500
    assert b"secret" not in server.body


def test_an_application_that_raises_behind_a_replaced_response_is_logged_only(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", list(TEXT))(b"secret")
        raise KeyError("later")

    assert Site(app, fails={"commit": ValueError()}).get().code == 500
    assert "raised after its response was replaced" in caplog.text


@pytest.mark.parametrize("commit", ALL)
def test_exc_info_replaces_a_head_that_has_not_left(commit: str) -> None:
    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [("X-First", "1")])
        try:
            raise KeyError("handled")
        except KeyError:
            start_response("503 Busy", [("X-Second", "1")], sys.exc_info())
        return [b"sorry"]

    site = Site(app, commit)
    server = site.get()
    assert (server.status, server.body) == ("503 Busy", b"sorry")
    assert [name for name, _ in server.headers if name.startswith("X-")] == ["X-Second"]
    assert site.outcome.status == 503
    assert site.outcome.unit_of_work == ("none" if commit == "observe" else "rolled_back")


@pytest.mark.parametrize("commit", ["head", "after_send", "observe"])
def test_exc_info_after_the_head_left_raises_it_again(commit: str) -> None:
    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", list(TEXT))
        yield b"one"
        try:
            raise KeyError("too late")
        except KeyError:
            start_response("500 Oops", list(TEXT), sys.exc_info())

    site = Site(app, commit)
    assert isinstance(StrictWSGIServer().run(site.app).raised, KeyError)
    assert site.outcome.ending is Ending.FAILED


def test_exc_info_in_the_first_call_is_passed_on() -> None:
    seen: list[Any] = []

    def app(environ: Any, start_response: Any) -> Any:
        try:
            raise KeyError("first")
        except KeyError:
            start_response("500 Oops", list(TEXT), sys.exc_info())
        return []

    def start_response(*args: Any) -> Any:
        seen.append(args)

    result: Any = Site(app, "observe").app(StrictWSGIServer().environ, start_response)
    result.close()
    assert len(seen[0]) == 3


def test_a_second_start_response_without_exc_info_is_refused() -> None:
    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", list(TEXT))
        start_response("201 Created", list(TEXT))

    for commit in ALL:
        raised = StrictWSGIServer().run(Site(app, commit).app).raised
        assert isinstance(raised, MessageOrderError)
        assert "pass exc_info" in str(raised)


def test_a_body_without_start_response_is_refused() -> None:
    def app(environ: Any, start_response: Any) -> Any:
        return [b"body"]

    for commit in ("head", "buffered"):
        site = Site(app, commit)
        raised = StrictWSGIServer().run(site.app).raised
        assert isinstance(raised, MessageOrderError)
        assert "call start_response" in str(raised)
        assert site.units.log == ["begin", "rollback", "close"]


# -- 7: hooks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [ValueError("hook"), SystemExit(3)])
def test_no_hook_raises_out_of_close(error: BaseException, caplog: pytest.LogCaptureFixture) -> None:
    ran: list[str] = []

    def app(environ: Any, start_response: Any) -> Any:
        def fail(*_: object) -> None:
            raise error

        exchange = current_exchange()
        exchange.on_finished(lambda _: ran.append("finished"))
        exchange.on_finished(fail)
        exchange.after_commit(fail)
        exchange.after_commit(lambda: ran.append("committed"))
        return answer([b"ok"])(environ, start_response)

    Site(app, "after_send").get()
    assert ran == ["committed", "finished"]
    assert "the after_commit hook" in caplog.text
    assert "the on_finished hook" in caplog.text


def test_a_hook_that_ends_the_process_passes_through_after_the_others_ran() -> None:
    ran: list[str] = []

    def app(environ: Any, start_response: Any) -> Any:
        def stop(_: object) -> None:
            raise KeyboardInterrupt

        current_exchange().on_finished(lambda _: ran.append("first"))
        current_exchange().on_finished(stop)
        return answer([b"ok"])(environ, start_response)

    with pytest.raises(KeyboardInterrupt):
        Site(app).get()
    assert ran == ["first"]


def test_a_hook_that_turns_out_to_be_async_is_named(caplog: pytest.LogCaptureFixture) -> None:
    async def hook() -> None: ...

    def app(environ: Any, start_response: Any) -> Any:
        current_exchange().after_commit(lambda: hook())
        return answer([b"ok"])(environ, start_response)

    Site(app).get()
    assert "there is no event loop under WSGI" in caplog.text


@pytest.mark.parametrize("commit", ALL)
def test_a_start_hook_changes_status_and_headers(commit: str) -> None:
    def app(environ: Any, start_response: Any) -> Any:
        def change(exchange: Any) -> None:
            exchange.status = 202
            exchange.headers.append(("X-Seen", "yes"))

        current_exchange().on_start(change)
        return answer([b"ok"])(environ, start_response)

    site = Site(app, commit)
    server = site.get()
    assert server.status == "202 Accepted"
    assert ("X-Seen", "yes") in server.headers
    assert site.outcome.status == 202


@pytest.mark.parametrize("commit", ALL)
def test_a_failing_start_hook_is_a_500_and_a_rollback(commit: str) -> None:
    def app(environ: Any, start_response: Any) -> Any:
        current_exchange().on_start(lambda _: 1 / 0)
        return answer([b"secret"])(environ, start_response)

    site = Site(app, commit)
    server = site.get()
    assert server.code == 500
    assert b"secret" not in server.body
    assert site.outcome.unit_of_work == ("none" if commit == "observe" else "rolled_back")


# -- 10, 11: file wrappers, environ -----------------------------------------------------------------------------------


@pytest.mark.parametrize("commit", ALL)
@pytest.mark.parametrize("closing", ["normal", "early", "twice", "in_flight"])
def test_a_servers_file_wrapper_stays_its_own_and_its_end_is_seen(commit: str, closing: Closing) -> None:
    class File(io.BytesIO):
        closings = 0

        def close(self) -> None:
            self.closings += 1
            super().close()

    file = File(b"contents of a file")

    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", list(TEXT))
        return environ["wsgi.file_wrapper"](file)

    site = Site(app, commit)
    server = StrictWSGIServer(closing=closing, file_wrapper=True).run(site.app)
    assert server.sent_as_file
    assert file.closings == 1
    assert site.outcome.ending == ("aborted" if closing == "in_flight" else "unconfirmed")
    assert type(site.outcome.exception) is (ConnectionLost if closing == "in_flight" else type(None))
    assert site.outcome.bytes_sent is None


def test_a_file_wrapper_that_cannot_be_watched_is_iterated() -> None:
    class Slotted(FileWrapper):
        __slots__ = ()

        def __setattr__(self, name: str, value: object) -> None:
            if name == "close" and getattr(value, "__name__", "") == "watched":
                raise AttributeError(name)
            super().__setattr__(name, value)

    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", list(TEXT))
        return Slotted(file)

    site, file = Site(app), io.BytesIO(b"contents")
    server = site.get(file_wrapper=True)
    assert file.closed
    assert (server.body, server.sent_as_file) == (b"contents", False)
    assert site.outcome.ending is Ending.HANDED_OVER


def test_the_exchange_is_in_the_environ_and_gone_afterwards() -> None:
    seen: list[Any] = []

    def app(environ: Any, start_response: Any) -> Any:
        seen.extend((environ[KEY], current_exchange()))
        assert type(environ) is dict
        return answer([b"ok"])(environ, start_response)

    site, environ = Site(app), StrictWSGIServer().environ
    result: Any = site.app(environ, StrictWSGIServer().start_response)
    list(result)
    result.close()
    assert seen[0] is seen[1]
    assert KEY not in environ
    with pytest.raises(NoExchange):
        current_exchange()


def test_a_request_inside_of_another_and_of_a_scope_gives_back_what_was_current() -> None:
    inner, seen = Site(answer([b"inner"])), []

    def app(environ: Any, start_response: Any) -> Any:
        before = current_exchange()
        inner.get()
        seen.append(current_exchange() is before)
        return answer([b"outer"])(environ, start_response)

    with scope() as outermost:
        Site(app).get()
        assert current_exchange() is outermost
    assert seen == [True]
    with pytest.raises(NoExchange):
        current_exchange()


def test_what_was_current_and_has_ended_on_another_thread_is_not_given_back() -> None:
    def begun(app: PostResponseMiddleware) -> Any:
        return app(StrictWSGIServer().environ, StrictWSGIServer().start_response)

    site = Site(answer(Body(b"one")))
    first = begun(site.app)
    exchange = weakref.ref(current_exchange())
    second = begun(site.app)
    thread = threading.Thread(target=first.close)
    thread.start()
    thread.join()
    second.close()
    with pytest.raises(NoExchange):
        current_exchange()
    del first
    gc.collect()
    assert exchange() is None


def test_a_response_that_nobody_closes_is_not_current_behind_the_next_request() -> None:
    left: Any = Site(answer(Body(b"one"))).app(StrictWSGIServer().environ, StrictWSGIServer().start_response)
    for _ in range(2):
        Site(answer([b"two"])).get()
        with pytest.raises(NoExchange):
            current_exchange()
    left.close()


def test_work_that_calls_an_application_is_work_of_its_request_behind_it() -> None:
    supervisor, over, seen = TaskSupervisor(), threading.Event(), []

    def work() -> None:
        assert over.wait(5)
        before = current_exchange()
        Site(answer([b"inner"])).get()
        seen.append(current_exchange() is before)

    def app(environ: Any, start_response: Any) -> Any:
        after_response(work)
        return answer([b"outer"])(environ, start_response)

    Site(app, supervisor=supervisor).get()
    over.set()
    supervisor.close()
    assert seen == [True]


# -- installed twice --------------------------------------------------------------------------------------------------


def test_installed_twice_there_is_one_exchange_and_one_unit() -> None:
    inner = FakeUnits()
    site = Site(PostResponseMiddleware(answer([b"ok"]), unit_of_work=inner))
    site.get()
    assert inner.made == []
    assert site.units.log == ["begin", "commit", "close"]


@pytest.mark.parametrize("commit", MODES)
def test_a_unit_of_work_inside_an_observing_middleware_is_not_lost(commit: Any) -> None:
    units = FakeUnits()
    Site(PostResponseMiddleware(answer([b"ok"]), unit_of_work=units, commit=commit), "observe").get()
    assert units.log == ["begin", "commit", "close"]
    refused = FakeUnits({"begin": ValueError()})
    app = PostResponseMiddleware(answer([b"ok"]), unit_of_work=refused, commit=commit)
    assert Site(app, "observe").get().code == 500


# -- the error response -----------------------------------------------------------------------------------------------


def test_error_response_may_be_plain_or_an_application() -> None:
    def plain(failure: Failure) -> ErrorResponse:
        return ErrorResponse(409, (("X-Own", "1"),), b"conflict")

    def application(failure: Failure) -> Any:
        def app(environ: Any, start_response: Any) -> Iterable[bytes]:
            write = start_response("409 Conflict", [("X-Own", "1"), ("Content-Length", "99")])
            write(b"con")
            return Body(b"flict")

        return app

    for make in (plain, application):
        server = Site(answer([b"ok"]), fails={"commit": ValueError()}, error_response=make).get()
        assert (server.code, server.body, server.declared) == (409, b"conflict", 8)
        assert ("X-Own", "1") in server.headers


def test_one_that_fails_falls_back_to_the_default(caplog: pytest.LogCaptureFixture) -> None:
    def bad(failure: Failure) -> Any:
        raise LookupError("no template")

    def silent(environ: Any, start_response: Any) -> Iterable[bytes]:
        return []

    broken: list[Callable[[Failure], Any]] = [
        bad,
        lambda failure: "text",
        lambda failure: silent,
        lambda failure: ErrorResponse(500, (("X", "a\nb"),), b""),
    ]
    for make in broken:
        server = Site(answer([b"ok"]), fails={"commit": ValueError()}, error_response=make).get()
        assert server.code == 500
        assert ("content-type", "application/problem+json") in server.headers
    assert caplog.text.count("error_response failed") == len(broken)


# -- observing --------------------------------------------------------------------------------------------------------


def test_a_status_that_nobody_knows_still_has_a_status_line() -> None:
    def app(environ: Any, start_response: Any) -> Any:
        def change(exchange: Any) -> None:
            exchange.status = 299

        current_exchange().on_start(change)
        return answer([b"ok"])(environ, start_response)

    assert Site(app).get().status == "299 Unknown"


@pytest.mark.parametrize("key", ["gunicorn.socket", "werkzeug.socket"])
def test_drained_is_true_where_the_kernel_shows_it(key: str) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    near = socket.create_connection(listener.getsockname())
    far, _ = listener.accept()
    with listener, near, far:
        site = Site(answer([b"ok"]), "observe")
        for _ in range(2):
            result: Any = site.app({**StrictWSGIServer().environ, key: far}, StrictWSGIServer().start_response)
            list(result)
            result.close()
            near.close()  # the second request is one whose client has gone
            while far.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == 1:
                continue
    assert [outcome.drained for outcome in site.outcomes] == [True, None]
    result = site.app({**StrictWSGIServer().environ, key: far}, StrictWSGIServer().start_response)
    list(result)
    result.close()
    assert site.outcomes[-1].drained is None


@pytest.mark.parametrize("result", ["a coroutine", None])
def test_what_no_wsgi_application_returns_is_refused_by_name(result: Any) -> None:
    async def coroutine() -> None: ...

    def app(environ: Any, start_response: Any) -> Any:
        return coroutine() if result == "a coroutine" else result

    for commit in ALL:
        raised = StrictWSGIServer().run(Site(app, commit).app).raised
        assert isinstance(raised, WrongApplication)


def test_a_file_wrapper_that_only_its_server_can_read_passes() -> None:
    class Wrapper:
        def __init__(self, file: Any, block_size: int = 8192) -> None:
            self.file = file

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", [])
        return environ["wsgi.file_wrapper"](io.BytesIO(b"file"))

    outcomes: list[Outcome] = []
    environ = StrictWSGIServer().environ | {"wsgi.file_wrapper": Wrapper}
    result: Any = PostResponseMiddleware(app, on_finished=outcomes.append)(environ, StrictWSGIServer().start_response)
    assert type(result).__name__ == "Wrapper"
    result.close()
    assert len(outcomes) == 1


def test_an_application_by_a_decorator_that_wraps_a_view_is_taken_as_what_it_is() -> None:
    @Request.application
    def app(request: Request) -> Response:
        return Response("hello")

    server = StrictWSGIServer().run(PostResponseMiddleware(app))
    assert (server.code, server.body) == (200, b"hello")
