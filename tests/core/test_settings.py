import functools
from typing import Any

import pytest

from postresponse import CommitPolicy, Retry
from postresponse.core.lifecycle import MOVES, CommitPoint
from postresponse.core.settings import check_application, check_callback, known_options, protocol_of
from postresponse.core.units import Manner
from postresponse.exceptions import ConfigurationError, WrongApplication
from tests.core.exchanges import settings_of
from tests.fakes import FakeUnits


def test_without_a_unit_of_work_the_commit_point_is_after_the_response() -> None:
    assert settings_of().moves is MOVES[CommitPoint.AFTER_SEND]
    assert settings_of(unit_of_work=FakeUnits()).moves is MOVES[CommitPoint.HEAD]
    assert settings_of(unit_of_work=FakeUnits(), commit="buffered").moves is MOVES[CommitPoint.BUFFERED]


def test_a_function_as_commit_chooses_for_each_request() -> None:
    def choose(scope: Any) -> str:
        return "buffered"

    settings = settings_of(unit_of_work=FakeUnits(), commit=choose)
    assert settings.choose_policy is choose
    assert settings.policy == CommitPolicy()


def test_a_policy_as_commit_is_taken_as_it_is() -> None:
    policy = CommitPolicy(at="after_send")
    settings = settings_of(unit_of_work=FakeUnits(), commit=policy)
    assert (settings.policy, settings.choose_policy) == (policy, None)


def test_an_int_is_a_time_limit_too() -> None:
    assert settings_of(cleanup_timeout=2).cleanup_timeout == 2.0


def test_async_callbacks_are_for_asgi() -> None:
    async def later(*_: object) -> None: ...
    async def pieces(*_: object) -> Any:
        yield b""

    assert settings_of(is_async=True, on_finished=later).on_finished is later
    for name, callback in (("on_finished", later), ("error_response", pieces)):
        with pytest.raises(ConfigurationError, match=f"{name}: .* is async, and there is no event loop under WSGI"):
            check_callback(name, callback, is_async=False)


def test_an_application_whose_signature_cannot_be_read_is_taken_on_trust() -> None:
    check_application(dict, 2)
    check_application(dict, 3)


class Application:
    """An application as an object; its class name names it."""

    def __call__(self, scope: Any, receive: Any, send: Any) -> None: ...


def test_an_application_object_is_named_by_its_class() -> None:
    check_application(Application(), 3)
    with pytest.raises(WrongApplication, match="Application takes 3 arguments, as ASGI applications do"):
        check_application(Application(), 2)


def test_known_options_name_what_was_probably_meant() -> None:
    class Middleware:
        @known_options
        def __init__(self, app: Any, *, on_finished: Any = None) -> None:
            self.given = (app, on_finished)

    assert Middleware(1, on_finished=2).given == (1, 2)
    assert Middleware(app=1).given == (1, None)
    wrong: dict[str, Any] = {"on_finish": 2}
    with pytest.raises(ConfigurationError, match="Middleware has no option 'on_finish'; did you mean 'on_finished'"):
        Middleware(1, **wrong)


@pytest.mark.parametrize("is_async", [True, False])
def test_what_every_request_asks_of_its_settings_is_worked_out_once(is_async: bool) -> None:
    policy = CommitPolicy(at="buffered")
    settings = settings_of(is_async=is_async, unit_of_work=FakeUnits(), commit=policy)
    assert settings.at_once is (Manner.AT_ONCE if is_async else Manner.BLOCKS)
    assert (settings.policy, settings.fixed_policy, settings.retries) == (policy, policy, False)
    assert settings.moves is MOVES[CommitPoint.BUFFERED]
    chosen = settings_of(is_async=is_async, unit_of_work=FakeUnits(), commit=lambda scope: policy)
    assert (chosen.policy, chosen.fixed_policy, chosen.retries) == (CommitPolicy(), None, True)
    assert settings_of(unit_of_work=FakeUnits(), commit=CommitPolicy(retry=Retry())).retries
    observing = settings_of(is_async=is_async)
    assert (observing.moves, observing.retries) == (MOVES[CommitPoint.AFTER_SEND], False)


@pytest.mark.parametrize(
    ("option", "wanted"),
    [("app", "an ASGI application"), ("error_response", "an ErrorResponse or an ASGI application")],
)
def test_what_was_wanted_instead_of_an_application_is_said_in_words(option: str, wanted: str) -> None:
    with pytest.raises(WrongApplication) as caught:
        check_application(None, 3, option)
    assert str(caught.value) == f"{option}: expected {wanted}, found None"


def test_of_a_decorated_application_the_outermost_signature_counts() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None: ...

    @functools.wraps(app)
    def wrapper(environ: Any, start_response: Any) -> None: ...

    with pytest.raises(WrongApplication, match="app takes 2 arguments, as WSGI applications do"):
        check_application(wrapper, 3)
    check_application(wrapper, 2)


async def aplain(scope: Any, receive: Any, send: Any) -> None: ...


def plain(environ: Any, start_response: Any) -> Any: ...


@pytest.mark.parametrize(
    ("app", "protocol"),
    [(aplain, "asgi"), (plain, "wsgi"), (lambda *anything: None, "asgi"), (dict, "asgi")],
    ids=["asgi", "wsgi", "takes both", "does not tell"],
)
def test_the_protocol_of_an_application_is_told_by_what_it_takes(app: Any, protocol: str) -> None:
    assert protocol_of(app) == protocol


@pytest.mark.parametrize("app", [None, 7, lambda: None, lambda scope: None], ids=["None", "a number", "none", "one"])
def test_what_can_be_called_neither_way_is_no_application(app: Any) -> None:
    with pytest.raises(WrongApplication, match="expected an ASGI or a WSGI application, found"):
        protocol_of(app)
