"""A flow that runs: each step once the one before has completed, on the event loop or on a thread of the supervisor."""

import threading
from typing import Any, Final

from anyio import CancelScope, create_task_group, current_time, get_cancelled_exc_class

from postresponse.core.current import current
from postresponse.exceptions import ConfigurationError, FlowFailed
from postresponse.work.checks import is_async
from postresponse.work.completion import parking
from postresponse.work.current import supervisor_of
from postresponse.work.flow.context import FlowContext
from postresponse.work.flow.result import FlowResult, FlowState

__all__ = ["Run", "run"]

FAILURES: Final = (Exception, SystemExit)
BEGUN: Final = (FlowState.RUNNING, FlowState.SUSPENDED)


async def run(flow: Any, ctx: Any, subflows: type) -> FlowResult:
    """Run *flow* with *ctx*, and return its result; what a step returns of the class *subflows* is a part of it.

    Raises:
        FlowFailed: A step failed.
        ConfigurationError: *ctx* belongs to another run.
    """
    if ctx is None:
        ctx = FlowContext()
    running = Run(flow, ctx, subflows)
    if isinstance(ctx, FlowContext):
        if ctx._run is not None and ctx._run.root.state in BEGUN:
            raise ConfigurationError("ctx: a FlowContext belongs to one run, and that goes on; give each run its own")
        ctx.__dict__["_run"] = running
    await running.whole()
    return running.root


class Run:
    """One run.

    Attributes:
        root: What is known of it.
        thread: The event loop's.
        active: How many steps run.
    """

    def __init__(self, flow: Any, ctx: Any, subflows: type) -> None:
        self._flow = flow
        self._subflows = subflows
        self._ctx = ctx
        self._began = current_time()
        self.root: FlowResult = _result_of(flow)
        self.thread: int = threading.get_ident()
        self.active: int = 0

    async def whole(self) -> None:
        """Run all of it."""
        try:
            await self._run(self._flow, self.root)
        finally:
            for each in self.root._all():
                if each.state is FlowState.WAITING:
                    each.state = FlowState.SKIPPED
        if self.root.state is FlowState.FAILED:
            failures = [(each.name, each.error) for each in self.root.steps() if each.error is not None]
            raise FlowFailed(self.root.name, self.root, failures)

    def _now(self) -> float:
        return current_time() - self._began

    async def _run(self, flow: Any, result: FlowResult) -> None:
        """Run *flow*, and write down what comes of it; raises nothing but a cancellation, and what ends a process."""
        result.state, result.began = FlowState.RUNNING, self._now()
        try:
            if flow.kind == "step":
                await self._run_step(flow, result)
            elif flow.kind == "seq":
                await self._run_in_turn(flow, result)
            else:
                await self._run_together(flow, result)
        except BaseException:
            if result.state in BEGUN:
                result.state = FlowState.CANCELLED
            raise
        finally:
            result.ended = self._now()
        if result.state in BEGUN:
            result.state = FlowState.DONE
            if flow.kind == "seq":
                result.value = result.children[-1].value
            elif flow.kind == "par":
                result.value = [each.value for each in result.children]

    async def _run_in_turn(self, flow: Any, result: FlowResult) -> None:
        for each, its in zip(flow.children, result.children, strict=True):
            await self._run(each, its)
            if its.state is not FlowState.DONE:
                result.state = FlowState.FAILED
                if flow.on_error == "stop":
                    return

    async def _run_together(self, flow: Any, result: FlowResult) -> None:
        async def one(each: Any, its: FlowResult) -> None:
            await self._run(each, its)
            if its.state is not FlowState.DONE:
                result.state = FlowState.FAILED
                if flow.on_error == "stop":
                    group.cancel_scope.cancel()

        async with create_task_group() as group:
            for each, its in zip(flow.children, result.children, strict=True):
                group.start_soon(one, each, its, name=each.name)
        for its in result.children:
            if its.state is FlowState.CANCELLED and result.state is not FlowState.FAILED:
                its.error = RuntimeError(f"{its.name} ended as if it were cancelled, and nobody had cancelled it")
                result.state = its.state = FlowState.FAILED

    # -- one step -----------------------------------------------------------------------------------------------------

    async def _run_step(self, flow: Any, result: FlowResult) -> None:
        token = parking.set(_Parking(self, result))
        self.active += 1
        try:
            if flow.timeout is None:
                await self._called(flow, result)
                return
            with CancelScope(deadline=current_time() + flow.timeout) as scope:
                await self._called(flow, result)
            if scope.cancelled_caught:
                result.error = TimeoutError(f"{flow.name} was not done in {flow.timeout:g} s")
                result.state = FlowState.FAILED
        except FAILURES as error:
            result.state, result.error = FlowState.FAILED, error
        finally:
            self.active -= 1
            parking.reset(token)

    async def _called(self, flow: Any, result: FlowResult) -> None:
        value = await (flow.fn(self._ctx) if is_async(flow.fn) else self._on_thread(flow, result))
        if isinstance(value, self._subflows):
            self.active -= 1  # it runs in the place of this step, and not beside it
            try:
                its = _result_of(value)
                result.children.append(its)
                await self._run(value, its)
            finally:
                self.active += 1
            if its.state is FlowState.FAILED:
                result.state = FlowState.FAILED
            value = its.value
        result.value = value

    async def _on_thread(self, flow: Any, result: FlowResult) -> Any:
        supervisor = supervisor_of(current.get())
        job = supervisor._launch(flow.fn, (self._ctx,), name=flow.name, reported=False, within=True)
        try:
            return await job
        except get_cancelled_exc_class():
            if not job.cancel() and not job.done():
                job._reported = True  # by its supervisor: nobody else hears of it any more
                result.state = FlowState.LEFT_BEHIND
            raise


class _Parking:
    """Writes down when a step is suspended."""

    def __init__(self, run: Run, result: FlowResult) -> None:
        self._run = run
        self._result = result
        self._parked = 0
        self._since = 0.0

    def park(self) -> None:
        self._parked += 1
        if self._parked == 1:
            self._since, self._result.state = self._run._now(), FlowState.SUSPENDED

    def go_on(self) -> None:
        self._parked -= 1
        if self._parked == 0:
            self._result.suspended.append((self._since, self._run._now()))
            if self._result.state is FlowState.SUSPENDED:
                self._result.state = FlowState.RUNNING


def _result_of(flow: Any) -> FlowResult:
    return FlowResult(flow.name, flow.kind, children=[_result_of(each) for each in flow.children])
