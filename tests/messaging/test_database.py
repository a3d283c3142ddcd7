"""The database of a relay: shared by event loops, as by a relay and by what watches it."""

import threading
import time
from pathlib import Path

import anyio

from postresponse.messaging.database import OWN_POOL, Database


def test_event_loops_that_share_a_database_forget_nobody_who_waits(tmp_path: Path) -> None:
    database, done = Database(f"sqlite:///{tmp_path / 'shared.sqlite3'}"), list[int]()

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            for _ in range(4 * OWN_POOL):
                tasks.start_soon(database.run, lambda connection: time.sleep(0.002))
        done.append(1)

    def loops() -> None:
        for _ in range(10):
            anyio.run(main)

    threads = [threading.Thread(target=loops, daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 30
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    assert len(done) == 30
    database.engine.dispose()
