import logging
from typing import Any

import pytest

from postresponse import CommitPolicy
from postresponse.core import log
from postresponse.core.driven import DrivenExchange
from postresponse.core.ending import finish
from postresponse.core.exchange import Failure
from postresponse.core.lifecycle import MOVES, Action, CommitPoint, Event, State
from postresponse.core.log import first_time, route_of
from postresponse.core.policy import Head
from postresponse.exceptions import (
    CommitInDoubt,
    ConfigurationError,
    MessageOrderError,
    NoExchange,
    NoUnitOfWork,
    ResponseStarted,
)
from tests.core.exchanges import exchange_of, give_head, perform, settings_of
from tests.fakes import FakeUnits


def test_doom_says_its_reason_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "postresponse")
    exchange = exchange_of()
    exchange.doom("out of stock")
    exchange.doom()
    assert caplog.messages == ["GET /orders: doomed: out of stock", "GET /orders: doomed: no reason given"]


def test_a_new_exchange_knows_its_request_and_nothing_of_its_response() -> None:
    settings, receive, send = settings_of(unit_of_work=FakeUnits()), object(), object()
    exchange = DrivenExchange(settings, {}, 7, receive, send)
    given = (exchange._server_receive, exchange._server_send, exchange._policy, exchange._began)
    assert given == (receive, send, settings.fixed_policy, 7)
    assert exchange._unheard is True
    assert DrivenExchange(settings_of(on_finished=print), {}, 7)._unheard is False
    for name in (
        *("_status", "_headers", "_unit", "_kind", "_verdict", "_failure", "_decided", "_settling", "_settled"),
        *("_head_sent", "_body_sent", "_on_start", "_before_commit", "_after_commit", "_on_finished", "_at_end"),
        *("_given", "_held", "_watch"),
    ):
        assert getattr(exchange, name) is None, name
    for name in ("_unit_ended", "_left", "_raised", "_again", "_trailers"):
        assert getattr(exchange, name) is False, name
    assert (exchange._bytes, exchange._room, exchange._receiving) == (0, 0, 0)


def test_what_is_left_to_do_at_the_end_is_known() -> None:
    assert exchange_of()._has_nothing_left()
    assert not exchange_of(on_finished=print)._has_nothing_left()
    letting_go = exchange_of()
    letting_go._at_end = [print]
    assert not letting_go._has_nothing_left()
    working = exchange_of(unit_of_work=FakeUnits())
    assert not working._has_nothing_left()
    working._unit_ended = True
    assert working._has_nothing_left()


# -- what is in time --------------------------------------------------------------------------------------------------


def test_a_policy_is_set_until_the_head_leaves_and_as_a_short_form_too() -> None:
    exchange = exchange_of(unit_of_work=FakeUnits())
    exchange.policy = "buffered"
    assert exchange.policy.point is CommitPoint.BUFFERED
    give_head(exchange)
    exchange.policy = CommitPolicy()
    assert exchange._advance(Event.BODY) is Action.SETTLE
    with pytest.raises(
        ResponseStarted,
        match="setting the commit policy came too late: the response is decided, and its unit of work is being ended; "
        "set it in the view, before it answers",
    ):
        exchange.policy = "buffered"
    assert exchange.policy == CommitPolicy()


def test_a_policy_set_after_the_head_to_after_send_lets_it_leave_with_the_next_part() -> None:
    exchange = exchange_of(unit_of_work=FakeUnits())
    assert give_head(exchange) is Action.HOLD
    exchange.policy = "after_send"
    assert exchange._advance(Event.BODY) is Action.RELEASE


def test_a_policy_without_a_unit_of_work_changes_nothing_that_is_sent() -> None:
    exchange = exchange_of()
    exchange.policy = "buffered"
    assert give_head(exchange) is Action.RELEASE


def test_what_comes_while_the_unit_of_work_ends_is_out_of_order() -> None:
    exchange = exchange_of(unit_of_work=FakeUnits())
    give_head(exchange)
    exchange._advance(Event.BODY)
    with pytest.raises(
        MessageOrderError,
        match=r"gave a part of the body while its response is decided, and its unit of work is being ended; "
        r"wait for the previous send\(\) to return",
    ):
        exchange._advance(Event.BODY)


