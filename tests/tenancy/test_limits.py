"""The gates of tenants, without a protocol."""

import gc
import itertools
import random
import sys
import threading
from collections import Counter
from typing import Any

import pytest

from postresponse.exceptions import ConfigurationError, SupervisorClosed
from postresponse.tenancy.limits import Admission, Load, Refusal, Turn
from postresponse.work import BulkheadLimits

REQUEST = {"method": "GET", "path": "/orders"}
ONE = BulkheadLimits(max_concurrency=1, max_queue=1)


def admission(**options: Any) -> Admission:
    given: dict[str, Any] = {
        "key": str,
        "limits": ONE,
        "views": None,
        "on_key_error": 500,
        "retry_after": 2.0,
    }
    return Admission(**(given | options))


def never() -> None:
    raise AssertionError("its turn has not come")


def taken(found: Turn | Refusal | None) -> Turn:
    assert isinstance(found, Turn)
    return found


def test_each_tenant_has_its_own_slots_and_its_own_queue() -> None:
    gates, came = admission(), []
    first = taken(gates.enter("a", "/", never))
    second = taken(gates.enter("a", "/", lambda: came.append("second")))
    other = taken(gates.enter("b", "/", never))
    assert [first.waits, second.waits, other.waits] == [False, True, False]
    assert gates.enter("a", "/", never) == Refusal(429, "Too many of your requests are served, and wait to be.", 2.0)
    assert sorted(gates.load(), key=str) == [Load("a", None, 1, 1), Load("b", None, 1, 0)]
    first.leave()
    assert came == ["second"]
    for turn in (second, other):
        turn.leave()
    assert gates.load() == []


def test_without_a_key_all_share_one_bound_and_nobody_is_blamed() -> None:
    gates = admission(key=None, limits=BulkheadLimits(1, 0))
    taken(gates.enter("a", "/", never))
    assert gates.enter("b", "/", never) == Refusal(503, "Too many requests are served, and wait to be.", 2.0)
    assert gates.load() == [Load(None, None, 1, 0)]


def test_who_leaves_the_queue_gives_its_place_back_and_never_gets_a_slot() -> None:
    gates, came = admission(limits=BulkheadLimits(1, 2)), []
    first = taken(gates.enter("a", "/", never))
    gone = taken(gates.enter("a", "/", never))
    third = taken(gates.enter("a", "/", lambda: came.append("third")))
    gone.leave()
    gone.leave()
    assert gates.load() == [Load("a", None, 1, 1)]
    first.leave()
    first.leave()
    assert came == ["third"]
    third.leave()
    assert gates.load() == []


def test_the_path_with_limits_of_its_own_is_the_longest_that_the_request_is_at_or_below() -> None:
    gates = admission(
        views={"/export": BulkheadLimits(1, 0), "/export/small": None, "/": lambda tenant: BulkheadLimits(2, 0)}
    )
    assert gates.enter("a", "/export/small/1", never) is None
    at_export = taken(gates.enter("a", "/export/big", never))
    assert isinstance(gates.enter("a", "/export", never), Refusal)
    elsewhere = [taken(gates.enter("a", "/exports", never)), taken(gates.enter("a", "/", never))]
    assert isinstance(gates.enter("a", "/orders", never), Refusal)
    assert sorted(gates.load(), key=str) == [Load("a", "/", 2, 0), Load("a", "/export", 1, 0)]
    for turn in (at_export, *elsewhere):
        turn.leave()
    assert gates.load() == []


