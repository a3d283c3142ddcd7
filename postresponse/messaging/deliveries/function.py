"""A function as a destination."""

from collections.abc import Callable, Sequence
from typing import Any

from postresponse.messaging.delivery import Delivery
from postresponse.work.checks import check_count, check_function, check_seconds, is_async
from postresponse.work.threads import on_thread

__all__ = ["Function"]


class Function:
    """Calls a function for each message; it has done its work when it returns.

    A sync function runs on a thread. One that is late there cannot be stopped: its message comes again meanwhile. It
    does not keep the process from ending.

    Args:
        function: Receives a `Delivery`; sync or async. What it raises costs the message an attempt.
        concurrency: How many calls go on at once.
        timeout: Seconds that each may take.
        unreachable: The errors that say that what it talks to cannot be reached: they cost no attempt, and all
            messages of the destination wait.

    Raises:
        NotAFunction: *function* is none.
        ConfigurationError: A number that is too low.
    """

    batch: int = 1

    def __init__(
        self,
        function: Callable[[Delivery], Any],
        *,
        concurrency: int = 8,
        timeout: float = 30.0,
        unreachable: tuple[type[BaseException], ...] = (ConnectionError,),
    ) -> None:
        check_function("Function()", function)
        self.concurrency: int = check_count("concurrency", concurrency)
        self.timeout: float = check_seconds("timeout", timeout)
        self.unreachable: tuple[type[BaseException], ...] = unreachable
        self._function = function
        self._is_async = is_async(function)

    async def send(self, messages: Sequence[Delivery]) -> Sequence[BaseException | None]:
        """Call the function, for one message after the other."""
        return [await self._called(message) for message in messages]

    async def _called(self, message: Delivery) -> BaseException | None:
        try:
            if self._is_async:
                await self._function(message)
            else:
                await on_thread(self._function, message)
        except (Exception, SystemExit) as error:  # noqa: BLE001 (told of by the relay)
            return error
        return None

    async def aclose(self) -> None:
        """Nothing."""
