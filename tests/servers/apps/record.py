"""Append what happens in the server's process to a file that the test reads, and log to standard error."""

import json
import logging
import os
import sys
import time
from pathlib import Path
from typing import Any

_PATH = Path(os.environ.get("POSTRESPONSE_TEST_RECORD", os.devnull))


def record(event: str, key: str, **fields: Any) -> None:
    """Write one line: whole, at once, whichever thread or process writes."""
    line = json.dumps({"event": event, "key": key, "at": time.monotonic_ns(), **fields})
    with _PATH.open("ab", buffering=0) as file:  # O_APPEND and one write: lines never mix
        file.write(line.encode() + b"\n")


def log_to_stderr() -> None:
    """Send the package's log to standard error, whatever the server does with logging."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    logger = logging.getLogger("postresponse")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