def test_limits_that_a_function_gives_depend_on_the_tenant_and_change_while_requests_wait() -> None:
    sizes, came = {"a": 1, "b": 2}, []
    gates = admission(limits=lambda tenant: BulkheadLimits(sizes[tenant], 1))
    taken(gates.enter("a", "/", never))
    taken(gates.enter("b", "/", never))
    assert not taken(gates.enter("b", "/", never)).waits
    assert taken(gates.enter("a", "/", lambda: came.append("second"))).waits
    sizes["a"] = 3
    assert not taken(gates.enter("a", "/", never)).waits
    assert came == ["second"]
    sizes["a"] = 1
    assert taken(gates.enter("a", "/", never)).waits
    assert sorted(gates.load(), key=str) == [Load("a", None, 3, 1), Load("b", None, 2, 0)]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"key": lambda request: 1 // 0}, "division"),
        ({"key": lambda request: None}, "key: it returned None"),
        ({"key": lambda request: ["a"]}, "unhashable"),
        ({"limits": lambda tenant: 3}, "limits: expected BulkheadLimits from the function, found 3"),
    ],
)
def test_who_cannot_be_told_is_refused_or_served_unbounded_and_the_reason_is_logged(
    options: Any, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    refused = admission(**options).enter(REQUEST, "/orders", never)
    assert refused == Refusal(500, "It cannot be told for whom the request is.", None)
    assert admission(**options, on_key_error=401).enter(REQUEST, "/", never) == Refusal(401, refused.detail, None)
    assert admission(**options, on_key_error="admit").enter(REQUEST, "/", never) is None
    assert [record.getMessage() for record in caplog.records][:1] == [
        "GET /orders: its tenant or its limits cannot be told"
    ]
    assert said in str(caplog.records[0].exc_info)


def test_a_turn_that_nobody_waits_for_any_more_is_passed_on() -> None:
    gates, came = admission(limits=BulkheadLimits(1, 2)), []

    def loop_is_closed() -> None:
        raise SupervisorClosed("closed")

    first = taken(gates.enter("a", "/", never))
    taken(gates.enter("a", "/", loop_is_closed))
    taken(gates.enter("a", "/", lambda: came.append("third")))
    first.leave()
    assert came == ["third"]
    assert gates.load() == [Load("a", None, 1, 0)]


def test_a_hundred_thousand_tenants_that_came_once_leave_nothing_behind() -> None:
    gates = admission(key=lambda request: request)

    def visit(tenants: range) -> None:
        for tenant in tenants:
            first, second = gates.enter(tenant, "/", never), gates.enter(tenant, "/", int)
            assert isinstance(first, Turn)
            assert isinstance(second, Turn)
            first.leave()
            second.leave()

    visit(range(1000))
    gc.collect()
    before = sys.getallocatedblocks()
    visit(range(1000, 101_000))
    gc.collect()
    assert sys.getallocatedblocks() < before + 1000
    assert gates.load() == []


def test_hammered_from_eight_threads_no_tenant_is_over_its_limit_and_all_slots_come_back() -> None:
    limits = BulkheadLimits(max_concurrency=3, max_queue=4)
    gates, inside, most = admission(limits=limits), Counter[str](), Counter[str]()
    lock, refused = threading.Lock(), itertools.count()

    def visit(number: int) -> None:
        chance = random.Random(number)
        for _ in range(400):
            tenant, came = chance.choice("ab"), threading.Event()
            turn = gates.enter(tenant, "/", came.set)
            if isinstance(turn, Refusal):
                next(refused)
                continue
            assert turn is not None
            if not turn.waits or came.wait(chance.choice((0, 0.0005, 5))):
                with lock:
                    inside[tenant] += 1
                    most[tenant] = max(most[tenant], inside[tenant])
                if chance.random() < 0.3:
                    came.wait(0.0002)
                with lock:
                    inside[tenant] -= 1
            turn.leave()

    threads = [threading.Thread(target=visit, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert gates.load() == []
    assert 0 < most["a"] <= 3
    assert 0 < most["b"] <= 3
    assert sum(inside.values()) == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"key": 1}, "key: expected a function, found 1"),
        ({"limits": 1}, "limits: expected BulkheadLimits, or a function that gives some, found 1"),
        ({"views": 1}, "views: expected a dict of paths and their limits, found 1"),
        ({"views": {"export": ONE}}, "views: expected a path that begins with /, found 'export'"),
        ({"views": {"/export": 1}}, r"views\['/export'\]: expected BulkheadLimits, or a function"),
        ({"on_key_error": 200}, 'on_key_error: expected a status from 400 to 599, or "admit", found 200'),
        ({"on_key_error": True}, "found True"),
        ({"on_key_error": "serve"}, "found 'serve'"),
        ({"retry_after": -1}, "retry_after: expected seconds from 0, found -1"),
    ],
)
def test_a_value_that_an_option_cannot_have_is_refused_by_name(options: Any, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        admission(**options)


async def _later(tenant: Any) -> Any: ...


@pytest.mark.parametrize("option", ["key", "limits"])
def test_what_is_asked_before_anybody_waits_is_no_async_function(option: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{option}: expected a plain function, found an async one"):
        admission(**{option: _later})
