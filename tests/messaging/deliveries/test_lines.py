"""Connections of a destination, with lines that do what they are told: real ones are in the tests of each broker."""

import os
import threading
from collections.abc import Callable, Sequence

import anyio
import pytest

from postresponse.exceptions import Unreachable
from postresponse.messaging import Delivery
from postresponse.messaging.deliveries import lines as module
from postresponse.messaging.deliveries.lines import Errors, Lines
from tests.messaging.deliveries.conftest import delivery
from tests.work.waiting import auntil

pytestmark = pytest.mark.anyio


class Fake:
    """A line that answers what *does* says."""

    def __init__(self, does: Callable[["Fake", Sequence[Delivery]], Errors]) -> None:
        self.is_sound = True
        self.is_closed = False
        self.sent: list[Delivery] = []
        self._does = does

    def send(self, messages: Sequence[Delivery], deadline: float) -> Errors:
        assert not self.is_closed
        errors = self._does(self, messages)
        self.sent += [each for each, error in zip(messages, errors, strict=True) if error is None]
        return errors

    def close(self) -> None:
        self.is_closed = True


class Office:
    """Lines, and all that were made."""

    def __init__(self, timeout: float = 5.0) -> None:
        self.made: list[Fake] = []
        self.answers: list[Callable[[Fake, Sequence[Delivery]], Errors]] = []
        self.is_away = False
        self.lines = Lines(self._connect, timeout)

    def _connect(self) -> Fake:
        if self.is_away:
            raise Unreachable("away")
        self.made.append(Fake(lambda line, messages: (self.answers.pop(0) if self.answers else fine)(line, messages)))
        return self.made[-1]


def fine(line: Fake, messages: Sequence[Delivery]) -> Errors:
    return [None] * len(messages)


def lost_half_way(line: Fake, messages: Sequence[Delivery]) -> Errors:
    line.is_sound = False
    half = len(messages) // 2
    return [None] * half + [Unreachable("lost")] * (len(messages) - half)


async def test_a_line_is_kept_for_the_next_batch() -> None:
    office = Office()
    for _ in range(3):
        assert await office.lines.send([delivery()]) == [None]
    assert [len(line.sent) for line in office.made] == [3]
    await office.lines.aclose()
    assert office.made[0].is_closed
    assert await office.lines.send([delivery()]) == [None]
    assert len(office.made) == 2
    await office.lines.aclose()


async def test_batches_at_once_have_a_line_each() -> None:
    office, meeting = Office(), threading.Barrier(2)

    def meets(line: Fake, messages: Sequence[Delivery]) -> Errors:
        meeting.wait(5)
        return [None]

    office.answers = [meets, meets]
    async with anyio.create_task_group() as tasks:
        for _ in range(2):
            tasks.start_soon(office.lines.send, [delivery()])
    assert len(office.made) == 2
    await office.lines.aclose()
    assert [line.is_closed for line in office.made] == [True, True]


async def test_what_an_idle_line_lost_goes_over_a_new_one_and_the_rest_does_not() -> None:
    office, batch = Office(), [delivery() for _ in range(4)]
    assert await office.lines.send([delivery()]) == [None]
    office.answers = [lost_half_way]
    assert await office.lines.send(batch) == [None] * 4
    assert office.made[0].is_closed
    assert office.made[0].sent[1:] == batch[:2]
    assert office.made[1].sent == batch[2:]
    await office.lines.aclose()


async def test_what_a_new_line_lost_is_an_outage() -> None:
    office = Office()
    office.answers = [lost_half_way]
    errors = await office.lines.send([delivery() for _ in range(4)])
    assert [type(error) for error in errors] == [type(None)] * 2 + [Unreachable] * 2
    assert [line.is_closed for line in office.made] == [True]
    office.is_away = True
    assert [str(error) for error in await office.lines.send([delivery()])] == ["away"]


async def test_an_idle_line_that_lost_what_no_new_one_takes_keeps_what_it_sent() -> None:
    office = Office()
    await office.lines.send([delivery()])
    office.answers, office.is_away = [lost_half_way], True
    errors = await office.lines.send([delivery() for _ in range(4)])
    assert [str(error) for error in errors] == ["None", "None", "away", "away"]


async def test_a_line_that_was_idle_for_long_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    office = Office()
    await office.lines.send([delivery()])
    monkeypatch.setattr(module, "IDLE", -1.0)
    await office.lines.send([delivery()])
    assert [line.is_closed for line in office.made] == [True, False]
    await office.lines.aclose()


async def test_a_line_that_raises_is_closed() -> None:
    office = Office()

    def breaks(line: Fake, messages: Sequence[Delivery]) -> Errors:
        raise ZeroDivisionError

    office.answers = [breaks]
    with pytest.raises(ZeroDivisionError):
        await office.lines.send([delivery()])
    assert office.made[0].is_closed


async def test_a_line_in_use_is_closed_when_it_is_given_back_behind_the_end() -> None:
    office, go_on = Office(), threading.Event()

    def waits(line: Fake, messages: Sequence[Delivery]) -> Errors:
        go_on.wait(5)
        return [None]

    office.answers = [waits]
    with anyio.move_on_after(0.05):
        await office.lines.send([delivery()])
    await office.lines.aclose()
    assert not office.made[0].is_closed
    go_on.set()
    await auntil(lambda: office.made[0].is_closed)


async def test_a_forked_process_leaves_its_parents_lines_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    office = Office()
    await office.lines.send([delivery()])
    monkeypatch.setattr(os, "getpid", lambda: 1)
    await office.lines.send([delivery()])
    await office.lines.aclose()
    assert [line.is_closed for line in office.made] == [False, True]