def test_who_sends_on_is_told_that_nobody_takes_it() -> None:
    exchange = exchange_of(unit_of_work=FakeUnits())
    exchange._advance(Event.REFUSED)
    assert "nobody takes the rest of it" in str(exchange._stopped())


def test_what_would_change_the_head_is_refused_once_it_has_left() -> None:
    exchange = exchange_of()
    exchange.on_start(lambda exchange: None)
    give_head(exchange)
    exchange.status = 201
    exchange._advance(Event.HANDED)
    with pytest.raises(
        ResponseStarted,
        match=r"on_start\(\) came too late: the response is sending; register it before the response starts",
    ):
        exchange.on_start(lambda exchange: None)
    with pytest.raises(
        ResponseStarted, match=r"setting the status came too late: .* do it in an on_start hook"
    ) as late:
        exchange.status = 500
    assert (late.value.call, late.value.state) == ("setting the status", "sending")
    assert exchange.status == 201


def test_on_finished_is_taken_until_the_exchange_is_over() -> None:
    exchange = exchange_of()
    exchange._state = State.REPLACED
    exchange.on_finished(lambda outcome: None)
    exchange._state = State.OVER
    with pytest.raises(ResponseStarted, match="the response is over; register it while the request is handled"):
        exchange.on_finished(lambda outcome: None)
    with pytest.raises(ResponseStarted, match="the response is over; call it before the unit of work ends"):
        exchange.doom()


@pytest.mark.parametrize("name", ["before_commit", "after_commit", "after_rollback"])
def test_hooks_of_a_unit_of_work_need_one_that_has_not_ended(name: str) -> None:
    with pytest.raises(NoUnitOfWork, match=rf"{name}\(\) needs a unit of work"):
        getattr(exchange_of(), name)(print)
    exchange = exchange_of(unit_of_work=FakeUnits())
    getattr(exchange, name)(print)
    exchange._settling = 1
    with pytest.raises(ResponseStarted, match=rf"{name}\(\) came too late"):
        getattr(exchange, name)(print)


# -- what a handler sees ----------------------------------------------------------------------------------------------


def test_an_exchange_tells_of_its_request() -> None:
    exchange = exchange_of()
    assert (exchange.attempt, exchange.is_last_attempt) == (1, True)
    assert exchange.scope["path"] == "/orders"
    assert (exchange.state, exchange.status, exchange.unit_of_work.value) == ("pending", None, "none")
    assert exchange.units is exchange.units


def test_a_status_is_not_set_before_the_application_gave_one() -> None:
    exchange = exchange_of()
    with pytest.raises(NoExchange, match="no status yet; register an on_start hook"):
        exchange.status = 201
    assert exchange.status is None
    give_head(exchange)
    exchange.status = 201
    assert exchange.status == 201


def test_headers_are_there_once_the_application_gave_them() -> None:
    exchange = exchange_of()
    with pytest.raises(NoExchange, match="no headers yet; register an on_start hook"):
        _ = exchange.headers
    give_head(exchange)
    exchange.headers.append(("x-note", "kept"))
    assert exchange.headers == [("x-note", "kept")]
    assert exchange._head() == Head(200, (("x-note", "kept"),))


class Route:
    """As Starlette keeps it in the scope."""

    path = "/orders/{number}"


@pytest.mark.parametrize(
    ("scope", "route"),
    [
        ({"method": "GET", "path": "/orders/7"}, "GET /orders/7"),
        ({"method": "GET", "path": "/orders/7", "route": Route()}, "GET /orders/{number}"),
        ({"REQUEST_METHOD": "POST", "SCRIPT_NAME": "/shop", "PATH_INFO": "/orders"}, "POST /shop/orders"),
        ({"REQUEST_METHOD": "POST"}, "POST "),
        ({}, "a finished request"),
        (None, "a finished request"),
    ],
)
def test_a_route_is_named_as_well_as_it_can_be(scope: Any, route: str) -> None:
    assert route_of(scope) == route


def test_a_policy_function_is_asked_once_and_may_leave_it_to_the_default() -> None:
    asked: list[Any] = []

    def choose(scope: Any) -> str | None:
        asked.append(scope)
        return "buffered" if scope["path"] == "/report" else None

    for path, point in (("/report", CommitPoint.BUFFERED), ("/orders", CommitPoint.HEAD)):
        exchange = exchange_of({"method": "GET", "path": path}, unit_of_work=FakeUnits(), commit=choose)
        assert [exchange.policy.point, exchange.policy.point] == [point, point]
    assert len(asked) == 2


