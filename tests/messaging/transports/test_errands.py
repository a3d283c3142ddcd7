"""A thread that does what is handed to it."""

import socket
import threading
from typing import Any

import pytest

from postresponse.messaging.transports.errands import Errands
from tests.work.waiting import auntil, until

pytestmark = pytest.mark.anyio


class Turns:
    """What is looked after in between.

    Attributes:
        count: How often it had a turn.
    """

    def __init__(self, seconds: float = 60.0, readable: Any = None) -> None:
        self.count = 0
        self.seconds = seconds
        self.readable = readable

    def __call__(self) -> tuple[float, Any]:
        self.count += 1
        return self.seconds, self.readable


def test_errands_are_done_in_order_on_one_thread_with_turns_in_between() -> None:
    turns, seen = Turns(), []
    errands = Errands("errands", turns)
    futures = [errands.ask(lambda n: seen.append((n, threading.current_thread().name)), number) for number in range(9)]
    for each in futures:
        each.result(5)
    assert seen == [(number, "errands") for number in range(9)]
    until(lambda: turns.count)
    errands.end(int).result(5)


def test_the_last_errand_is_the_last_thing_that_is_done() -> None:
    for _ in range(50):
        turns, seen = Turns(0.0), []

        def last() -> None:
            seen.append(turns.count)  # noqa: B023

        errands = Errands("errands", turns)
        errands.end(last).result(5)
        errands._thread.join(5)
        assert seen == [turns.count]
        with pytest.raises(ConnectionError, match="the transport is closed"):
            errands.ask(int).result(5)
        errands.wake()


def test_it_wakes_when_told_when_something_can_be_read_and_when_its_time_has_come() -> None:
    near, far = socket.socketpair()
    turns = Turns(60.0, far)
    errands = Errands("errands", turns)
    until(lambda: turns.count == 1)
    errands.wake()
    until(lambda: turns.count == 2)
    near.send(b"x")
    until(lambda: turns.count > 10)
    far.recv(1)
    turns.readable, turns.seconds = None, 0.0
    errands.wake()  # it may sleep already
    before = turns.count
    until(lambda: turns.count > before + 10)
    far.close()
    turns.readable = far  # it was closed meanwhile
    before = turns.count
    until(lambda: turns.count > before + 10)
    errands.end(int).result(5)
    near.close()


async def test_what_an_errand_raises_is_raised_where_it_is_awaited() -> None:
    def fails() -> None:
        raise ValueError("no")

    errands = Errands("errands", Turns())
    with pytest.raises(ValueError, match="no"):
        await errands.done(fails)
    assert await errands.done(divmod, 7, 2) == (3, 1)
    assert await errands.ended(int) == 0


async def test_one_that_follows_another_begins_when_that_has_ended() -> None:
    release, seen = threading.Event(), []

    def slow() -> None:
        assert release.wait(5)
        seen.append("first")

    first = Errands("first", Turns())
    first.end(slow)
    second = Errands("second", Turns(), first)
    future = second.ask(seen.append, "second")
    assert not future.done()
    release.set()
    await auntil(lambda: seen == ["first", "second"])
    await second.ended(int)
