"""Bad input, from the developer and from the application: each a clear error that names what was found and the way out.

None of it may hang, send a second head, or lose a transaction: what began is rolled back and closed.
"""

import functools
import gc
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest

from postresponse import CommitPolicy, Outcome, commit_policy, current_exchange, doom, force_commit
from postresponse.asgi import PostResponseMiddleware as ASGIMiddleware
from postresponse.exceptions import (
    ConfigurationError,
    InvalidHeader,
    MessageOrderError,
    NoUnitOfWork,
    PostResponseError,
    ResponseStarted,
    UnitOfWorkError,
    WrongApplication,
)
from postresponse.wsgi import PostResponseMiddleware as WSGIMiddleware
from tests.fakes import BODY, START, FakeUnit, FakeUnits, ProtocolBroken, StrictWSGIServer, attempt_asgi

Act = Callable[[], object]


class Seen:
    """What came of one request: what the client got, what was raised, whether the application ran."""

    def __init__(self) -> None:
        self.ran = False
        self.status: int | None = None
        self.body = b""
        self.heads = 0
        self.error: BaseException | None = None
        self.caught: BaseException | None = None
        self.broken: list[str] = []


def nothing() -> None:
    """What an application does that only answers."""


class ASGISide:
    """One request over ASGI; both classes are used the same way."""

    middleware: Any = ASGIMiddleware
    is_async = True

    @staticmethod
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": START, "status": 200, "headers": []})
        await send({"type": BODY, "body": b"answered"})

    def ask(self, before: Act = nothing, *, between: Act = nothing, headers: Any = (), **options: Any) -> Seen:
        seen = Seen()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            seen.ran = True
            before()
            raw = [(name.encode(), value.encode()) for name, value in headers]
            await send({"type": START, "status": 200, "headers": raw})
            await send({"type": BODY, "body": b"one, ", "more_body": True})
            between()
            await send({"type": BODY, "body": b"two"})

        return self.run(app, seen, **options)

    def run(self, app: Any, seen: Seen, **options: Any) -> Seen:
        server, seen.error = attempt_asgi(ASGIMiddleware(app, **options))
        seen.status, seen.body, seen.broken = server.status, server.body, server.broken
        seen.heads = sum(message["type"] == START for message in server.messages)
        return seen


