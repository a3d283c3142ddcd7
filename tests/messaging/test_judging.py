"""What an error makes of a delivery, and what is told of it."""

from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy.exc import OperationalError

from postresponse.exceptions import MessageRefused, UnknownVersion, Unreachable
from postresponse.messaging import Backoff, Delivery
from postresponse.messaging.delivery import DEFERRALS, Result
from postresponse.messaging.judging import UNKNOWN, Judge, told
from postresponse.messaging.message import sealed


def delivery(payload: Any = None, *, attempts: int = 0, document: str | bytes | None = None) -> Delivery:
    return Delivery(uuid4(), "orders", "book", sealed(payload) if document is None else document, attempts=attempts)


JUDGE = Judge(3, Backoff(1.0, 8.0), (LookupError,), lambda: 1.0)


@pytest.mark.parametrize(
    ("error", "attempts", "result", "delay"),
    [
        (None, 0, Result.DONE, 0.0),
        (ValueError("no"), 0, Result.FAILED, 1.0),
        (ValueError("no"), 1, Result.FAILED, 2.0),
        (ValueError("no"), 2, Result.DEAD, 0.0),
        (ValueError("no"), 7, Result.DEAD, 0.0),
        (TimeoutError(), 0, Result.FAILED, 1.0),
        (MessageRefused("no"), 0, Result.DEAD, 0.0),
        (UnknownVersion(7, 1), 2, Result.BACK, UNKNOWN),
        (Unreachable("no"), 2, Result.OUTAGE, 0.0),
        (KeyError("no"), 2, Result.OUTAGE, 0.0),
        (ConnectionError("no"), 0, Result.FAILED, 1.0),
    ],
)
def test_each_error_has_its_end(error: Exception | None, attempts: int, result: Result, delay: float) -> None:
    found = JUDGE.settled(delivery(attempts=attempts), error)
    assert (found.result, found.delay) == (result, delay)
    assert bool(found.error) is (error is not None)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("no"), "ValueError: no"),
        (ValueError(), "ValueError"),
        (ValueError("  "), "ValueError"),
        (ValueError("first\nsecond"), "ValueError: first"),
        (ValueError("x" * 1000), f"ValueError: {'x' * 200}"),
        (OSError("no amqp://me:secret@broker:5672//"), "OSError: no amqp://***@broker:5672//"),
        (ValueError("ann@example.org has ordered tea"), "ValueError: … has ordered …"),
        (OperationalError("SELECT 1", {}, Exception("gone")), "OperationalError: gone"),
    ],
)
def test_an_error_is_told_of_in_short_without_credentials_and_without_the_payload(error: Exception, text: str) -> None:
    said = delivery({"to": "ann@example.org", "items": ["tea", {"n": "no"}], "count": 3})
    assert told(error, said) == text


@pytest.mark.parametrize("document", ["{", b"\xff", '{"version": 9, "payload": "tea"}'])
def test_what_cannot_be_read_is_told_of_as_it_is(document: str | bytes) -> None:
    assert told(ValueError("tea"), delivery(document=document)) == "ValueError: tea"


# -- the delivery itself ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("said", ["", "x", "-1", "1.5", "9" * 5000, None, 3])
def test_a_count_of_deferrals_that_is_none_is_zero(said: Any) -> None:
    found = Delivery(uuid4(), "orders", "book", "", {DEFERRALS: said})
    assert found.deferrals == (3 if said == 3 else 0)


@pytest.mark.parametrize(
    ("headers", "found"), [(None, {}), ("", {}), ('{"a": "b"}', {"a": "b"}), ({"a": "b"}, {"a": "b"})]
)
def test_headers_are_read_from_what_a_table_or_a_broker_has(headers: Any, found: dict[str, str]) -> None:
    said = Delivery(uuid4(), "orders", "book", "", headers)
    assert said.headers == found
    assert said.headers == found
    assert said.deferred_headers == {**found, DEFERRALS: "1"}


@pytest.mark.parametrize("headers", ["{", "[1]", "3"])
def test_headers_that_are_none_are_refused(headers: str) -> None:
    with pytest.raises(MessageRefused, match="headers that are no"):
        _ = Delivery(uuid4(), "orders", "book", "", headers).headers


def test_what_a_filter_says_is_kept() -> None:
    said = delivery("tea")
    assert (said.ending, said.reason, said.payload) == (None, "", "tea")
    endings = []
    for say in (said.mark_consumed, said.defer, said.hand_back, said.bury):
        say()
        endings.append(said.ending)
    assert endings == [Result.DONE, Result.DEFERRED, Result.BACK, Result.DEAD]
    said.bury("too old")
    assert said.reason == "too old"
    assert repr(said) == f"book {said.id}"
