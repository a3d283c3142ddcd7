"""`manage.py check` and `manage.py postresponse`: what they find, and what they do to an outbox."""

import io
import json
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connections, transaction
from django.test import override_settings

from postresponse import asgi, wsgi
from postresponse.exceptions import ConfigurationError
from postresponse.integrations.django.management.commands.postresponse import Command
from postresponse.messaging import Message, Relay
from postresponse.messaging.django_store import Borrowed, engine_of
from postresponse.messaging.store import Store, Which
from postresponse.unit_of_work.django import DjangoUnitOfWork
from tests.integrations.django_shop import manage
from tests.messaging.django_places import ALIAS, OUTBOX, made

pytestmark = pytest.mark.usefixtures("project")

ENTRY = "postresponse.integrations.django.PostResponseMiddleware"
OTHER = "django.middleware.common.CommonMiddleware"


def found(**settings: Any) -> dict[str, str]:
    """What the checks say of these settings, but for those of a database: the text and the hint, by its id."""
    from postresponse.integrations.django import checks

    named = (checks.check_settings, checks.check_middleware, checks.check_transactions, checks.check_inspector)
    with override_settings(**{"MIDDLEWARE": [ENTRY], "POSTRESPONSE": {"UNIT_OF_WORK": "default"}} | settings):
        told = [each for check in (*named, checks.check_outermost) for each in check(app_configs=None)]
        return {each.id.removeprefix("postresponse."): f"{each.msg} {each.hint}" for each in told}


@pytest.fixture
def applications() -> Iterator[Any]:
    """A module with applications, as `wsgi.py` is."""
    module: Any = ModuleType("applications_of_the_checks")
    sys.modules[module.__name__] = module
    yield module
    del sys.modules[module.__name__]


def plain(environ: Any, start_response: Any) -> Any:
    """An application of nobody."""


async def aplain(scope: Any, receive: Any, send: Any) -> None:
    """The same for ASGI."""


def test_a_set_up_that_is_sound_is_passed_by(applications: Any) -> None:
    class Other:
        def __init__(self, app: Any) -> None:
            self.app = app

        def __call__(self, environ: Any, start_response: Any) -> Any:
            return self.app(environ, start_response)

    class Router:
        def __init__(self, app: Any) -> None:
            self.mapping = {"http": app}

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            raise AssertionError

    applications.wsgi = Other(wsgi.PostResponseMiddleware(plain))
    applications.asgi = Router(asgi.PostResponseMiddleware(aplain))
    assert found(MIDDLEWARE=[], WSGI_APPLICATION=f"{applications.__name__}.wsgi") == {}
    assert found(MIDDLEWARE=[], ASGI_APPLICATION=f"{applications.__name__}.asgi") == {}
    assert found(WSGI_APPLICATION=f"{applications.__name__}.wsgi") == {}


def test_a_middleware_that_is_nowhere_is_missed(applications: Any) -> None:
    applications.wsgi = plain
    for settings in ({}, {"WSGI_APPLICATION": "nowhere.at.all"}, {"WSGI_APPLICATION": f"{applications.__name__}.wsgi"}):
        told = found(MIDDLEWARE=[OTHER, "no.such.Middleware"], **settings)
        assert list(told) == ["W001"]
        assert "get_wsgi_application()" in told["W001"]
        assert ENTRY in told["W001"]


def test_the_place_of_the_entry_is_looked_at() -> None:
    assert "number 2 of MIDDLEWARE" in found(MIDDLEWARE=[OTHER, ENTRY])["W002"]
    assert "2 times" in found(MIDDLEWARE=[ENTRY, ENTRY])["E002"]
    assert list(found()) == ["I001"]  # which is of `check --deploy`


def test_settings_that_will_not_do_are_errors() -> None:
    assert "no option 'COMIT'; did you mean 'COMMIT'" in found(POSTRESPONSE={"COMIT": "head"})["E001"]
    assert (
        "there is no 'haed'; did you mean 'head'"
        in found(POSTRESPONSE={"UNIT_OF_WORK": "default", "COMMIT": "haed"})["E001"]
    )
    assert "nothing to commit" in found(POSTRESPONSE={"COMMIT": "head"})["E001"]
    assert "expected a dictionary" in found(POSTRESPONSE="head")["E001"]
    assert "tried to import nowhere" in found(POSTRESPONSE={"RELAY": "nowhere:relay"})["E001"]
    assert "expected a Relay" in found(POSTRESPONSE={"RELAY": "json:dumps"})["E001"]


