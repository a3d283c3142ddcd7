"""Retry through real servers, frameworks and PostgreSQL: who meets a conflict is served all the same, and once."""

import functools
import json
import time
from collections import Counter as Tally
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import pytest

from tests.conftest import Scale
from tests.servers.client import Connection, Fields, Response
from tests.servers.harness import KINDS
from tests.servers.site import Site, Spec, eventually, target
from tests.services import postgres

APPLICATIONS = "tests.servers.apps.conflicts"


@functools.cache  # one that is the same stays up from test to test
def serving(application: str, server: str) -> Spec:
    """A server that serves one of the applications of `conflicts`, in the place of that of its protocol."""
    kind = KINDS[server]

    def command(_target: str, port: int) -> Any:
        return kind.command(f"{APPLICATIONS}:{application}", port)

    return Spec(replace(kind, name=f"{application}-{server}", command=command), "postgresql")


def behind(*pairs: tuple[str, str]) -> pytest.MarkDecorator:
    """Parametrize a test over applications and the servers that they run on."""
    specs = [serving(*pair) for pair in pairs]
    return pytest.mark.parametrize("site", [_param(spec) for spec in specs], indirect=True)


def behind_with_bodies(*pairs: tuple[str, str]) -> pytest.MarkDecorator:
    """Parametrize a test over them and the bodies that they take."""
    specs = [(serving(application, server), NAMES[application]) for application, server in pairs]
    params = [
        _param(spec, name) for spec, names in specs for name in names if name != "chunked" or spec.kind.reads_chunked
    ]
    return pytest.mark.parametrize(("site", "name"), params, indirect=["site"])


def _param(spec: Spec, *more: str) -> Any:
    return pytest.param(spec, *more, id="-".join((spec.kind.name, *more)), marks=pytest.mark.service("postgresql"))


STARLETTE = ("starlette", "uvicorn-httptools")
FASTAPI = ("fastapi", "uvicorn-h11")
FLASK = ("flask", "gunicorn-gthread")
DJANGO = ("django_wsgi", "gunicorn-gthread")
DJANGO_ASGI = ("django_asgi", "uvicorn-httptools")
ELSEWHERE = [
    (("starlette" if kind.protocol == "asgi" else "flask"), kind.name)
    for kind in KINDS.values()
    if kind.loop == "asyncio"  # SQLAlchemy's asyncio extension knows nothing else
    and kind.name not in {"uvicorn-httptools", "gunicorn-gthread"}
]

every_point = pytest.mark.parametrize("at", ["head", pytest.param("buffered", marks=pytest.mark.long)])
every_place = pytest.mark.parametrize("where", ["statement", "commit"])


class Count:
    """The counter, as somebody else sees it."""

    def __init__(self, connection: postgres.Connection) -> None:
        self._connection = connection

    @property
    def value(self) -> int:
        """How often it was incremented."""
        ((value,),) = self._connection.execute("SELECT sum(value) FROM counter")
        assert isinstance(value, int)
        return value

    @property
    def free(self) -> bool:
        """Whether nobody is in a transaction that has used it."""
        locks = "SELECT 1 FROM pg_locks WHERE relation = 'counter'::regclass AND mode <> 'SIReadLock'"
        return self._connection.execute(locks).fetchone() is None


@pytest.fixture
def count(site: Site) -> Iterator[Count]:
    """The counter of this server's application, at zero."""
    with closing(postgres.connect(site.orders.environment["POSTRESPONSE_TEST_SCHEMA"])) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS counter (slot int PRIMARY KEY, value int NOT NULL)")
        connection.execute("TRUNCATE counter")
        connection.execute("INSERT INTO counter VALUES (0, 0), (1, 0)")
        yield Count(connection)


# -- bodies -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Body:
    """A request's body, and what a handler reads in it.

    Attributes:
        parts: Its bytes; in chunks, without a Content-Length, where there are several.
    """

    content_type: str
    parts: tuple[bytes, ...]
    read: Any

    def post(self, connection: Connection, aim: str) -> Response:
        """Send it, and read the response."""
        fields: Fields = (("Content-Type", self.content_type),)
        if len(self.parts) == 1:
            return connection.request("POST", aim, fields if self.parts[0] else (), self.parts[0])
        head = f"POST {aim} HTTP/1.1\r\nHost: x\r\nContent-Type: {self.content_type}\r\nTransfer-Encoding: chunked\r\n"
        connection.socket.sendall(head.encode() + b"\r\n")
        for part in (*self.parts, b""):
            connection.socket.sendall(b"%x\r\n%s\r\n" % (len(part), part))
        return connection.read_response()


