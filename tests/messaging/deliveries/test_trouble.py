import pytest

from postresponse.exceptions import MessageRefused
from postresponse.messaging.deliveries.arguments import arguments
from postresponse.messaging.deliveries.trouble import is_trouble, unreachable


class DriverError(Exception):
    pass


class AMQPConnectionError(DriverError):
    """Named as pika and aiormq have it."""


class StreamLost(AMQPConnectionError):
    pass


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ConnectionResetError(), True),
        (TimeoutError(), True),
        (StreamLost(), True),
        (DriverError(), False),
        (caused(DriverError(), ConnectionRefusedError()), True),
        (caused(DriverError(), ValueError()), False),
        (MessageRefused("no"), False),
        (None, False),
    ],
)
def test_errors_of_a_connection_are_known_by_their_names_and_their_causes(
    error: Exception | None, expected: bool
) -> None:
    assert is_trouble(error) is expected


def test_causes_in_a_circle_are_followed_once() -> None:
    first, second = DriverError(), DriverError()
    first.__cause__, second.__cause__ = second, first
    assert not is_trouble(first)


def test_an_error_that_says_nothing_is_told_by_its_type() -> None:
    made = unreachable("the broker", TimeoutError())
    assert str(made) == "the broker cannot be reached: TimeoutError"
    assert isinstance(made.__cause__, TimeoutError)


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (None, ([], {})),
        ({"a": 1}, ([], {"a": 1})),
        ([1, {"a": 1}], ([1, {"a": 1}], {})),
        (0, ([0], {})),
        ("", ([""], {})),
        ({}, ([], {})),
    ],
)
def test_a_payload_stands_for_arguments(payload: object, expected: object) -> None:
    assert arguments(payload) == expected
