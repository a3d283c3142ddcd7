"""What every transport of messages does, and every receiver with it."""

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import anyio
import pytest

from postresponse.messaging import Backoff, DegradedFilter, Message, Receiver
from postresponse.messaging.delivery import Result, Settled
from postresponse.messaging.pump import Transport
from postresponse.testing.contracts.receiving import Handled, auntil, message, running, taken_from
from postresponse.work import TaskSupervisor

__all__ = ["TransportContract", "TransportPlace"]

SOON = Backoff(0.02, 0.02)
BACKENDS = [name for name in ("asyncio", "trio") if importlib.util.find_spec(name)]


class TransportPlace(ABC):
    """A queue, and what is put on it by somebody else than its receiver.

    Attributes:
        hands_over_at_close: Whether what a transport has taken is another's as soon as it is closed; else a lease, or
            its process, has to end first.
    """

    hands_over_at_close: bool = True

    @abstractmethod
    def transport(self) -> Transport:
        """A transport of the queue; another one each time, where the queue outlives it."""

    @abstractmethod
    async def send(self, message: Message) -> None:
        """Put *message* on the queue."""

    @abstractmethod
    def waiting(self) -> int:
        """How many messages wait there."""

    @abstractmethod
    def dead(self) -> list[UUID]:
        """What was given up."""

    def close(self) -> None:  # noqa: B027 (memory goes by itself)
        """Remove it."""


