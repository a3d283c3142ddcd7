"""What a receiver does beside its transport: its state, its filters, its handlers, its supervisor."""

import functools
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import anyio
import pytest
from anyio import to_thread

from postresponse.exceptions import (
    AlreadyRunning,
    ConfigurationError,
    MessageRefused,
    NotAFunction,
    SupervisorClosed,
    UnknownVersion,
    Unreachable,
    WrongThread,
)
from postresponse.messaging import Backoff, Delivery, Receiver
from postresponse.messaging.receiver import Next, current_receiver
from postresponse.messaging.transports.memory import MemoryTransport
from postresponse.work import TaskSupervisor
from tests.messaging.receiving import Handled, message, running
from tests.work.conftest import Told
from tests.work.waiting import auntil, until

pytestmark = pytest.mark.anyio

SOON = Backoff(0.01, 0.01)


@pytest.fixture
def handled() -> Handled:
    return Handled()


@pytest.fixture
def queue() -> MemoryTransport:
    return MemoryTransport()


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


# -- pausing, resuming, stopping --------------------------------------------------------------------------------------


async def test_what_changes_nothing_is_warned_of(
    queue: MemoryTransport,
    handled: Handled,
    supervisor: TaskSupervisor,
    told: Told,
    caplog: pytest.LogCaptureFixture,
) -> None:
    receiver = Receiver(queue, handled, supervisor=supervisor)
    assert receiver.state == "not started"
    receiver.resume()
    await receiver.astop()
    async with running(receiver):
        receiver.resume()
        receiver.pause()
        receiver.pause()
    receiver.pause()
    receiver.resume()
    await receiver.astop()
    assert said(caplog) == [
        "the receiver of memory is not started: resume() changes nothing",
        "the receiver of memory is not started: stop() changes nothing",
        "the receiver of memory is running: resume() changes nothing",
        "the receiver of memory is paused: pause() changes nothing",
        "the receiver of memory is stopped: pause() changes nothing",
        "the receiver of memory is stopped: resume() changes nothing",
        "the receiver of memory is stopped: stop() changes nothing",
    ]
    assert receiver.state == "stopped"


async def test_a_second_stop_shortens_the_limit_and_is_warned_of(
    queue: MemoryTransport,
    handled: Handled,
    supervisor: TaskSupervisor,
    told: Told,
    caplog: pytest.LogCaptureFixture,
) -> None:
    handled.hold()
    receiver = Receiver(queue, handled, supervisor=supervisor)
    queue.send(message(1))
    receiver.start()
    await auntil(lambda: handled.deliveries)
    with anyio.fail_after(3):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(receiver.astop, 60.0)
            await auntil(lambda: receiver.state == "stopping")
            tasks.start_soon(receiver.astop, 0.0)
    assert said(caplog) == ["the receiver of memory is stopping: stop() changes nothing"]
    assert (receiver.in_flight, len(queue)) == (0, 1)


async def test_a_receiver_that_is_paused_before_it_starts_waits(
    queue: MemoryTransport, handled: Handled, supervisor: TaskSupervisor, told: Told
) -> None:
    queue.send(message(1))
    receiver = Receiver(queue, handled, supervisor=supervisor)
    receiver.pause()
    async with running(receiver):
        await anyio.sleep(0.05)
        assert (receiver.state, handled.payloads) == ("paused", [])
        receiver.resume()
        await auntil(lambda: handled.payloads == [1])


async def test_a_receiver_that_was_paused_and_resumed_before_it_starts_runs(
    queue: MemoryTransport, handled: Handled, supervisor: TaskSupervisor, told: Told
) -> None:
    receiver = Receiver(queue, handled, supervisor=supervisor)
    receiver.pause()
    receiver.resume()
    assert receiver.state == "not started"
    queue.send(message(1))
    async with running(receiver):
        await auntil(lambda: handled.payloads == [1])


async def test_a_receiver_starts_again_and_may_be_paused_before_it_has_begun(
    queue: MemoryTransport, handled: Handled, supervisor: TaskSupervisor, told: Told
) -> None:
    receiver = Receiver(queue, handled, supervisor=supervisor)
    for number in range(3):
        queue.send(message(number))
        async with running(receiver):
            await auntil(lambda: len(handled.payloads) == number + 1)  # noqa: B023
    queue.send(message(3))
    receiver.start()
    receiver.pause()
    await anyio.sleep(0.05)
    assert (receiver.state, len(queue)) == ("paused", 1)
    await receiver.astop()
    assert handled.payloads == [0, 1, 2]


