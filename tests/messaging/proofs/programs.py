"""What the programs of the relays' processes share: a log in a file, held against the table of lines."""

import logging
import os
from pathlib import Path

from postresponse.messaging import Outbox
from tests.log_lines import Reader

__all__ = ["OUTBOX", "STRANGE", "given", "keeps_a_log", "note"]

OUTBOX = Outbox({"tasks": ["shop.note"], "mail": ["send", "poison"], "queue": ["placed", "poison"]})
STRANGE = "a line of no known kind"


def given(name: str) -> str:
    """What the test says that this process is to work with."""
    return os.environ[f"PROOF_{name}"]


def note(file: str, text: str) -> None:
    """Write one line, at once, into a file of the test's."""
    with Path(given("FOLDER"), file).open("a") as opened:
        opened.write(text + "\n")


class _Strict(Reader):
    def emit(self, record: logging.LogRecord) -> None:
        super().emit(record)
        while self.strange:
            note(given("LOG"), f"{STRANGE}: {self.strange.pop()}")


def keeps_a_log() -> None:
    """Write the log of this process into a file."""
    logging.basicConfig(filename=Path(given("FOLDER"), given("LOG")), level=logging.INFO, format="%(message)s")
    logging.getLogger("postresponse").addHandler(_Strict())
