"""When it is tried again: with the time and the chance given."""

import math
from typing import Any

import pytest

from postresponse.exceptions import ConfigurationError
from postresponse.messaging.retrying import Backoff, Breaker


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(("failures", "seconds"), [(0, 1), (1, 1), (2, 2), (3, 4), (9, 256), (10, 300), (1000, 300)])
def test_the_pause_doubles_up_to_the_cap(failures: int, seconds: float) -> None:
    assert Backoff(1.0, 300.0).seconds(failures, 1.0) == seconds


@pytest.mark.parametrize("failures", [1, 5, 50])
def test_chance_takes_half_of_it_at_most_at_the_cap_too(failures: int) -> None:
    backoff = Backoff(1.0, 300.0)
    most = backoff.seconds(failures, 1.0)
    assert backoff.seconds(failures, 0.0) == most / 2
    assert backoff.seconds(failures, 0.5) == most * 0.75


def test_very_many_failures_overflow_nothing() -> None:
    assert Backoff(1e300, math.inf).seconds(10**9, 1.0) <= math.inf


@pytest.mark.parametrize(
    ("base", "cap", "found"),
    [
        (0, 1, "base: expected seconds above 0, found 0"),
        (1, -1, "cap: expected seconds above 0, found -1"),
        ("1", 2, "base: expected seconds as a number, found '1'"),
        (True, 2, "base: expected seconds as a number, found True"),
        (math.nan, 2, "base: expected seconds as a number, found nan"),
        (2.0, 1.0, "cap: 1 seconds are below base=2"),
    ],
)
def test_a_backoff_that_cannot_be_is_refused(base: Any, cap: Any, found: str) -> None:
    with pytest.raises(ConfigurationError, match=found):
        Backoff(base, cap)


def test_a_breaker_opens_for_a_while_and_then_lets_one_through() -> None:
    clock = Clock()
    breaker = Breaker(Backoff(1.0, 4.0), clock, lambda: 1.0)
    assert (breaker.is_closed, breaker.waits) == (True, 0.0)
    assert breaker.failed()
    assert (breaker.is_closed, breaker.waits) == (False, 1.0)
    clock.now += 0.6
    assert breaker.waits == pytest.approx(0.4)
    clock.now += 0.4
    assert (breaker.is_closed, breaker.waits) == (False, 0.0)
    assert breaker.reached()
    assert (breaker.is_closed, breaker.waits) == (True, 0.0)


def test_what_fails_while_it_is_open_counts_once_and_each_try_waits_longer() -> None:
    clock = Clock()
    breaker = Breaker(Backoff(1.0, 4.0), clock, lambda: 1.0)
    told, waited = [], []
    for _ in range(4):
        told += [breaker.failed() for _ in range(3)]
        waited.append(breaker.waits)
        clock.now += breaker.waits
    assert told == [True, *[False] * 11]
    assert (waited, breaker.failures) == ([1.0, 2.0, 4.0, 4.0], 4)


def test_it_begins_anew_once_it_was_reached_and_tells_of_it_once() -> None:
    clock = Clock()
    breaker = Breaker(Backoff(1.0, 4.0), clock, lambda: 1.0)
    assert not breaker.reached()
    for _ in range(3):
        breaker.failed()
        clock.now += 10
    assert [breaker.reached(), breaker.reached()] == [True, False]
    assert breaker.failed()
    assert breaker.waits == 1.0
