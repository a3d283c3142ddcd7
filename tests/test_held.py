"""A held body gives back exactly what it was given, whatever went to the file."""

import os
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postresponse import held
from postresponse.held import HeldBody


def filled(max_memory: int, items: list[Any]) -> HeldBody:
    body = HeldBody(max_memory)
    for item in items:
        if isinstance(item, dict):
            body.mark(item)
        elif body.append(item):
            body.spill()
    return body


@given(
    st.integers(1, 50),
    st.lists(st.one_of(st.binary(max_size=40), st.builds(dict, mark=st.integers())), max_size=30),
    st.booleans(),
)
def test_bytes_and_marks_come_back_in_order(max_memory: int, items: list[Any], asked: bool) -> None:
    body = filled(max_memory, items)
    size = body.size
    taken = []
    for item in body.take():
        taken.append(item)
        if asked:
            body.ready()

    def joined(parts: list[Any]) -> list[Any]:
        out: list[Any] = []
        for part in parts:
            if part and isinstance(part, bytes) and out and isinstance(out[-1], bytes):
                out[-1] += part
            elif part != b"":
                out.append(part)
        return out

    assert joined(taken) == joined(items)
    assert size == sum(len(item) for item in items if isinstance(item, bytes))


def test_what_memory_holds_is_ready_and_a_file_where_the_page_cache_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert filled(1000, [b"abc", {"a": "mark"}]).ready()
    assert filled(1000, []).ready()
    body = filled(2, [b"abcdef", b"ghi"])
    body.spill()
    monkeypatch.setattr(held, "_NOT_WAITING", 1)
    asked: list[int] = []

    def cached(descriptor: int, buffers: list[memoryview], at: int, flags: int) -> int:
        asked.append(at)
        if at >= 2:
            raise BlockingIOError
        buffers[0][:2] = os.pread(descriptor, 2, at)
        return 2

    monkeypatch.setattr(os, "preadv", cached)
    items = body.take()
    assert body.ready()
    assert body.ready()
    assert asked == [0]
    assert next(items) == b"ab"
    assert not body.ready()
    assert next(items) == b"cdefghi"
    assert body.ready()
    assert next(items, None) is None


def test_where_a_system_cannot_tell_a_file_is_never_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held, "_NOT_WAITING", 0)
    body = filled(2, [b"abcdef"])
    assert not body.ready()
    assert list(body.take()) == [b"abcdef"]


def test_below_the_memory_limit_chunks_stay_the_objects_they_were() -> None:
    chunk = b"x" * 100
    body = filled(1000, [chunk])
    assert not body.spilled
    assert next(body.take()) is chunk


def test_a_spilled_body_is_read_in_pieces_and_its_file_is_gone_afterwards() -> None:
    body = filled(1024, [b"x" * 700_000, b"y" * 10])
    assert body.spilled
    pieces = list(body.take())
    assert max(map(len, pieces)) <= 256 * 1024
    assert b"".join(pieces) == b"x" * 700_000 + b"y" * 10
    assert not body.spilled


def test_more_chunks_than_one_system_call_takes_are_all_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held, "_VECTORS", 3)
    body = filled(20, [bytes([65 + n]) * n for n in range(1, 12)])
    assert b"".join(body.take()) == b"".join(bytes([65 + n]) * n for n in range(1, 12))


def test_a_file_system_that_takes_only_a_part_gets_the_rest_again(monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.writev

    def short(descriptor: int, chunks: list[bytes]) -> int:
        return real(descriptor, [memoryview(chunks[0])[:2]])

    monkeypatch.setattr(os, "writev", short)
    body = filled(3, [b"abc", b"defgh", b"i"])
    body.spill()
    assert b"".join(body.take()) == b"abcdefghi"


def test_a_file_cut_short_is_an_error_and_not_a_shorter_body() -> None:
    body = filled(2, [b"abcdef"])
    os.ftruncate(body._file.fileno(), 3)
    with pytest.raises(OSError, match="cut short"):
        list(body.take())


def test_closing_lets_everything_go() -> None:
    body = filled(2, [b"abcdef", b"g"])
    body.close()
    assert list(body.take()) == []
