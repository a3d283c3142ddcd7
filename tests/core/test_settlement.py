import logging
from typing import Any

import pytest

from postresponse import CommitPolicy, Outcome, Retry
from postresponse.core.driven import DrivenExchange
from postresponse.core.ending import finish
from postresponse.core.exchange import Exchange, Failure
from postresponse.core.lifecycle import Ending, Event, State, UnitState
from postresponse.core.settlement import commit_early, refuse, run_start_hooks, settle
from postresponse.core.units import Manner
from postresponse.exceptions import BodyTooLarge, CommitInDoubt, InvalidHeader, MessageOrderError, ResponseStarted
from tests.core.exchanges import exchange_of, give_head, open_unit, perform, settings_of
from tests.fakes import Conflict, FakeUnit, FakeUnits, QuickUnit


class Cancelled(BaseException):
    """What an event loop raises into a task, whatever its name there."""


class LazyUnit(FakeUnit):
    """A unit of work that costs nothing untouched."""

    touched = False
    changed = False

    def close(self) -> None:
        super().close()
        self.touched = False


def lazily(fails: dict[str, BaseException] | None = None, *, touched: bool = False) -> tuple[LazyUnit, DrivenExchange]:
    unit = LazyUnit(fails or {})
    exchange = exchange_of(unit_of_work=lambda exchange: unit)
    unit.touched = touched
    return unit, exchange


def test_an_untouched_unit_of_work_is_not_called_at_all() -> None:
    unit, exchange = lazily()
    give_head(exchange)
    assert perform(settle(exchange)) is Event.SETTLED
    assert (unit.log, exchange.unit_of_work) == ([], UnitState.COMMITTED)


def test_hooks_behind_a_rollback_run_in_order() -> None:
    ran: list[str] = []
    exchange = exchange_of(unit_of_work=FakeUnits())
    exchange.after_rollback(lambda: ran.append("first"))
    exchange.after_rollback(lambda: ran.append("second"))
    exchange.after_commit(lambda: ran.append("never"))
    give_head(exchange, 404)
    assert perform(settle(exchange)) is Event.SETTLED
    assert ran == ["first", "second"]


def test_an_untouched_unit_of_work_is_not_rolled_back_either() -> None:
    unit, exchange = lazily()
    give_head(exchange, 404)
    assert perform(settle(exchange)) is Event.SETTLED
    assert (unit.log, exchange.unit_of_work) == ([], UnitState.ROLLED_BACK)


@pytest.mark.parametrize("changed", [True, False])
def test_late_use_is_rolled_back_and_warned_of_where_it_wrote(caplog: pytest.LogCaptureFixture, changed: bool) -> None:
    unit, exchange = lazily(touched=True)
    give_head(exchange)
    perform(settle(exchange))
    unit.touched, unit.changed = True, changed
    exchange._state = State.OVER
    perform(finish(exchange))
    assert unit.log == ["commit", "close", "rollback", "close"]
    warned = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert [text.startswith("GET /orders: late write: ") for text in warned] == [True] * changed
    assert exchange.unit_of_work is UnitState.COMMITTED


