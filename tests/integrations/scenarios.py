"""What each framework is asked on a real server, in each mode: one shop, the same questions.

A site is an application that serves, on the database of `tests.integrations.shop` in its working directory, with what
`tests.integrations.sites.trading` has for it, and in each mode as `tests.integrations.sites.modes` has it:

    POST /orders/<item>   places an order, which COMMIT refuses where the item begins with "gold"; 201
    GET /stream/<item>    places an order, and answers with `parts`, or `aparts`, as they come
    POST /slow/<item>     places an order, and leaves work behind that lasts until the server ends; 201

A module of tests has one server for each site, which ends with the last test of it:

    @pytest.fixture(scope="module", params=SITES, ids=str)
    def served(request, tmp_path_factory):
        with serving(request.param, tmp_path_factory.mktemp("site")) as served:
            yield served

    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize("scenario", SCENARIOS)
    def test_a_real_server(served, scenario, mode):
        served.ask(scenario, mode)

    def test_a_shutdown_drains_the_work_of_each_mode(served):
        served.drains()
"""

import itertools
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.integrations.sites.modes import MODES
from tests.integrations.sites.trading import PART, PARTS
from tests.servers.client import Client, Connection, Fields, Response
from tests.servers.harness import KINDS, Server

__all__ = ["MODES", "SCENARIOS", "Served", "Site", "Visit", "serving"]


@dataclass(frozen=True)
class Site:
    """An application, and the server that it runs on.

    Attributes:
        name: What the tests call it.
        server: One of `tests.servers.harness.KINDS`.
        target: The application, as `package.module:name`.
        template: How the log is to call the route of an order.
        refused: Status and body by which its own error handler answers a commit that was refused; None where the
            package's default answers.
        left: What becomes of the unit of work in buffered mode when the client leaves before the body is whole:
            "committed", or "rolled_back" where the framework gives the request up then.
    """

    name: str
    server: str
    target: str
    template: str = "/orders/{item}"
    refused: tuple[int, bytes] | None = None
    left: str = "committed"

    def __str__(self) -> str:
        return self.name


class Served:
    """A site that is being served."""

    def __init__(self, site: Site, folder: Path) -> None:
        self.site = site
        self.server = Server(KINDS[site.server], site.target, folder, {})
        self._numbers = itertools.count(1)

    def visit(self, mode: str) -> "Visit":
        """Visit it in one mode; its server is started anew where a test before has stopped it."""
        if not self.server.alive():
            self.server.start()
        return Visit(self.site, mode, self.server, self._numbers, len(self.server.log()))

    def ask(self, scenario: str, mode: str) -> None:
        """Ask one of the `SCENARIOS`."""
        SCENARIOS[scenario](self.visit(mode))

    def drains(self) -> None:
        """What was begun behind a response, in each mode, is done before the process ends."""
        visits = [self.visit(mode) for mode in MODES]
        items = [visit.item() for visit in visits]
        for visit, item in zip(visits, items, strict=True):
            with visit.client() as client:
                assert visit.request(client, "POST", f"/slow/{item}").status == 201
            visit.noted(f"slow.{item}")
        self.server.stop()
        drained = [mode for mode, item in zip(MODES, items, strict=True) if visits[0].has(f"drained.{item}")]
        assert drained == [*MODES], self.server.log()


@dataclass
class Visit:
    """A site that is being served, asked in one mode.

    Attributes:
        began: How much the log already had.
    """

    site: Site
    mode: str
    server: Server
    numbers: Iterator[int]
    began: int

    def client(self) -> Client:
        """A client that keeps its connection, and waits for a worker that still loads the application."""
        return Client(self.server.port, timeout=60)

    def request(self, client: Client, method: str, target: str) -> Response:
        """Send one request, and read the whole response to it."""
        return client.request(method, target, self._headers)

    def stream(self, item: str) -> Connection:
        """Ask for the body of an order, and read nothing."""
        connection = Connection(self.server.port, timeout=60)
        connection.send("GET", f"/stream/{item}", self._headers)
        return connection

    @property
    def _headers(self) -> Fields:
        return (("Mode", self.mode),)

    def item(self, name: str = "tea") -> str:
        """Something that nobody has ordered yet."""
        return f"{name}-{next(self.numbers)}"

    def stored(self, item: str) -> bool:
        """Whether an order of it is committed, seen by a connection of one's own."""
        with closing(sqlite3.connect(self.server.folder / "shop.sqlite3", timeout=10)) as connection:
            return bool(connection.execute("SELECT 1 FROM orders WHERE item = ?", (item,)).fetchall())

    def note(self, name: str) -> None:
        """Tell the site something."""
        (self.server.folder / name).touch()

    def has(self, name: str) -> bool:
        """Whether the site has told it."""
        return (self.server.folder / name).exists()

    def noted(self, pattern: str) -> str:
        """Wait for what the site tells, and return it."""
        return self.until(lambda: next((each.name for each in self.server.folder.glob(pattern)), ""), f"no {pattern}")

    def outcome(self, item: str) -> tuple[str, str]:
        """Wait for the end of the exchange that ordered it; how it ended, and its unit of work."""
        _, ending, unit = self.noted(f"over.{item}.*")[len("over.") :].split(".")
        return ending, unit

    def until(self, holds: Callable[[], str], else_: str) -> str:
        """Wait until *holds* returns something, and return that."""
        deadline = time.monotonic() + 10
        while not (found := holds()):
            assert time.monotonic() < deadline, f"{else_}\n{self.log()}"
            time.sleep(0.005)
        return found

    def log(self) -> str:
        """What the server has logged since."""
        return self.server.log()[self.began :]


