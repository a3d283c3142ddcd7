"""The outbox in Django's admin, as operators use it: through a real server, logged in."""

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import httpx2
import pytest

from tests.integrations.django_shop import Shop, made, serving

DEAD = "/admin/postresponse/deadmessage/"
WAITING = "/admin/postresponse/outboxmessage/"
PAUSED = "/admin/postresponse/pauseddestination/"
IDS = [f"{number:032x}" for number in range(1, 6)]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """The project on a server."""
    folder = tmp_path_factory.mktemp("admin")
    with serving("gunicorn-gthread", "outermost", made(tmp_path_factory.mktemp("database")), folder) as shop:
        yield shop


def run(shop: Shop, *statements: str) -> list[tuple[object, ...]]:
    """Run statements behind Django's back, and return what the last one found."""
    with closing(sqlite3.connect(shop.folder / "shop.sqlite3", timeout=10)) as connection, connection:
        for statement in statements:
            found = connection.execute(statement).fetchall()
        return found


@pytest.fixture(autouse=True)
def messages(shop: Shop) -> None:
    """Three that are dead, two that wait, of which a relay has one."""
    columns = "message_id, destination, name, payload, created_at, due_at, attempts, last_error"
    moment, error = "2020-01-02 03:04:05.000000", "OSError: no mailbox"
    dead = [
        f"('{each}', 'mail', 'receipt', '{{\"payload\":\"secret\"}}', '{moment}', '{moment}', 9, '{error}', '{moment}')"
        for each in IDS[:3]
    ]
    later = "2999-01-01 00:00:00.000000"
    run(
        shop,
        *(f"DELETE FROM postresponse_outbox{suffix}" for suffix in ("", "_dead", "_paused")),
        f"INSERT INTO postresponse_outbox_dead ({columns}, died_at) VALUES {', '.join(dead)}",
        f"INSERT INTO postresponse_outbox ({columns}) VALUES "
        f"('{IDS[3]}', 'mail', 'receipt', '{{}}', '{moment}', '{later}', 0, NULL)",
        f"INSERT INTO postresponse_outbox ({columns}, token, leased_until) VALUES "
        f"('{IDS[4]}', 'shop', 'restock', '{{}}', '{moment}', '{later}', 0, NULL, '{IDS[0]}', '{later}')",
        f"INSERT INTO postresponse_outbox_paused VALUES ('mail', '{moment}')",
    )


def visitor(shop: Shop) -> httpx2.Client:
    """A browser."""
    return httpx2.Client(base_url=f"http://127.0.0.1:{shop.server.port}", follow_redirects=True, timeout=30)


@contextmanager
def login(shop: Shop, name: str) -> Iterator[httpx2.Client]:
    """One that is logged in."""
    with visitor(shop) as client:
        answer = post(client, "/admin/login/?next=/admin/", {"username": name, "password": "secret"})
        assert "Log out" in answer, shop.server.log()
        yield client


def post(client: httpx2.Client, path: str, fields: dict[str, str | list[str]]) -> str:
    """Send the form of a page, with its token; return the page that follows."""
    token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', client.get(path).text)
    assert token is not None
    answer = client.post(path, data={**fields, "csrfmiddlewaretoken": token[1]})
    assert answer.status_code == 200, answer.text
    return answer.text


def act(client: httpx2.Client, path: str, action: str, *keys: int | str) -> str:
    """Have the admin do *action* to rows."""
    return post(client, path, {"action": action, "_selected_action": [str(key) for key in keys]})


def keys(shop: Shop, table: str = "postresponse_outbox_dead") -> list[int]:
    """The keys of the rows of *table*."""
    return [int(str(key)) for (key,) in run(shop, f"SELECT id FROM {table} ORDER BY id")]


def ids(shop: Shop, table: str) -> list[int]:
    """The last digits of the ids of the messages in *table*."""
    return [int(str(each)[-1]) for (each,) in run(shop, f"SELECT message_id FROM {table} ORDER BY message_id")]