@pytest.mark.anyio
class TransportContract:
    """The suite for a `Transport`: a subclass whose name begins with `Test` says where messages are.

    It runs under the pytest plugin of anyio, which this package brings, on asyncio, and trio where it is installed.
    Messages are called `book`, and go to `orders`.

    Example:
        >>> class TestOurTransport(TransportContract):
        ...     @pytest.fixture
        ...     def place(self): ...  # a TransportPlace
    """

    @pytest.fixture(params=BACKENDS)
    def anyio_backend(self, request: pytest.FixtureRequest) -> str:
        """Each event loop in turn."""
        return str(request.param)

    @pytest.fixture
    def place(self) -> Any:
        """An empty queue, as a `TransportPlace`; a fixture that closes it behind the test."""
        raise NotImplementedError(f"{type(self).__name__} has no fixture `place`: it says where messages are")

    @pytest.fixture
    def handled(self) -> Handled:
        """A handler."""
        return Handled()

    @pytest.fixture
    def supervisor(self) -> Iterator[TaskSupervisor]:
        """A supervisor of the test's own, that is to have no work left."""
        made = TaskSupervisor(name="contract", grace=5)
        yield made
        made.close(2)
        assert made.jobs() == [], "the test left work behind that cannot be stopped"

    # -- the transport alone

    async def test_a_message_comes_with_its_id_its_name_its_headers_and_its_payload(
        self, place: TransportPlace
    ) -> None:
        sent = message({"item": "tea", "näme": ["ü", 1]}, headers={"tenant": "a"})
        await place.send(sent)
        transport = place.transport()
        await transport.open(lambda: None)
        (taken,) = await taken_from(transport, 1)
        assert (taken.id, taken.name, taken.payload) == (sent.id, "book", {"item": "tea", "näme": ["ü", 1]})
        assert dict(taken.headers) == {"tenant": "a"}
        assert (taken.attempts, taken.deferrals, taken.ending) == (0, 0, None)
        await transport.settle([Settled(taken, Result.DONE)])
        await transport.aclose()
        assert (place.waiting(), place.dead()) == (0, [])

    async def test_no_more_are_taken_than_asked_for_and_in_order(self, place: TransportPlace) -> None:
        for number in range(5):
            await place.send(message(number))
        transport = place.transport()
        await transport.open(lambda: None)
        first = await taken_from(transport, 2)
        rest = await taken_from(transport, 3)
        assert [each.payload for each in first + rest] == list(range(5))
        await transport.settle([Settled(each, Result.DONE) for each in first + rest])
        await transport.aclose()

    async def test_what_goes_back_has_its_old_place(self, place: TransportPlace) -> None:
        for number in range(4):
            await place.send(message(number))
        transport = place.transport()
        await transport.open(lambda: None)
        taken = await taken_from(transport, 3)
        await transport.pause()
        await transport.settle([Settled(each, Result.BACK) for each in taken])
        await transport.resume()
        again = await taken_from(transport, 4)
        assert [each.payload for each in again] == list(range(4))
        assert [each.attempts for each in again] == [0] * 4
        await transport.settle([Settled(each, Result.DONE) for each in again])
        await transport.aclose()

    async def test_what_was_not_settled_when_it_is_closed_is_anothers(self, place: TransportPlace) -> None:
        if not place.hands_over_at_close:
            pytest.skip("a lease, or the process, has to end first")
        for number in range(3):
            await place.send(message(number))
        transport, another = place.transport(), place.transport()
        await transport.open(lambda: None)
        await taken_from(transport, 2)
        await transport.aclose()
        await another.open(lambda: None)
        again = await taken_from(another, 3)
        assert [each.payload for each in again] == list(range(3))
        await another.settle([Settled(each, Result.DONE) for each in again])
        await another.aclose()

    async def test_what_failed_comes_again_after_its_delay_with_an_attempt_more(self, place: TransportPlace) -> None:
        sent = message("tea", headers={"tenant": "a"})
        await place.send(sent)
        transport = place.transport()
        await transport.open(lambda: None)
        for attempts in (1, 2):
            (taken,) = await taken_from(transport, 1)
            began = anyio.current_time()
            await transport.settle([Settled(taken, Result.FAILED, "ValueError", 0.15)])
            (taken,) = await taken_from(transport, 1)
            assert anyio.current_time() - began > 0.14
            assert (taken.id, taken.attempts, dict(taken.headers)) == (sent.id, attempts, {"tenant": "a"})
            await transport.settle([Settled(taken, Result.OUTAGE, "ConnectionError")])
        (taken,) = await taken_from(transport, 1)
        assert (taken.id, taken.attempts) == (sent.id, 2)
        await transport.settle([Settled(taken, Result.DONE)])
        await transport.aclose()
        assert place.waiting() == 0

    async def test_what_waits_for_its_next_attempt_holds_up_nobody(self, place: TransportPlace) -> None:
        count = 40  # more than any transport fetches ahead
        for number in range(count):
            await place.send(message(number))
        transport = place.transport()
        await transport.open(lambda: None)
        seen = []
        for _ in range(count):
            (taken,) = await taken_from(transport, 1)
            seen.append(taken.payload)
            await transport.settle([Settled(taken, Result.FAILED, "ValueError", 60.0)])
        assert seen == list(range(count))
        await transport.aclose()

    async def test_what_is_deferred_stands_behind_the_others_and_is_counted(self, place: TransportPlace) -> None:
        first, second = message(1, headers={"tenant": "a"}), message(2)
        await place.send(first)
        await place.send(second)
        transport = place.transport()
        await transport.open(lambda: None)
        (taken,) = await taken_from(transport, 1)
        await anyio.sleep(0.01)  # a table's clock has milliseconds
        await transport.settle([Settled(taken, Result.DEFERRED)])
        again = [*await taken_from(transport, 1), *await taken_from(transport, 1)]
        assert [(each.id, each.deferrals, each.attempts) for each in again] == [(second.id, 0, 0), (first.id, 1, 0)]
        assert again[1].headers["tenant"] == "a"
        await transport.settle([Settled(each, Result.DONE) for each in again])
        await transport.aclose()
        assert place.waiting() == 0

    async def test_what_is_dead_is_kept_apart(self, place: TransportPlace) -> None:
        sent = message("tea")
        await place.send(sent)
        transport = place.transport()
        await transport.open(lambda: None)
        (taken,) = await taken_from(transport, 1)
        await transport.settle([Settled(taken, Result.DEAD, "ValueError: no")])
        await transport.aclose()
        assert (place.waiting(), place.dead()) == (0, [sent.id])

    async def test_a_pause_before_the_first_message_and_one_more_end_harm_nothing(self, place: TransportPlace) -> None:
        transport = place.transport()
        await transport.open(lambda: None)
        await transport.pause()
        await transport.pause()
        await transport.resume()
        assert list(await transport.take(5)) == []
        await transport.settle([])
        await transport.aclose()
        await transport.aclose()

    # -- with a receiver

    async def test_a_paused_receiver_leaves_messages_where_they_are_and_goes_on_in_order(
        self, place: TransportPlace, handled: Handled, supervisor: TaskSupervisor
    ) -> None:
        receiver = Receiver(place.transport(), handled, concurrency=1, supervisor=supervisor)
        async with running(receiver):
            for number in range(3):
                await place.send(message(number))
            await auntil(lambda: len(handled.payloads) == 3)
            receiver.pause()
            await anyio.sleep(0.1)
            for number in range(3, 8):
                await place.send(message(number))
            await anyio.sleep(0.2)
            assert (receiver.state, place.waiting(), handled.payloads) == ("paused", 5, [0, 1, 2])
            receiver.resume()
            await auntil(lambda: len(handled.payloads) == 8)
        assert handled.payloads == list(range(8))
        assert place.waiting() == 0

    async def test_what_was_fetched_ahead_waits_for_others_while_it_is_paused(
        self, place: TransportPlace, handled: Handled, supervisor: TaskSupervisor
    ) -> None:
        release = handled.hold()
        receiver = Receiver(place.transport(), handled, concurrency=1, supervisor=supervisor)
        for number in range(5):
            await place.send(message(number))
        async with running(receiver):
            await auntil(lambda: receiver.in_flight == 1)
            receiver.pause()
            await auntil(lambda: place.waiting() == 4)
            release()
            await auntil(lambda: receiver.in_flight == 0)
            assert (handled.payloads, place.waiting()) == ([0], 4)
            receiver.resume()
            await auntil(lambda: len(handled.payloads) == 5)
        assert handled.payloads == list(range(5))

    async def test_a_stop_waits_for_the_one_in_flight_and_the_others_are_anothers(
        self, place: TransportPlace, handled: Handled, supervisor: TaskSupervisor
    ) -> None:
        release = handled.hold()
        for number in range(4):
            await place.send(message(number))
        receiver = Receiver(place.transport(), handled, concurrency=1, supervisor=supervisor)
        receiver.start()
        await auntil(lambda: len(handled.deliveries) == 1)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(receiver.astop, 5)
            await auntil(lambda: place.waiting() == 3)
            await anyio.sleep(0.05)
            assert (receiver.state, handled.payloads) == ("stopping", [])
            release()
        assert (receiver.state, handled.payloads, place.waiting()) == ("stopped", [0], 3)
        async with running(Receiver(place.transport(), handled, concurrency=1, supervisor=supervisor)):
            await auntil(lambda: len(handled.payloads) == 4)
        assert handled.payloads == list(range(4))

    async def test_what_is_left_at_the_limit_is_handed_back_and_handled_by_another(
        self, place: TransportPlace, handled: Handled, supervisor: TaskSupervisor
    ) -> None:
        sent = message("tea")
        await place.send(sent)
        handled.hold()
        receiver = Receiver(place.transport(), handled, supervisor=supervisor)
        receiver.start()
        await auntil(lambda: len(handled.deliveries) == 1)
        await receiver.astop(0.05)
        assert (handled.payloads, place.waiting()) == ([], 1)
        handled.gate = None
        async with running(Receiver(place.transport(), handled, supervisor=supervisor)):
            await auntil(lambda: handled.payloads == ["tea"])
        assert [(each.id, each.attempts) for each in handled.deliveries] == [(sent.id, 0)] * 2
        assert place.waiting() == 0

    async def test_a_handler_that_raises_is_tried_again_and_gives_up_behind_its_last_attempt(
        self, place: TransportPlace, handled: Handled, supervisor: TaskSupervisor
    ) -> None:
        handled.failures = [ValueError("no"), ValueError("no"), ValueError("no"), ValueError("no")]
        receiver = Receiver(
            place.transport(),
            handled,
            attempts=3,
            backoff=SOON,
            concurrency=1,
            on_dead_letter=handled.on_dead_letter,
            supervisor=supervisor,
        )
        sent = [message("gold"), message("tea")]
        async with running(receiver):
            await place.send(sent[0])
            await auntil(lambda: handled.dead)
            await place.send(sent[1])
            await auntil(lambda: handled.payloads == ["tea"])
        assert [each.attempts for each in handled.deliveries] == [0, 1, 2, 0, 1]
        ((dead, reason),) = handled.dead
        assert (dead.id, reason) == (sent[0].id, "ValueError: no")
        assert (place.dead(), place.waiting()) == ([sent[0].id], 0)

    async def test_a_degraded_receiver_puts_messages_back_and_handles_them_once_when_it_is_healthy(
        self, place: TransportPlace, handled: Handled, supervisor: TaskSupervisor
    ) -> None:
        degraded, asked = [True], list[bool]()

        async def is_degraded() -> bool:
            asked.append(degraded[0])
            return degraded[0]

        sent = [message(number, headers={"tenant": f"{number}"}) for number in range(3)]
        receiver = Receiver(
            place.transport(), handled, filters=[DegradedFilter(is_degraded, delay=0.02)], supervisor=supervisor
        )
        for each in sent:
            await place.send(each)
        async with running(receiver):
            await auntil(lambda: len(asked) >= 9)  # each was put back, and came again
            assert handled.deliveries == []
            degraded[0] = False
            await auntil(lambda: len(handled.payloads) == 3)
            await anyio.sleep(0.05)
        assert sorted(handled.payloads) == [0, 1, 2]
        assert {each.id for each in handled.deliveries} == {each.id for each in sent}
        assert all(each.headers["tenant"] == str(each.payload) for each in handled.deliveries)
        assert all(each.deferrals > 0 and each.attempts == 0 for each in handled.deliveries)
        assert (place.waiting(), place.dead()) == (0, [])

    async def test_behind_three_deferrals_a_message_is_given_up(
        self, place: TransportPlace, handled: Handled, supervisor: TaskSupervisor
    ) -> None:
        async def is_degraded() -> bool:
            return True

        sent = message("tea")
        receiver = Receiver(
            place.transport(),
            handled,
            filters=[DegradedFilter(is_degraded, delay=0.01, max_deferrals=3)],
            on_dead_letter=handled.on_dead_letter,
            supervisor=supervisor,
        )
        await place.send(sent)
        async with running(receiver):
            await auntil(lambda: handled.dead)
        ((dead, reason),) = handled.dead
        assert (dead.id, dead.deferrals, dead.attempts) == (sent.id, 3, 0)
        assert reason == (
            "the filter DegradedFilter gave it up: it was put back 3 times, and the service is degraded still"
        )
        assert (place.dead(), place.waiting(), handled.deliveries) == ([sent.id], 0, [])

    async def test_a_stop_during_the_delay_leaves_the_message_as_it_was(
        self, place: TransportPlace, handled: Handled, supervisor: TaskSupervisor
    ) -> None:
        async def is_degraded() -> bool:
            asked.append(True)
            return len(asked) == 1

        asked: list[bool] = []
        sent = message("tea")
        await place.send(sent)
        filters = [DegradedFilter(is_degraded, delay=60.0)]
        receiver = Receiver(place.transport(), handled, filters=filters, supervisor=supervisor)
        receiver.start()
        await auntil(lambda: asked)
        await receiver.astop()
        assert place.waiting() == 1
        async with running(Receiver(place.transport(), handled, filters=filters, supervisor=supervisor)):
            await auntil(lambda: handled.payloads)
        (again,) = handled.deliveries
        assert (again.id, again.deferrals, again.attempts) == (sent.id, 0, 0)
