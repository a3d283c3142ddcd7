"""Who looks on: told of each exchange and job, able to change none.

Whatever an observer raises is logged, once for each of its methods, and harms nobody. What nobody observes costs
nothing.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, Final

from postresponse.core.log import logger
from postresponse.core.trace import JobTrace, Trace
from postresponse.exceptions import ConfigurationError

__all__ = ["Observer", "around", "asked", "observers_given", "tell"]


class Observer:
    """Is told of exchanges and jobs; a base class whose methods do nothing, so that more may come.

    All of them are called in the flow of what they tell of, on its thread or event loop, and are to return at once.
    One observer may be called by several threads at a time.
    """

    def began(self, exchange: Any) -> object:
        """Called when a request has reached the middleware, in the request's own context; its `Exchange` is *exchange*.

        Returns:
            Whatever `ended` is to be given back.
        """
        return None

    def ended(self, trace: Trace, begun: object) -> object:
        """Called when the exchange is over, and its outcome known; not for an attempt that is run again.

        Args:
            trace: How it went.
            begun: What `began` had returned.
        """

    def job_around(self, job: Any) -> AbstractContextManager[object] | None:
        """Called where the `Job` *job* runs, in its own context; what is returned is entered for as long as it does."""
        return None

    def job_ended(self, trace: JobTrace) -> object:
        """Called when a job has really ended, or is lost."""


def observers_given(observers: Any) -> tuple[Observer, ...]:
    """Check what was given as `observers`, and return it.

    Raises:
        ConfigurationError: It is no collection of observers.
    """
    if isinstance(observers, Observer):
        raise ConfigurationError(f"observers: expected several, in a list or a tuple, found {observers!r}")
    if not isinstance(observers, Iterable):
        raise ConfigurationError(f"observers: expected a list of them, found {observers!r}")
    given = tuple(observers)
    for each in given:
        if not isinstance(each, Observer):
            raise ConfigurationError(f"observers: expected instances of Observer, found {each!r}")
    return given


_complained: Final[set[tuple[type, str]]] = set()


def asked(observer: Observer, method: str, *args: Any) -> Any:
    """Call *method* of *observer*, and return what it does; None if it raises."""
    try:
        return getattr(observer, method)(*args)
    except Exception as error:  # noqa: BLE001 (logged)
        _complain(observer, method, error)
        return None


def tell(observers: Iterable[Observer], method: str, *args: Any) -> None:
    """Call *method* of each."""
    for observer in observers:
        asked(observer, method, *args)


@contextmanager
def around(observers: Iterable[Observer], job: Any) -> Iterator[None]:
    """Have what each wants around *job*; what the job raises passes, and they see it."""
    with ExitStack() as stack:
        for observer in observers:
            manager = asked(observer, "job_around", job)
            if manager is not None:
                try:
                    manager.__enter__()
                except Exception as error:  # noqa: BLE001 (logged)
                    _complain(observer, "job_around", error)
                else:
                    stack.push(_leaving(observer, manager))
        yield


def _leaving(observer: Observer, manager: AbstractContextManager[object]) -> Callable[..., None]:
    def leave(*failure: Any) -> None:
        try:
            manager.__exit__(*failure)
        except Exception as error:  # noqa: BLE001 (logged)
            if error is not failure[1]:  # else it is what the job raised, passed on
                _complain(observer, "job_around", error)

    return leave


def _complain(observer: Observer, method: str, error: Exception) -> None:
    key = (type(observer), method)
    if key not in _complained:
        _complained.add(key)
        logger.error(
            "the observer %r failed in %s(); further failures are not logged", observer, method, exc_info=error
        )
