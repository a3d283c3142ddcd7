"""What happens in the server's process, written down for the kit in another one."""

import json
import os
import time
from pathlib import Path
from typing import Any, Final

__all__ = ["RECORD", "read", "record"]

RECORD: Final = "POSTRESPONSE_CONFORMANCE_RECORD"
"""The variable that names the file."""


def record(event: str, key: str, **fields: Any) -> None:
    """Write one line: whole, at once, whichever thread or process writes."""
    line = json.dumps({"event": event, "key": key, "at": time.monotonic_ns(), **fields})
    with Path(os.environ[RECORD]).open("ab", buffering=0) as file:  # O_APPEND and one write: lines never mix
        file.write(line.encode() + b"\n")


def read(path: Path) -> list[dict[str, Any]]:
    """Read all whole lines."""
    if not path.exists():
        return []
    data = path.read_bytes()
    return [json.loads(line) for line in data[: data.rfind(b"\n") + 1].splitlines()]
