"""The contract suites pass what is sound, and catch what is broken, of somebody else's."""

import pytest

pytest_plugins = ["pytester"]

THEIR_UNITS = """
import sqlite3
import threading
import pytest
from postresponse import current_exchange
from postresponse.testing.contracts import UnitOfWorkContract

SCHEMA = '''
CREATE TABLE orders (key TEXT PRIMARY KEY);
CREATE TABLE lines (of TEXT REFERENCES orders (key) DEFERRABLE INITIALLY DEFERRED);
'''

class Pool:
    "One connection, that is handed on as it is."
    def __init__(self, path):
        self.connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self.connection.executescript("PRAGMA foreign_keys=ON; PRAGMA synchronous=OFF;" + SCHEMA)
        self.out = 0

class Unit:
    active = True
    def __init__(self, pool):
        self.pool = pool
    def begin(self):
        self.pool.out += 1
        self.pool.connection.execute("BEGIN")
    def commit(self):
        self.pool.connection.execute("COMMIT")
    def rollback(self):
        if self.pool.connection.in_transaction:
            self.pool.connection.execute("ROLLBACK")
    def close(self):
        self.pool.out -= 1

class Optimistic(Unit):
    "Takes a commit that fails for one that is done."
    def commit(self):
        try:
            super().commit()
        except sqlite3.Error:
            pass

class Forgetful(Unit):
    "Leaves its transaction to whoever comes next."
    def begin(self):
        self.pool.out += 1
        if not self.pool.connection.in_transaction:
            self.pool.connection.execute("BEGIN")
    def rollback(self):
        pass

class Leaky(Unit):
    "Keeps the connection of a request that was rolled back."
    def close(self):
        if not self.rolled_back:
            super().close()
    rolled_back = False
    def rollback(self):
        self.rolled_back = True
        super().rollback()

class Suite(UnitOfWorkContract):
    kind = Unit
    @pytest.fixture(autouse=True)
    def _pool(self, tmp_path):
        self.path = tmp_path / "orders.db"
        self.pool = Pool(self.path)
    def factory(self):
        return lambda exchange: self.kind(self.pool)
    def store(self, key):
        self.pool.connection.execute("INSERT INTO orders VALUES (?)", [key])
    def store_what_cannot_be_committed(self, key):
        self.store(key)
        self.pool.connection.execute("INSERT INTO lines VALUES ('no such order')")
    def stored(self):
        reader = sqlite3.connect(self.path)
        try:
            return [key for (key,) in reader.execute("SELECT key FROM orders")]
        finally:
            reader.close()
    def in_use(self):
        return self.pool.out

class TestSound(Suite): ...
class TestOptimistic(Suite):
    kind = Optimistic
class TestForgetful(Suite):
    kind = Forgetful
class TestLeaky(Suite):
    kind = Leaky
"""


def test_a_broken_unit_of_work_is_caught_and_a_sound_one_passes(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    pytester.makepyfile(test_theirs=THEIR_UNITS)
    chosen = "TestSound or fails or 400 or doom"
    ran = pytester.runpytest_subprocess("-q", "-p", "no:cacheprovider", "-k", chosen, timeout=90)
    shown = ran.stdout.str()
    failed = {line.split("::")[1] for line in shown.splitlines() if line.startswith("FAILED")}
    assert failed == {"TestOptimistic", "TestForgetful", "TestLeaky"}, shown
    ran.stdout.fnmatch_lines_random(
        [
            "FAILED *TestOptimistic::test_a_commit_that_fails_is_told*the client was told that it was stored*",
            "FAILED *TestForgetful::test_a_commit_that_fails_is_told*",
            "FAILED *TestLeaky::test_doom_rolls_back*a connection was not given back*",
        ]
    )
    assert ran.parseoutcomes()["passed"] > 2 * 17  # the whole suite under each protocol, of the sound one


THEIR_TRANSPORTS = """
import pytest
from postresponse.messaging import Message
from postresponse.messaging.transports.memory import MemoryTransport
from postresponse.testing.contracts import TransportContract, TransportPlace

class Renumbering(MemoryTransport):
    "Gives each message an id of its own, by which nobody knows it again."
    def send(self, message):
        super().send(Message(message.destination, message.name, message.payload, headers=message.headers))

class InMemory(TransportPlace):
    hands_over_at_close = False
    kind = MemoryTransport
    def __init__(self):
        self.queue = self.kind()
    def transport(self):
        return self.queue
    async def send(self, message):
        self.queue.send(message)
    def waiting(self):
        return len(self.queue)
    def dead(self):
        return [delivery.id for delivery, _ in self.queue.dead]

class InRenumbering(InMemory):
    kind = Renumbering

class TestSound(TransportContract):
    @pytest.fixture
    def place(self):
        return InMemory()

class TestRenumbering(TransportContract):
    @pytest.fixture
    def place(self):
        return InRenumbering()

class TestUnsaid(TransportContract): ...
"""


def test_a_broken_transport_is_caught_and_a_sound_one_passes(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    pytester.makepyfile(test_theirs=THEIR_TRANSPORTS)
    chosen = "no_more_are_taken or comes_with"
    ran = pytester.runpytest_subprocess("-q", "-p", "no:cacheprovider", "-k", chosen, timeout=60)
    shown = ran.stdout.str()
    assert not [line for line in shown.splitlines() if line.startswith(("FAILED", "ERROR")) and "TestSound" in line]
    ran.stdout.fnmatch_lines_random(
        [
            "FAILED *TestRenumbering::test_a_message_comes_with_its_id_*",
            "ERROR *TestUnsaid::*TestUnsaid has no fixture `place`*",
        ]
    )
