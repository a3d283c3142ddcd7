"""A generator that must not run away from a database: a bounded stream between them, and rows in batches.

.venv/bin/python examples/stream_batches.py           # 1,000 rows in 20 batches; never more than 100 wait
.venv/bin/python examples/stream_batches.py 250 1     # one is wrong: what came before it is stored, then it fails
"""

import sqlite3
import sys
from collections.abc import Iterator

import anyio

from postresponse import scope
from postresponse.work import Stream

BATCH = 50


def rows(count: int, wrong: int) -> Iterator[tuple[int, str]]:
    """What an import reads from a file, as fast as it can."""
    for number in range(count):
        if wrong and number == count // 2:
            raise ValueError(f"row {number} has no item")
        yield number, f"item {number}"


async def produce(stream: Stream[tuple[int, str]], count: int, wrong: int) -> None:
    """Put every row; where the database is slower, this waits."""
    try:
        await stream.put_all(rows(count, wrong))
    except ValueError as error:
        stream.error(error)
    else:
        stream.done()


async def main(count: int, wrong: int) -> int:
    """Import the rows, and say what was stored."""
    database = sqlite3.connect(":memory:", check_same_thread=False)
    database.execute("CREATE TABLE rows (number INTEGER PRIMARY KEY, item TEXT)")
    batches, most, status = 0, 0, 0

    async def store(batch: list[tuple[int, str]]) -> None:
        nonlocal batches, most
        batches, most = batches + 1, max(most, stream.waiting)
        await anyio.to_thread.run_sync(database.executemany, "INSERT INTO rows VALUES (?, ?)", batch)

    def failed(error: BaseException) -> None:
        nonlocal status
        print(f"failed behind the rows before it: {error}")
        status = 1

    async with scope("import") as block, anyio.create_task_group() as tasks:
        stream: Stream[tuple[int, str]] = block.stream("rows", maxsize=2 * BATCH, batch_size=BATCH, batch_wait=1.0)
        tasks.start_soon(produce, stream, count, wrong)
        await stream.consume(store, on_error=failed)
    (stored,) = database.execute("SELECT count(*) FROM rows").fetchone()
    database.close()
    print(f"stored {stored:,} rows in {batches} batches; at most {most} waited")
    return status


if __name__ == "__main__":
    count, wrong = [*map(int, sys.argv[1:]), *(1000, 0)[len(sys.argv) - 1 :]]
    sys.exit(anyio.run(main, count, wrong))
