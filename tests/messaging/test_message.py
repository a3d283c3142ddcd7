import math
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from postresponse.exceptions import MessageRefused, UnknownVersion
from postresponse.messaging import Message
from postresponse.messaging.message import opened, sealed


def deep(levels: int) -> Any:
    value: Any = []
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize("payload", [None, 0, 1.5, "text", True, [], {}, {"a": [1, {"b": None}]}, "\0\ud800", "é"])
def test_a_payload_comes_out_as_it_went_in(payload: Any) -> None:
    assert opened(sealed(payload)) == payload
    assert opened(Message("mail", "send", payload).document.encode()) == payload


@pytest.mark.parametrize(
    ("payload", "says"),
    [
        (object(), "not JSON serializable"),
        ({"at": datetime.now(UTC)}, "not JSON serializable"),
        (b"bytes", "not JSON serializable"),
        ({1, 2}, "not JSON serializable"),
        (math.nan, "not JSON compliant"),
        ([math.inf], "not JSON compliant"),
        ({1: "a"}, "a text of the key 1"),
        ([{"a": [{None: 1}]}], "a text of the key None"),
        (({"a": ({2.5: 1},)},), r"a text of the key 2\.5"),
        ({("a",): 1}, "keys must be"),
        (deep(100_000), "recursion"),
    ],
)
def test_a_payload_that_is_no_json_is_refused_where_the_message_is_made(payload: Any, says: str) -> None:
    with pytest.raises(MessageRefused, match=rf"payload: .*{says}"):
        Message("mail", "send", payload)


def test_a_payload_that_holds_itself_is_refused() -> None:
    payload: list[Any] = []
    payload.append(payload)
    with pytest.raises(MessageRefused, match="payload: Circular reference"):
        Message("mail", "send", payload)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"destination": ""}, "destination: expected a short name"),
        ({"destination": "a b"}, "destination: .* found 'a b'"),
        ({"destination": "m" * 65}, "destination: "),
        ({"destination": None}, "destination: .* found None"),
        ({"name": "drop table;"}, "name: expected the name of a task"),
        ({"name": "n" * 201}, "name: "),
        ({"name": "send\n"}, "name: "),
        ({"id": "one"}, "id: expected a uuid.UUID, found 'one'"),
        ({"headers": [("a", "b")]}, "headers: expected a mapping"),
        ({"headers": {f"h{number}": "" for number in range(33)}}, "headers: expected a mapping of at most 32"),
        ({"headers": {"a b": "c"}}, "headers: expected a name of letters"),
        ({"headers": {1: "c"}}, "headers: expected a name"),
        ({"headers": {"a": "x\r\ny"}}, "without CR, LF and NUL for 'a'"),
        ({"headers": {"a": "x\ny"}}, "without CR, LF and NUL"),
        ({"headers": {"a": "x\0y"}}, "without CR, LF and NUL"),
        ({"headers": {"a": 1}}, "headers: expected a text"),
        ({"headers": {"a": "x" * 1025}}, "at most 1024 characters"),
        ({"ordering_key": ""}, "ordering_key: expected a text of 1 to 200"),
        ({"ordering_key": "k" * 201}, "ordering_key: "),
        ({"ordering_key": "a\0b"}, "ordering_key: "),
        ({"dedupe_key": 5}, "dedupe_key: expected a text .* found 5"),
        ({"delay": -1}, "delay: expected seconds, zero or more, found -1"),
        ({"delay": math.nan}, "delay: "),
        ({"delay": math.inf}, "delay: "),
        ({"delay": True}, "delay: "),
        ({"delay": "soon"}, "delay: "),
        ({"due": datetime(2026, 1, 1)}, "due: expected a datetime with a time zone"),
        ({"due": "tomorrow"}, "due: "),
        ({"due": datetime.now(UTC), "delay": 1}, "delay, due: give one of them"),
    ],
)
def test_what_cannot_be_sent_is_refused_where_the_message_is_made(options: dict[str, Any], says: str) -> None:
    with pytest.raises(MessageRefused, match=says):
        Message(**{"destination": "mail", "name": "send", **options})


def test_every_message_has_an_id_of_its_own_and_those_of_one_dedupe_key_the_same() -> None:
    assert Message("mail", "send").id != Message("mail", "send").id
    first, again = Message("mail", "send", 1, dedupe_key="order 7"), Message("mail", "send", 2, dedupe_key="order 7")
    assert first.id == again.id == UUID("22164032-1d34-5cd1-94c2-5badb1e85b2b")  # in every release
    assert first.id != Message("events", "send", 1, dedupe_key="order 7").id
    assert first.id != Message("mail", "send", 1, dedupe_key="order 8").id


def test_headers_are_kept_as_they_were_given() -> None:
    given = {"tenant": "a"}
    message = Message("mail", "send", headers=given)
    given["tenant"] = "b"
    assert message.headers == {"tenant": "a"}


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ("{", "no JSON"),
        (b"\xff", "no JSON"),
        ("[1]", "without a version"),
        ('{"payload":1}', "without a version"),
        ('{"version":1}', "without a payload"),
    ],
)
def test_what_is_no_document_is_refused(document: str | bytes, says: str) -> None:
    with pytest.raises(MessageRefused, match=says):
        opened(document)


@pytest.mark.parametrize("version", ["2", '"1"', "true", "null", "[]"])
def test_another_version_is_told_apart_from_what_is_broken(version: str) -> None:
    with pytest.raises(UnknownVersion, match="this release knows 1; it is left alone"):
        opened(f'{{"version":{version},"payload":1}}')