class WSGISide:
    """One request over WSGI."""

    middleware: Any = WSGIMiddleware
    is_async = False

    @staticmethod
    def application(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        return [b"answered"]

    def ask(self, before: Act = nothing, *, between: Act = nothing, headers: Any = (), **options: Any) -> Seen:
        seen = Seen()

        def app(environ: Any, start_response: Any) -> Iterator[bytes]:
            seen.ran = True
            before()
            start_response("200 OK", list(headers))
            return chunks()

        def chunks() -> Iterator[bytes]:
            yield b"one, "
            between()
            yield b"two"

        return self.run(app, seen, **options)

    def run(self, app: Any, seen: Seen, **options: Any) -> Seen:
        server = StrictWSGIServer().run(WSGIMiddleware(app, **options))
        seen.status, seen.body, seen.broken, seen.error = server.code, server.body, server.broken, server.raised
        seen.heads = server.heads
        return seen


Side = ASGISide | WSGISide

SIDES: Final[dict[str, Side]] = {"asgi": ASGISide(), "wsgi": WSGISide()}


@pytest.fixture(params=list(SIDES))
def side(request: pytest.FixtureRequest) -> Side:
    """Both adapters in turn."""
    return SIDES[request.param]


@pytest.fixture(autouse=True)
def all_awaited() -> Iterator[None]:
    """No coroutine is left behind that nobody awaited."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
        gc.collect(1)
    assert [str(warning.message) for warning in caught if "never awaited" in str(warning.message)] == []


async def work(*_: object) -> None:
    """An async function in a place for one, or not."""


# -- options ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"unit_of_wrok": FakeUnits()}, "no option 'unit_of_wrok'; did you mean 'unit_of_work'"),
        ({"on_finish": print}, "no option 'on_finish'; did you mean 'on_finished'"),
        ({"unit_of_work": FakeUnits(), "commit": "bufered"}, "there is no 'bufered'; did you mean 'buffered'"),
        ({"unit_of_work": FakeUnits(), "commit": "aftersend"}, "there is no 'aftersend'; did you mean 'after_send'"),
        ({"unit_of_work": FakeUnits(), "commit": 7}, "expected 'head', 'buffered', 'after_send' or a CommitPolicy"),
        ({"commit": "head"}, "commit='head' has nothing to commit: give unit_of_work="),
        ({"unit_of_work": "sqlite://"}, "unit_of_work: expected a function that makes one .*'sqlite://'"),
        ({"unit_of_work": work}, "unit_of_work: expected a plain function, found an async one"),
        ({"unit_of_work": FakeUnits(), "commit": work}, "commit: expected a plain function, found an async one"),
        ({"error_response": 500}, "error_response: expected a function, found 500"),
        ({"on_commit_failed": "mail"}, "on_commit_failed: expected a function, found 'mail'"),
        ({"on_finished": []}, r"on_finished: expected a function, found \[\]"),
        ({"on_error": {}}, r"on_error: expected a function, found \{\}"),
        ({"cleanup_timeout": 0}, "cleanup_timeout: expected seconds above zero, found 0"),
        ({"cleanup_timeout": -1.5}, "cleanup_timeout: expected seconds above zero, found -1.5"),
        ({"cleanup_timeout": float("nan")}, "cleanup_timeout: expected seconds above zero, found nan"),
        ({"cleanup_timeout": float("inf")}, "cleanup_timeout: expected seconds above zero, found inf"),
        ({"cleanup_timeout": "5"}, "cleanup_timeout: expected seconds as a number, found '5'"),
        ({"cleanup_timeout": True}, "cleanup_timeout: expected seconds as a number, found True"),
    ],
)
def test_a_wrong_option_is_refused_at_construction(side: Side, options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        side.middleware(side.application, **options)


@pytest.mark.parametrize("option", ["unit_of_work", "commit", "error_response", "on_finished", "on_error"])
def test_a_coroutine_object_instead_of_a_function_is_refused_and_closed(side: Side, option: str) -> None:
    options: dict[str, Any] = {"unit_of_work": FakeUnits(), option: work()}
    with pytest.raises(ConfigurationError, match=f"{option}: expected a function, found a coroutine object"):
        side.middleware(side.application, **options)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"at": "hed"}, "at: there is no 'hed'; did you mean 'head'"),
        ({"at": None}, "at: expected one of 'head', 'buffered', 'after_send', found None"),
        ({"on_disconnect": "comit"}, "on_disconnect: there is no 'comit'; did you mean 'commit'"),
        ({"on_overflow": "eror"}, "on_overflow: there is no 'eror'; did you mean 'error'"),
        ({"max_memory": 0}, "max_memory: expected a number of bytes above zero, found 0"),
        ({"max_memory": -1}, "max_memory: expected a number of bytes above zero, found -1"),
        ({"max_memory": True}, "max_memory: expected a number of bytes above zero, found True"),
        ({"max_memory": None}, "max_memory: expected a number of bytes above zero, found None"),
        ({"max_body": 0}, "max_body: expected a number of bytes above zero, found 0"),
        ({"max_body": 1.5}, "max_body: expected a number of bytes above zero, found 1.5"),
        ({"commit_if": None}, "commit_if: expected a function, found None"),
        ({"commit_if": work}, "commit_if: expected a plain function, found an async one"),
        ({"stream_if": "yes"}, "stream_if: expected a function, found 'yes'"),
        ({"stream_if": work}, "stream_if: expected a plain function, found an async one"),
    ],
)
def test_a_wrong_option_of_a_policy_is_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        CommitPolicy(**options)
    with pytest.raises(ConfigurationError, match=says):
        commit_policy(**options)


def test_a_coroutine_object_as_a_rule_of_a_policy_is_refused_and_closed() -> None:
    rule: Any = work()
    with pytest.raises(ConfigurationError, match="commit_if: expected a function, found <coroutine object"):
        CommitPolicy(commit_if=rule)


def test_an_unknown_option_of_a_views_policy_is_refused_where_it_is_decorated() -> None:
    with pytest.raises(ConfigurationError, match="CommitPolicy has no option 'max_memroy'; did you mean 'max_memory'"):
        commit_policy(max_memroy=1)
    nonsense: Any = 7
    with pytest.raises(ConfigurationError, match=r"commit_policy\(\) takes a CommitPolicy, .* found 7"):
        commit_policy(nonsense)


# -- applications -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [None, "module:app", 42])
def test_an_application_that_cannot_be_called_is_refused(side: Side, wrong: Any) -> None:
    with pytest.raises(WrongApplication, match=f"application, found {wrong!r}"):
        side.middleware(wrong)


def test_a_wsgi_application_is_refused_by_the_asgi_class_at_construction() -> None:
    wrong: Any = WSGISide.application
    with pytest.raises(WrongApplication, match=r"takes 2 arguments, as WSGI .* use postresponse\.wsgi"):
        ASGIMiddleware(wrong)


def test_an_asgi_application_is_refused_by_the_wsgi_class_at_construction() -> None:
    wrong: Any = ASGISide.application
    with pytest.raises(WrongApplication, match=r"takes 3 arguments, as ASGI .* use postresponse\.asgi"):
        WSGIMiddleware(wrong)


def test_an_application_with_too_many_arguments_is_refused(side: Side) -> None:
    with pytest.raises(WrongApplication, match="cannot be called with"):
        side.middleware(lambda one, two, three, four: None)


def test_a_wsgi_application_of_unknown_signature_is_refused_by_the_asgi_class_at_its_first_call() -> None:
    def app(*args: Any) -> list[bytes]:
        return [b"never seen"]

    units = FakeUnits()
    seen = ASGISide().run(app, Seen(), unit_of_work=units)
    assert isinstance(seen.error, WrongApplication)
    assert "postresponse.wsgi" in str(seen.error)
    assert (seen.heads, units.log) == (0, ["begin", "rollback", "close"])


@pytest.mark.parametrize("is_coroutine", [False, True])
def test_a_type_error_of_an_asgi_application_stays_what_it_is(is_coroutine: bool) -> None:
    def app(scope: Any, receive: Any, send: Any) -> Any:
        raise TypeError("its own")

    async def coroutine(scope: Any, receive: Any, send: Any) -> Any:
        raise TypeError("its own")

    seen = ASGISide().run(coroutine if is_coroutine else app, Seen())
    assert type(seen.error) is TypeError
    assert str(seen.error) == "its own"


def test_an_asgi_application_of_unknown_signature_is_refused_by_the_wsgi_class_at_its_first_call() -> None:
    async def app(*args: Any) -> None:
        raise AssertionError("it is not awaited")

    units = FakeUnits()
    seen = WSGISide().run(app, Seen(), unit_of_work=units)
    assert isinstance(seen.error, WrongApplication)
    assert "postresponse.asgi" in str(seen.error)
    assert (seen.heads, units.log) == (0, ["begin", "rollback", "close"])


@pytest.mark.parametrize("result", [None, 7])
def test_a_wsgi_application_that_returns_no_body_is_refused(result: Any) -> None:
    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [])
        return result

    units = FakeUnits()
    seen = WSGISide().run(app, Seen(), unit_of_work=units)
    assert isinstance(seen.error, WrongApplication)
    assert f"found {result}" in str(seen.error)
    assert (seen.heads, units.log) == (0, ["begin", "rollback", "close"])


# -- units of work ----------------------------------------------------------------------------------------------------


class Half:
    """A unit of work that cannot be committed."""

    active = True

    def begin(self) -> None: ...
    def rollback(self) -> None: ...
    def close(self) -> None: ...


class Transient(Exception):
    """A serialization failure, as PostgreSQL's drivers tell it."""

    sqlstate = "40001"


def refusing(error: Exception) -> Callable[[object], Any]:
    def make(exchange: object) -> Any:
        raise error

    return make


@pytest.mark.parametrize("at", ["head", "buffered", "after_send"])
@pytest.mark.parametrize(
    ("factory", "status", "kind"),
    [
        (lambda exchange: None, 500, UnitOfWorkError),
        (lambda exchange: Half(), 500, UnitOfWorkError),
        (lambda exchange: work(), 500, UnitOfWorkError),
        (refusing(LookupError("no such database")), 500, LookupError),
        (refusing(Transient("try again")), 503, Transient),
    ],
)
def test_a_factory_that_makes_no_unit_of_work_answers_before_the_application_runs(
    side: Side, at: str, factory: Any, status: int, kind: type[Exception]
) -> None:
    outcomes: list[Outcome] = []
    failures: list[Any] = []
    seen = side.ask(unit_of_work=factory, commit=at, on_finished=outcomes.append, on_error=failures.append)
    assert (seen.ran, seen.status, seen.heads, seen.error, seen.broken) == (False, status, 1, None, [])
    assert b"database" not in seen.body
    (outcome,), (failure,) = outcomes, failures
    assert isinstance(outcome.exception, kind)
    assert (outcome.unit_of_work, failure.stage, failure.exception) == ("none", "begin", outcome.exception)


def test_a_unit_of_work_that_cannot_begin_is_closed_and_the_application_does_not_run(side: Side) -> None:
    units = FakeUnits({"begin": LookupError("no such database")}, is_async=side.is_async)
    seen = side.ask(unit_of_work=units)
    assert (seen.ran, seen.status, seen.error, units.log) == (False, 500, None, ["begin!", "rollback", "close"])


def test_an_async_unit_of_work_that_says_so_is_refused_by_wsgi_at_construction() -> None:
    with pytest.raises(WrongApplication, match="FakeUnits is async and cannot run under WSGI; use its sync twin"):
        WSGIMiddleware(WSGISide.application, unit_of_work=FakeUnits(is_async=True))


@pytest.mark.parametrize("name", ["begin", "commit", "rollback", "close"])
def test_a_unit_of_work_with_an_async_method_is_refused_by_wsgi_before_the_application_runs(name: str) -> None:
    units = FakeUnits()

    def factory(exchange: object) -> Any:
        unit = units(exchange)
        unit.__class__ = type("Unit", (FakeUnit,), {name: work})
        return unit

    outcomes: list[Outcome] = []
    seen = WSGISide().ask(unit_of_work=factory, on_finished=outcomes.append)
    assert (seen.ran, seen.status, seen.error, units.log) == (False, 500, None, [])
    assert "is async and cannot run under WSGI" in str(outcomes[0].exception)


def test_a_plain_method_that_returns_an_awaitable_is_awaited_under_asgi() -> None:
    committed: list[str] = []

    class Unit:
        active = True

        async def _commit(self) -> None:
            committed.append("committed")

        def begin(self) -> None: ...
        def rollback(self) -> None: ...
        def close(self) -> None: ...
        def commit(self) -> Any:
            return self._commit()

    seen = ASGISide().ask(unit_of_work=lambda exchange: Unit())
    assert (seen.status, committed) == (200, ["committed"])


def test_a_rule_that_returns_a_coroutine_rolls_back_and_answers_500(side: Side) -> None:
    units = FakeUnits(is_async=side.is_async)
    policy = CommitPolicy(commit_if=lambda head: work())
    seen = side.ask(unit_of_work=units, commit=policy)
    assert (seen.status, seen.heads, units.log) == (500, 1, ["begin", "rollback", "close"])


@pytest.mark.parametrize("answer", ["bufered", 7])
def test_a_policy_function_that_returns_nonsense_is_told_before_the_application_runs(side: Side, answer: Any) -> None:
    units = FakeUnits(is_async=side.is_async)
    seen = side.ask(unit_of_work=units, commit=lambda scope: answer)
    assert (seen.ran, seen.status, seen.error, seen.broken) == (False, 500, None, [])
    assert all(unit.log == [] for unit in units.made)


# -- hooks ------------------------------------------------------------------------------------------------------------

REGISTER: Final = ("on_start", "before_commit", "after_commit", "after_rollback", "on_finished")


def catching(seen: list[BaseException], call: Callable[[], object]) -> Act:
    def act() -> None:
        try:
            call()
        except PostResponseError as error:
            seen.append(error)

    return act


@pytest.mark.parametrize("name", REGISTER)
@pytest.mark.parametrize("wrong", ["mail", None, 7])
def test_a_hook_that_cannot_be_called_is_refused_where_it_is_registered(side: Side, name: str, wrong: Any) -> None:
    refused: list[BaseException] = []
    seen = side.ask(
        catching(refused, lambda: getattr(current_exchange(), name)(wrong)),
        unit_of_work=FakeUnits(is_async=side.is_async),
    )
    assert [str(error) for error in refused] == [f"{name}: expected a function, found {wrong!r}"]
    assert isinstance(refused[0], ConfigurationError)
    assert (seen.status, seen.body) == (200, b"one, two")


@pytest.mark.parametrize("name", REGISTER)
def test_a_coroutine_object_as_a_hook_is_refused_and_closed(side: Side, name: str) -> None:
    refused: list[BaseException] = []
    units = FakeUnits(is_async=side.is_async)
    side.ask(catching(refused, lambda: getattr(current_exchange(), name)(work())), unit_of_work=units)
    assert "expected a function, found a coroutine object; give the function itself" in str(refused[0])


@pytest.mark.parametrize("name", REGISTER)
def test_an_async_hook_is_refused_by_wsgi_where_it_is_registered(name: str) -> None:
    refused: list[BaseException] = []
    seen = WSGISide().ask(catching(refused, lambda: getattr(current_exchange(), name)(work)), unit_of_work=FakeUnits())
    assert "is async, and there is no event loop under WSGI" in str(refused[0])
    assert seen.status == 200


def test_a_hook_that_turns_out_to_be_async_is_an_error_under_wsgi() -> None:
    units = FakeUnits()
    seen = WSGISide().ask(lambda: current_exchange().before_commit(lambda: work()), unit_of_work=units)
    assert (seen.status, units.log) == (500, ["begin", "rollback", "close"])


@pytest.mark.parametrize("name", ["before_commit", "after_commit", "after_rollback"])
def test_a_hook_of_the_unit_of_work_needs_one(side: Side, name: str) -> None:
    refused: list[BaseException] = []
    seen = side.ask(catching(refused, lambda: getattr(current_exchange(), name)(nothing)))
    assert isinstance(refused[0], NoUnitOfWork)
    assert f"{name}() needs a unit of work, and this middleware only observes; give it unit_of_work=" in str(refused[0])
    assert seen.body == b"one, two"


def set_policy() -> None:
    current_exchange().policy = CommitPolicy(at="buffered")


def set_status() -> None:
    current_exchange().status = 201


LATE: Final[dict[str, Act]] = {
    "on_start()": lambda: current_exchange().on_start(lambda exchange: None),
    "before_commit()": lambda: current_exchange().before_commit(nothing),
    "after_commit()": lambda: current_exchange().after_commit(nothing),
    "after_rollback()": lambda: current_exchange().after_rollback(nothing),
    "doom()": doom,
    "force_commit()": force_commit,
    "setting the commit policy": set_policy,
    "setting the status": set_status,
}


@pytest.mark.parametrize("call", LATE)
def test_a_call_after_the_decision_is_refused_with_the_state_and_the_way_out(side: Side, call: str) -> None:
    refused: list[BaseException] = []
    units = FakeUnits(is_async=side.is_async)
    seen = side.ask(between=catching(refused, LATE[call]), unit_of_work=units)
    (late,) = refused
    assert isinstance(late, ResponseStarted)
    assert (late.call, late.state) == (call, "sending")
    assert str(late).startswith(f"{call} came too late: the response is sending; ")
    assert (seen.body, units.log) == (b"one, two", ["begin", "commit", "close"])


@pytest.mark.parametrize("name", ["on_finished", "doom", "force_commit"])
def test_a_call_after_the_exchange_is_over_is_refused(side: Side, name: str) -> None:
    kept: list[Any] = []
    side.ask(lambda: kept.append(current_exchange()), unit_of_work=FakeUnits(is_async=side.is_async))
    arguments = (print,) if name == "on_finished" else ()
    with pytest.raises(ResponseStarted, match=rf"{name}\(\) came too late: the response is over; "):
        getattr(kept[0], name)(*arguments)


@pytest.mark.parametrize("status", [99, 600, "200", True, None])
def test_a_status_that_is_none_is_refused(side: Side, status: Any) -> None:
    def act(exchange: Any) -> None:
        exchange.status = status

    units = FakeUnits(is_async=side.is_async)
    outcomes: list[Outcome] = []
    seen = side.ask(lambda: current_exchange().on_start(act), unit_of_work=units, on_finished=outcomes.append)
    assert (seen.status, seen.heads, units.log) == (500, 1, ["begin", "rollback", "close"])
    assert str(outcomes[0].exception) == f"status: expected a code from 100 to 599, found {status!r}"


# -- headers ----------------------------------------------------------------------------------------------------------

FORGED: Final = [("x-note", "a\r\nset-cookie: b"), ("x-note", "a\nb"), ("x-note", "a\0b"), ("x-\r\nnote", "a")]


@pytest.mark.parametrize("at", ["head", "buffered"])
@pytest.mark.parametrize("header", FORGED)
def test_a_header_that_forges_another_one_is_refused_before_the_commit(
    side: Side, at: str, header: tuple[str, str]
) -> None:
    units = FakeUnits(is_async=side.is_async)
    seen = side.ask(headers=[header], unit_of_work=units, commit=at)
    assert isinstance(seen.error, InvalidHeader)
    assert "holds CR, LF or NUL; strip them or encode the value" in str(seen.error)
    assert (seen.heads, seen.broken, units.log) == (0, [], ["begin", "rollback", "close"])


@pytest.mark.parametrize("header", FORGED)
def test_after_send_a_forged_header_does_not_reach_a_client_either(side: Side, header: tuple[str, str]) -> None:
    units = FakeUnits(is_async=side.is_async)
    seen = side.ask(headers=[header], unit_of_work=units, commit="after_send")
    assert isinstance(seen.error, InvalidHeader | ProtocolBroken)
    assert (seen.heads, units.log) == (0, ["begin", "rollback", "close"])


@pytest.mark.parametrize("at", ["head", "buffered", "after_send"])
@pytest.mark.parametrize("header", [*FORGED, ("x-note", "\u20ac")])
def test_a_start_hook_that_adds_a_header_that_cannot_leave_rolls_back(
    side: Side, at: str, header: tuple[str, str]
) -> None:
    units = FakeUnits(is_async=side.is_async)
    seen = side.ask(
        lambda: current_exchange().on_start(lambda exchange: exchange.headers.append(header)),
        unit_of_work=units,
        commit=at,
    )
    assert (seen.status, seen.heads, seen.broken, units.log) == (500, 1, [], ["begin", "rollback", "close"])


@pytest.mark.parametrize("header", FORGED)
def test_an_error_response_with_a_forged_header_falls_back_to_the_default(side: Side, header: tuple[str, str]) -> None:
    from postresponse.error_response import ErrorResponse

    units = FakeUnits({"commit": LookupError("refused")}, is_async=side.is_async)
    seen = side.ask(unit_of_work=units, error_response=lambda failure: ErrorResponse(500, (header,), b"forged"))
    assert (seen.status, seen.broken) == (500, [])
    assert b"about:blank" in seen.body


def two(environ: Any, start_response: Any) -> None:
    """Take what a WSGI application takes."""


def three(scope: Any, receive: Any, send: Any) -> None:
    """Take what an ASGI application takes."""


def four(one: Any, two: Any, three: Any, four: Any) -> None:
    """Take what nobody gives."""


ASGI_OR: Final = "an ErrorResponse or an ASGI application"
WSGI_OR: Final = "an ErrorResponse or a WSGI application"


@pytest.mark.parametrize(
    ("side", "answer", "says"),
    [
        (ASGISide(), "a page", f"expected {ASGI_OR}, found 'a page'"),
        (WSGISide(), "a page", f"expected {WSGI_OR}, found 'a page'"),
        (ASGISide(), 500, f"expected {ASGI_OR}, found 500"),
        (WSGISide(), 500, f"expected {WSGI_OR}, found 500"),
        (ASGISide(), two, f"two takes 2 arguments, as WSGI applications do; return {ASGI_OR}"),
        (WSGISide(), three, f"three takes 3 arguments, as ASGI applications do; return {WSGI_OR}"),
        (ASGISide(), four, "four(one: Any, two: Any, three: Any, four: Any) -> None cannot be called with scope"),
        (WSGISide(), four, "four(one: Any, two: Any, three: Any, four: Any) -> None cannot be called with environ"),
        (ASGISide(), functools.partial(work), "the application it returned gave no whole response"),
        (WSGISide(), functools.partial(work), "'coroutine' object is not iterable"),
    ],
)
def test_an_error_response_that_is_none_is_named_and_the_default_answers(
    side: Side, answer: Any, says: str, caplog: pytest.LogCaptureFixture
) -> None:
    units = FakeUnits({"commit": LookupError("refused")}, is_async=side.is_async)
    seen = side.ask(unit_of_work=units, error_response=lambda failure: answer)
    assert (seen.status, seen.error, seen.broken) == (500, None, [])
    assert b"about:blank" in seen.body
    assert says in caplog.text


def test_an_error_response_may_leave_the_answer_to_the_default(side: Side, caplog: pytest.LogCaptureFixture) -> None:
    units = FakeUnits({"commit": LookupError("refused")}, is_async=side.is_async)
    seen = side.ask(unit_of_work=units, error_response=lambda failure: None)
    assert (seen.status, seen.error, seen.broken) == (500, None, [])
    assert b"about:blank" in seen.body
    assert "error_response" not in caplog.text


def test_an_error_response_that_is_a_coroutine_is_closed_under_wsgi(caplog: pytest.LogCaptureFixture) -> None:
    units = FakeUnits({"commit": LookupError("refused")})
    seen = WSGISide().ask(unit_of_work=units, error_response=lambda failure: work())
    assert (seen.status, seen.error) == (500, None)
    assert f"error_response: expected {WSGI_OR}, found <coroutine object work" in caplog.text


# -- order ------------------------------------------------------------------------------------------------------------

HEAD: Final = {"type": START, "status": 200, "headers": []}
PART: Final = {"type": BODY, "body": b"part", "more_body": True}
END: Final = {"type": BODY, "body": b"end"}


@pytest.mark.parametrize("at", ["head", "buffered", "after_send"])
@pytest.mark.parametrize(
    ("messages", "says"),
    [
        ([PART], "a part of the body while its response is pending; send http.response.start"),
        ([END], "the end of the body while its response is pending; send http.response.start"),
        ([HEAD, HEAD], "status and headers while its response is .*; a response has one head"),
        ([HEAD, PART, HEAD], "status and headers while its response is .*; a response has one head"),
    ],
)
def test_asgi_messages_out_of_order_are_refused(at: str, messages: list[Any], says: str) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        for message in messages:
            await send(message)

    units = FakeUnits(is_async=True)
    seen = ASGISide().run(app, Seen(), unit_of_work=units, commit=at)
    assert isinstance(seen.error, MessageOrderError), seen.error
    with pytest.raises(MessageOrderError, match=says):
        raise seen.error
    assert seen.heads <= 1
    has_left = at != "buffered" and PART in messages and HEAD in messages
    assert units.log == ["begin", "commit" if has_left and at == "head" else "rollback", "close"]


@pytest.mark.parametrize("at", ["head", "buffered", "after_send", None])
@pytest.mark.parametrize("late", [HEAD, PART, END])
def test_an_asgi_message_after_the_end_is_for_the_server_to_refuse(at: str | None, late: Any) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        for message in (HEAD, END, late):
            await send(message)

    units = FakeUnits(is_async=True)
    options = {} if at is None else {"unit_of_work": units, "commit": at}
    seen = ASGISide().run(app, Seen(), **options)
    assert isinstance(seen.error, ProtocolBroken)
    assert (seen.heads, seen.body) == (1, b"end")
    assert [unit.log for unit in units.made] == ([] if at is None else [["begin", "commit", "close"]])


@pytest.mark.parametrize(
    ("messages", "status", "log"),
    [
        ([], None, ["begin", "rollback", "close"]),
        ([HEAD], 200, ["begin", "commit", "close"]),
        ([HEAD, PART], 200, ["begin", "commit", "close"]),
    ],
)
def test_an_asgi_application_that_returns_too_early_loses_no_transaction(
    messages: list[Any], status: int | None, log: list[str]
) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        for message in messages:
            await send(message)

    units, outcomes = FakeUnits(is_async=True), list[Outcome]()
    seen = ASGISide().run(app, Seen(), unit_of_work=units, on_finished=outcomes.append)
    assert (seen.status, seen.error, units.log, outcomes[0].ending) == (status, None, log, "incomplete")


def test_an_asgi_application_that_returns_half_a_held_body_gets_a_500() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(HEAD)
        await send(PART)

    units = FakeUnits(is_async=True)
    seen = ASGISide().run(app, Seen(), unit_of_work=units, commit="buffered")
    assert (seen.status, seen.heads, seen.error, units.log) == (500, 1, None, ["begin", "rollback", "close"])


def no_head(environ: Any, start_response: Any) -> Any:
    return [b"part"]


def no_head_and_no_body(environ: Any, start_response: Any) -> Any:
    return []


def two_heads(environ: Any, start_response: Any) -> Any:
    start_response("200 OK", [])
    start_response("200 OK", [])
    return [b"part"]


def write_before_the_head(environ: Any, start_response: Any) -> Any:
    current_exchange().write(b"part")  # type: ignore[attr-defined]
    start_response("200 OK", [])
    return [b"part"]


@pytest.mark.parametrize("at", ["head", "buffered"])
@pytest.mark.parametrize("app", [no_head, no_head_and_no_body, two_heads, write_before_the_head])
def test_wsgi_calls_out_of_order_are_refused(at: str, app: Any) -> None:
    units = FakeUnits()
    seen = WSGISide().run(app, Seen(), unit_of_work=units, commit=at)
    assert isinstance(seen.error, MessageOrderError), seen.error
    assert "call start_response" in str(seen.error) or "pass exc_info" in str(seen.error)
    assert (seen.heads, seen.broken, units.log) == (0, [], ["begin", "rollback", "close"])


@pytest.mark.parametrize("app", [no_head, no_head_and_no_body, two_heads])
def test_wsgi_calls_out_of_order_send_no_second_head_after_send_either(app: Any) -> None:
    units = FakeUnits()
    seen = WSGISide().run(app, Seen(), unit_of_work=units, commit="after_send")
    assert isinstance(seen.error, MessageOrderError | ProtocolBroken), seen.error
    assert seen.heads == 0
    assert units.log[-1] == "close"


@pytest.mark.parametrize("at", ["head", "buffered"])
def test_an_application_that_swallows_a_refused_header_does_not_send_it(side: Side, at: str) -> None:
    units = FakeUnits(is_async=side.is_async)
    header = ("x-note", "a\r\nset-cookie: b")

    async def asgi(scope: Any, receive: Any, send: Any) -> None:
        with pytest.raises(InvalidHeader):
            await send({"type": START, "status": 200, "headers": [(header[0].encode(), header[1].encode())]})
        await send(END)

    def wsgi(environ: Any, start_response: Any) -> Any:
        with pytest.raises(InvalidHeader):
            start_response("200 OK", [header])
        return [b"end"]

    app: Any = asgi if side.is_async else wsgi
    seen = side.run(app, Seen(), unit_of_work=units, commit=at)
    assert seen.broken == []
    assert units.log == ["begin", "rollback", "close"]
