"""A Django project on real servers, installed outermost or by the entry of MIDDLEWARE, commits as its policy says."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integrations.django_shop import Shop, made, serving
from tests.integrations.sites.django_shop.telling import noted
from tests.integrations.sites.modes import MODES
from tests.servers.client import Connection, ConnectionEnded
from tests.servers.site import eventually

SITES = [(server, way) for server in ("gunicorn-gthread", "uvicorn-httptools") for way in ("outermost", "entry")]
DRAINING = SITES[:3]
"""Not the entry alone under uvicorn: that hears of no lifespan, and uvicorn ends the process by the signal."""


def native(shop: Shop) -> str:
    """Where the streams are that Django does not collect before it sends them: under ASGI the async ones."""
    return "/async" if shop.server.kind.protocol == "asgi" else ""


VIEWS = ("", "/async")
VIEW = pytest.mark.parametrize("view", VIEWS, ids=["sync", "async"])
EARLY = pytest.mark.parametrize("at", ["head", "buffered"])
MODE = pytest.mark.parametrize("at", MODES)


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tables."""
    return made(tmp_path_factory.mktemp("database"))


@pytest.fixture(scope="module", params=SITES, ids="-".join)
def running(
    request: pytest.FixtureRequest, database: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Shop, str]]:
    """Each server with each way in turn."""
    server, way = request.param
    with serving(server, way, database, tmp_path_factory.mktemp(way)) as shop:
        yield shop, way


@pytest.fixture
def shop(running: tuple[Shop, str]) -> Iterator[Shop]:
    """A shop; each test asks for all the outcomes that it caused."""
    shop, _ = running
    shop.told = len(noted(shop.folder, "outcomes"))
    yield shop
    assert len(noted(shop.folder, "outcomes")) == shop.told, noted(shop.folder, "outcomes")[shop.told :]


@pytest.fixture
def sent(running: tuple[Shop, str]) -> str:
    """How a response that is no stream, and whose client stayed, is known to have ended."""
    return "unconfirmed" if running[1] == "entry" else "handed_over"


@VIEW
@EARLY
def test_an_order_is_there_when_its_response_is(shop: Shop, sent: str, view: str, at: str) -> None:
    before = shop.orders()
    for number in range(1, 6):
        answer = shop.client.request("POST", f"{view}/orders/ann?at={at}")
        assert shop.orders() == before + number, shop.server.log()
        assert (answer.status, answer.head.get("set-cookie")) == (201, "basket=empty; Path=/")
        assert shop.outcome() == [sent, "committed", 201]
    template = f"POST {view}/orders/<slug:customer>"
    eventually(lambda: noted(shop.folder, "routes")[-1:] == [template], "the route is told")


@VIEW
@EARLY
def test_a_failed_commit_is_answered_by_the_page_of_the_site(shop: Shop, sent: str, view: str, at: str) -> None:
    before, logged = shop.orders(), len(shop.server.log())
    answer = shop.client.request("POST", f"{view}/orders/ann?fail&at={at}&work=forbidden")
    connections = shop.client.connections
    assert (answer.status, answer.body) == (500, f"Sorry, {view}/orders/ann".encode())
    assert "IntegrityError" in shop.server.log()[logged:]
    assert [answer.head.get(name) for name in ("etag", "set-cookie")] == [None, None]
    assert shop.outcome() == [sent, "failed", 500]
    assert shop.client.request("POST", f"{view}/orders/ann?at={at}").status == 201
    assert shop.outcome() == [sent, "committed", 201]
    assert (shop.orders(), shop.client.connections) == (before + 1, connections)
    assert "forbidden began" not in shop.notes()


@VIEW
def test_behind_the_last_byte_a_failed_commit_is_told_of_and_harms_nobody_else(
    shop: Shop, sent: str, view: str
) -> None:
    before = shop.orders()
    assert shop.client.request("POST", f"{view}/orders/ann?fail&at=after_send").status == 201
    connections = shop.client.connections
    assert shop.outcome() == [sent, "failed", 201]
    assert shop.client.request("POST", f"{view}/orders/ann?at=after_send").status == 201
    assert shop.outcome() == [sent, "committed", 201]
    assert (shop.orders(), shop.client.connections) == (before + 1, connections)


