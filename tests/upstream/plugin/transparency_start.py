"""Patches the entrances of a suite when an interpreter of its environment starts, if a run asks for it.

A .pth file of the environment imports this module in every interpreter: a suite's own process, and the servers that its
tests start in processes of their own, with whatever PYTHONPATH they are given. A run asks by an environment variable,
which those inherit. It asks pytest's process to wait, once: pytest wants to see its plugins, one of which belongs to a
framework, before anything imports them.
"""

import atexit
import gc
import json
import os
import sys

__all__ = ["patch"]


def patch() -> None:
    """Patch the entrances of the suite that TRANSPARENCY names, and note the end of this process."""
    from transparency_entrances import ENTRANCES  # type: ignore[import-not-found]
    from transparency_tally import Tally  # type: ignore[import-not-found]
    from transparency_wrap import Wrapping  # type: ignore[import-not-found]

    if sys.version_info < (3, 12):
        # There the collector may run inside of ContextVar.set, and end a response that a test dropped unclosed, which
        # sets variables of the same context, and frees what the first call is about to copy: one run in four crashed.
        gc.set_threshold(1_000_000)
    run = json.loads(os.environ["TRANSPARENCY"])
    tally = Tally(run["tally"])
    ENTRANCES[run["suite"]](Wrapping(run["mode"], tally))

    @atexit.register
    def ended() -> None:
        gc.collect()  # the end of responses that a test client dropped without closing them
        tally.note("exit")


# Here, in every interpreter of the environment, pip's included: without a run it must cost nothing.
if "TRANSPARENCY" in os.environ and os.environ.pop("TRANSPARENCY_LATER", None) is None:
    patch()