TEXT = "so much that it comes in more than one piece " * 3000
WHOLE = json.dumps([TEXT]).encode()
FORM = (
    '--limit\r\nContent-Disposition: form-data; name="title"\r\n\r\na title\r\n'
    '--limit\r\nContent-Disposition: form-data; name="file"; filename="text"\r\n'
    f"Content-Type: text/plain\r\n\r\n{TEXT}\r\n--limit--\r\n"
).encode()
BODIES = {
    "empty": Body("", (b"",), None),
    "json": Body("application/json", (WHOLE,), [TEXT]),
    "chunked": Body("application/json", (WHOLE[:10], WHOLE[10:100_000], WHOLE[100_000:]), [TEXT]),
    "form": Body("multipart/form-data; boundary=limit", (FORM,), {"title": "a title", "file": TEXT}),
}
NAMES = {
    "starlette": ["empty", "json", "chunked", "form"],
    "fastapi": ["empty", "json", "chunked"],  # forms need one more package there
    "flask": ["empty", "json", "chunked", "form"],
    "django_wsgi": ["empty", "json", "form"],  # where nothing is read without a Content-Length
    "django_asgi": ["empty", "json", "chunked", "form"],
}


# -- one request ------------------------------------------------------------------------------------------------------


@every_place
@every_point
@behind_with_bodies(STARLETTE, FASTAPI, FLASK, DJANGO, DJANGO_ASGI)
def test_a_conflict_is_run_again_with_the_same_body(site: Site, count: Count, at: str, where: str, name: str) -> None:
    assert_served(site, count, BODIES[name], at=at, where=where)


@pytest.mark.long
@every_place
@every_point
@behind_with_bodies(*ELSEWHERE)
def test_a_conflict_is_run_again_on_the_other_servers_too(
    site: Site, count: Count, at: str, where: str, name: str
) -> None:
    assert_served(site, count, BODIES[name], at=at, where=where)


@every_place
@behind(STARLETTE, FLASK, DJANGO, DJANGO_ASGI)
def test_a_body_may_be_read_behind_the_conflict(site: Site, count: Count, where: str) -> None:
    assert_served(site, count, BODIES["json"], where=where, late=1)


@every_point
@behind(STARLETTE, FLASK, DJANGO)
def test_a_body_that_is_made_while_it_leaves_leaves_once(site: Site, count: Count, at: str) -> None:
    assert_served(site, count, BODIES["json"], at=at, where="commit", streamed=1)


@every_point
@behind(FLASK)
def test_work_behind_a_body_can_ask_what_became_of_its_attempt(site: Site, count: Count, at: str) -> None:
    """A server closes every body that it was given, and so is that of every attempt."""
    key = site.key("closed")
    in_turn(site, BODIES["json"], target("/", key, attempts=3, beaten=2, where="commit", at=at))
    site.outcome(key)
    closed = [(event["attempt"], event["unit_of_work"]) for event in site.events(key, "closed")]
    assert closed == [(1, "failed"), (2, "failed"), (3, "committed")]


@behind(STARLETTE, FASTAPI, FLASK, DJANGO, DJANGO_ASGI)
def test_who_is_beaten_in_the_last_attempt_too_is_told_so_and_goes_on(site: Site, count: Count) -> None:
    key = site.key("beaten")
    aim = target("/", key, attempts=2, beaten=2, where="commit")
    beaten, after = in_turn(site, BODIES["json"], aim, target("/", site.key("following")))
    assert (beaten.status, beaten.head.get("content-type")) == (503, "application/problem+json"), site.log()
    assert beaten.head.get("retry-after") is not None
    assert after.status == 200, site.log()
    assert count.value == 2 + 1
    assert_ended(site, key, attempt=2, status=503, unit_of_work="failed")
    assert attempts(site, key, "commit_failed") == attempts(site, key, "after_rollback") == [2]
    assert not attempts(site, key, "after_commit")


