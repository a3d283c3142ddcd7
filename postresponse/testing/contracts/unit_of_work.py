"""What every unit of work does, at every commit point, under both protocols."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from typing import Any

import pytest

from postresponse.core.exchange import Exchange
from postresponse.core.lifecycle import Ending, UnitState
from postresponse.testing.contracts.driving import Answer, Handler, Protocol, ask

__all__ = ["UnitOfWorkContract"]

LEFT_OVER = ("set-cookie", "etag", "location")
commits: pytest.MarkDecorator = pytest.mark.parametrize("commit", ["head", "buffered", "after_send"])


class UnitOfWorkContract(ABC):
    """The suite for a unit of work: a subclass whose name begins with `Test` says how it is made, and stores a row.

    Each test has an instance of its own, and so an empty place to store in, if `setup_method` makes one.

    Attributes:
        protocols: Which the unit of work is for: both, or `("asgi",)` where it is async.

    Example:
        >>> class TestOurs(UnitOfWorkContract):
        ...     def factory(self): ...  # what is given to the middleware as `unit_of_work`
        ...
        ...     def store(self, key): ...  # in a handler: store a row in the request's unit of work
        ...
        ...     def store_what_cannot_be_committed(self, key): ...  # what only COMMIT refuses
        ...
        ...     def stored(self): ...  # the keys that everybody sees
    """

    protocols: tuple[Protocol, ...] = ("wsgi", "asgi")

    @abstractmethod
    def factory(self) -> Callable[[Exchange], Any]:
        """Return what is given to the middleware as `unit_of_work`, the same one each time."""

    @abstractmethod
    def store(self, key: str) -> Any:
        """In a handler: store a row called *key* in the request's unit of work; awaited if that is needed."""

    @abstractmethod
    def store_what_cannot_be_committed(self, key: str) -> Any:
        """In a handler: store a row that COMMIT refuses, as one with a deferred constraint, and nothing before it."""

    @abstractmethod
    def stored(self) -> Collection[str]:
        """Return the keys that everybody sees, by a connection of its own."""

    def in_use(self) -> int:
        """Return how many connections are not back in their pool."""
        return 0

    # -- how it is asked ----------------------------------------------------------------------------------------------

    @pytest.fixture
    def quiet_log(self, caplog: pytest.LogCaptureFixture) -> None:
        """Keep failures that are made on purpose out of the log."""
        caplog.set_level("CRITICAL", logger="postresponse")

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Run each test under each of the protocols."""
        if "protocol" in metafunc.fixturenames:
            metafunc.parametrize("protocol", self.protocols)

    def _ask(self, protocol: Protocol, handler: Handler, commit: str, status: int = 201) -> Answer:
        return ask(protocol, self.factory(), handler, self.stored, commit=commit, status=status)

    def _ended(self, answer: Answer) -> tuple[str, str]:
        assert answer.outcome is not None, "the exchange never ended"
        assert self.in_use() == 0, "a connection was not given back"
        return answer.outcome.ending, answer.outcome.unit_of_work

    # -- the suite ----------------------------------------------------------------------------------------------------

    @commits
    def test_what_a_handler_stores_is_there_for_everybody_when_it_is_to_be(
        self, protocol: Protocol, commit: str
    ) -> None:
        answer = self._ask(protocol, lambda _: self.store("tea"), commit)
        assert (answer.status, answer.body, answer.raised) == (201, b"stored", None)
        assert self._ended(answer) == (Ending.HANDED_OVER, UnitState.COMMITTED)
        assert list(answer.at_head) == ([] if commit == "after_send" else ["tea"]), "it was not there at the head"
        assert list(self.stored()) == ["tea"]

    @commits
    def test_a_commit_that_fails_is_told_in_time_leaves_nothing_and_harms_nobody(
        self, protocol: Protocol, commit: str, quiet_log: None
    ) -> None:
        answer = self._ask(protocol, lambda _: self.store_what_cannot_be_committed("gold"), commit)
        if commit == "after_send":
            assert (answer.status, answer.body) == (201, b"stored")
        else:
            assert answer.status >= 500, "the client was told that it was stored"
            assert not set(answer.headers) & set(LEFT_OVER)
        assert answer.raised is None
        assert self._ended(answer) == (Ending.HANDED_OVER, UnitState.FAILED)
        assert list(self.stored()) == [], "a commit that fails has stored something"
        for key in ("tea", "milk"):  # of a connection that went back as it was, the next row would be lost
            assert self._ended(self._ask(protocol, _storing(self, key), commit))[1] == UnitState.COMMITTED
        assert sorted(self.stored()) == ["milk", "tea"], "what was committed behind a failed commit is lost"

    @commits
    def test_an_answer_from_400_rolls_back(self, protocol: Protocol, commit: str) -> None:
        answer = self._ask(protocol, lambda _: self.store("tea"), commit, 409)
        assert (answer.status, answer.body) == (409, b"stored")
        assert self._ended(answer) == (Ending.HANDED_OVER, UnitState.ROLLED_BACK)
        assert list(self.stored()) == []

    @commits
    def test_an_exception_rolls_back(self, protocol: Protocol, commit: str) -> None:
        answer = self._ask(protocol, _raising(self), commit)
        assert isinstance(answer.raised, LookupError)
        assert self._ended(answer) == (Ending.FAILED, UnitState.ROLLED_BACK)
        assert list(self.stored()) == []

    @commits
    def test_doom_rolls_back_whatever_the_status_says(self, protocol: Protocol, commit: str) -> None:
        def doomed(exchange: Exchange) -> Any:
            exchange.doom("the contract")
            return self.store("tea")

        answer = self._ask(protocol, doomed, commit)
        assert answer.status == 201
        assert self._ended(answer) == (Ending.HANDED_OVER, UnitState.ROLLED_BACK)
        assert list(self.stored()) == []

    def test_one_that_nobody_touched_commits_nothing_and_holds_nothing(self, protocol: Protocol) -> None:
        for status in (201, 404):
            answer = self._ask(protocol, lambda _: None, "head", status)
            assert (answer.status, answer.raised) == (status, None)
            assert self._ended(answer)[0] == Ending.HANDED_OVER
        assert list(self.stored()) == []

    def test_of_many_requests_each_has_its_own(self, protocol: Protocol, quiet_log: None) -> None:
        for number in range(12):
            if number % 3 == 0:
                self._ended(self._ask(protocol, _storing(self, f"{number}"), "head"))
            elif number % 3 == 1:
                self._ended(self._ask(protocol, _storing(self, f"{number}"), "head", 422))
            else:
                failing = f"{number}"
                self._ended(self._ask(protocol, _failing(self, failing), "head"))
        assert sorted(self.stored(), key=int) == ["0", "3", "6", "9"]


def _storing(contract: UnitOfWorkContract, key: str) -> Handler:
    return lambda _: contract.store(key)


def _failing(contract: UnitOfWorkContract, key: str) -> Handler:
    return lambda _: contract.store_what_cannot_be_committed(key)


def _raising(contract: UnitOfWorkContract) -> Handler:
    def handler(exchange: Exchange) -> Any:
        stored = contract.store("tea")
        if not hasattr(stored, "__await__"):
            raise LookupError("as asked")

        async def behind() -> None:
            await stored
            raise LookupError("as asked")

        return behind()

    return handler
