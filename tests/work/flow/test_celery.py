"""The same flow here, and as a canvas of Celery's on a real worker: the same order, and the same result."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import uuid4

import celery
import pytest

from postresponse.exceptions import ConfigurationError, FlowError
from postresponse.work import Flow, TaskSupervisor, par, seq, step
from tests.work.flow import celery_shop as shop

FLOWS = {
    "a chord": "reserve + (invoice | label) + notify",
    "a chain": "reserve + invoice + notify",
    "a group": "reserve | invoice",
    "a group at the end": "reserve + (invoice | label)",
    "chains in a group": "(reserve + invoice) | (label + notify)",
    "a step that forks": "reserve + (label | label | label) + notify",
}
STEPS = {"reserve": shop.reserve, "invoice": shop.invoice, "label": shop.label, "notify": shop.notify}


def flow_of(text: str) -> Flow:
    return Flow.parse(text, {name: each for name, each in STEPS.items() if name in text})


def kept(flow: Flow, spans: list[tuple[str, float, float]]) -> None:
    """Look at whether each step began once all those before it had ended, and beside those that stand beside it."""
    ends: dict[str, list[tuple[float, float]]] = {}
    for name, began, ended in spans:
        ends.setdefault(name, []).append((began, ended))
    assert sorted(name for name, _, _ in spans) == sorted(each.name for each in flow.steps())
    _look(flow, ends)


def _look(flow: Flow, spans: dict[str, list[tuple[float, float]]]) -> tuple[float, float]:
    if flow.kind == "step":
        return min(span[0] for span in spans[flow.name]), max(span[1] for span in spans[flow.name])
    parts = [_look(each, spans) for each in flow.children]
    if flow.kind == "seq":
        assert all(later[0] >= earlier[1] for earlier, later in pairwise(parts))
    else:
        assert max(each[0] for each in parts) < min(each[1] for each in parts)
    return min(each[0] for each in parts), max(each[1] for each in parts)


@contextmanager
def worker(file: Path, queue: str) -> Iterator[None]:
    """A real worker, in a process of its own, that runs four tasks at once."""
    environment = {**os.environ, "SHOP_FILE": str(file), "SHOP_QUEUE": queue}
    program = [sys.executable, "-m", "celery", "-A", "tests.work.flow.celery_shop", "worker", "--pool", "threads"]
    options = ["-c", "4", "--without-gossip", "--without-mingle", "--without-heartbeat"]
    with file.with_suffix(".log").open("wb") as log:
        process = subprocess.Popen([*program, *options], env=environment, stdout=log, stderr=log)
        try:
            yield
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@pytest.mark.service("redis")
def test_a_real_worker_keeps_the_order_and_gives_the_result(
    tmp_path: Path, supervisor: TaskSupervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = f"postresponse-flow-{uuid4().hex}"
    shop.app.conf.update(task_default_queue=queue)
    there = tmp_path / "there"
    with worker(there, queue):
        for name, text in FLOWS.items():
            flow, here = flow_of(text), tmp_path / name
            monkeypatch.setenv("SHOP_FILE", str(here))
            result = supervisor.launch(flow, "tea").result(20)
            there.write_text("")
            value = flow.to_celery(shop.app, "tea").apply_async().get(timeout=30)
            assert value == result.value, name
            for file in (here, there):
                lines = [line.split() for line in file.read_text().splitlines()]
                kept(flow, [(line[0], float(line[1]), float(line[2])) for line in lines])


def test_a_canvas_is_made_of_chains_groups_and_chords() -> None:
    canvas = flow_of(FLOWS["a chord"]).to_celery(shop.app, {"order": 1})
    first, then = canvas.tasks
    assert (first.task, first.args, first.immutable) == ("tests.work.flow.celery_shop.reserve", ({"order": 1},), True)
    assert isinstance(then, celery.canvas._chord)
    assert [each.task for each in then.tasks] == ["tests.work.flow.celery_shop.invoice", "print_label"]
    assert then.body.task == "tests.work.flow.celery_shop.notify"
    assert isinstance(flow_of("reserve | invoice").to_celery(shop.app), celery.group)
    assert flow_of("reserve").to_celery(shop.app).task == "tests.work.flow.celery_shop.reserve"


def test_a_step_is_the_task_of_its_function_or_of_its_name() -> None:
    app = celery.Celery("other", set_as_current=False)

    def counted(ctx: Any) -> None: ...

    def named(ctx: Any) -> None: ...

    made = app.task(counted)
    app.task(counted, name="named")
    canvas = seq(counted, named, step(made, name="again", timeout=5)).to_celery(app)
    assert [each.task for each in canvas.tasks] == [made.name, "named", made.name]
    assert canvas.tasks[2].options["soft_time_limit"] == 5


def test_what_no_canvas_can_do_is_told() -> None:
    def unknown(ctx: Any) -> None: ...

    with pytest.raises(
        FlowError, match="the application has no task for another, unknown; make a task of the function"
    ):
        par(unknown, step(unknown, name="another"), shop.reserve).to_celery(shop.app)
    with pytest.raises(FlowError, match=r"'reserve \| invoice' goes on after an error"):
        par(shop.reserve, shop.invoice, on_error="continue").to_celery(shop.app)
    with pytest.raises(ConfigurationError, match=r"to_celery\(\) takes a Celery application, found 'shop'"):
        seq(shop.reserve).to_celery("shop")