@behind(FASTAPI)
def test_background_work_of_an_error_page_runs_for_the_attempt_that_answers(site: Site, count: Count) -> None:
    served, refused = site.key("served"), site.key("refused")
    aims = (target("/", served, attempts=3, beaten=2), target("/", refused, attempts=3, beaten=3))
    assert [response.status for response in in_turn(site, BODIES["json"], *aims)] == [200, 500], site.log()
    assert count.value == (2 + 1) + 3
    assert (site.outcome(served)["attempt"], site.outcome(refused)["attempt"]) == (3, 3)
    assert (attempts(site, served, "background"), attempts(site, served, "apology")) == ([3], [])
    assert (attempts(site, refused, "background"), attempts(site, refused, "apology")) == ([], [3])


@every_place
@behind(STARLETTE, FASTAPI, FLASK, DJANGO, DJANGO_ASGI)
def test_without_a_retry_the_conflict_is_for_the_client(site: Site, count: Count, where: str) -> None:
    key = site.key("once")
    (beaten,) = in_turn(site, BODIES["json"], target("/", key, beaten=1, where=where))
    assert beaten.status == (503 if where == "commit" else 500), site.log()
    assert count.value == 1
    assert site.outcome(key)["attempt"] == 1


@behind(STARLETTE, FLASK, DJANGO, DJANGO_ASGI)
def test_a_body_over_the_limit_is_read_once_and_not_run_again(site: Site, count: Count) -> None:
    """More than a megabyte of it, which is not kept."""
    text = TEXT * 10
    large = replace(BODIES["form"], parts=(FORM.replace(TEXT.encode(), text.encode()),))
    keys = site.key("beaten"), site.key("following")
    aims = [target("/", key, attempts=3, beaten=int(key is keys[0]), where="commit") for key in keys]
    assert [response.status for response in in_turn(site, large, *aims)] == [503, 200], site.log()
    assert count.value == 1 + 1
    for key in keys:
        assert site.outcome(key)["attempt"] == 1
        assert [event["read"]["file"] for event in site.events(key, "answered")] == [text]


@behind(STARLETTE, FLASK)
def test_what_a_handler_committed_itself_is_not_done_twice(site: Site, count: Count) -> None:
    key = site.key("early")
    (beaten,) = in_turn(site, BODIES["json"], target("/", key, attempts=3, beaten=1, early=1))
    assert beaten.status == 500, site.log()
    assert count.value == 1 + 1  # of the handler itself, and of who was faster
    assert site.outcome(key)["attempt"] == 1


def assert_served(site: Site, count: Count, body: Body, **asked: Any) -> None:
    """Be beaten twice and served by the third attempt, all of whose work is done once, on a connection that goes on."""
    before, logged = count.value, len(site.log())
    key, following = site.key("beaten"), site.key("following")
    beaten, after = in_turn(site, body, target("/", key, attempts=3, beaten=2, **asked), target("/", following))
    assert (beaten.status, after.status) == (200, 200), site.log()
    assert json.loads(beaten.body) == {"number": before + 3, "attempt": 3}
    assert json.loads(after.body) == {"number": before + 4, "attempt": 1}
    assert count.value == before + 4  # two of them of those who were faster
    assert_ended(site, key, attempt=3, status=200, unit_of_work="committed")
    began = [(event["attempt"], event["last"]) for event in site.events(key, "began")]
    assert began == [(1, False), (2, False), (3, True)]
    assert attempts(site, key, "answered") == ([1, 2, 3] if asked["where"] == "commit" else [3])
    assert all(event["read"] == body.read for event in site.events(key, "answered"))
    assert attempts(site, key, "after_commit") == attempts(site, key, "background") == [3]
    assert not attempts(site, key, "after_rollback", "commit_failed", "apology")
    assert not site.events("", "hook_failed")
    assert "ERROR postresponse" not in site.log()[logged:]
    eventually(lambda: count.free, "every transaction has ended")


def in_turn(site: Site, body: Body, *aims: str) -> list[Response]:
    """Post one after the other, on one connection where the server keeps it."""
    if not site.kind.keeps_alive:
        return [response for aim in aims for response in in_one(site, body, aim)]
    return in_one(site, body, *aims)


