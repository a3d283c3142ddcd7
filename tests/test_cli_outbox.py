"""The command `postresponse outbox`, on SQLite; its relay in a process of its own, with real signals."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, select, update
from sqlalchemy.orm import Session

from postresponse.cli import main
from postresponse.messaging import Message, Outbox
from postresponse.messaging.store import Store

OUTBOX = Outbox({"mail": ["send"], "events": ["placed"]})
CODE = """
import time
from pathlib import Path
from postresponse.messaging import Backoff, Function, Outbox, Relay

outbox = Outbox({"mail": ["send"], "events": ["placed"]})


def send(delivery):
    with Path("sent").open("a") as file:
        file.write(f"{delivery.payload}\\n")
    if delivery.payload == "slow":
        time.sleep(60)
    if delivery.payload == "takes a while":
        time.sleep(1)


relay = Relay(
    outbox, "sqlite:///outbox.db", {"mail": Function(send, timeout=50)}, polls=(0.02, 0.1), backoff=Backoff(0.05, 0.1)
)
"""


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shop_relay.py").write_text(CODE)
    monkeypatch.delitem(sys.modules, "shop_relay", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    return f"sqlite:///{tmp_path}/outbox.db"


@pytest.fixture
def engine(url: str) -> Any:
    made = create_engine(url)
    OUTBOX.tables.waiting.metadata.create_all(made)
    yield made
    made.dispose()


def enlist(engine: Engine, *payloads: Any, to: str = "mail", **options: Any) -> list[str]:
    with Session(engine) as session:
        name = "send" if to == "mail" else "placed"
        ids = [str(OUTBOX.enlist(Message(to, name, payload, **options), into=session)) for payload in payloads]
        session.commit()
    return ids


def bury(engine: Engine, *payloads: Any, **options: Any) -> list[str]:
    ids = enlist(engine, *payloads, **options)
    store = Store(OUTBOX.tables)
    with engine.begin() as connection:
        for destination in ("mail", "events"):
            for delivery in store.claim(connection, destination, 1000, 60):
                store.bury(connection, delivery, "ValueError: no")
    return ids


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def said(*args: str) -> tuple[int, str, str]:
        try:
            code = main(["outbox", *args])
        except SystemExit as error:
            code = int(str(error.code))
        out, err = capsys.readouterr()
        return code, out, err

    return said


Say = Callable[..., tuple[int, str, str]]


def test_what_waits_and_what_is_dead_is_listed_without_what_it_says(url: str, engine: Engine, say: Say) -> None:
    assert say("list", url) == (0, "nothing waits\n", "")
    assert say("list", url, "--dead") == (0, "none is dead\n", "")
    assert say("stats", url) == (0, "nothing waits, and nothing is dead\n", "")
    dead = bury(engine, {"note": "private"}, {"note": "private"})
    waiting = enlist(engine, {"note": "private"}) + enlist(engine, 1, to="events", delay=100)
    code, out, _ = say("list", url)
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == ["message_id", *waiting]
    assert "private" not in out
    code, out, _ = say("list", url, "--dead", "--json")
    assert [row["message_id"] for row in json.loads(out)] == dead
    assert say("list", url, "--destination", "events", "--json")[1].count("message_id") == 1
    assert say("list", url, "--dead", "--limit", "1", "--json")[1].count("message_id") == 1
    code, out, _ = say("stats", url)
    assert [line.split()[:5] for line in out.splitlines()] == [
        ["destination", "due", "delayed", "leased", "dead"],
        ["events", "0", "1", "0", "0"],
        ["mail", "1", "0", "0", "2"],
    ]
    assert [row["dead"] for row in json.loads(say("stats", url, "--json")[1])] == [0, 2]


def test_one_message_is_shown_with_all_there_is(url: str, engine: Engine, say: Say) -> None:
    (dead,), (waiting,) = bury(engine, "private"), enlist(engine, 1)
    code, out, _ = say("show", url, dead)
    assert code == 0
    assert "ValueError: no" in out
    assert '{"version":1,"payload":"private"}' in out
    assert json.loads(say("show", url, waiting, "--json")[1])["is_dead"] is False
    missing = "00000000-0000-0000-0000-000000000000"
    assert say("show", url, missing) == (1, "", f"there is no message {missing}, waiting or dead\n")
    assert say("show", url, "7")[0] == 2


def test_the_dead_wait_again_with_all_their_attempts(url: str, engine: Engine, say: Say) -> None:
    first, second, _ = bury(engine, 1, 2, 3)
    bury(engine, 4, to="events")
    assert say("retry", url, first) == (0, "replayed: 1\n", "")
    assert say("retry", url, "--destination", "events")[1] == "replayed: 1\n"
    assert json.loads(say("retry", url, "--all", "--json")[1]) == {"replayed": 2, "due now": 0}
    assert say("retry", url, "--all") == (1, "nothing was left to do\n", "")
    with engine.connect() as connection:
        rows = connection.execute(select(OUTBOX.tables.waiting)).all()
    assert len(rows) == 4
    assert {(row.attempts, row.outages, row.last_error, row.token) for row in rows} == {(0, 0, None, None)}
    assert str(rows[0].message_id) == first
    assert say("retry", url, str(second))[1] == "due now: 1\n"
    assert say("retry", url)[0] == 2
    assert say("retry", url, "00000000-0000-0000-0000-000000000000")[0] == 1


def test_a_message_that_waits_for_its_time_is_made_due(url: str, engine: Engine, say: Say) -> None:
    (late,) = enlist(engine, 1, delay=1000)
    assert say("retry", url, late) == (0, "due now: 1\n", "")
    with engine.begin() as connection:
        assert len(Store(OUTBOX.tables).claim(connection, "mail", 10, 60)) == 1
    assert say("retry", url, late)[0] == 1  # a relay has it


def test_what_was_enlisted_again_meanwhile_is_not_there_twice(url: str, engine: Engine, say: Say) -> None:
    bury(engine, 1, dedupe_key="order 7")
    enlist(engine, 2, dedupe_key="order 7")
    assert say("retry", url, "--all")[0] == 0
    with engine.connect() as connection:
        assert len(connection.execute(select(OUTBOX.tables.waiting)).all()) == 1
    assert say("list", url, "--dead")[1] == "none is dead\n"


def test_the_dead_are_forgotten_in_chunks(url: str, engine: Engine, say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("postresponse.cli.outbox.CHUNK", 3)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setitem(sys.modules, "rich", None)
    first, *_ = bury(engine, *range(8))
    assert say("purge", url, "--all", "--older-than", "1000") == (
        1,
        "nothing was left to do\n",
        "\r\x1b[Kmessages: 0\r\x1b[K",
    )
    assert say("purge", url, first)[1] == "purged: 1\n"
    code, out, err = say("purge", url, "--all")
    assert (code, out) == (0, "purged: 7\n")
    assert err == "".join(f"\r\x1b[Kmessages: {count}" for count in (3, 6, 7)) + "\r\x1b[K"
    code, _, err = say("purge", url, first)
    assert code == 1
    assert f"there is no dead message {first}" in err


def test_a_destination_is_paused_and_resumed(url: str, engine: Engine, say: Say) -> None:
    assert say("pause", url, "mail") == (0, "paused: mail\n", "")
    assert say("pause", url, "mail") == (1, "", "mail is paused already\n")
    assert json.loads(say("stats", url, "--json")[1])[0]["paused"] is True
    assert say("resume", "shop_relay:relay", "mail") == (0, "resumed: mail\n", "")
    assert say("resume", url, "mail")[0] == 1
    code, _, err = say("pause", "shop_relay:relay", "mial")
    assert code == 2
    assert "the outbox has no destination 'mial'; it has mail, events" in err


def test_the_statements_are_printed_for_the_database(url: str, say: Say) -> None:
    code, out, _ = say("sql", url, "--table", "shop_outbox")
    assert code == 0
    assert "CREATE TABLE shop_outbox (" in out
    assert "CREATE TABLE shop_outbox_dead (" in out
    assert say("sql", "postgresql+psycopg://localhost/none")[1].count("GENERATED BY DEFAULT AS IDENTITY") == 2
    assert "def upgrade() -> None:" in say("sql", url, "--alembic")[1]
    assert "CREATE TABLE" in json.loads(say("sql", url, "--json")[1])["sql"]


@pytest.mark.parametrize(
    ("target", "code", "says"),
    [
        ("nothing", 2, "expected module:name of a Relay, or the URL of a database, found 'nothing'"),
        ("no_such_module:relay", 2, "there is no module 'no_such_module'"),
        ("shop_relay:nothing", 2, "tried to import shop_relay, which has no 'nothing'"),
        ("shop_relay:outbox", 2, "its Relay is wanted"),
        ("shop_relay:send", 2, "a Relay is wanted"),
        ("nonsense://", 2, "nonsense"),
        ("sqlite:////no/such/folder/outbox.db", 3, "unable to open database file"),
        ("sqlite:///empty.db", 3, "there is no table postresponse_outbox: `postresponse outbox sql` prints"),
        ("postgresql+psycopg://127.0.0.1:1/none", 3, "refused"),
    ],
)
def test_what_is_wrong_with_the_target_is_said(url: str, say: Say, target: str, code: int, says: str) -> None:
    found, _, err = say("stats", target)
    assert found == code
    assert says in err
    assert err.startswith("postresponse outbox stats: ")
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("relay", "sqlite:///outbox.db"), "a relay needs its destinations: give module:name of a Relay"),
        (("list", "sqlite:///outbox.db", "--limit", "0"), "expected a number from 1 on, found '0'"),
        (("purge", "sqlite:///outbox.db", "--all", "--older-than", "-1"), "expected seconds, zero or more, found '-1'"),
        (("purge", "sqlite:///outbox.db", "--all", "--older-than", "x"), "expected seconds, zero or more, found 'x'"),
    ],
)
def test_what_is_wrong_with_the_call_is_said(engine: Engine, say: Say, args: tuple[str, ...], says: str) -> None:
    code, _, err = say(*args)
    assert code == 2
    assert says in err


# -- its relay --------------------------------------------------------------------------------------------------------


def relay(folder: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "postresponse", "outbox", "relay", "shop_relay:relay", *options]
    return subprocess.Popen(
        command,
        cwd=folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(folder)},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background job ignores it
    )


def sent(folder: Path) -> list[str]:
    return (folder / "sent").read_text().split("\n")[:-1] if (folder / "sent").exists() else []


def until(holds: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.02)


def test_it_sends_until_nothing_is_due(tmp_path: Path, engine: Engine) -> None:
    enlist(engine, *range(30))
    enlist(engine, "later", delay=1000)
    enlist(engine, "another's", to="events", delay=1000)
    running = relay(tmp_path, "--until-empty", "--json")
    out, err = running.communicate(timeout=30)
    assert (running.returncode, json.loads(out)) == (0, {"delivered": 30, "failed": 0, "outages": 0, "dead": 0}), err
    assert len(sent(tmp_path)) == 30


def test_what_the_code_of_the_relay_prints_is_not_in_what_a_program_reads(tmp_path: Path, engine: Engine) -> None:
    printing = 'print("loaded")\n' + CODE.replace("def send(delivery):\n", "def send(delivery):\n    print('sent')\n")
    (tmp_path / "shop_relay.py").write_text(printing)
    enlist(engine, 1)
    running = relay(tmp_path, "--until-empty", "--json")
    out, err = running.communicate(timeout=30)
    assert json.loads(out)["delivered"] == 1
    assert err.splitlines()[:2] == ["loaded", "sent"]


@pytest.mark.parametrize("told", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_it_finish_what_is_under_way(tmp_path: Path, engine: Engine, told: signal.Signals) -> None:
    enlist(engine, "takes a while")
    running = relay(tmp_path)
    until(lambda: sent(tmp_path) == ["takes a while"])
    running.send_signal(told)
    out, err = running.communicate(timeout=30)
    assert running.returncode == 0, err
    assert out == "delivered: 1, failed: 0, outages: 0, dead: 0\n"
    assert err == "sending to mail; Ctrl-C or SIGTERM ends it\n"
    with engine.connect() as connection:
        assert connection.execute(select(OUTBOX.tables.waiting)).all() == []


def test_a_second_signal_ends_it_at_once_and_what_was_under_way_is_handed_back(tmp_path: Path, engine: Engine) -> None:
    enlist(engine, "slow")
    running = relay(tmp_path)
    until(lambda: sent(tmp_path) == ["slow"])
    running.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    assert running.poll() is None
    running.send_signal(signal.SIGTERM)
    assert running.wait(20) == 0
    running.communicate()
    with engine.connect() as connection:
        (row,) = connection.execute(select(OUTBOX.tables.waiting)).all()
    assert (row.token, row.attempts) == (None, 0)


def test_a_relay_that_is_killed_loses_nothing(tmp_path: Path, engine: Engine) -> None:
    enlist(engine, "slow", 1, 2)
    running = relay(tmp_path)
    until(lambda: len(sent(tmp_path)) == 3)
    running.kill()
    running.communicate()
    with engine.begin() as connection:  # as if the lease were over
        connection.execute(
            update(OUTBOX.tables.waiting).values(token=None, leased_until=None, payload='{"version":1,"payload":3}')
        )
    again = relay(tmp_path, "--until-empty")
    assert again.wait(30) == 0
    again.communicate()
    assert "3" in sent(tmp_path)
    with engine.connect() as connection:
        assert connection.execute(select(OUTBOX.tables.waiting)).all() == []


def test_without_its_table_it_says_how_to_make_it(tmp_path: Path, url: str) -> None:
    running = relay(tmp_path)
    _, err = running.communicate(timeout=30)
    assert running.returncode == 3
    assert "there is no table postresponse_outbox: `postresponse outbox sql` prints the statements" in err
