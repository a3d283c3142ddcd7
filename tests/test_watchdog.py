"""A clean-up that hangs is cut off; one that does not costs next to nothing."""

import logging
import math
import os
import socket
import threading

import pytest

from postresponse import watchdog
from postresponse.watchdog import within


class Unit:
    """A unit of work on a socket: a clean-up that reads hangs until somebody shuts the socket down."""

    def __init__(self) -> None:
        self.ours, self.theirs = socket.socketpair()
        self.severed = threading.Event()

    def rollback(self) -> bytes:
        return self.ours.recv(1)

    def sever(self) -> None:
        self.severed.set()
        self.ours.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.ours.close()
        self.theirs.close()


def test_a_hanging_call_is_severed_and_returns(caplog: pytest.LogCaptureFixture) -> None:
    unit = Unit()
    assert within(0.05, unit.rollback, (), unit) == b""
    assert unit.severed.is_set()
    assert "takes longer than 0.05 s" in caplog.text
    unit.close()


def test_a_call_in_time_is_left_alone_and_one_without_limit_never_looked_at() -> None:
    unit = Unit()
    assert within(30.0, len, ("four",), unit) == 4
    assert within(None, len, ("four",), unit) == 4
    assert not unit.severed.is_set()
    unit.close()


def test_a_shorter_limit_wakes_the_thread_that_waits_for_a_longer_one() -> None:
    unit, longer, ended = Unit(), Unit(), threading.Event()
    waiting = threading.Thread(target=within, args=(30.0, ended.wait, (), longer))
    waiting.start()
    assert within(0.05, unit.rollback, (), unit) == b""
    ended.set()
    waiting.join()
    assert not longer.severed.is_set()
    unit.close()
    longer.close()


def test_a_unit_that_cannot_be_severed_is_at_least_named() -> None:
    logged, said = threading.Event(), list[str]()

    class Seen(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())
            logged.set()

    seen = Seen()
    logging.getLogger("postresponse").addHandler(seen)
    try:
        assert within(0.05, logged.wait, (5.0,), object())
    finally:
        logging.getLogger("postresponse").removeHandler(seen)
    assert ["takes longer than 0.05 s" in line for line in said] == [True]


def test_one_that_cannot_be_severed_does_not_stop_the_next(caplog: pytest.LogCaptureFixture) -> None:
    class Closed(Unit):
        def sever(self) -> None:
            super().sever()
            raise OSError("already closed")

    first, second = Closed(), Unit()
    waiting = threading.Thread(target=within, args=(0.01, first.rollback, (), first))
    waiting.start()
    assert within(0.05, second.rollback, (), second) == b""
    waiting.join()
    assert first.severed.is_set()
    assert "could not be severed" in caplog.text
    first.close()
    second.close()


def test_the_thread_ends_when_unused_and_starts_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "IDLE", 0.0)
    monkeypatch.setattr(watchdog, "TICK", 0.01)
    monkeypatch.setattr(watchdog, "_watchdog", dog := watchdog._Watchdog())
    before = set(threading.enumerate())
    for _ in range(2):
        unit = Unit()
        assert within(0.01, unit.rollback, (), unit) == b""
        for thread in set(threading.enumerate()) - before:
            thread.join(5.0)
        assert dog.wakes_at == math.inf
        assert dog.calls == set()
        unit.close()


def test_one_thread_is_enough_whoever_asks_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "_watchdog", watchdog._Watchdog())
    before, ended = set(threading.enumerate()), threading.Event()
    waiting = [threading.Thread(target=within, args=(30.0, ended.wait, (), object())) for _ in range(8)]
    for thread in waiting:
        thread.start()
    assert within(30.0, len, ("four",), object()) == 4
    assert len(set(threading.enumerate()) - before - set(waiting)) == 1
    ended.set()
    for thread in waiting:
        thread.join()


def test_a_forked_child_has_a_watchdog_of_its_own() -> None:
    within(30.0, len, ("",), None)  # the thread runs in this process, and would not in the child
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        unit = Unit()
        os.write(write, b"y" if within(0.01, unit.rollback, (), unit) == b"" else b"n")
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(read, 1) == b"y"
    os.close(read)
    os.close(write)
