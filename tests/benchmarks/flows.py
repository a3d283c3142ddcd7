"""What it costs to run a flow instead of awaiting its steps by hand; the steps do nothing."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final

from postresponse.work import Flow, par, seq, step
from tests.benchmarks.runner import Case, Contender, Kind, package
from tests.benchmarks.work import Loop

__all__ = ["flows", "growth_steps"]


async def nothing(ctx: Any) -> None:
    """A step."""


NOTHING: Final = dict.fromkeys("abcd", nothing)
FLOW: Final = Flow.parse("a + (b | c) + d", NOTHING)


async def by_hand(count: int) -> None:
    for _ in range(count):
        await nothing(None)
        async with asyncio.TaskGroup() as group:
            group.create_task(nothing(None))
            group.create_task(nothing(None))
        await nothing(None)


async def with_anyio(count: int) -> None:
    create_task_group = package("anyio").create_task_group
    for _ in range(count):
        await nothing(None)
        async with create_task_group() as group:
            group.start_soon(nothing, None)
            group.start_soon(nothing, None)
        await nothing(None)


async def as_flow(flow: Flow, count: int) -> None:
    for _ in range(count):
        await flow.run()


def flows() -> Sequence[Case]:
    """One step, two beside each other, one more."""
    return [
        Case(
            "a + (b | c) + d",
            [
                Contender("awaited by hand, asyncio's TaskGroup", "limit", partial(Loop, by_hand)),
                Contender("awaited by hand, anyio's task group", "minimum", partial(Loop, with_anyio)),
                Contender("Flow.run", "ours", partial(Loop, partial(as_flow, FLOW))),
            ],
        )
    ]


async def in_turn(steps: int, count: int) -> None:
    for _ in range(count):
        for _ in range(steps):
            await nothing(None)


async def together(steps: int, count: int) -> None:
    for _ in range(count):
        async with asyncio.TaskGroup() as group:
            for _ in range(steps):
                group.create_task(nothing(None))


def growth_steps() -> Sequence[Case]:
    """Steps, one after the other and beside each other."""

    def contenders(steps: int) -> Sequence[Contender]:
        each = [step(nothing, name=f"s{number}") for number in range(steps)]
        ways: list[tuple[str, Kind, Callable[[int], Awaitable[None]]]] = [
            ("in turn, by hand", "limit", partial(in_turn, steps)),
            ("seq", "ours", partial(as_flow, seq(*each))),
            ("beside each other, by hand", "minimum", partial(together, steps)),
            ("par", "ours", partial(as_flow, par(*each))),
        ]
        return [Contender(name, kind, partial(Loop, do)) for name, kind, do in ways]

    return [Case(str(steps), contenders(steps)) for steps in (1, 10, 100, 1000)]
