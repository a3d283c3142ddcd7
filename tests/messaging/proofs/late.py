"""Two relays to a function, each for a process of its own: the first stops in the middle, as a paused machine does.

`PROOF_ROLE` says which it is, and `PROOF_HOW` what becomes of the calls of the first one once it goes on: they return,
or are late.
"""

import os
import signal
import time
from pathlib import Path

from postresponse.messaging import Backoff, Delivery, Function, Relay
from tests.messaging.proofs.programs import OUTBOX, given, keeps_a_log, note

ROLE, HOW, FOLDER = given("ROLE"), given("HOW"), Path(given("FOLDER"))


async def returns(delivery: Delivery) -> None:
    """Take the message, and stop the process before anybody can be told."""
    note("calls", f"first {delivery.payload}")
    if delivery.payload == "delivered":
        os.kill(os.getpid(), signal.SIGSTOP)


def is_late(delivery: Delivery) -> None:
    """Hang with each of the batch, the process stopped behind the last one."""
    note("calls", f"first {delivery.payload}")
    if delivery.payload == "held":
        os.kill(os.getpid(), signal.SIGSTOP)
    if delivery.payload != "next":
        time.sleep(60)


def second(delivery: Delivery) -> None:
    """Be done with one message, fail with another, and hold the third until the test has seen enough."""
    note("calls", f"second {delivery.payload}")
    if delivery.payload == "failed":
        raise ValueError("no")
    while delivery.payload == "held" and not (FOLDER / "let go").exists():
        time.sleep(0.02)


keeps_a_log()
if ROLE == "first":
    first = Function(returns if HOW == "it returns" else is_late, timeout=3.0)
    relay = Relay(OUTBOX, given("URL"), {"mail": first}, attempts=1, lease=8.0, polls=(0.05, 0.2))
else:
    destinations = {"mail": Function(second, timeout=100.0)}
    relay = Relay(OUTBOX, given("URL"), destinations, backoff=Backoff(900.0, 900.0), lease=120.0, polls=(0.05, 0.2))