# -- failures ---------------------------------------------------------------------------------------------------------


def test_a_failure_asks_for_503_where_it_is_worth_another_try_or_unknown() -> None:
    exchange = exchange_of()
    assert Failure(exchange, "commit", ValueError(), transient=False).status == 500
    assert Failure(exchange, "commit", ValueError(), transient=True).status == 503
    assert exchange._fail("commit", CommitInDoubt("lost")).status == 503
    assert exchange._fail("commit", CommitInDoubt("lost")).unknown


# -- held bodies ------------------------------------------------------------------------------------------------------


def held(**policy: Any) -> DrivenExchange:
    exchange = exchange_of(unit_of_work=FakeUnits(), commit=CommitPolicy(at="buffered", **policy))
    give_head(exchange)
    return exchange


def test_a_held_body_has_a_limit_or_none() -> None:
    assert held(max_body=3)._limit(3) is Action.NOTHING
    assert held(max_body=3)._limit(4) is Action.REFUSE
    assert held(max_body=3, on_overflow="head")._limit(4) is Action.SETTLE
    assert held(max_body=None)._limit(1 << 40) is Action.NOTHING


@pytest.fixture
def nothing_told(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """As if no route had fallen back yet."""
    told: set[str] = set()
    monkeypatch.setattr(log, "_told", told)
    return told


def test_a_stream_falls_back_to_head_and_says_so_once_a_route(
    caplog: pytest.LogCaptureFixture, nothing_told: set[str]
) -> None:
    caplog.set_level(logging.INFO, "postresponse")
    for _ in range(2):
        exchange = held()
        assert exchange._streams(True)
        assert exchange._advance(Event.BODY) is Action.SETTLE
    assert caplog.messages == ["GET /orders: streams, so its unit of work commits at the head and not buffered"]


def test_the_policy_says_what_else_streams(nothing_told: set[str]) -> None:
    for streams in (True, False):
        exchange = held(stream_if=lambda head, streams=streams: streams)
        assert not exchange._streams(False)
        assert exchange._advance(Event.BODY) is (Action.SETTLE if streams else Action.HOLD)


def test_what_is_held_and_has_an_end_stays_held() -> None:
    exchange = held()
    assert not exchange._streams(False)
    assert exchange._advance(Event.BODY) is Action.HOLD


def test_nothing_falls_back_that_is_not_held(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "postresponse")
    exchange = exchange_of(unit_of_work=FakeUnits())
    give_head(exchange)
    assert exchange._streams(True)
    assert exchange._moves is MOVES[CommitPoint.HEAD]
    assert caplog.messages == []


def test_after_a_thousand_routes_no_fallback_is_told(nothing_told: set[str]) -> None:
    nothing_told |= {str(number) for number in range(999)}
    assert first_time("the thousandth")
    assert not first_time("one more")
    assert len(nothing_told) == 1000


def test_an_inner_middleware_lends_its_unit_of_work() -> None:
    exchange = exchange_of()
    settings = settings_of(unit_of_work=FakeUnits(), commit="buffered")
    exchange._adopt(settings)
    assert exchange._moves is MOVES[CommitPoint.BUFFERED]
    assert exchange.policy.point is CommitPoint.BUFFERED


def test_of_two_middlewares_the_inner_ones_callbacks_win_and_both_hear_the_outcome() -> None:
    heard: list[str] = []

    def hearing(name: str) -> dict[str, Any]:
        return {"on_finished": lambda outcome: heard.append(name), "on_error": lambda failure: heard.append(name)}

    for outer, inner, expected in (
        (hearing("outer"), hearing("inner"), ["inner", "outer"]),
        (hearing("outer"), {}, ["outer"]),
        ({}, hearing("inner"), ["inner"]),
    ):
        heard.clear()
        exchange = exchange_of(**outer)
        exchange._adopt(settings_of(unit_of_work=FakeUnits(), **inner))
        exchange._state = State.OVER
        perform(finish(exchange))
        assert heard == expected


def test_wrong_short_forms_are_refused() -> None:
    exchange = exchange_of(unit_of_work=FakeUnits())
    with pytest.raises(ConfigurationError, match="did you mean 'buffered'"):
        exchange.policy = "bufered"
