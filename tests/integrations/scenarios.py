"""What each framework is asked on a real server, in each mode: one shop, the same questions.

A site is an application that serves, on the database of `tests.integrations.shop` in its working directory, in the mode
that the variable SHOP_MODE names, with what `tests.integrations.sites.trading` has for it:

    POST /orders/<item>   places an order, which COMMIT refuses where the item begins with "gold"; 201
    GET /stream/<item>    places an order, and answers with `parts`, or `aparts`, as they come
    POST /slow/<item>     places an order, and leaves work behind that takes its time; 201

A module of tests has one server for each site and mode:

    @pytest.fixture(scope="module", params=visits(SITES), ids=str)
    def visit(request, tmp_path_factory):
        with visiting(request.param, tmp_path_factory.mktemp("site")) as visit:
            yield visit

    @pytest.mark.parametrize("scenario", SCENARIOS)
    def test_a_real_server(visit, scenario):
        visit.ask(scenario)
"""

import itertools
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.integrations.sites.trading import PART, PARTS
from tests.servers.client import Client, Connection
from tests.servers.harness import KINDS, Server

__all__ = ["MODES", "SCENARIOS", "Site", "Visit", "visiting", "visits"]

MODES: Final = ("head", "buffered", "after_send")


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
        modes: Those that it is asked in.
    """

    name: str
    server: str
    target: str
    template: str = "/orders/{item}"
    refused: tuple[int, bytes] | None = None
    left: str = "committed"
    modes: tuple[str, ...] = MODES


@dataclass
class Visit:
    """A site that is being served in one mode."""

    site: Site
    mode: str
    folder: Path = Path()

    def __post_init__(self) -> None:
        self._numbers = itertools.count(1)

    def __str__(self) -> str:
        return f"{self.site.name}-{self.mode}"

    def start(self) -> None:
        """Start its server."""
        self.server = Server(KINDS[self.site.server], self.site.target, self.folder, {"SHOP_MODE": self.mode})
        self.server.start()

    def ask(self, scenario: str) -> None:
        """Ask one of the `SCENARIOS`; the server is started anew where one before has stopped it."""
        if not self.server.alive():
            self.start()
        SCENARIOS[scenario](self)

    def item(self, name: str = "tea") -> str:
        """Something that nobody has ordered yet."""
        return f"{name}-{next(self._numbers)}"

    def stored(self, item: str) -> bool:
        """Whether an order of it is committed, seen by a connection of one's own."""
        with closing(sqlite3.connect(self.folder / "shop.sqlite3", timeout=10)) as connection:
            return bool(connection.execute("SELECT 1 FROM orders WHERE item = ?", (item,)).fetchall())

    def note(self, name: str) -> None:
        """Tell the site something."""
        (self.folder / name).touch()

    def noted(self, pattern: str) -> str:
        """Wait for what the site tells, and return it."""
        return self.until(lambda: next((each.name for each in self.folder.glob(pattern)), ""), f"no {pattern}")

    def outcome(self, item: str) -> tuple[str, str]:
        """Wait for the end of the exchange that ordered it; how it ended, and its unit of work."""
        _, ending, unit = self.noted(f"over.{item}.*")[len("over.") :].split(".")
        return ending, unit

    def until(self, holds: Callable[[], str], else_: str) -> str:
        """Wait until *holds* returns something, and return that."""
        deadline = time.monotonic() + 10
        while not (found := holds()):
            assert time.monotonic() < deadline, f"{else_}\n{self.server.log()}"
            time.sleep(0.005)
        return found


def visits(sites: Iterable[Site]) -> list[Visit]:
    """Every site in every mode of its."""
    return [Visit(site, mode) for site in sites for mode in site.modes]


@contextmanager
def visiting(visit: Visit, folder: Path) -> Iterator[Visit]:
    """Serve it, on an empty database in *folder*."""
    visit.folder = folder
    visit.start()
    try:
        yield visit
    finally:
        visit.server.stop()