async def test_a_receiver_that_runs_is_not_started_again(
    queue: MemoryTransport, handled: Handled, supervisor: TaskSupervisor, told: Told
) -> None:
    receiver = Receiver(queue, handled, supervisor=supervisor)
    async with running(receiver):
        with pytest.raises(AlreadyRunning, match=r"the receiver of memory runs already; .* concurrency="):
            receiver.start()


async def test_a_stop_before_it_has_begun_ends_it(
    queue: MemoryTransport, handled: Handled, supervisor: TaskSupervisor, told: Told
) -> None:
    queue.send(message(1))
    receiver = Receiver(queue, handled, supervisor=supervisor)
    receiver.start()
    await receiver.astop()
    assert (receiver.state, handled.payloads, len(queue)) == ("stopped", [], 1)


async def test_no_more_are_handled_at_once_than_allowed(
    queue: MemoryTransport, handled: Handled, supervisor: TaskSupervisor, told: Told
) -> None:
    release = handled.hold()
    for number in range(7):
        queue.send(message(number))
    async with running(Receiver(queue, handled, concurrency=3, supervisor=supervisor)) as job:
        await auntil(lambda: len(handled.deliveries) == 3)
        await anyio.sleep(0.05)
        assert (len(handled.deliveries), len(queue), job.name) == (3, 4, "the receiver of memory")
        release()
        await auntil(lambda: len(handled.payloads) == 7)


async def test_a_handler_that_stops_its_own_receiver_does_not_wait_for_itself(
    queue: MemoryTransport, supervisor: TaskSupervisor, told: Told
) -> None:
    seen = []

    async def handler(delivery: Delivery) -> None:
        current_receiver().stop()
        await current_receiver().astop()
        seen.append(delivery.payload)

    receiver = Receiver(queue, handler, concurrency=1, supervisor=supervisor)
    for number in range(2):
        queue.send(message(number))
    with anyio.fail_after(5):
        await receiver.start()
    assert (seen, len(queue), receiver.state) == ([0], 1, "stopped")


async def test_a_sync_handler_that_stops_its_own_receiver_does_not_wait_for_itself(
    queue: MemoryTransport, supervisor: TaskSupervisor, told: Told
) -> None:
    seen = []

    def handler(delivery: Delivery) -> None:
        current_receiver().stop()
        seen.append(delivery.payload)

    queue.send(message(0))
    with anyio.fail_after(5):
        await Receiver(queue, handler, supervisor=supervisor).start()
    assert (seen, len(queue)) == ([0], 0)


async def test_a_handler_stops_another_receiver_and_waits_for_it(
    queue: MemoryTransport, handled: Handled, supervisor: TaskSupervisor, told: Told
) -> None:
    other = Receiver(MemoryTransport("other"), handled, supervisor=supervisor)
    seen = []

    async def handler(delivery: Delivery) -> None:
        await other.astop()
        seen.append(other.state)

    other.start()
    await auntil(lambda: other.state == "running")
    queue.send(message(0))
    async with running(Receiver(queue, handler, supervisor=supervisor)):
        await auntil(lambda: seen == ["stopped"])


async def test_stop_is_refused_on_an_event_loop(
    queue: MemoryTransport, handled: Handled, supervisor: TaskSupervisor, told: Told
) -> None:
    receiver = Receiver(queue, handled, supervisor=supervisor)
    receiver.start()
    with pytest.raises(WrongThread, match="await astop"):
        receiver.stop()
    await receiver.astop()


def test_without_an_event_loop_it_runs_on_the_supervisors(
    queue: MemoryTransport, supervisor: TaskSupervisor, told: Told
) -> None:
    seen: list[Any] = []

    def handler(delivery: Delivery) -> None:
        seen.append((delivery.payload, threading.current_thread() is threading.main_thread()))

    receiver = Receiver(queue, handler, supervisor=supervisor)
    receiver.start()
    queue.send(message("tea"))
    until(lambda: seen == [("tea", False)])
    receiver.pause()
    until(lambda: receiver.in_flight == 0)
    queue.send(message("milk"))
    receiver.resume()
    until(lambda: len(seen) == 2)
    receiver.stop()
    assert receiver.state == "stopped"


