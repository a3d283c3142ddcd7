import pytest

from postresponse.core import headers
from postresponse.core.headers import check_headers
from postresponse.exceptions import InvalidHeader


@pytest.mark.parametrize(
    "header", [("x", "a\rb"), ("x", "a\nb"), ("x", "a\0b"), ("x\r", "a"), ("x\n", "a"), ("x\0", "a")]
)
def test_a_character_that_forges_another_header_is_refused(header: tuple[str, str]) -> None:
    with pytest.raises(InvalidHeader, match="holds CR, LF or NUL; strip them or encode the value"):
        check_headers([("x-sound", "a"), header])


@pytest.mark.parametrize("header", [("x", "5 \u20ac"), ("\u20ac", "5")])
def test_a_character_that_no_header_can_carry_is_refused(header: tuple[str, str]) -> None:
    with pytest.raises(InvalidHeader, match="is not Latin-1; encode the value"):
        check_headers([header])


def test_what_may_leave_passes() -> None:
    check_headers([])
    check_headers([("x-note", "caf\xe9\t, a; b=c"), ("", "")])


def test_headers_that_are_all_different_take_no_more_and_more_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    known: set[tuple[str, str]] = set()
    monkeypatch.setattr(headers, "_good", known)
    check_headers([("set-cookie", "x" * 5000)])
    assert known == set()
    check_headers(("etag", str(number)) for number in range(3000))
    assert len(known) <= 1024
