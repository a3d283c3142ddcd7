"""Supervisors that are closed at the end, and fail the test that leaves work behind."""

from collections.abc import Iterator
from typing import Any

import pytest

from postresponse.work import Job, TaskSupervisor


class Told:
    """What a supervisor told of."""

    def __init__(self) -> None:
        self.errors: list[tuple[str, str]] = []
        self.dropped: list[str] = []

    def on_error(self, job: Job[Any], error: BaseException) -> None:
        self.errors.append((job.name, repr(error)))

    def on_dropped(self, job: Job[Any]) -> None:
        self.dropped.append(job.name)


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def supervisor(told: Told) -> Iterator[TaskSupervisor]:
    """A supervisor of the test's own; its threads and its loop end with the test."""
    made = TaskSupervisor(name="test", grace=5, on_error=told.on_error, on_dropped=told.on_dropped)
    yield made
    made.close(2)
    assert made.jobs() == [], "the test left work behind that cannot be stopped"


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)
