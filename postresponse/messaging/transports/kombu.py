"""RabbitMQ and Redis as transports, through kombu.

kombu blocks, and a connection of its is one thread's: all that is done with it is done on a thread of the transport's.
"""

import os
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from typing import Any, Final

from postresponse.exceptions import ConfigurationError, WrongThread
from postresponse.messaging.delivery import Delivery, Settled
from postresponse.messaging.message import Message
from postresponse.messaging.pump import Polls
from postresponse.messaging.transports.checks import check_message
from postresponse.messaging.transports.consuming import Consumer, unreachable
from postresponse.messaging.transports.errands import Errands
from postresponse.messaging.transports.sessions import Options
from postresponse.work import homes
from postresponse.work.checks import check_seconds

__all__ = ["KombuTransport"]

_SCHEMES: Final = ("amqp", "amqps", "pyamqp", "redis", "rediss")
_QUEUE: Final = re.compile(r"(?!amq\.)[\x21-\x7e]{1,200}")


class KombuTransport:
    """A queue of RabbitMQ, or of Redis.

    What waits for its next attempt is held, unacknowledged, and put back behind the others as a copy with one attempt
    more; only once the broker has the copy is the original acknowledged. So is what is deferred.

    When the connection is lost it is made anew, later each time, and RabbitMQ sends again what was not acknowledged. So
    it does with what is held longer than its ``consumer_timeout``, half an hour: have the `backoff` end below. From
    Redis kombu takes a message, and then notes that it did: one whose process is killed in between is lost, and what a
    killed process had taken comes again behind kombu's ``visibility_timeout``, an hour.

    Args:
        url: Of the broker: ``amqp://...`` or ``redis://...``.
        queue: Its name.
        prefetch: How many messages are fetched ahead, those included that are being handled; best twice the
            `concurrency` of the receiver.
        timeout: Seconds for connecting, and for each answer of the broker's.
        declare: Whether the queues are made where they do not exist; else they have to be there. Redis always makes
            them.
        arguments: What a queue of RabbitMQ's is declared with, such as ``{"x-dead-letter-exchange": "dead"}``, which
            then receives what is given up.
        dead_letters: A queue that what is given up is put on, with the reason in the header ``postresponse-reason``,
            instead of being rejected. Redis has no other place for it.
        transport_options: Those of kombu's that are to be others.

    Raises:
        ConfigurationError: A value that an option cannot have.
    """

    def __init__(
        self,
        url: str,
        queue: str,
        *,
        prefetch: int = 16,
        timeout: float = 5.0,
        declare: bool = True,
        arguments: Mapping[str, Any] | None = None,
        dead_letters: str | None = None,
        transport_options: Mapping[str, Any] | None = None,
    ) -> None:
        _check_url(url)
        for option, name in (("queue", queue), ("dead_letters", dead_letters)):
            if (option, name) != ("dead_letters", None) and not (isinstance(name, str) and _QUEUE.fullmatch(name)):
                raise ConfigurationError(
                    f"{option}: expected a name of at most 200 letters, digits and signs, which does not begin with "
                    f"'amq.', found {name!r}"
                )
        if dead_letters == queue:
            raise ConfigurationError(f"dead_letters: what is given up would come again from {queue!r}; name another")
        if isinstance(prefetch, bool) or not isinstance(prefetch, int) or not 1 <= prefetch <= 65535:
            raise ConfigurationError(f"prefetch: expected a whole number from 1 to 65535, found {prefetch!r}")
        if not isinstance(declare, bool):
            raise ConfigurationError(f"declare: expected True or False, found {declare!r}")
        for option, given in (("arguments", arguments), ("transport_options", transport_options)):
            if given is not None and not isinstance(given, Mapping):
                raise ConfigurationError(f"{option}: expected a mapping, found {given!r}")
        if arguments and not declare:
            raise ConfigurationError("arguments: a queue that is not declared has none; leave out declare=False")
        self.queue: str = queue
        self.polls: Polls | None = None
        self._options = Options(
            url,
            queue,
            prefetch,
            check_seconds("timeout", timeout),
            dict(arguments or {}) if declare else None,
            dead_letters,
            dict(transport_options or {}),
        )
        self._lock = threading.Lock()
        self._errands: Errands | None = None
        self._last: Errands | None = None  # which may be about to end
        self._pid = os.getpid()
        self._consumer = Consumer(self._options, self.name)

    @property
    def name(self) -> str:
        """What it is called in the log."""
        return f"the queue {self.queue}"

    # -- from any thread ----------------------------------------------------------------------------------------------

    def send(self, message: Message) -> None:
        """Put *message* at the end of the queue; when this returns the broker has it.

        Its destination and its ordering key are not looked at: this is one queue.

        Raises:
            MessageRefused: It is no `Message`, or one that is due later.
            Unreachable: The broker could not be reached, or did not take it.
            WrongThread: Called on the thread of an event loop: await `asend()` there.
        """
        if homes.here() is not None:
            raise WrongThread("send() waits, and this is the thread of an event loop: await asend()")
        checked = check_message(message)
        self._started().ask(self._consumer.send, checked).result()

    async def asend(self, message: Message) -> None:
        """As `send`, awaited."""
        checked = check_message(message)
        await self._started().done(self._consumer.send, checked)

    def close(self) -> None:
        """Disconnect, where there is no receiver that does it when it ends.

        Raises:
            WrongThread: Called on the thread of an event loop: await `aclose()` there.
        """
        if homes.here() is not None:
            raise WrongThread("close() waits, and this is the thread of an event loop: await aclose()")
        if (errands := self._let_go()) is not None:
            errands.end(self._consumer.end).result()

    def _started(self) -> Errands:
        with self._lock:
            if self._pid != os.getpid():  # the thread and the connection are the parent's
                self._pid, self._errands, self._last = os.getpid(), None, None
                self._consumer = Consumer(self._options, self.name)
            if self._errands is None:
                self._errands = Errands(f"postresponse {self.queue}", self._consumer.turn, self._last)
                self._last = None
            return self._errands

    def _let_go(self) -> Errands | None:
        with self._lock:
            errands, self._errands = self._errands, None
            self._last = errands or self._last
            return errands

    # -- what a pump asks ---------------------------------------------------------------------------------------------

    async def open(self, wake: Callable[[], None]) -> None:
        """Connect; nothing is consumed before the first `take`.

        Raises:
            Unreachable: The broker cannot be reached; it is tried on.
        """
        errands = self._started()
        self._consumer.wake = wake
        await errands.done(self._consumer.reached)

    async def take(self, limit: int) -> Sequence[Delivery]:
        """Return at most *limit* of what came.

        Raises:
            Unreachable: Nothing did, as the broker cannot be reached.
        """
        errands = self._started()
        if not self._consumer.is_wanted:
            self._consumer.is_wanted = True
            errands.wake()
        taken: list[Delivery] = []
        with suppress(IndexError):
            while len(taken) < limit:
                taken.append(self._consumer.arrived.popleft())
        if not taken and (trouble := self._consumer.trouble) is not None:
            raise unreachable(trouble)
        return taken

    async def settle(self, settled: Sequence[Settled]) -> int:
        """Do what is said with each.

        Raises:
            Unreachable: The broker cannot be reached, and what is left of them can still be dealt with.
        """
        await self._started().done(self._consumer.settle, list(settled))
        return 0

    async def pause(self) -> None:
        """Cancel consuming; what came and was not taken goes back."""
        errands = self._started()
        self._consumer.is_wanted = False
        await errands.done(self._consumer.stop_consuming)

    async def resume(self) -> None:
        """Consume again."""
        errands = self._started()
        self._consumer.is_wanted = True
        errands.wake()

    async def aclose(self) -> None:
        """Hand back what is left, and disconnect."""
        self._consumer.wake = None
        if (errands := self._let_go()) is not None:
            await errands.ended(self._consumer.end)


def _check_url(url: Any) -> None:
    scheme = url.partition("://")[0] if isinstance(url, str) and "://" in url else None
    if scheme not in _SCHEMES:
        raise ConfigurationError(
            f"url: expected one that begins with {', '.join(f'{each}://' for each in _SCHEMES)}, found "
            f"{type(url).__name__ if scheme is None else f'{scheme}://...'}"
        )
    if scheme.startswith("redis") and find_spec("redis") is None:
        raise ConfigurationError("url: Redis needs its client: pip install redis")
