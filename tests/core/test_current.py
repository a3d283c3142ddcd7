import inspect
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from postresponse import CommitPolicy, commit_policy, current_exchange, doom, force_commit
from postresponse.core.current import current as context
from postresponse.core.driven import DrivenExchange
from postresponse.core.lifecycle import MOVES, CommitPoint
from postresponse.exceptions import ConfigurationError, NoExchange
from tests.core.exchanges import exchange_of, give_head
from tests.fakes import FakeUnits


@contextmanager
def current(exchange: DrivenExchange) -> Iterator[DrivenExchange]:
    token = context.set(exchange)
    try:
        yield exchange
    finally:
        context.reset(token)


@pytest.mark.parametrize("call", [current_exchange, doom, force_commit])
def test_outside_of_a_request_there_is_no_exchange_and_the_error_says_what_to_do(call: Any) -> None:
    with pytest.raises(
        NoExchange, match=r"there is no current exchange: .* wrap the application in postresponse\.asgi"
    ):
        call()


def test_the_everyday_functions_speak_of_the_current_exchange() -> None:
    with current(exchange_of(unit_of_work=FakeUnits())) as exchange:
        assert current_exchange() is exchange
        doom("out of stock")
        assert exchange._judge().value == "roll back"
        force_commit()
        give_head(exchange, 500)
        assert exchange._judge().value == "commit"


def test_the_reason_of_a_doom_is_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "postresponse")
    with current(exchange_of(unit_of_work=FakeUnits())):
        doom("out of stock")
        doom()
    assert [record.message for record in caplog.records] == [
        "GET /orders: doomed: out of stock",
        "GET /orders: doomed: no reason given",
    ]


# -- commit_policy ----------------------------------------------------------------------------------------------------


def test_a_decorated_view_sets_the_policy_each_time_that_it_is_called() -> None:
    @commit_policy("buffered", max_memory=10)
    def report(number: int) -> int:
        """Make a report."""
        return number + 1

    for _ in range(2):
        with current(exchange_of(unit_of_work=FakeUnits())) as exchange:
            assert report(1) == 2
            assert exchange.policy == CommitPolicy(at="buffered", max_memory=10)
            assert exchange._moves is MOVES[CommitPoint.BUFFERED]
    assert report.__doc__ == "Make a report."


def test_an_async_view_stays_async_under_its_policy() -> None:
    @commit_policy(at="after_send")
    async def report() -> str:
        return current_exchange().policy.point.value

    assert inspect.iscoroutinefunction(report)
    with current(exchange_of(unit_of_work=FakeUnits())), pytest.raises(StopIteration) as returned:
        report().send(None)
    assert returned.value.value == "after_send"


def test_single_options_change_the_policy_that_the_request_has() -> None:
    @commit_policy(max_memory=10)
    def report() -> None: ...

    with current(exchange_of(unit_of_work=FakeUnits(), commit="buffered")) as exchange:
        report()
        assert exchange.policy == CommitPolicy(at="buffered", max_memory=10)


def test_a_whole_policy_replaces_it_and_may_be_changed_as_well() -> None:
    whole = CommitPolicy(at="after_send")

    @commit_policy(whole)
    def one() -> None: ...

    changes: dict[str, Any] = {"max_body": 7}

    @commit_policy(whole, **changes)
    def two() -> None: ...

    with current(exchange_of(unit_of_work=FakeUnits(), commit="buffered")) as exchange:
        one()
        assert exchange.policy is not None
        assert exchange.policy == whole
        two()
        assert exchange.policy == CommitPolicy(at="after_send", max_body=7)


def test_of_two_decorated_functions_the_inner_one_wins() -> None:
    @commit_policy("buffered")
    def inner() -> None: ...

    @commit_policy("after_send")
    def outer() -> None:
        inner()

    with current(exchange_of(unit_of_work=FakeUnits())) as exchange:
        outer()
        assert exchange.policy.point is CommitPoint.BUFFERED


def test_only_a_view_can_be_decorated() -> None:
    wrong: Any = "report"
    with pytest.raises(TypeError, match="decorates a view, found 'report'"):
        commit_policy("head")(wrong)


def test_what_is_no_policy_is_refused_where_the_view_is_decorated() -> None:
    nonsense: Any = 7
    with pytest.raises(ConfigurationError, match=r"commit_policy\(\) takes a CommitPolicy, .* found 7"):
        commit_policy(nonsense)
