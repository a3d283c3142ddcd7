"""The task of a job on asyncio."""

import asyncio
from typing import Any

__all__ = ["JobTask"]


class JobTask(asyncio.Task[None]):
    """A task that tells its job when somebody cancels it: one that has not started never comes to know it itself."""

    job: Any = None

    def cancel(self, msg: Any = None) -> bool:
        asked = super().cancel(msg)
        if asked and self.job is not None:
            self.job._supervisor._task_cancelled(self.job)
        return asked
