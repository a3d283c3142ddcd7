"""Filters for receivers."""

from collections.abc import Callable
from typing import Any, Final

from postresponse.core.log import logger
from postresponse.messaging.delivery import Delivery
from postresponse.messaging.receiver import Next, Receiver, current_receiver
from postresponse.work.checks import check_count, check_function, check_seconds, is_async
from postresponse.work.threads import on_thread

__all__ = ["DegradedFilter"]

FAILED: Final = "unknown"


class DegradedFilter:
    """Puts messages back on their own queue while the service is degraded, instead of having them handled.

    It waits first, as long as *delay* says, or until the receiver is paused or stopped. Then the message is put back
    with its id and its headers, and counted; only once that succeeded is the original one acknowledged. If the receiver
    is stopped meanwhile, the message is left as it was found.

    Args:
        is_degraded: Tells whether; sync functions run on threads. If it raises, the service counts as degraded.
        delay: Seconds.
        max_deferrals: How often a message is put back before it is given up; None for as often as it takes.

    Raises:
        NotAFunction: *is_degraded* is none.
        ConfigurationError: A number that is too low.
    """

    def __init__(self, is_degraded: Callable[[], Any], *, delay: float = 5.0, max_deferrals: int | None = None) -> None:
        check_function("is_degraded", is_degraded)
        if max_deferrals is not None:
            check_count("max_deferrals", max_deferrals, least=0)
        self._is_degraded = is_degraded
        self._is_async = is_async(is_degraded)
        self._delay = check_seconds("delay", delay, least=0.0)
        self._most = max_deferrals
        self._seen: object = False

    async def __call__(self, delivery: Delivery, next: Next, /) -> None:
        """Have *delivery* handled, unless the service is degraded."""
        receiver = current_receiver()
        if not await self._asked(receiver):
            await next(delivery)
        elif self._most is not None and delivery.deferrals >= self._most:
            delivery.bury(f"it was put back {delivery.deferrals} times, and the service is degraded still")
        elif await receiver.pausing(self._delay) and receiver.is_stopping:
            delivery.hand_back()
        else:
            delivery.defer()

    async def _asked(self, receiver: Receiver) -> bool:
        name = receiver.transport.name
        try:
            found = bool(await self._is_degraded() if self._is_async else await on_thread(self._is_degraded))
        except Exception as error:
            if self._seen is not FAILED:
                logger.error("%s: is_degraded failed, and the service counts as degraded", name, exc_info=error)
            self._seen = FAILED
            return True
        if found and not self._seen:
            logger.warning("%s: the service is degraded, and messages are put back", name)
        elif self._seen and not found:
            logger.info("%s: the service is degraded no more", name)
        self._seen = found
        return found