def test_what_waits_and_what_is_dead_is_listed_with_its_age_and_its_error(shop: Shop) -> None:
    with login(shop, "root") as client:
        page = client.get(DEAD).text
        assert page.count("OSError: no mailbox") == 3
        assert re.search(r'field-age[^>]*">\d+\xa0years', page), page
        assert 'field-attempts">9' in page
        assert "secret" not in page
        assert "restock" in client.get(WAITING).text
        assert "restock" not in client.get(f"{WAITING}?destination=mail").text
        found = client.get(f"{DEAD}?q={IDS[1]}").text
        assert ("1 result" in found, found.count("OSError")) == (True, 1)
        assert client.get(f"{DEAD}?q=receipt").text.count("OSError") == 3
        assert "mail" in client.get(PAUSED).text


def test_nothing_can_be_edited_added_or_deleted(shop: Shop) -> None:
    with login(shop, "root") as client:
        for path in (DEAD, WAITING):
            key = keys(shop, "postresponse_outbox_dead" if path == DEAD else "postresponse_outbox")[0]
            page = client.get(f"{path}{key}/change/").text
            assert "payload" in page.lower()
            assert not re.search(r'name="(?:destination|payload|attempts|_save)"', page)
            assert client.get(f"{path}add/").status_code == 403
            assert client.get(f"{path}{key}/delete/").status_code == 403
            assert 'value="delete_selected"' not in client.get(path).text


def test_the_dead_wait_again_in_the_admins_own_transaction(shop: Shop) -> None:
    with login(shop, "root") as client:
        assert "2 wait again." in act(client, DEAD, "retry", *keys(shop)[:2])
        assert (ids(shop, "postresponse_outbox_dead"), ids(shop, "postresponse_outbox")) == ([3], [1, 2, 4, 5])
        attempts = run(shop, "SELECT DISTINCT attempts FROM postresponse_outbox")
        assert attempts == [(0,)]
        assert "1 forgotten." in act(client, DEAD, "purge", *keys(shop))
        assert ids(shop, "postresponse_outbox_dead") == []


def test_what_waits_is_due_at_once_but_for_what_a_relay_has(shop: Shop) -> None:
    with login(shop, "root") as client:
        assert "1 due now." in act(client, WAITING, "retry", *keys(shop, "postresponse_outbox"))
        due = run(shop, "SELECT due_at FROM postresponse_outbox ORDER BY id")
        assert [str(each)[:2] for (each,) in due] == ["20", "29"]
        assert "1 resumed." in act(client, PAUSED, "resume", "mail")
        assert run(shop, "SELECT count(*) FROM postresponse_outbox_paused") == [(0,)]


@pytest.mark.parametrize(
    ("name", "sees", "reads", "may"),
    [("viewer", True, True, set()), ("operator", True, False, {"retry"}), ("nobody", False, False, set())],
)
def test_each_sees_and_does_what_is_permitted(shop: Shop, name: str, sees: bool, reads: bool, may: set[str]) -> None:
    with login(shop, name) as client:
        listed = client.get(DEAD)
        assert listed.status_code == (200 if sees else 403)
        assert set(re.findall(r'<option value="(retry|purge)"', listed.text)) == may
        one = client.get(f"{DEAD}{keys(shop)[0]}/change/")
        assert one.status_code == (200 if sees else 403)
        assert ("secret" in one.text) == reads
        for action in ("retry", "purge"):
            if sees and action not in may:
                act(client, DEAD, action, *keys(shop))
        assert ids(shop, "postresponse_outbox_dead") == [1, 2, 3]
        assert client.get(WAITING).status_code == 403


def test_an_anonymous_visitor_sees_the_log_in(shop: Shop) -> None:
    with visitor(shop) as client:
        assert "Log in" in client.get(f"{DEAD}{keys(shop)[0]}/change/").text


def test_what_an_action_did_is_rolled_back_with_its_request(shop: Shop, tmp_path: Path) -> None:
    with login(shop, "root") as client:
        client.headers["X-Doomed"] = "yes"
        page = act(client, DEAD, "purge", keys(shop)[0])
    assert "1 forgotten." in page
    assert ids(shop, "postresponse_outbox_dead") == [1, 2, 3]
