"""Where gevent has made greenlets of all threads; in a process of its own, which stays so."""

import json
import subprocess
import sys

PROGRAM = """
import gevent.monkey

gevent.monkey.patch_all()

import asyncio, json, threading, time

import gevent

from postresponse.work import Bulkhead, TaskSupervisor

supervisor = TaskSupervisor(grace=2.0)
bulkhead = Bulkhead("bound", max_concurrency=2, supervisor=supervisor)
threads = set()


def sync(number):
    time.sleep(0.01)
    threads.add(gevent.getcurrent().parent)
    return number


async def nested(number):
    await asyncio.sleep(0.01)
    threads.add(gevent.get_hub())
    return await supervisor.launch(sync, number)


async def endless():
    await asyncio.Event().wait()


def late(job):
    try:
        job.result(5)
    except TimeoutError as error:
        return str(error)


gevent.spawn(gevent.sleep, 60)  # as a server does, which listens
found = {
    "sync": [job.result(5) for job in [supervisor.launch(sync, number) for number in range(5)]],
    "from the loop": [job.result(5) for job in [supervisor.launch(nested, number) for number in range(5)]],
    "bounded": [
        job.result(5) for job in [bulkhead.submit(nested if number % 2 else sync, number) for number in range(8)]
    ],
    "late": late(supervisor.launch(endless, timeout=0.05, name="endless")),
    "real threads": len(threads),
}
lost = supervisor.launch(endless, name="lost")
found["lost"] = [job.name for job in supervisor.close(0.05)]
print(json.dumps(found))
"""


def test_under_gevent_sync_work_runs_on_greenlets_and_async_work_on_a_loop_with_a_real_thread() -> None:
    ran = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(ran.stdout) == {
        "sync": [0, 1, 2, 3, 4],
        "from the loop": [0, 1, 2, 3, 4],
        "bounded": [0, 1, 2, 3, 4, 5, 6, 7],
        "late": "endless was not done in 0.05 s",
        "real threads": 2,
        "lost": ["lost"],
    }