def test_an_inspector_outside_of_debug_is_told_of() -> None:
    settings = {"INSPECTOR": True}
    assert "DEBUG is off" in found(POSTRESPONSE=settings)["W003"]
    assert "W003" not in found(POSTRESPONSE=settings, DEBUG=True)
    assert "W003" not in found(POSTRESPONSE={"INSPECTOR": None})


def test_atomic_requests_beside_the_unit_of_work_are_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(connections.settings["other"], "ATOMIC_REQUESTS", True)
    assert "W004" not in found()
    assert "DATABASES['other']" in found(POSTRESPONSE={"UNIT_OF_WORK": "other"})["W004"]
    assert "W004" in found(POSTRESPONSE={"UNIT_OF_WORK": DjangoUnitOfWork("other")})
    assert "W004" not in found(POSTRESPONSE={})


@pytest.mark.parametrize(
    ("alias", "told"),
    [
        ("default", "SQLite there has no SKIP LOCKED: relays beside each other take turns"),
        pytest.param("postgresql", None, marks=pytest.mark.service("postgresql")),
    ],
)
def test_an_outbox_without_skip_locked_is_told_of(alias: str, told: str | None) -> None:
    from postresponse.integrations.django.checks import check_outbox

    messages = [each.msg for each in check_outbox(databases=[alias])]
    assert len(messages) == (told is not None)
    assert told is None or told in messages[0]
    assert list(check_outbox(databases=None)) == []


# -- manage.py --------------------------------------------------------------------------------------------------------


def test_a_project_is_checked_by_its_own_command(tmp_path: Path) -> None:
    told = manage(tmp_path, "check", "--deploy", "--database", "default", SHOP_INSTALLED="entry")
    assert sorted(re.findall(r"postresponse\.([A-Z]\d+)", told)) == ["I001", "W005"]


@pytest.fixture
def command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., str]]:
    """`manage.py postresponse`, on a database with an outbox; it returns what was printed."""

    def run(*arguments: str, code: int | None = None) -> str:
        told = io.StringIO()
        with pytest.raises(SystemExit) if code else nullcontext() as ended:
            call_command(Command(stdout=told, stderr=told), *arguments)
        assert ended is None or ended.value.code == code
        printed = capsys.readouterr()
        return told.getvalue() + printed.out + printed.err

    with made("sqlite", tmp_path) as place:
        place.migrate()
        yield run
        place.engine.dispose()


def test_the_settings_are_shown_with_whence_they_are(command: Callable[..., str]) -> None:
    with override_settings(POSTRESPONSE={"UNIT_OF_WORK": "default", "COMMIT": None}):
        rows = json.loads(command("config", "--json"))
        found = {row["name"]: (row["source"], row["value"]) for row in rows}
        assert ["UNIT_OF_WORK", "POSTRESPONSE", "'default'"] in map(str.split, command("config").splitlines())
    assert found["UNIT_OF_WORK"] == ("POSTRESPONSE", "'default'")
    assert found["COMMIT"] == ("default", "None")
    assert found["CLEANUP_TIMEOUT"] == ("default", "5.0")
    assert found["ERROR_RESPONSE"] == ("default", "'rendered_by'")
    assert found["RELAY"] == ("default", "None")
    with override_settings(POSTRESPONSE={"COMIT": "head"}):
        assert "POSTRESPONSE has no option 'COMIT'; did you mean 'COMMIT'" in command("config", code=2)


def test_the_doctor_judges_what_servers_run(command: Callable[..., str], applications: Any) -> None:
    applications.wsgi, applications.asgi = wsgi.PostResponseMiddleware(plain), asgi.PostResponseMiddleware(aplain)
    named = {f"{protocol.upper()}_APPLICATION": f"{applications.__name__}.{protocol}" for protocol in ("wsgi", "asgi")}
    with override_settings(POSTRESPONSE={"UNIT_OF_WORK": "default"}, **named):
        told = json.loads(command("doctor", "--server", "granian", "--json", code=1))
        codes = [each["code"] for each in told]
        assert {"disconnect_by_early_close", "server_hides_disconnects"} <= set(codes)  # one of each protocol
        assert codes.count("server_kills_at_once") == 1
        assert "not_installed" not in codes
    applications.wsgi = plain  # which nobody serves any more
    with override_settings(POSTRESPONSE={"UNIT_OF_WORK": "default"}, **named):
        assert "not_installed" not in command("doctor", "--server", "granian", "--json", code=1)
    with override_settings(WSGI_APPLICATION=None):
        assert "not_installed" in command("doctor", "--json", code=1)
    with override_settings(WSGI_APPLICATION="nowhere.application"):
        assert "tried to import nowhere" in command("doctor", code=2)


