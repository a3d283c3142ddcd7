"""A program that has a terminal, as far as it can tell."""

import os
import pty
import subprocess
import sys

__all__ = ["on_a_terminal"]


def on_a_terminal(program: str) -> str:
    """Run *program* with a terminal for its output, and return what it wrote there."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80"}
    process = subprocess.Popen([sys.executable, "-c", program], stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    written = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # the other side is closed
            break
        if not part:
            break
        written += part
    os.close(ours)
    assert process.wait(30) == 0
    return written.decode()