@contextmanager
def serving(site: Site, folder: Path) -> Iterator[Served]:
    """Serve it, on an empty database in *folder*."""
    served = Served(site, folder)
    served.server.start()
    try:
        yield served
    finally:
        served.server.stop()


def a_commit_tells_the_client(visit: Visit) -> None:
    """Who holds the last byte of a 2xx finds the order; one that is refused is answered by an error."""
    with visit.client() as client:
        for _ in range(2):
            tea, gold = visit.item(), visit.item("gold")
            stored = visit.request(client, "POST", f"/orders/{tea}")
            assert (stored.status, stored.body) == (201, b"stored"), visit.log()
            assert visit.mode == "after_send" or visit.stored(tea)
            refused = visit.request(client, "POST", f"/orders/{gold}")
            if visit.mode == "after_send":
                assert (refused.status, refused.body) == (201, b"stored"), visit.log()
            elif visit.site.refused is not None:
                assert (refused.status, refused.body) == visit.site.refused, visit.log()
            else:
                assert refused.status == 500, visit.log()
                assert refused.head.get("content-type") == "application/problem+json"
                assert b"FOREIGN" not in refused.body
            assert refused.head.get("location") is None or visit.mode == "after_send"
            assert visit.outcome(tea) == ("handed_over", "committed")
            assert visit.outcome(gold) == ("handed_over", "failed")
            assert (visit.stored(tea), visit.stored(gold)) == (True, False)
        assert client.connections == 1
    assert "could not commit" in visit.log()
    assert f"POST {visit.site.template}" in visit.log()


def work_follows_a_commit(visit: Visit) -> None:
    """Work after the response starts where the unit of work committed, and only there."""
    tea, gold = visit.item(), visit.item("gold")
    with visit.client() as client:
        visit.request(client, "POST", f"/orders/{gold}")
        visit.request(client, "POST", f"/orders/{tea}")
    visit.noted(f"worked.{tea}")
    assert not visit.has(f"worked.{gold}")


def a_body_streams(visit: Visit) -> None:
    """At the head the order is there before the first byte, and the body comes while it is being made; or is held."""
    tea = visit.item()
    if visit.mode == "buffered":
        visit.note(f"go.{tea}")
    with visit.stream(tea) as connection:
        head = connection.read_head()
        body = connection.read_body(head)
        count = len(next(body))
        if visit.mode != "after_send":
            assert visit.stored(tea)
        else:
            assert not visit.stored(tea)
        visit.note(f"go.{tea}")
        count += sum(len(piece) for piece in body)
    assert (head.status, count) == (200, len(PART) * PARTS)
    assert head.get("content-length") == (str(count) if visit.mode == "buffered" else None)
    assert visit.outcome(tea) == ("handed_over", "committed")
    assert visit.stored(tea)


def a_client_leaves(visit: Visit) -> None:
    """It is told, and decides nothing: what the policy says is done, once."""
    tea = visit.item()
    connection = visit.stream(tea)
    if visit.mode == "buffered":
        visit.noted(f"began.{tea}")
    else:
        next(connection.read_body(connection.read_head()))
    connection.reset()
    unit = visit.site.left if visit.mode == "buffered" else "committed"
    # A body that is held, and made to its end all the same, may be taken whole by an ASGI server, for nobody.
    is_told = visit.mode != "buffered" or unit == "rolled_back" or visit.server.kind.protocol == "wsgi"
    if is_told:
        visit.note(f"left.{tea}")
    visit.note(f"go.{tea}")
    ending, found = visit.outcome(tea)
    assert found == unit, visit.log()
    assert ending == "aborted" or not is_told
    assert visit.stored(tea) is (unit == "committed")
    with visit.client() as client:
        assert visit.request(client, "POST", f"/orders/{visit.item()}").status == 201, visit.log()


SCENARIOS: Final[Mapping[str, Callable[[Visit], None]]] = {
    "a commit tells the client": a_commit_tells_the_client,
    "work follows a commit": work_follows_a_commit,
    "a body streams": a_body_streams,
    "a client leaves": a_client_leaves,
}