@pytest.mark.parametrize(
    ("failing", "says", "calls"),
    [
        ("rollback", "roll back its late use", ["rollback!", "invalidate", "close"]),
        ("close", "close after its late use", ["rollback", "close!", "invalidate"]),
    ],
)
def test_late_use_that_cannot_be_ended_is_logged_and_its_connection_given_up(
    failing: str, says: str, calls: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    unit, exchange = lazily()
    give_head(exchange)
    perform(settle(exchange))
    unit.touched, unit.fails = True, {failing: OSError("gone")}
    exchange._state = State.OVER
    perform(finish(exchange))
    assert unit.log == calls
    assert caplog.messages == [f"GET /orders: the unit of work could not {says}"]


def test_a_clean_up_that_fails_gives_the_connection_up() -> None:
    unit, exchange = lazily({"rollback": OSError("gone"), "invalidate": OSError("as well")}, touched=True)
    give_head(exchange, 500)
    assert perform(settle(exchange)) is Event.SETTLED
    assert unit.log == ["rollback!", "invalidate!", "close"]


class PlainUnit:
    """A unit of work whose connection cannot be given up, and whose rollback fails."""

    active = True

    def __init__(self) -> None:
        self.log: list[str] = []

    def begin(self) -> None: ...
    def commit(self) -> None: ...

    def rollback(self) -> None:
        self.log.append("rollback!")
        raise OSError("gone")

    def close(self) -> None:
        self.log.append("close")


@pytest.mark.parametrize("abandoned", [False, True])
def test_a_unit_of_work_without_invalidate_is_rolled_back_and_closed_all_the_same(
    abandoned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    unit = PlainUnit()
    exchange = exchange_of(is_async=True, unit_of_work=lambda exchange: unit)
    give_head(exchange, 500)
    exchange._raised, exchange._exception = abandoned, Cancelled() if abandoned else None
    assert perform(settle(exchange)) is Event.SETTLED
    assert unit.log == ["rollback!", "close"]
    assert caplog.messages == ["GET /orders: the unit of work could not roll back"]


@pytest.mark.parametrize("failing", ["close", "rollback", "invalidate"])
def test_what_ends_a_process_in_a_clean_up_passes_once_all_is_done(failing: str) -> None:
    units = FakeUnits(
        {failing: KeyboardInterrupt(), **({"rollback": OSError("gone")} if failing == "invalidate" else {})}
    )
    exchange = exchange_of(unit_of_work=units)
    exchange.after_rollback(lambda: units.log.append("after_rollback"))
    give_head(exchange, 500)
    with pytest.raises(KeyboardInterrupt):
        perform(settle(exchange))
    assert units.log[-2:] == ["invalidate" if failing == "close" else "close", "after_rollback"]
    assert exchange.unit_of_work is UnitState.ROLLED_BACK


@pytest.mark.parametrize("end", [SystemExit(3), KeyboardInterrupt()])
@pytest.mark.parametrize("stage", ["before_commit", "commit"])
def test_only_an_exit_out_of_commit_itself_leaves_its_end_unknown(stage: str, end: BaseException) -> None:
    def hook() -> None:
        if stage == "before_commit":
            raise end

    exchange = exchange_of(unit_of_work=FakeUnits({"commit": end}))
    exchange.before_commit(hook)
    give_head(exchange)
    if isinstance(end, KeyboardInterrupt):
        with pytest.raises(KeyboardInterrupt):
            perform(settle(exchange))
    else:
        assert perform(settle(exchange)) is Event.REFUSED
    assert exchange.unit_of_work is (UnitState.UNKNOWN if stage == "commit" else UnitState.FAILED)


@pytest.mark.parametrize("stage", ["before_commit", "commit"])
def test_a_failed_commit_tells_whether_it_was_a_hook(stage: str) -> None:
    told: list[str] = []
    exchange = exchange_of(
        unit_of_work=FakeUnits({"commit": LookupError()}), on_commit_failed=lambda failure: told.append(failure.stage)
    )
    if stage == "before_commit":
        exchange.before_commit(lambda: [][0])
    give_head(exchange)
    assert perform(settle(exchange)) is Event.REFUSED
    assert told == [stage]


def test_what_ends_a_process_in_a_rule_rolls_back_and_passes_once_the_connection_is_released() -> None:
    def ends(head: object) -> bool:
        raise KeyboardInterrupt

    outcomes: list[Outcome] = []
    units = FakeUnits()
    exchange = exchange_of(
        unit_of_work=units, commit=CommitPolicy(at="after_send", commit_if=ends), on_finished=outcomes.append
    )
    give_head(exchange)
    with pytest.raises(KeyboardInterrupt):
        perform(finish(exchange))
    assert units.log == ["begin", "rollback", "close"]
    assert [outcome.unit_of_work for outcome in outcomes] == [UnitState.ROLLED_BACK]


@pytest.mark.parametrize(("stage", "status"), [("after_commit", 200), ("after_rollback", 404)])
def test_a_hook_behind_the_end_that_fails_is_logged_and_told_of(
    stage: str, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[Failure] = []
    error = LookupError("no mail server")

    def fails() -> None:
        raise error

    exchange = exchange_of(unit_of_work=FakeUnits(), on_error=told.append)
    getattr(exchange, stage)(fails)
    give_head(exchange, status)
    assert perform(settle(exchange)) is Event.SETTLED
    assert told == [Failure(exchange, stage, error, transient=False)]  # type: ignore[arg-type]
    assert caplog.messages == [f"GET /orders: the {stage} hook {fails!r} failed"]


def test_a_unit_of_work_is_made_from_the_exchange() -> None:
    given: list[Exchange] = []

    def factory(exchange: Exchange) -> FakeUnit:
        given.append(exchange)
        return FakeUnit({})

    assert given == [exchange_of(unit_of_work=factory)]


def test_an_async_unit_of_work_is_refused_by_name_where_nothing_is_awaited() -> None:
    told: list[Failure] = []
    exchange_settings = settings_of(unit_of_work=lambda exchange: QuickUnit({}), on_error=told.append)
    exchange = DrivenExchange(exchange_settings, {"method": "GET", "path": "/"}, 0)
    assert perform(open_unit(exchange)) is Event.REFUSED
    assert [str(failure.exception) for failure in told] == [
        "unit_of_work: QuickUnit is async and cannot run under WSGI"
    ]


@pytest.mark.parametrize("kept", [True, False])
def test_a_rule_of_ones_own_sees_the_headers(kept: bool) -> None:
    units = FakeUnits()
    exchange = exchange_of(unit_of_work=units, commit=CommitPolicy(commit_if=lambda head: head.get("x-keep") == "yes"))
    give_head(exchange)
    exchange._headers = [("X-Keep", "yes" if kept else "no")]
    assert perform(settle(exchange)) is Event.SETTLED
    assert units.log == ["begin", "commit" if kept else "rollback", "close"]


def test_what_a_unit_of_work_lets_go_of_at_the_end_is_told_of_where_it_fails(caplog: pytest.LogCaptureFixture) -> None:
    told: list[Failure] = []
    ran: list[str] = []

    def fails() -> None:
        raise LookupError("a listener")

    exchange = exchange_of(unit_of_work=FakeUnits(), on_error=told.append)
    exchange._at_end = [fails, lambda: ran.append("the next")]
    give_head(exchange)
    perform(finish(exchange))
    assert ([(failure.exchange, failure.stage) for failure in told], ran) == ([(exchange, "on_finished")], ["the next"])
    assert caplog.messages == [f"GET /orders: the on_finished hook {fails!r} failed"]


def test_what_ends_a_process_in_a_callback_for_failures_passes_once_all_is_done() -> None:
    ran: list[str] = []

    def ends(failure: Failure) -> None:
        ran.append(failure.stage)
        raise KeyboardInterrupt

    exchange = exchange_of(unit_of_work=FakeUnits(), on_error=ends)
    exchange.after_commit(lambda: [][0])
    exchange.after_commit(lambda: ran.append("the next"))
    give_head(exchange)
    with pytest.raises(KeyboardInterrupt):
        perform(settle(exchange))
    assert ran == ["after_commit", "the next"]


@pytest.mark.parametrize("stage", ["on_start", "commit_if"])
def test_a_refused_response_tells_which_stage_failed_and_since_when_it_settled(stage: str) -> None:
    told: list[str] = []
    outcomes: list[Outcome] = []

    def fails(_: object) -> bool:
        raise LookupError(stage)

    exchange = exchange_of(
        unit_of_work=FakeUnits(),
        commit=CommitPolicy(commit_if=fails if stage == "commit_if" else lambda head: True),
        on_error=lambda failure: told.append(failure.stage),
        on_finished=outcomes.append,
    )
    if stage == "on_start":
        exchange.on_start(fails)
    give_head(exchange)
    assert perform(settle(exchange)) is Event.REFUSED
    perform(finish(exchange))
    assert told == [stage]
    assert (outcomes[0].moments.settling, outcomes[0].moments.settled) == (1, 2)


def test_a_rollback_by_status_says_one_debug_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "postresponse")
    exchange = exchange_of(unit_of_work=FakeUnits())
    give_head(exchange, 404)
    perform(settle(exchange))
    assert caplog.messages == ["GET /orders: rolled back, status 404"]


def test_without_a_unit_of_work_there_is_nothing_to_settle() -> None:
    exchange = exchange_of()
    give_head(exchange)
    assert perform(settle(exchange)) is Event.SETTLED
    assert perform(refuse(exchange, Event.OVERFLOW)) is Event.REFUSED


@pytest.mark.parametrize(
    ("event", "kind", "stage"),
    [(Event.OVERFLOW, BodyTooLarge, "overflow"), (Event.RETURNED, MessageOrderError, "no end")],
)
def test_a_held_response_that_cannot_leave_is_rolled_back_and_told(event: Event, kind: Any, stage: str) -> None:
    told: list[Failure] = []
    units = FakeUnits()
    exchange = exchange_of(unit_of_work=units, commit=CommitPolicy(at="buffered", max_body=3), on_error=told.append)
    give_head(exchange)
    assert perform(refuse(exchange, event)) is Event.REFUSED
    assert units.log == ["begin", "rollback", "close"]
    (failure,) = told
    assert (type(failure.exception), failure.stage) == (kind, stage)
    said = "max_body=3 bytes; raise the limit" if event is Event.OVERFLOW else "without the end of its body"
    assert said in str(failure.exception)


def test_a_unit_of_work_that_has_ended_is_not_ended_again_by_a_refusal() -> None:
    units = FakeUnits()
    exchange = exchange_of(unit_of_work=units)
    give_head(exchange)
    perform(settle(exchange))
    perform(refuse(exchange, Event.RETURNED))
    assert units.log == ["begin", "commit", "close"]


def test_a_failed_commit_is_an_error_with_its_traceback_and_told_once(caplog: pytest.LogCaptureFixture) -> None:
    failed: list[Failure] = []
    errors: list[Failure] = []
    exchange = exchange_of(
        unit_of_work=FakeUnits({"commit": LookupError("refused")}),
        on_commit_failed=failed.append,
        on_error=errors.append,
    )
    give_head(exchange)
    assert perform(settle(exchange)) is Event.REFUSED
    (record,) = caplog.records
    assert (record.levelno, record.exc_info is not None) == (logging.ERROR, True)
    assert ([failure.stage for failure in failed], errors) == (["commit"], [])


def test_a_failed_commit_that_nobody_wants_to_hear_of_is_only_logged() -> None:
    errors: list[Failure] = []
    exchange = exchange_of(unit_of_work=FakeUnits({"commit": LookupError("refused")}), on_error=errors.append)
    give_head(exchange)
    assert perform(settle(exchange)) is Event.REFUSED
    assert errors == []


def test_a_callback_for_failures_that_fails_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    def on_commit_failed(failure: Failure) -> None:
        raise LookupError("the mail server is down")

    exchange = exchange_of(
        unit_of_work=FakeUnits({"commit": LookupError("refused")}), on_commit_failed=on_commit_failed
    )
    give_head(exchange)
    assert perform(settle(exchange)) is Event.REFUSED
    assert [str(record.exc_info[1]) for record in caplog.records if record.exc_info] == [
        "refused",
        "the mail server is down",
    ]


def test_nothing_is_decided_any_more_once_an_early_commit_has_begun() -> None:
    outcomes: list[Outcome] = []
    exchange = exchange_of(unit_of_work=FakeUnits(), on_finished=outcomes.append)
    assert perform(commit_early(exchange)) is Event.SETTLED
    with pytest.raises(ResponseStarted, match="call it before the unit of work ends"):
        exchange.doom()
    exchange._state = State.OVER
    perform(finish(exchange))
    moments = outcomes[0].moments
    assert moments.settling is not None
    assert moments.settled is not None
    assert moments.settling <= moments.settled


@pytest.mark.parametrize(
    ("error", "status", "event"),
    [
        (CommitInDoubt("lost"), 409, Event.SETTLED),
        (CommitInDoubt("lost"), 500, Event.REFUSED),
        (LookupError("refused"), 500, Event.SETTLED),
    ],
)
def test_what_the_application_answers_to_a_failed_early_commit_stands_unless_it_hides_that_nobody_knows(
    error: Exception, status: int, event: Event
) -> None:
    exchange = exchange_of(unit_of_work=FakeUnits({"commit": error}))
    assert perform(commit_early(exchange)) is Event.REFUSED
    give_head(exchange, status)
    assert perform(settle(exchange)) is event


def test_a_changed_header_that_cannot_leave_is_refused_before_the_commit() -> None:
    exchange = exchange_of()
    exchange.on_start(lambda exchange: exchange.headers.append(("x-note", "a\r\nb: c")))
    give_head(exchange)
    assert perform(run_start_hooks(exchange)) is False
    assert exchange._failure is not None
    assert isinstance(exchange._failure.exception, InvalidHeader)


def test_a_changed_header_that_can_leave_does() -> None:
    exchange = exchange_of()
    exchange.on_start(lambda exchange: exchange.headers.append(("x-note", "caf\xe9")))
    give_head(exchange)
    assert perform(run_start_hooks(exchange)) is True


@pytest.mark.parametrize("at", ["head", "after_send"])
def test_a_refused_response_is_not_committed_by_force_either(at: Any) -> None:
    def hook(exchange: Exchange) -> None:
        raise LookupError("no such header")

    units = FakeUnits()
    exchange = exchange_of(unit_of_work=units, commit=at)
    exchange.force_commit()
    exchange.on_start(hook)
    give_head(exchange)
    assert perform(run_start_hooks(exchange)) is False
    perform(finish(exchange))
    assert units.log == ["begin", "rollback", "close"]


def test_every_step_of_a_settlement_can_be_its_last() -> None:
    for number in range(1, 7):
        exchange = exchange_of(unit_of_work=FakeUnits(), on_finished=lambda outcome: None)
        exchange.before_commit(lambda: None)
        exchange.after_commit(lambda: None)
        give_head(exchange)
        exchange._state = State.OVER
        steps = finish(exchange)
        for _ in range(number):
            if (step := next(steps, None)) is not None:
                step[0](*step[1])
        steps.close()
        assert next(steps, None) is None


def test_nobody_who_wants_the_outcome_costs_nothing() -> None:
    exchange = exchange_of()
    assert list(finish(exchange)) == []


def test_the_access_log_has_one_line_a_request(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "postresponse.access")
    exchange = exchange_of()
    give_head(exchange)
    exchange._began, exchange._head_sent, exchange._body_sent = 7_000_000, 100_007_000_000, None
    perform(finish(exchange))
    exchange._body_sent = 100_009_500_000
    perform(finish(exchange))
    assert caplog.messages == [
        "GET /orders 200: incomplete, unit of work none, head after 100000.0 ms, all after - ms",
        "GET /orders 200: handed_over, unit of work none, head after 100000.0 ms, all after 100002.5 ms",
    ]


@pytest.mark.parametrize(
    ("declared", "counted", "ending"),
    [
        (None, True, Ending.INCOMPLETE),
        (3, True, Ending.UNCONFIRMED),
        (4, True, Ending.INCOMPLETE),
        (None, False, Ending.UNCONFIRMED),
        (4, False, Ending.UNCONFIRMED),
    ],
)
def test_without_an_end_the_declared_bytes_tell_the_ending(declared: int | None, counted: bool, ending: Ending) -> None:
    outcomes: list[Outcome] = []
    exchange = exchange_of(on_finished=outcomes.append)
    give_head(exchange)
    exchange._declared, exchange._counted, exchange._bytes = declared, counted, 3
    perform(finish(exchange))
    (outcome,) = outcomes
    assert (outcome.ending, outcome.bytes_sent) == (ending, 3 if counted else None)
    assert outcome.sent == (ending is Ending.UNCONFIRMED)


def test_what_ends_a_process_passes_once_every_hook_has_run() -> None:
    ran: list[str] = []

    def stops(outcome: Outcome) -> None:
        ran.append("stops")
        raise KeyboardInterrupt

    exchange = exchange_of(on_finished=lambda outcome: ran.append("settings"))
    exchange.on_finished(lambda outcome: ran.append("first"))
    exchange.on_finished(stops)
    with pytest.raises(KeyboardInterrupt):
        perform(finish(exchange))
    assert ran == ["stops", "first", "settings"]


def test_a_factory_that_fails_leaves_nothing_to_end() -> None:
    told: list[Failure] = []

    def factory(exchange: Exchange) -> Any:
        raise SystemExit(3)

    exchange = DrivenExchange(
        settings_of(unit_of_work=factory, on_error=told.append), {"method": "GET", "path": "/"}, 0
    )
    assert perform(open_unit(exchange)) is Event.REFUSED
    assert (exchange._unit, exchange.unit_of_work) == (None, UnitState.NONE)
    assert [failure.stage for failure in told] == ["begin"]


def test_a_discarded_attempt_tells_nobody_and_lets_go_of_what_it_holds() -> None:
    told: list[object] = []
    policy = CommitPolicy(retry=Retry())
    exchange = exchange_of(unit_of_work=FakeUnits({"commit": Conflict()}), commit=policy, on_finished=told.append)
    exchange._at_end = [lambda: told.append("let go")]
    give_head(exchange)
    exchange._advance(Event.FINAL)
    assert perform(settle(exchange)) is Event.AGAIN
    perform(finish(exchange))
    assert told == ["let go"]


def test_a_connection_that_cannot_be_given_up_is_rolled_back_before_it_is_closed() -> None:
    units = FakeUnits({"invalidate": OSError("busy")})
    exchange = exchange_of(is_async=True, unit_of_work=units)
    exchange._raised, exchange._exception = True, Cancelled()
    assert perform(settle(exchange)) is Event.SETTLED
    assert units.log == ["begin", "invalidate!", "rollback", "close"]


def test_where_a_thread_may_be_at_work_the_connection_is_given_up_and_not_rolled_back() -> None:
    units = FakeUnits()
    exchange = exchange_of(is_async=True, unit_of_work=units)
    exchange._raised, exchange._exception = True, Cancelled()
    assert perform(settle(exchange)) is Event.SETTLED
    assert units.log == ["begin", "invalidate", "close"]


@pytest.mark.parametrize("stage", ["commit_if", "before_commit", "commit"])
def test_a_failure_that_was_to_be_run_again_is_told_to_whom_it_concerns(stage: str) -> None:
    told: list[tuple[str, str]] = []
    units = FakeUnits({"commit": Conflict()})

    def commit_if(head: object) -> bool:
        if stage == "commit_if":
            raise Conflict
        return True

    exchange = exchange_of(
        unit_of_work=units,
        commit=CommitPolicy(commit_if=commit_if, retry=Retry()),
        on_commit_failed=lambda failure: told.append(("on_commit_failed", failure.stage)),
        on_error=lambda failure: told.append(("on_error", failure.stage)),
    )
    if stage == "before_commit":
        exchange.before_commit(units.only.commit)
    give_head(exchange)
    assert perform(settle(exchange)) is Event.AGAIN
    assert told == []
    exchange._again = False  # the request was cancelled meanwhile
    exchange._state = State.OVER
    perform(finish(exchange))
    assert told == [("on_error" if stage == "commit_if" else "on_commit_failed", stage)]


def test_without_a_head_there_is_nothing_to_commit(caplog: pytest.LogCaptureFixture) -> None:
    units = FakeUnits()
    exchange = exchange_of(unit_of_work=units)
    perform(finish(exchange))
    assert (units.log, exchange.unit_of_work) == (["begin", "rollback", "close"], UnitState.ROLLED_BACK)
    assert caplog.messages == []


@pytest.mark.parametrize("left", [True, False])
def test_a_client_that_left_rolls_back_where_the_policy_says_so(left: bool) -> None:
    units = FakeUnits()
    exchange = exchange_of(unit_of_work=units, commit=CommitPolicy(on_disconnect="rollback"))
    give_head(exchange)
    exchange._left = left
    perform(settle(exchange))
    assert units.log == ["begin", "rollback" if left else "commit", "close"]


def test_each_step_says_how_it_is_called_and_how_long_it_may_take() -> None:
    for status, ends in ((200, "commit"), (404, "rollback")):
        exchange = exchange_of(unit_of_work=FakeUnits())
        give_head(exchange, status)
        steps = [(call.__name__, manner, limit) for call, _, manner, limit in settle(exchange)]
        limit = None if ends == "commit" else 5.0
        assert steps == [(ends, Manner.BLOCKS, limit), ("close", Manner.BLOCKS, 5.0)]


# -- what is run again ------------------------------------------------------------------------------------------------


def retrying(fails: dict[str, BaseException] | None = None, **options: Any) -> tuple[FakeUnit, DrivenExchange]:
    units = FakeUnits(fails)
    exchange = exchange_of(unit_of_work=units, commit=CommitPolicy(retry=Retry(**options)))
    give_head(exchange)
    return units.only, exchange


def test_what_was_committed_is_not_run_again_whatever_it_answers() -> None:
    unit, exchange = retrying()
    exchange.force_commit()
    exchange._status, unit.statement_error = 500, Conflict()
    assert perform(settle(exchange)) is Event.SETTLED
    assert (exchange.unit_of_work, exchange._again) == (UnitState.COMMITTED, False)


def test_a_failure_that_does_not_pass_is_not_run_again() -> None:
    _, exchange = retrying({"commit": LookupError("refused")})
    assert perform(settle(exchange)) is Event.REFUSED
    assert exchange._again is False


def test_what_ends_a_process_is_not_held_up_by_another_attempt() -> None:
    _, exchange = retrying({"commit": Conflict(), "close": KeyboardInterrupt()})
    with pytest.raises(KeyboardInterrupt):
        perform(settle(exchange))
    assert (exchange.unit_of_work, exchange._again) == (UnitState.FAILED, False)


def test_a_discarded_attempt_is_told_of_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "postresponse")
    _, exchange = retrying({"commit": Conflict()})
    assert perform(settle(exchange)) is Event.AGAIN
    assert caplog.messages == ["GET /orders: attempt 1 failed and is run again"]


def test_a_rule_of_retry_that_fails_is_logged_and_the_request_not_run_again(caplog: pytest.LogCaptureFixture) -> None:
    def on(error: BaseException) -> bool:
        raise LookupError("the rule")

    _, exchange = retrying({"commit": Conflict()}, on=on)
    assert perform(settle(exchange)) is Event.REFUSED
    assert caplog.messages[0] == "GET /orders: Retry.on failed, and the request is not run again"
    assert caplog.records[0].exc_info is not None
    assert str(caplog.records[0].exc_info[1]) == "the rule"


def test_behind_a_discarded_attempt_what_ends_a_process_passes_and_the_outcome_is_told() -> None:
    outcomes: list[Outcome] = []
    exchange = exchange_of(
        unit_of_work=FakeUnits({"commit": Conflict()}),
        commit=CommitPolicy(retry=Retry()),
        on_finished=outcomes.append,
    )
    give_head(exchange)
    assert perform(settle(exchange)) is Event.AGAIN

    def ends() -> None:
        raise KeyboardInterrupt

    exchange._at_end, exchange._state = [ends], State.OVER
    with pytest.raises(KeyboardInterrupt):
        perform(finish(exchange))
    assert ([outcome.unit_of_work for outcome in outcomes], exchange._again) == ([UnitState.FAILED], False)