def in_one(site: Site, body: Body, *aims: str) -> list[Response]:
    """Post one after the other on one connection."""
    with site.connection() as connection:
        return [body.post(connection, aim) for aim in aims]


def attempts(site: Site, key: str, *events: str) -> list[int]:
    """The attempts in which something happened."""
    return [found["attempt"] for event in events for found in site.events(key, event)]


def assert_ended(site: Site, key: str, **expected: Any) -> None:
    """Wait for the one outcome, which was handed over."""
    outcome = site.outcome(key)
    assert outcome["ending"] == "handed_over"
    assert {name: outcome[name] for name in expected} == expected


# -- eight clients ----------------------------------------------------------------------------------------------------

CLIENTS = 8


@pytest.mark.long
@every_point
@behind(STARLETTE, FLASK)
def test_eight_clients_increment_one_counter_and_none_of_them_sees_a_conflict(
    site: Site, count: Count, at: str, scale: Scale, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = Run(site, at, CLIENTS * 10, attempts=0)
    assert alone.refused > 0  # there is something to see
    assert count.value == alone.answered == CLIENTS * 10 - alone.refused
    total, before = CLIENTS * scale.of(off=0, short=10, full=500), count.value
    run = Run(site, at, total, attempts=100)
    with capsys.disabled():
        print(f"\n{site.spec.name}, {at}: {run}; without retry {alone}")
    assert (run.answered, run.refused) == (total, 0), site.log()
    assert run.numbers == list(range(before + 1, before + total + 1))
    assert count.value == before + total
    assert run.conflicts["statement"] > 0
    assert run.conflicts["commit"] > 0
    assert run.retries == run.conflicts.total()
    assert run.connections == CLIENTS


class Run:
    """Increments by several clients at once, half of them in the one slot and half in the other.

    Attributes:
        answered: How many were told that they had incremented it.
        refused: How many were told anything else.
        numbers: What those who were told so got, in order.
        conflicts: How many there were at a statement, and how many at COMMIT.
        retries: How often a request was run again.
        most: The attempts of the request that had the most.
        connections: How many the clients needed.
    """

    def __init__(self, site: Site, at: str, total: int, attempts: int) -> None:
        self._site, self._asked = site, {"at": at, "attempts": attempts}
        self._keys = [site.key("increment") for _ in range(total)]
        self._connections: list[int] = []
        began = time.monotonic()
        with ThreadPoolExecutor(CLIENTS) as threads:
            responses = [found for share in threads.map(self._client, range(CLIENTS)) for found in share]
        self.seconds = time.monotonic() - began
        self.connections = sum(self._connections)
        self.numbers = sorted(json.loads(found.body)["number"] for found in responses if found.status == 200)
        self.answered, self.refused = len(self.numbers), total - len(self.numbers)
        eventually(lambda: all(site.events(key, "finished") for key in self._keys), "every request has ended")
        ended = [event["attempt"] for key in self._keys for event in site.events(key, "finished")]
        assert len(ended) == total
        self.retries, self.most = sum(ended) - total, max(ended)
        self.conflicts = Tally(event["where"] for key in self._keys for event in site.events(key, "conflict"))

    def _client(self, number: int) -> list[Response]:
        """Do one client's share, on one connection; without a retry on one each, for a framework's 500 may end it."""
        keys = self._keys[number::CLIENTS]
        return [
            found
            for share in ([keys] if self._asked["attempts"] else [[key] for key in keys])
            for found in self._increments(share, slot=number % 2)
        ]

    def _increments(self, keys: list[str], slot: int) -> list[Response]:
        with self._site.client() as client:
            responses = [client.request("POST", target("/", key, slot=slot, **self._asked)) for key in keys]
        self._connections.append(client.connections)
        return responses

    def __str__(self) -> str:
        at = self.conflicts
        return (
            f"{self.answered} of {len(self._keys)} increments by {CLIENTS} clients answered 200, "
            f"{self.refused} refused, {self.retries} retries "
            f"({at['statement']} conflicts at a statement, {at['commit']} at COMMIT), "
            f"{self.most} attempts at most, {self.seconds:.1f} s"
        )