def test_a_project_is_judged_by_its_own_command(tmp_path: Path) -> None:
    told = json.loads(manage(tmp_path, "postresponse", "doctor", "--server", "granian", "--json", code=1))
    assert "server_kills_at_once" in [each["code"] for each in told]


def test_the_outbox_is_looked_after_on_djangos_own_database(command: Callable[..., str]) -> None:
    outbox = ("outbox", "--database", ALIAS)
    assert "nothing waits" in command(*outbox, "stats")
    with transaction.atomic(ALIAS):
        OUTBOX.enlist(Message("mail", "send_receipt", {"order": 1}), into=connections[ALIAS])
    (row,) = json.loads(command(*outbox, "list", "--json"))
    assert (row["destination"], row["name"]) == ("mail", "send_receipt")
    assert "paused: mail" in command(*outbox, "pause", "mail")
    assert '"paused": true' in command(*outbox, "stats", "--json")
    assert "resumed: mail" in command(*outbox, "resume", "mail")
    assert '"order"' in command(*outbox, "show", row["message_id"])
    assert "CREATE TABLE postresponse_outbox" in command(*outbox, "sql")
    assert "nothing was left to do" in command(*outbox, "retry", "--all", code=1)
    assert "due now: 1" in command(*outbox, "retry", row["message_id"])


def test_the_relay_of_the_settings_is_the_one_that_runs(command: Callable[..., str]) -> None:
    sent: list[Any] = []
    with transaction.atomic(ALIAS):
        OUTBOX.enlist(Message("mail", "send_receipt", {"order": 1}), into=connections[ALIAS])
    relay = Relay(OUTBOX, engine_of(ALIAS), {"mail": lambda delivery: sent.append(delivery.payload)})
    with override_settings(POSTRESPONSE={"RELAY": relay}):
        assert "delivered: 1" in command("relay", "--until-empty")
        assert "nothing waits" in command("outbox", "list")
        assert "it has mail" in command("outbox", "pause", "mial", code=2)
    assert sent == [{"order": 1}]


def test_a_command_says_what_is_missing(command: Callable[..., str]) -> None:
    assert "run `manage.py migrate`" in command("outbox", "stats", code=3)  # of "default"
    with pytest.raises(CommandError, match="invalid choice: 'defualt'"):
        command("outbox", "--database", "defualt", "stats")
    for relay in (("outbox", "relay"), ("relay",)):
        assert "name a Relay in POSTRESPONSE['RELAY']" in command(*relay, code=2)
    with override_settings(POSTRESPONSE={"RELAY": "json:dumps"}):
        assert "expected a Relay or its module:name" in command("outbox", "stats", code=2)


@pytest.mark.parametrize(
    "kind",
    [
        "sqlite",
        pytest.param("postgresql", marks=pytest.mark.service("postgresql")),
        pytest.param("mariadb", marks=pytest.mark.service("mariadb")),
    ],
)
def test_a_relay_and_an_operator_work_on_each_of_djangos_databases(kind: str, tmp_path: Path) -> None:
    with made(kind, tmp_path) as place:
        place.migrate()
        with transaction.atomic(ALIAS):
            for number in range(3):
                OUTBOX.enlist(Message("mail", "send_receipt", number), into=connections[ALIAS])
        engine = engine_of(ALIAS)
        store = Store(OUTBOX.tables)
        with engine.begin() as connection:
            claimed = store.claim(connection, "mail", 10, 60.0)
            assert [each.payload for each in claimed] == [0, 1, 2]
            for each in claimed:
                store.bury(connection, each, "no such mailbox")
        ids = [each.id for each in claimed]
        with transaction.atomic(ALIAS):
            borrowed: Any = Borrowed(connections[ALIAS])
            assert store.replay(borrowed, 2, Which(among=tuple(ids[:2]))) == 2
            assert store.purge(borrowed, 5, Which(among=tuple(ids))) == 1
            assert store.hurry(borrowed, ids[0]) == 1
            assert store.resume(borrowed, "mail") is False
            transaction.set_rollback(True, ALIAS)
        with engine.begin() as connection:
            assert [each.dead for each in store.stats(connection)] == [3]
        with transaction.atomic(ALIAS):
            assert store.replay(borrowed, 2, Which(among=tuple(ids[:2]))) == 2
        with engine.begin() as connection:
            assert [(each.due, each.dead) for each in store.stats(connection)] == [(2, 1)]
        engine.dispose()
        place.engine.dispose()


def test_an_engine_is_of_an_alias_that_there_is(project: None) -> None:
    with pytest.raises(ConfigurationError, match="no database has the alias 'defualt'; did you mean 'default'"):
        engine_of("defualt")