@VIEW
@MODE
def test_a_refusal_rolls_back(shop: Shop, sent: str, view: str, at: str) -> None:
    before = shop.orders()
    assert shop.client.request("POST", f"{view}/orders/ann?status=409&at={at}").status == 409
    assert shop.outcome() == [sent, "rolled_back", 409]
    assert shop.orders() == before


@VIEW
@MODE
def test_a_stream_comes_whole_and_its_end_is_seen(shop: Shop, view: str, at: str) -> None:
    before = shop.orders()
    answer = shop.client.request("GET", f"{view}/stream?at={at}&header")
    assert answer.body.endswith(b"\n0\n1\n2"), shop.server.log()
    assert answer.head.get("x-hook") == "seen"
    assert shop.outcome() == ["handed_over", "committed", 201]
    assert shop.orders() == before + 1


def test_a_stream_that_breaks_looks_broken_and_one_that_is_held_is_an_error(shop: Shop) -> None:
    before, view = shop.orders(), native(shop)
    with Connection(shop.server.port) as connection:
        connection.send("GET", f"{view}/stream?broken")
        assert connection.read_head().status == 201
        with pytest.raises((ConnectionEnded, ConnectionResetError)):
            connection.read_response()
    assert shop.outcome() == ["failed", "committed", 201]
    assert shop.client.request("GET", f"{view}/stream?broken&at=buffered").status == 500
    assert shop.outcome()[1:] == ["rolled_back", 201]
    assert shop.orders() == before + 1


@pytest.mark.parametrize("at", ["head", "after_send"])
def test_a_client_that_leaves_is_known_to_have_left(shop: Shop, running: tuple[Shop, str], at: str) -> None:
    _, way = running
    with Connection(shop.server.port) as connection:
        connection.send("GET", f"{native(shop)}/stream?endless&at={at}")
        assert connection.read_head().status == 201
        connection.reset()
    ending, unit, status = shop.outcome()
    # Around Django's ASGI handler it is too late: that closes the response, and with it the connection, by itself.
    is_late = way == "outermost" and native(shop) == "/async" and at == "after_send"
    assert (ending, unit, status) == ("aborted", "failed" if is_late else "committed", 201), shop.server.log()
    assert not is_late or "because the client left" in shop.server.log()


@VIEW
@MODE
def test_work_begins_behind_the_response_if_it_committed(shop: Shop, sent: str, view: str, at: str) -> None:
    before = len(shop.notes())
    assert shop.client.request("POST", f"{view}/orders/ann?status=409&at={at}&work=never").status == 409
    assert shop.outcome() == [sent, "rolled_back", 409]
    assert shop.client.request("POST", f"{view}/orders/ann?at={at}&work=receipt").status == 201
    assert shop.outcome() == [sent, "committed", 201]
    eventually(lambda: shop.notes()[before:] == ["receipt began", "receipt done"], "the work is done")


@MODE
def test_a_file_comes_whole_and_a_head_request_has_no_body(shop: Shop, sent: str, at: str) -> None:
    answer = shop.client.request("GET", f"/file?at={at}")
    assert answer.head.get("content-length") == str(len(answer.body))
    assert b"Placed, or refused" not in answer.body
    assert shop.outcome()[1:] == ["committed", 200]
    assert shop.client.request("HEAD", f"/stream?at={at}").status == 201
    assert shop.outcome()[1:] == ["committed", 201]


@pytest.mark.parametrize("running", DRAINING, ids="-".join, indirect=True)
def test_a_server_that_ends_lets_the_work_of_each_mode_end(shop: Shop) -> None:
    works = [(f"slow{view}-{at}", f"{view}/orders/ann?at={at}") for view in VIEWS for at in MODES]
    before = len(shop.notes())
    for work, target in works:
        assert shop.client.request("POST", f"{target}&work={work}").status == 201
        assert shop.outcome()[1:] == ["committed", 201]
    began, done = ({f"{work} {what}" for work, _ in works} for what in ("began", "done"))
    eventually(lambda: {*shop.notes()[before:]} == began, "all of it began")
    shop.server.stop()
    assert {*shop.notes()[before:]} == began | done, shop.server.log()
