"""Whether to commit: every status, every way to end a handler and all that it may wish, at each point, on both sides.

`RULES` is the specification's list, written down a second time; what each case expects is read off it.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import pytest

from postresponse import CommitPolicy, Outcome, current_exchange, doom, force_commit
from postresponse.asgi import PostResponseMiddleware as ASGIMiddleware
from postresponse.core.lifecycle import Ending
from postresponse.wsgi import PostResponseMiddleware as WSGIMiddleware
from tests.fakes import BODY, START, FakeUnits, StrictWSGIServer, attempt_asgi

STATUSES: Final = (103, 200, 204, 302, 404, 500)
HOWS: Final = ("returned", "raised", "handled")
WISHES: Final = ("nothing", "force_commit", "doom", "doom then force_commit", "ended it itself", "commit_if raises")
POINTS: Final = ("head", "buffered", "after_send")


@dataclass(frozen=True)
class Case:
    """One request.

    Attributes:
        status: What the handler answers, or was about to.
        how: It returned; raised out of the application, its head given; or raised and was turned into *status*.
        wish: What else it, or the policy, said.
    """

    status: int
    how: str
    wish: str
    at: str

    @property
    def body(self) -> bytes:
        return b"" if self.status in (103, 204) else b"the whole body"


class Handled(Exception):
    """What a framework turns into a response."""


class Raised(Exception):
    """What comes out of the application."""


RULES: Final[tuple[tuple[str, Callable[[Case], bool], str], ...]] = (
    ("1. raised out of itself", lambda case: case.how == "raised", "roll back"),
    ("2. doom was the last of the two calls", lambda case: case.wish == "doom", "roll back"),
    ("2. force_commit was", lambda case: case.wish in ("force_commit", "doom then force_commit"), "commit"),
    ("3. the handler ended it itself", lambda case: case.wish == "ended it itself", "leave"),
    ("4. commit_if raises", lambda case: case.wish == "commit_if raises", "roll back, 500"),
    ("4. below 400", lambda case: case.status < 400, "commit"),
    ("4. not below 400", lambda case: True, "roll back"),
)

CALLS: Final = {
    "commit": ["begin", "commit", "close"],
    "roll back": ["begin", "rollback", "close"],
    "roll back, 500": ["begin", "rollback", "close"],
    "leave": ["begin", "close"],
}
STATES: Final = {"commit": "committed", "roll back": "rolled_back", "roll back, 500": "rolled_back", "leave": "none"}


def verdict_of(case: Case) -> str:
    return next(verdict for _, applies, verdict in RULES if applies(case))


def failing(head: object) -> bool:
    raise LookupError("the policy does not know either")


def policy_of(case: Case) -> CommitPolicy:
    at: Any = case.at
    return CommitPolicy(at=at, commit_if=failing) if case.wish == "commit_if raises" else CommitPolicy(at=at)


def express(case: Case, units: FakeUnits) -> None:
    """Say what the handler wishes."""
    if case.wish.startswith("doom"):
        doom("the case says so")
    if case.wish.endswith("force_commit"):
        force_commit()
    if case.wish == "ended it itself":
        units.only.active = False


@dataclass
class Seen:
    """What came of it."""

    status: int | None
    body: bytes
    complete: bool
    error: BaseException | None
    content_type: str | None
    outcome: Outcome


def over_asgi(backend: str) -> Callable[[Case, FakeUnits], Seen]:
    def ask(case: Case, units: FakeUnits) -> Seen:
        units.is_async = True

        async def view() -> int:
            express(case, units)
            if case.how == "handled":
                raise Handled
            return case.status

        async def app(scope: Any, receive: Any, send: Any) -> None:
            try:
                status = await view()
            except Handled:
                status = case.status
            await send({"type": START, "status": status, "headers": [(b"x-of", b"the application")]})
            if case.how == "raised":
                raise Raised
            await send({"type": BODY, "body": case.body[:4], "more_body": True})
            await send({"type": BODY, "body": case.body[4:]})

        outcomes: list[Outcome] = []
        wrapped = ASGIMiddleware(app, unit_of_work=units, commit=policy_of(case), on_finished=outcomes.append)
        server, error = attempt_asgi(wrapped, backend)
        assert not server.broken
        (outcome,) = outcomes
        content_type = dict(server.headers).get(b"content-type", b"").decode()
        return Seen(server.status, server.body, server.complete, error, content_type, outcome)

    return ask


def over_wsgi(case: Case, units: FakeUnits) -> Seen:
    def view() -> int:
        express(case, units)
        if case.how == "handled":
            raise Handled
        return case.status

    def app(environ: Any, start_response: Any) -> Any:
        try:
            status = view()
        except Handled:
            status = case.status
        start_response(f"{status} As Asked", [("X-Of", "the application")])
        if case.how == "raised":
            raise Raised
        return iter([case.body[:4], case.body[4:]])

    outcomes: list[Outcome] = []
    wrapped = WSGIMiddleware(app, unit_of_work=units, commit=policy_of(case), on_finished=outcomes.append)
    server = StrictWSGIServer().run(wrapped)
    assert not server.broken
    (outcome,) = outcomes
    content_type = dict(server.headers).get("content-type", "")
    return Seen(server.code, server.body, server.ended, server.raised, content_type, outcome)


SIDES: Final = {"asgi on asyncio": over_asgi("asyncio"), "asgi on trio": over_asgi("trio"), "wsgi": over_wsgi}


@pytest.mark.parametrize("wish", WISHES)
@pytest.mark.parametrize("at", POINTS)
@pytest.mark.parametrize("side", SIDES)
def test_the_first_rule_that_applies_decides(side: str, at: str, wish: str) -> None:
    for status, how in itertools.product(STATUSES, HOWS):
        case, units = Case(status, how, wish, at), FakeUnits()
        verdict = verdict_of(case)
        seen = SIDES[side](case, units)
        assert (units.log, seen.outcome.unit_of_work) == (CALLS[verdict], STATES[verdict]), case
        check_the_client(case, verdict, seen)


def check_the_client(case: Case, verdict: str, seen: Seen) -> None:
    """The client got the response, or its error response; or nothing, or a part of it, and the exception came out."""
    if case.how == "raised":
        assert isinstance(seen.error, Raised), case
        assert not seen.complete
        # The head has left only where the commit comes after it, and WSGI servers keep it back until then.
        assert seen.status in ((case.status,) if case.at == "after_send" else (None,)), case
        assert seen.outcome.ending is Ending.FAILED
        return
    assert (seen.error, seen.complete, seen.outcome.ending) == (None, True, Ending.HANDED_OVER), case
    if verdict == "roll back, 500" and case.at != "after_send":
        assert (seen.status, seen.content_type) == (500, "application/problem+json"), case
        assert b"does not know" not in seen.body
    else:
        assert (seen.status, seen.body) == (case.status, case.body), case


def test_the_matrix_expects_every_verdict_and_uses_every_rule() -> None:
    cases = [Case(*values) for values in itertools.product(STATUSES, HOWS, WISHES, POINTS)]
    assert {verdict_of(case) for case in cases} == set(CALLS)
    used = {next(name for name, applies, _ in RULES if applies(case)) for case in cases}
    assert used == {name for name, _, _ in RULES}


@pytest.mark.parametrize("after", POINTS)
@pytest.mark.parametrize("before", ["head", "buffered"])
def test_a_policy_that_is_set_after_the_head_was_given_is_followed_over_asgi(before: Any, after: Any) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": START, "status": 200, "headers": []})
        current_exchange().policy = after
        await send({"type": BODY, "body": b"one, ", "more_body": True})
        seen.append(str(current_exchange().unit_of_work))
        await send({"type": BODY, "body": b"two"})

    seen: list[str] = []
    units = FakeUnits(is_async=True)
    server, error = attempt_asgi(ASGIMiddleware(app, unit_of_work=units, commit=before))
    assert (error, server.broken, server.status, server.body) == (None, [], 200, b"one, two")
    assert (units.log, seen) == (CALLS["commit"], ["committed" if after == "head" else "none"])


@pytest.mark.parametrize("returns", [list, tuple, iter])
@pytest.mark.parametrize("after", POINTS)
@pytest.mark.parametrize("before", ["head", "buffered"])
def test_a_policy_that_is_set_after_the_head_was_given_is_followed_over_wsgi(
    before: Any, after: Any, returns: Any
) -> None:
    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [])
        current_exchange().policy = after
        return returns([b"one, ", b"two"])

    units = FakeUnits()
    server = StrictWSGIServer().run(WSGIMiddleware(app, unit_of_work=units, commit=before))
    assert (server.raised, server.broken, server.code, server.body) == (None, [], 200, b"one, two")
    assert units.log == CALLS["commit"]