def test_pauses_and_stops_from_many_threads_at_once_end_in_a_stop(
    queue: MemoryTransport, handled: Handled, supervisor: TaskSupervisor, told: Told, quiet: None
) -> None:
    for _ in range(20):
        receiver = Receiver(queue, handled, supervisor=supervisor)
        receiver.start()
        threads = [
            threading.Thread(target=call)
            for call in (receiver.pause, receiver.resume, receiver.pause, receiver.stop, receiver.pause, receiver.stop)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(5)
        assert receiver.state == "stopped"


# -- its supervisor ---------------------------------------------------------------------------------------------------


async def test_a_supervisor_that_closes_waits_for_what_is_handled_and_takes_nothing_more(
    queue: MemoryTransport, handled: Handled, told: Told
) -> None:
    supervisor = TaskSupervisor(name="closing", grace=5, on_error=told.on_error, on_dropped=told.on_dropped)
    release = handled.hold()
    for number in range(3):
        queue.send(message(number))
    receiver = Receiver(queue, handled, concurrency=1, supervisor=supervisor)
    supervisor.open()
    receiver.start()
    await auntil(lambda: handled.deliveries)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(supervisor.aclose)
        await auntil(lambda: receiver.state == "stopping")
        await anyio.sleep(0.05)
        release()
    assert (handled.payloads, len(queue), receiver.state) == ([0], 2, "stopped")
    assert (told.dropped, told.errors) == ([], [])


async def test_what_outlives_the_drain_goes_back_before_the_supervisor_is_closed(
    queue: MemoryTransport, handled: Handled, told: Told
) -> None:
    supervisor = TaskSupervisor(name="closing", grace=5, on_error=told.on_error, on_dropped=told.on_dropped)
    handled.hold()
    queue.send(message(0))
    receiver = Receiver(queue, handled, drain=0.05, supervisor=supervisor)
    receiver.start()
    await auntil(lambda: handled.deliveries)
    assert list(await supervisor.aclose()) == []
    assert (len(queue), receiver.state, told.dropped) == (1, "stopped", [])


async def test_what_outlives_the_grace_of_its_supervisor_goes_back_too(
    queue: MemoryTransport, handled: Handled, told: Told
) -> None:
    supervisor = TaskSupervisor(name="closing", grace=0.05, on_error=told.on_error, on_dropped=told.on_dropped)
    handled.hold()
    queue.send(message(0))
    receiver = Receiver(queue, handled, drain=60.0, supervisor=supervisor)
    receiver.start()
    await auntil(lambda: handled.deliveries)
    await supervisor.aclose()
    assert (len(queue), receiver.state, told.dropped) == (1, "stopped", ["the receiver of memory"])


async def test_a_receiver_starts_again_with_its_supervisor_unless_it_was_stopped(
    queue: MemoryTransport, handled: Handled, supervisor: TaskSupervisor, told: Told
) -> None:
    receiver = Receiver(queue, handled, supervisor=supervisor)
    supervisor.open()
    assert receiver.state == "not started"
    receiver.start()
    await auntil(lambda: receiver.state == "running")
    await supervisor.aclose()
    assert receiver.state == "stopped"
    supervisor.open()
    queue.send(message(1))
    await auntil(lambda: handled.payloads == [1])
    await receiver.astop()
    await supervisor.aclose()
    supervisor.open()
    await anyio.sleep(0.02)
    assert receiver.state == "stopped"
    await supervisor.aclose()


async def test_one_that_starts_by_itself_does_when_its_supervisor_opens(
    queue: MemoryTransport, handled: Handled, supervisor: TaskSupervisor, told: Told
) -> None:
    queue.send(message(1))
    receiver = Receiver(queue, handled, autostart=True, supervisor=supervisor)
    assert receiver.state == "not started"
    supervisor.open()
    supervisor.open()
    await auntil(lambda: handled.payloads == [1])
    await supervisor.aclose()
    await supervisor.aclose()
    assert receiver.state == "stopped"


async def test_under_a_closed_supervisor_it_does_not_start(
    queue: MemoryTransport, handled: Handled, told: Told, caplog: pytest.LogCaptureFixture
) -> None:
    supervisor = TaskSupervisor(name="closed")
    receiver = Receiver(queue, handled, autostart=True, supervisor=supervisor)
    receiver.closing()
    await supervisor.aclose()
    with pytest.raises(SupervisorClosed):
        receiver.start()
    receiver.opened()
    assert said(caplog)[0].startswith("the receiver of memory does not start: ")


# -- handlers ---------------------------------------------------------------------------------------------------------


async def test_a_sync_handler_runs_on_a_thread_and_several_do_at_once(
    queue: MemoryTransport, supervisor: TaskSupervisor, told: Told
) -> None:
    barrier = threading.Barrier(4)
    seen: list[bool] = []

    def handler(delivery: Delivery) -> None:
        barrier.wait(5)
        seen.append(threading.current_thread() is threading.main_thread())

    for number in range(4):
        queue.send(message(number))
    async with running(Receiver(queue, handler, concurrency=4, supervisor=supervisor)):
        await auntil(lambda: seen == [False] * 4)


@pytest.mark.parametrize("kind", ["partial", "object"])
async def test_a_handler_may_be_a_partial_or_an_object(
    queue: MemoryTransport, handled: Handled, supervisor: TaskSupervisor, told: Told, kind: str
) -> None:
    async def handler(prefix: str, delivery: Delivery) -> None:
        handled.payloads.append(prefix + delivery.payload)

    given: Any = functools.partial(handler, "a ") if kind == "partial" else handled
    queue.send(message("tea"))
    async with running(Receiver(queue, given, supervisor=supervisor)):
        await auntil(lambda: handled.payloads)
    assert handled.payloads == ["a tea" if kind == "partial" else "tea"]


async def test_a_handler_that_is_late_has_failed(
    queue: MemoryTransport, handled: Handled, supervisor: TaskSupervisor, told: Told
) -> None:
    handled.hold()
    queue.send(message(1))
    receiver = Receiver(
        queue,
        handled,
        timeout=0.02,
        attempts=2,
        backoff=SOON,
        on_dead_letter=handled.on_dead_letter,
        supervisor=supervisor,
    )
    async with running(receiver):
        await auntil(lambda: handled.dead)
    ((dead, reason),) = handled.dead
    assert (dead.attempts, reason) == (1, "TimeoutError: it was not handled in 0.02 s")
    assert handled.payloads == []


async def test_a_sync_handler_that_is_late_has_failed_and_its_thread_runs_on(
    queue: MemoryTransport, handled: Handled, supervisor: TaskSupervisor, told: Told
) -> None:
    release, seen = threading.Event(), []

    def handler(delivery: Delivery) -> None:
        seen.append(release.wait(5))

    queue.send(message(1))
    receiver = Receiver(
        queue, handler, timeout=0.3, attempts=1, on_dead_letter=handled.on_dead_letter, supervisor=supervisor
    )
    async with running(receiver):
        await auntil(lambda: handled.dead)
        release.set()
        await auntil(lambda: seen == [True])
    assert len(queue) == 0


async def test_what_is_refused_is_given_up_at_once(
    queue: MemoryTransport, handled: Handled, supervisor: TaskSupervisor, told: Told
) -> None:
    handled.failures = [MessageRefused("no such order")]
    queue.send(message(1))
    async with running(Receiver(queue, handled, on_dead_letter=handled.on_dead_letter, supervisor=supervisor)):
        await auntil(lambda: handled.dead)
    assert [reason for _, reason in handled.dead] == ["MessageRefused: no such order"]
    assert [(delivery.attempts, reason) for delivery, reason in queue.dead] == [(0, "MessageRefused: no such order")]


async def test_what_a_later_release_wrote_is_left_alone_and_told_of_once(
    queue: MemoryTransport,
    handled: Handled,
    supervisor: TaskSupervisor,
    told: Told,
    caplog: pytest.LogCaptureFixture,
) -> None:
    handled.failures = [UnknownVersion("seven", 1), UnknownVersion("seven", 1)]
    name = f"later {time.monotonic_ns()}"
    queue = MemoryTransport(name)
    for _ in range(2):
        queue.send(message(1))
    async with running(Receiver(queue, handled, supervisor=supervisor)):
        await auntil(lambda: len(queue) == 2 and not handled.failures)
    assert handled.payloads == []
    assert len([line for line in said(caplog) if "is left alone: UnknownVersion" in line]) == 1


async def test_what_the_handler_needs_is_away_and_all_messages_wait_for_it(
    queue: MemoryTransport,
    supervisor: TaskSupervisor,
    told: Told,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    is_away, seen, tried = [True], [], []

    async def handler(delivery: Delivery) -> None:
        tried.append(delivery.attempts)
        if is_away[0]:
            raise LookupError("no shop")
        seen.append(delivery.payload)

    receiver = Receiver(queue, handler, concurrency=2, unreachable=(LookupError,), supervisor=supervisor)
    for number in range(4):
        queue.send(message(number))
    async with running(receiver):
        await auntil(lambda: len(tried) == 2)
        is_away[0] = False
        await anyio.sleep(0.1)
        assert len(tried) == 2
        await auntil(lambda: len(seen) == 4)
    assert sorted(seen) == [0, 1, 2, 3]
    assert set(tried) == {0}
    lines = [line for line in said(caplog) if "reached" in line]
    assert lines == [
        "memory cannot be reached, and its messages wait: LookupError: no shop",
        "memory is reached again",
    ]


async def test_unreachable_always_counts_as_away(
    queue: MemoryTransport, handled: Handled, supervisor: TaskSupervisor, told: Told
) -> None:
    handled.failures = [Unreachable("no")]
    queue.send(message(1))
    async with running(Receiver(queue, handled, attempts=1, supervisor=supervisor)):
        await auntil(lambda: handled.payloads == [1])


async def test_there_is_a_current_receiver_in_handlers_and_filters_alone(
    queue: MemoryTransport, supervisor: TaskSupervisor, told: Told
) -> None:
    seen: list[Receiver] = []

    async def through(delivery: Delivery, next: Next) -> None:
        seen.append(current_receiver())
        await next(delivery)

    async def handler(delivery: Delivery) -> None:
        seen.append(current_receiver())

    receiver = Receiver(queue, handler, filters=[through], supervisor=supervisor)
    queue.send(message(1))
    async with running(receiver):
        await auntil(lambda: len(seen) == 2)
    assert seen == [receiver, receiver]
    with pytest.raises(ConfigurationError, match=r"pausing\(\) is for what this receiver runs"):
        await receiver.pausing(1.0)
    with pytest.raises(ConfigurationError, match="there is no current receiver"):
        current_receiver()


# -- dead letters -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["sync", "async", "raises", "endless"])
async def test_dead_letters_are_told_of_and_a_hook_that_fails_harms_nobody(
    queue: MemoryTransport,
    handled: Handled,
    supervisor: TaskSupervisor,
    told: Told,
    caplog: pytest.LogCaptureFixture,
    kind: str,
) -> None:
    seen: list[str] = []

    def hook(delivery: Delivery, reason: str) -> None:
        seen.append(reason)
        if kind == "raises":
            raise RuntimeError("no mail")

    async def ahook(delivery: Delivery, reason: str) -> None:
        seen.append(reason)
        if kind == "endless":
            await anyio.sleep_forever()

    handled.failures = [ValueError("no")]
    given: Callable[[Delivery, str], object] = hook if kind in ("sync", "raises") else ahook
    queue.send(message(1))
    receiver = Receiver(
        queue, handled, attempts=1, timeout=0.2, concurrency=1, on_dead_letter=given, supervisor=supervisor
    )
    async with running(receiver):
        queue.send(message(2))
        await auntil(lambda: handled.payloads == [2])
    assert seen == ["ValueError: no"]
    assert len(queue.dead) == 1
    assert any("on_dead_letter failed" in line for line in said(caplog)) is (kind in ("raises", "endless"))


async def test_without_a_hook_dead_letters_are_logged_with_their_traceback(
    queue: MemoryTransport,
    handled: Handled,
    supervisor: TaskSupervisor,
    told: Told,
    caplog: pytest.LogCaptureFixture,
) -> None:
    handled.failures = [ValueError("the secret of the message is swordfish")]
    queue.send(message("swordfish"))
    async with running(Receiver(queue, handled, attempts=1, supervisor=supervisor)):
        await auntil(lambda: queue.dead)
    (record,) = [record for record in caplog.records if "is given up" in record.getMessage()]
    assert record.exc_info is not None
    assert "swordfish" not in record.getMessage()


# -- filters ----------------------------------------------------------------------------------------------------------


def filtering(say: Callable[[Delivery, Next], Awaitable[None]]) -> Any:
    async def named(delivery: Delivery, next: Next) -> None:
        await say(delivery, next)

    return named


async def passes(delivery: Delivery, next: Next) -> None:
    await next(delivery)


async def swallows(delivery: Delivery, next: Next) -> None:
    """It says nothing."""


async def forgives(delivery: Delivery, next: Next) -> None:
    with suppress(ValueError):
        await next(delivery)


async def consumes(delivery: Delivery, next: Next) -> None:
    delivery.mark_consumed()


async def buries(delivery: Delivery, next: Next) -> None:
    delivery.bury()


async def says_why(delivery: Delivery, next: Next) -> None:
    delivery.bury("it is too old")


async def changes_its_mind(delivery: Delivery, next: Next) -> None:
    delivery.bury()
    await next(delivery)


NEITHER = "neither handled it nor said what becomes of it"


@pytest.mark.parametrize(
    ("filters", "reason"),
    [
        ([swallows], f"the filter swallows {NEITHER}"),
        ([passes, swallows, passes], f"the filter swallows {NEITHER}"),
        ([passes, forgives, passes], f"the filter forgives {NEITHER}"),
        ([forgives], f"the filter forgives {NEITHER}"),
        ([passes, buries], "the filter buries gave it up"),
        ([says_why, passes], "the filter says_why gave it up: it is too old"),
    ],
)
async def test_what_a_filter_swallows_is_given_up_and_the_filter_named(
    queue: MemoryTransport, handled: Handled, supervisor: TaskSupervisor, told: Told, filters: Any, reason: str
) -> None:
    handled.failures = [ValueError("no")]
    queue.send(message(1))
    receiver = Receiver(queue, handled, filters=filters, on_dead_letter=handled.on_dead_letter, supervisor=supervisor)
    async with running(receiver):
        await auntil(lambda: handled.dead)
    assert [found for _, found in handled.dead] == [reason]
    assert [found for _, found in queue.dead] == [reason]
    assert len(queue) == 0


async def test_what_a_filter_has_dealt_with_is_gone(
    queue: MemoryTransport, handled: Handled, supervisor: TaskSupervisor, told: Told
) -> None:
    queue.send(message(1))
    receiver = Receiver(queue, handled, filters=[passes, consumes], supervisor=supervisor)
    async with running(receiver):
        await auntil(lambda: receiver.in_flight == 0 and not len(queue))
    assert (handled.deliveries, queue.dead) == ([], [])


async def test_what_was_handled_is_gone_whatever_a_filter_said(
    queue: MemoryTransport, handled: Handled, supervisor: TaskSupervisor, told: Told
) -> None:
    queue.send(message(1))
    async with running(Receiver(queue, handled, filters=[changes_its_mind], supervisor=supervisor)):
        await auntil(lambda: handled.payloads == [1])
    assert (len(queue), queue.dead) == (0, [])


async def test_filters_stand_around_the_handler_the_first_one_outermost(
    queue: MemoryTransport, supervisor: TaskSupervisor, told: Told
) -> None:
    seen: list[str] = []

    def around(name: str) -> Any:
        async def filter(delivery: Delivery, next: Next) -> None:
            seen.append(f"{name} before")
            await next(delivery)
            seen.append(f"{name} after")

        return filter

    async def handler(delivery: Delivery) -> None:
        seen.append("handler")

    queue.send(message(1))
    async with running(Receiver(queue, handler, filters=(around("a"), around("b")), supervisor=supervisor)):
        await auntil(lambda: len(seen) == 5)
    assert seen == ["a before", "b before", "handler", "b after", "a after"]


async def test_a_filter_that_raises_has_failed_the_message_even_behind_its_handler(
    queue: MemoryTransport, handled: Handled, supervisor: TaskSupervisor, told: Told
) -> None:
    failed: list[bool] = []

    async def fails_once(delivery: Delivery, next: Next) -> None:
        await next(delivery)
        if not failed:
            failed.append(True)
            raise ValueError("no")

    queue.send(message(1))
    async with running(Receiver(queue, handled, filters=[fails_once], backoff=SOON, supervisor=supervisor)):
        await auntil(lambda: handled.payloads == [1, 1])
    assert [each.attempts for each in handled.deliveries] == [0, 1]


# -- what it cannot be given ------------------------------------------------------------------------------------------


async def nothing(delivery: Delivery, next: Any = None) -> None:
    """Handles, or filters."""


def plain(delivery: Delivery, next: Next) -> None:
    """No async function."""


@pytest.mark.parametrize(
    ("options", "error", "found"),
    [
        ({"transport": "amqp://"}, ConfigurationError, "transport: expected one, such as .*, found 'amqp://'"),
        ({"transport": None}, ConfigurationError, "transport: expected one"),
        ({"handler": "book"}, NotAFunction, r"Receiver\(\): expected a function, found 'book'"),
        ({"filters": [7]}, NotAFunction, "filters: expected a function, found 7"),
        ({"filters": [plain]}, ConfigurationError, "filters: expected async functions, found <function plain"),
        ({"filters": nothing}, ConfigurationError, "filters: expected a list of async functions, found <function"),
        ({"filters": "abc"}, ConfigurationError, "filters: expected a list of async functions, found 'abc'"),
        ({"on_dead_letter": 7}, NotAFunction, "on_dead_letter: expected a function, found 7"),
        ({"concurrency": 0}, ConfigurationError, "concurrency: expected a whole number from 1 on, found 0"),
        ({"concurrency": 1.5}, ConfigurationError, "concurrency: expected a whole number"),
        ({"attempts": True}, ConfigurationError, "attempts: expected a whole number from 1 on, found True"),
        ({"timeout": 0}, ConfigurationError, "timeout: expected seconds above 0, found 0"),
        ({"timeout": None}, ConfigurationError, "timeout: expected seconds as a number, found None"),
        ({"drain": -1}, ConfigurationError, "drain: expected seconds from 0, found -1"),
        ({"backoff": 3.0}, ConfigurationError, "backoff: expected a Backoff, found 3.0"),
        ({"unreachable": ConnectionError}, ConfigurationError, "unreachable: expected a tuple of classes of errors"),
        ({"unreachable": ("no",)}, ConfigurationError, r"unreachable: .*, found \('no',\)"),
        ({"autostart": 1}, ConfigurationError, "autostart: expected True or False, found 1"),
        ({"supervisor": "mine"}, ConfigurationError, "supervisor: expected a TaskSupervisor, found 'mine'"),
    ],
)
def test_an_option_that_cannot_be_is_refused(options: dict[str, Any], error: type[Exception], found: str) -> None:
    given: dict[str, Any] = {"transport": MemoryTransport(), "handler": nothing, **options}
    with pytest.raises(error, match=found):
        Receiver(given.pop("transport"), given.pop("handler"), **given)


async def test_a_limit_that_is_no_number_of_seconds_is_refused(
    queue: MemoryTransport, handled: Handled, supervisor: TaskSupervisor, told: Told
) -> None:
    receiver = Receiver(queue, handled, supervisor=supervisor)
    with pytest.raises(ConfigurationError, match="timeout: expected seconds from 0, found -1"):
        await to_thread.run_sync(receiver.stop, -1)


def test_it_runs_on_one_event_loop_after_the_other(queue: MemoryTransport, told: Told) -> None:
    seen: list[Any] = []

    def handler(delivery: Delivery) -> None:
        if delivery.attempts == 0:
            raise ValueError("no")
        seen.append(delivery.payload)

    async def main(number: int) -> None:
        queue.send(message(number))
        async with running(receiver):
            await auntil(lambda: seen == list(range(number + 1)))

    supervisor = TaskSupervisor(name="loops", on_error=told.on_error)
    receiver = Receiver(queue, handler, backoff=SOON, supervisor=supervisor)
    for number, backend in enumerate(("asyncio", "trio", "asyncio")):
        anyio.run(main, number, backend=backend)
    supervisor.close()
    assert told.errors == []
