"""What fails, and when: calls are counted by name, and the one that is meant fails in the way that is meant."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeVar

T = TypeVar("T")

Then = Literal["nothing", "connection dies", "request is cancelled", "client leaves"]


@dataclass(frozen=True, slots=True)
class Kind:
    """One way to fail.

    Attributes:
        name: For the fault's id.
        error: Makes what the call raises; None for a call that goes well, while something else happens.
        done: Whether the call does what it is for, before it raises.
        then: What happens besides, after the call was done or left undone and before it raises.
    """

    name: str
    error: Callable[[], BaseException] | None = None
    done: bool = False
    then: Then = "nothing"


@dataclass(frozen=True, slots=True)
class Call:
    """A call that the request makes: the name of what is called, and how often that was called before, from 1."""

    name: str
    number: int

    @property
    def family(self) -> str:
        """Whose call it is: app, dbapi, hook, option, server or unit."""
        return self.name.partition(".")[0]

    def __str__(self) -> str:
        return f"{self.name}#{self.number}"


@dataclass(frozen=True, slots=True)
class Fault:
    """A call that fails, and how."""

    call: Call
    kind: Kind

    def __str__(self) -> str:
        return f"{self.call} {self.kind.name}"


@dataclass(frozen=True, slots=True)
class Fired:
    """A fault that happened.

    Attributes:
        fault: Which.
        handling: Whether the application made the call: then what it raises is the application's own error.
        error: What was raised.
    """

    fault: Fault
    handling: bool
    error: BaseException | None


class Plan:
    """The faults of one run, and the calls that were made in it.

    Everything that can fail calls `around`. The three things that happen besides are set by whoever can do them; each
    may be called from any thread.

    Args:
        faults: What fails; none for the run that numbers the calls.
    """

    def __init__(self, *faults: Fault) -> None:
        self.calls: list[Call] = []
        self.fired: list[Fired] = []
        self.forestalled: list[Fault] = []
        self.cancel: Callable[[], object] = _nobody
        self.leave: Callable[[], object] = _nobody
        self.over = False
        self.attempts: list[int] = []
        self.faults: Final = faults
        self._by_call: Final = {fault.call: fault for fault in faults}
        self._counted: Counter[str] = Counter()
        self._handling = 0

    def begin_attempt(self) -> None:
        """Note that the request runs from the start, for the first time or again."""
        self.attempts.append(len(self.calls))

    @property
    def last_attempt(self) -> list[Call]:
        """The calls that were made in the last attempt."""
        return self.calls[self.attempts[-1] :] if self.attempts else self.calls

    def count(self, name: str) -> int:
        """How often *name* was called."""
        return self._counted[name]

    @contextmanager
    def handling(self) -> Iterator[None]:
        """Mark what is called inside as called by the application."""
        self._handling += 1
        try:
            yield
        finally:
            self._handling -= 1

    def around(self, name: str, do: Callable[[], T], die: Callable[[], object] = lambda: None) -> T:
        """Make the call *name*, which is *do*, or fail it as planned; *die* ends the connection that it is made on."""
        fault = self._meant(name)
        if fault is None:
            return do()
        if fault.kind.done:
            with self._noting(fault):
                result = do()
            self._happen(fault, die)
            return result
        self._happen(fault, die)
        return do()

    async def around_async(self, name: str, do: Callable[[], Any], die: Callable[[], object] = lambda: None) -> Any:
        """Make an awaitable call, as `around` does."""
        fault = self._meant(name)
        if fault is None:
            return await do()
        if fault.kind.done:
            with self._noting(fault):
                result = await do()
            self._happen(fault, die)
            return result
        self._happen(fault, die)
        return await do()

    @contextmanager
    def _noting(self, fault: Fault) -> Iterator[None]:
        """Note a call that was to be done before it fails, and failed by itself."""
        try:
            yield
        except BaseException:
            self.forestalled.append(fault)
            raise

    def _meant(self, name: str) -> Fault | None:
        if self.over:
            return None
        self._counted[name] += 1
        call = Call(name, self._counted[name])
        self.calls.append(call)
        return self._by_call.get(call)

    def _happen(self, fault: Fault, die: Callable[[], object]) -> None:
        error = fault.kind.error() if fault.kind.error is not None else None
        self.fired.append(Fired(fault, self._handling > 0, error))
        if fault.kind.then == "connection dies":
            die()
        elif fault.kind.then == "request is cancelled":
            self.cancel()
        elif fault.kind.then == "client leaves":
            self.leave()
        if error is not None:
            raise error


def _nobody() -> None:
    raise AssertionError("nobody said how that is done here")