def a_commit_tells_the_client(visit: Visit) -> None:
    """Who holds the last byte of a 2xx finds the order; one that is refused is answered by an error."""
    with Client(visit.server.port, timeout=10) as client:
        for _ in range(2):
            tea, gold = visit.item(), visit.item("gold")
            stored = client.request("POST", f"/orders/{tea}")
            assert (stored.status, stored.body) == (201, b"stored"), visit.server.log()
            assert visit.mode == "after_send" or visit.stored(tea)
            refused = client.request("POST", f"/orders/{gold}")
            if visit.mode == "after_send":
                assert (refused.status, refused.body) == (201, b"stored"), visit.server.log()
            elif visit.site.refused is not None:
                assert (refused.status, refused.body) == visit.site.refused, visit.server.log()
            else:
                assert refused.status == 500, visit.server.log()
                assert refused.head.get("content-type") == "application/problem+json"
                assert b"FOREIGN" not in refused.body
            assert refused.head.get("location") is None or visit.mode == "after_send"
            assert visit.outcome(tea) == ("handed_over", "committed")
            assert visit.outcome(gold) == ("handed_over", "failed")
            assert (visit.stored(tea), visit.stored(gold)) == (True, False)
        assert client.connections == 1
    assert "could not commit" in visit.server.log()
    assert f"POST {visit.site.template}" in visit.server.log()


def work_follows_a_commit(visit: Visit) -> None:
    """Work after the response starts where the unit of work committed, and only there."""
    tea, gold = visit.item(), visit.item("gold")
    with Client(visit.server.port, timeout=10) as client:
        client.request("POST", f"/orders/{gold}")
        client.request("POST", f"/orders/{tea}")
    visit.noted(f"worked.{tea}")
    assert not (visit.folder / f"worked.{gold}").exists()


def a_body_streams(visit: Visit) -> None:
    """At the head the order is there before the first byte, and the body comes while it is being made."""
    tea = visit.item()
    with Connection(visit.server.port, timeout=10) as connection:
        if visit.mode == "buffered":
            visit.note(f"go.{tea}")
        connection.send("GET", f"/stream/{tea}")
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
    assert visit.outcome(tea) == ("handed_over", "committed")
    assert visit.stored(tea)


def a_client_leaves(visit: Visit) -> None:
    """It is told, and decides nothing: what the policy says is done, once."""
    tea = visit.item()
    connection = Connection(visit.server.port, timeout=10)
    connection.send("GET", f"/stream/{tea}")
    if visit.mode == "buffered":
        visit.noted(f"began.{tea}")
    else:
        next(connection.read_body(connection.read_head()))
    connection.reset()
    visit.note(f"go.{tea}")
    unit = visit.site.left if visit.mode == "buffered" else "committed"
    ending, found = visit.outcome(tea)
    assert found == unit, visit.server.log()
    assert ending == "aborted" or visit.mode == "buffered"  # a server may take all of it, for nobody
    assert visit.stored(tea) is (unit == "committed")
    with Client(visit.server.port, timeout=10) as client:
        assert client.request("POST", f"/orders/{visit.item()}").status == 201, visit.server.log()


def a_shutdown_drains_work(visit: Visit) -> None:
    """What was begun behind a response is done before the process ends."""
    tea = visit.item()
    with Client(visit.server.port, timeout=10) as client:
        assert client.request("POST", f"/slow/{tea}").status == 201
    visit.noted(f"slow.{tea}")
    visit.server.stop()
    assert (visit.folder / f"drained.{tea}").exists(), visit.server.log()


SCENARIOS: Final[Mapping[str, Callable[[Visit], None]]] = {
    "a commit tells the client": a_commit_tells_the_client,
    "work follows a commit": work_follows_a_commit,
    "a body streams": a_body_streams,
    "a client leaves": a_client_leaves,
    "a shutdown drains work": a_shutdown_drains_work,
}
