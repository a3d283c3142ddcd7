"""Processes that do not outlive the tests, even if those are killed."""

import ctypes
import signal
import sys

_libc = ctypes.CDLL(None)
_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG


def die_with_parent() -> None:
    """Have this process killed when the thread ends that has started it, on Linux: a `preexec_fn`."""
    if sys.platform == "linux":
        _libc.prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL)
