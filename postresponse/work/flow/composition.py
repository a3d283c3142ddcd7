"""Flows: steps one after the other, and beside each other, put together by functions, by operators or from a text."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Literal, get_args

from postresponse.core.policy import did_you_mean
from postresponse.exceptions import ConfigurationError, FlowError
from postresponse.work.checks import check_function, check_seconds, name_of
from postresponse.work.flow.drawing import flow_chart
from postresponse.work.flow.result import FlowResult
from postresponse.work.flow.text import Node, parsed

__all__ = ["Flow", "OnError", "Par", "Seq", "Step", "par", "seq", "step"]

OnError = Literal["stop", "continue"]
Kind = Literal["step", "seq", "par"]
Given = Any
"""A flow, or a function that becomes a step."""

_NAME: Final = re.compile(r"[^\W\d][\w.-]*")


class Flow:
    """Steps, one after the other and beside each other; one of them is a flow already.

    A flow says what there is to do and keeps nothing of a run: it can be run by many at once. It is made by `seq`,
    `par`, `step` and `parse`, or by operators: `step(a) + b` is first `a`, then `b`, and `step(b) | c` is both beside
    each other. Each step is called with one argument, the `ctx` of the run: async functions on the event loop, sync
    ones on threads of the supervisor. The next step starts once the one before has completed, with whatever flow it
    returned and whatever it waited for by `suspend`.

    A flow is an async function of `ctx`: `launch(flow, ctx)` and `after_response(flow, ctx)` take it as one.

    Attributes:
        name: What it is called in results and in the log.
        children: The flows that it is made of.
        on_error: `"stop"`, or `"continue"`: what one that fails does to the others of them.
    """

    kind: Kind
    sign: str = ""

    def __init__(self, name: str, children: Sequence["Flow"], on_error: OnError = "stop") -> None:
        self.name: str = name
        self.children: tuple[Flow, ...] = tuple(children)
        self.on_error: OnError = on_error
        self.by_operator: bool = False
        self.__qualname__: str = name  # how a supervisor calls what it runs

    # -- putting together ---------------------------------------------------------------------------------------------

    def __add__(self, other: Given) -> "Flow":
        return _operated(Seq, self, other)

    def __radd__(self, other: Given) -> "Flow":
        return _operated(Seq, other, self)

    def __or__(self, other: Given) -> "Flow":
        return _operated(Par, self, other)

    def __ror__(self, other: Given) -> "Flow":
        return _operated(Par, other, self)

    @staticmethod
    def parse(
        text: str,
        steps: Mapping[str, Given] | Iterable[Callable[..., Any]],
        *,
        name: str | None = None,
        on_error: OnError = "stop",
    ) -> "Flow":
        """Read a flow: `"a + (b | c) + d"`, where `|` binds tighter than `+`, and parentheses do as they do.

        A name that stands several times beside itself, as in `"a + (b | b | b)"`, is run so many times at once.

        Args:
            text: Names of steps, `+`, `|` and parentheses.
            steps: What the names stand for: functions or flows by name, or functions that are called so themselves.
            name: What the flow is called; None for the text.
            on_error: What a step that fails does to the others, but for flows among *steps*, which say so themselves.

        Raises:
            FlowError: The text cannot be read, a step is unknown, or not used, or there are two of one name; the place
                is in the message, and in `position`.
        """
        if not isinstance(text, str):
            raise ConfigurationError(f"parse() takes a text such as 'a + (b | c)', found {text!r}")
        _check_on_error(on_error)
        known = _by_name(steps)
        used: set[str] = set()
        flow = _built(parsed(text), text, known, used, on_error)
        for place, each in enumerate(known):
            if each not in used:
                raise FlowError(f"steps: {each!r}, number {place + 1}, is not used in {text!r}", position=place)
        return flow.with_options(name=name or text.strip()) if flow.children or name else flow

    def with_options(self, *, name: str | None = None, on_error: OnError | None = None) -> "Flow":
        """Return the same flow under another *name*, or with another *on_error* for the flows that it is made of.

        Raises:
            ConfigurationError: A value that an option cannot have.
        """
        if name is not None and (not isinstance(name, str) or not name.strip()):
            raise ConfigurationError(f"name: expected a text that is not blank, found {name!r}")
        if on_error is not None:
            _check_on_error(on_error)
        return self._copied(name or self.name, on_error or self.on_error)

    def _copied(self, name: str, on_error: OnError) -> "Flow":
        return type(self)(name, self.children, on_error)

    # -- running ------------------------------------------------------------------------------------------------------

    async def run(self, ctx: Any = None) -> FlowResult:
        """Run it, and return what came of each step once all are over.

        Args:
            ctx: What each step is called with; None for a new `FlowContext`.

        Raises:
            FlowFailed: A step failed, with the same result; raised when all is over that had begun.
        """
        from postresponse.work.flow.running import run

        return await run(self, ctx, Flow)

    async def __call__(self, ctx: Any = None) -> FlowResult:
        """As `run`."""
        return await self.run(ctx)

    def to_celery(self, app: Any, ctx: Any = None) -> Any:
        """Return the same flow as a canvas of Celery's, for more than one machine: chain, group and chord.

        Each task is called with *ctx*, which has to be what the serializer takes; there it is a copy, and what a task
        does to it no other one sees. The result of the canvas is the value of this flow: that of the last step, or a
        list of those beside each other.

        Args:
            app: The `Celery` application. A step is the task of its function, or else the task of its name.
            ctx: What each task is called with.

        Raises:
            FlowError: The application has no task for a step, or the flow goes on after an error, as no canvas does.
        """
        from postresponse.work.flow.canvas import canvas

        return canvas(self, app, ctx)

    # -- showing ------------------------------------------------------------------------------------------------------

    def steps(self) -> "Iterator[Step]":
        """Give every step, in the order of the text."""
        for each in self.children:
            yield from each.steps()

    def __str__(self) -> str:
        return f" {self.sign} ".join(f"({each})" if each.children else str(each) for each in self.children)

    def __repr__(self) -> str:
        return f"<Flow {self}>"

    def mermaid(self) -> str:
        """Return a flow chart of it, as text for Mermaid."""
        return flow_chart(self)


class Step(Flow):
    """One function."""

    kind: Kind = "step"

    def __init__(self, name: str, fn: Callable[[Any], Any], timeout: float | None = None) -> None:
        super().__init__(name, ())
        self.fn: Callable[[Any], Any] = fn
        self.timeout: float | None = timeout

    def _copied(self, name: str, on_error: OnError) -> "Step":
        return Step(name, self.fn, self.timeout)

    def steps(self) -> "Iterator[Step]":
        yield self

    def __str__(self) -> str:
        return self.name


class Seq(Flow):
    """One after the other."""

    kind: Kind = "seq"
    sign: str = "+"


class Par(Flow):
    """Beside each other."""

    kind: Kind = "par"
    sign: str = "|"


def step(fn: Callable[[Any], Any], *, name: str | None = None, timeout: float | None = None) -> Flow:
    """Make a step of a function.

    Args:
        fn: Called with the `ctx` of the run; sync or async. It may return a flow, which is run as a part of it.
        name: What it is called; None for the function's name.
        timeout: Seconds that it may take, with what it waits for; None for as long as it takes.

    Raises:
        NotAFunction: *fn* cannot be called, or is a coroutine object, which is closed.
        ConfigurationError: A name that is blank or has signs of the text of a flow; a timeout that is not above zero.
    """
    check_function("step()", fn)
    if name is None:
        name = name_of(fn).rpartition(".")[2]
        if _NAME.fullmatch(name) is None:
            raise ConfigurationError(f"step(): give {name} a name=: it has none that the text of a flow could name")
    elif not isinstance(name, str) or _NAME.fullmatch(name) is None:
        raise ConfigurationError(f"name: expected letters, digits, '_', '-' and '.', found {name!r}")
    return Step(name, fn, None if timeout is None else check_seconds("timeout", timeout))


def seq(*flows: Given, name: str | None = None, on_error: OnError = "stop") -> Flow:
    """Run *flows*, or functions, one after the other.

    Args:
        name: What it is called; None for its text.
        on_error: With `"stop"` those behind one that fails are skipped; with `"continue"` they are run.

    Raises:
        FlowError: There are none, or two steps of one name, which could not be told apart in the result.
        ConfigurationError: Something that is neither a flow nor a function, or a value that an option cannot have.
    """
    return _made(Seq, flows, name, on_error)


def par(*flows: Given, name: str | None = None, on_error: OnError = "stop") -> Flow:
    """Run *flows*, or functions, beside each other, until all are over.

    The same step may be given several times: its results are a list.

    Args:
        name: What it is called; None for its text.
        on_error: With `"stop"` the others are cancelled when one fails, where they can be: a sync function runs on,
            and is left behind. With `"continue"` they go on to their end.

    Raises:
        FlowError: There are none, or two steps of one name that are not beside each other.
        ConfigurationError: Something that is neither a flow nor a function, or a value that an option cannot have.
    """
    return _made(Par, flows, name, on_error)


def _made(kind: type[Flow], given: Sequence[Given], name: str | None, on_error: OnError) -> Flow:
    if not given:
        raise FlowError(f"{kind.kind}() has nothing to run: give it at least one function")
    _check_on_error(on_error)
    flow = kind("", [_flow_of(each) for each in given], on_error)
    _check_names(flow)
    return flow.with_options(name=str(flow) if name is None else name)


def _flow_of(given: Given) -> Flow:
    return given if isinstance(given, Flow) else step(given)


def _operated(kind: type[Flow], left: Given, right: Given) -> Flow:
    sides = [_flow_of(left), _flow_of(right)]
    if kind is Par and any(side.by_operator and side.kind == "seq" for side in sides):
        raise FlowError(
            "ambiguous: Python reads a + b | c as (a + b) | c, and the text of a flow as a + (b | c); put b | c in "
            "parentheses, or use par(seq(a, b), c)"
        )
    # a + b + c is one sequence of three
    parts: list[Flow] = []
    for side in sides:
        parts += side.children if side.by_operator and type(side) is kind else [side]
    made = _made(kind, parts, None, "stop")
    made.by_operator = True
    return made


def _built(node: Node, text: str, known: Mapping[str, Flow], used: set[str], on_error: OnError) -> Flow:
    if node.sign:
        parts = [_built(each, text, known, used, on_error) for each in node.parts]
        flow = (Seq if node.sign == "+" else Par)("", parts, on_error)
        _check_names(flow, text, node)
        return flow.with_options(name=str(flow))
    if node.name not in known:
        hint = did_you_mean(node.name, known)
        raise FlowError.at(text, node.position, f"there is no step {node.name!r}{hint}; give it in steps=")
    used.add(node.name)
    return known[node.name]


def _check_names(flow: Flow, text: str = "", node: Node | None = None) -> None:
    """Refuse two steps of one name, but for one that stands beside itself."""
    beside: set[str] = set()
    others: set[str] = set()
    for place, each in enumerate(flow.children):
        own = {one.name for one in each.steps()}
        is_beside = flow.kind == "par" and each.kind == "step"
        for name in own & (others if is_beside else others | beside):
            says = f"two steps are called {name!r}, and would be one in the result; give one a name of its own"
            if node is None:
                raise FlowError(f"{says}: step({name}, name=...)")
            raise FlowError.at(text, node.parts[place].first(name), f"{says} in steps=")
        (beside if is_beside else others).update(own)


def _by_name(given: Any) -> dict[str, Flow]:
    if isinstance(given, Mapping):
        found = {}
        for name, each in given.items():
            if not isinstance(name, str) or _NAME.fullmatch(name) is None:
                raise ConfigurationError(f"steps: expected names of letters, digits, '_', '-' and '.', found {name!r}")
            found[name] = each.with_options(name=name) if isinstance(each, Flow) else step(each, name=name)
        return found
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise ConfigurationError(f"steps: expected functions by name, or a list of functions, found {given!r}")
    found = {}
    for place, each in enumerate(map(_flow_of, given)):
        if each.name in found:
            raise FlowError(
                f"steps: number {place + 1} is called {each.name!r}, as one before it; give them by name, in a "
                "dictionary",
                position=place,
            )
        found[each.name] = each
    return found


def _check_on_error(on_error: Any) -> None:
    if on_error not in get_args(OnError):
        raise ConfigurationError(f"on_error: expected 'stop' or 'continue', found {on_error!r}")
