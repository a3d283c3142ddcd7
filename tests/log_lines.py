"""Every line that the package may write to its log: what it says, how loud, and whether it has the traceback.

A handler holds each line of each test against this table, so that one that names nothing, or has lost its traceback, is
a failure of the test that caused it.
"""

import logging
import re
from dataclasses import dataclass
from typing import Final

__all__ = ["LINES", "Line", "Reader"]

ROUTE: Final = r"(?:(?:with|GET|HEAD|POST|PUT|PATCH|DELETE|OPTIONS|TRACE) .*?|a finished request)"


@dataclass(frozen=True)
class Line:
    """One kind of line.

    Attributes:
        level: As logging has it.
        pattern: The whole message.
        traceback: Whether it has one.
    """

    level: int
    pattern: str
    traceback: bool = False

    def is_of(self, record: logging.LogRecord) -> bool:
        """Whether *record* is such a line."""
        has_traceback = record.exc_info is not None and record.exc_info[1] is not None
        says = re.fullmatch(self.pattern, record.getMessage(), re.DOTALL) is not None
        return says and record.levelno == self.level and has_traceback is self.traceback


STAGES: Final = "after_commit|after_rollback|on_finished"
NAME: Final = r"[a-z_]\S*"  # of a unit of work that is one of several
ENDED: Final = "could not (?:commit|roll back|close|begin|roll back its late use|close after its late use)"
OF: Final = r"the outbox for \S+"
IN: Final = r"(?:, in \S+ \(\S+:\d+\))?"
LOST: Final = "the connection was lost inside COMMIT"

LINES: Final = (
    # core
    Line(logging.DEBUG, rf"{ROUTE}: rolled back, status (?:\d+|None)"),
    Line(logging.DEBUG, rf"{ROUTE}: doomed: .+"),
    Line(logging.INFO, rf"{ROUTE}: streams, so its unit of work commits at the head and not buffered"),
    Line(logging.INFO, rf"{ROUTE}: attempt \d+ failed and is run again"),
    Line(logging.WARNING, rf"{ROUTE}: late write: the unit of work was changed after it had ended; .+"),
    Line(logging.WARNING, "a Retry of a middleware that is not the outermost one has no effect; give it to that one"),
    Line(logging.ERROR, rf"{ROUTE}: the unit of work {ENDED}", traceback=True),
    Line(logging.ERROR, rf"{ROUTE}: its connection could not be given up", traceback=True),
    Line(logging.ERROR, rf"{ROUTE}: (?:an on_start hook|commit_if) failed", traceback=True),
    Line(logging.ERROR, rf"{ROUTE}: its (?:held body is too large|body has no end)", traceback=True),
    Line(logging.ERROR, rf"{ROUTE}: it failed, and is not run again", traceback=True),
    Line(logging.ERROR, rf"{ROUTE}: Retry\.on failed, and the request is not run again", traceback=True),
    Line(logging.ERROR, rf"{ROUTE}: the (?:{STAGES}) hook [^ ].* failed", traceback=True),
    Line(logging.ERROR, r"the observer .+ failed in \w+\(\); further failures are not logged", traceback=True),
    Line(logging.ERROR, rf"{ROUTE}: (?!None).+ failed", traceback=True),  # a callback, by its repr
    # observing
    Line(logging.WARNING, rf"{ROUTE}: committed [\d.]+ ms after the first byte{IN}: .+"),
    Line(logging.WARNING, rf"{ROUTE}: a commit failed \(\w+\) [\d.]+ ms after the first byte{IN}, and the .+: .+"),
    Line(logging.WARNING, rf"\d+ of \d+ (?:{ROUTE}|\(other routes\)) committed after their first byte \(.+\)(; .+)?"),
    Line(logging.WARNING, r"and \d+ more routes did; late_commits\(\) tells of all"),
    Line(logging.ERROR, r"postresponse\.observing\.[\w.]+\(\) failed; further failures are not logged", traceback=True),
    # messaging
    Line(logging.ERROR, r"<.+> could not be woken", traceback=True),
    Line(logging.ERROR, f"{OF} is lost, and is tried until it is back", traceback=True),
    Line(logging.DEBUG, f"{OF} is still lost: .+"),
    Line(logging.INFO, f"{OF} is back"),
    Line(logging.WARNING, f"{OF} cannot be reached, and its messages wait: .+"),
    Line(logging.INFO, f"{OF} is reached again"),
    Line(logging.WARNING, rf"{OF}: \d+ of \d+ came back after their lease had expired, and somebody else has them"),
    Line(logging.WARNING, r"[\w.-]+ takes no \S+: left to a relay whose outbox allows it"),
    Line(logging.WARNING, r"[\w.-]+: \S+ [\w-]{36} failed, and comes again in [\d.]+ s: .+"),
    Line(logging.ERROR, r"[\w.-]+: \S+ [\w-]{36} is dead: .+", traceback=True),
    Line(logging.WARNING, r"[\w.-]+: \S+ [\w-]{36} is left alone: .+"),
    Line(logging.WARNING, "the relay does not start: .+"),
    # tenancy
    Line(logging.ERROR, rf"{ROUTE}: its tenant or its limits cannot be told", traceback=True),
    Line(logging.ERROR, rf"{ROUTE}: cut off, because it took longer than [\d.]+ s"),
    # work
    Line(logging.ERROR, "the job .+ failed", traceback=True),
    Line(logging.WARNING, r"the completion [0-9a-f]+-\d+ comes too late: what was suspended has gone on"),
    Line(logging.ERROR, "the job .+ is lost: .+"),
    Line(logging.ERROR, "(?:on_error|on_dropped) failed for the job .+", traceback=True),
    Line(logging.ERROR, "a done callback of the job .+ failed", traceback=True),
    Line(logging.INFO, r"closing, with \S+ s for .+"),
    Line(logging.DEBUG, "the job .+ cannot start", traceback=True),
    Line(logging.ERROR, rf"{ROUTE}: work after the response could not start", traceback=True),
    Line(logging.WARNING, r"the stream .+ is closed: .+ left it, .+; \d+ were put, \d+ taken, and \d+ wait"),
    # telemetry
    Line(logging.WARNING, r"\S+ cannot be counted, and its metrics are left out: .+"),
    Line(logging.INFO, r"\S+ is counted again"),
    # inspector
    Line(
        logging.WARNING,
        "the inspector was asked for in production, and is off: .+ answers 404, .+",
    ),
    Line(logging.WARNING, "the inspector at .+/ shows nothing: its middleware is inside of another .+"),
    Line(logging.WARNING, "the store of the inspector, .+, cannot be written: .+"),
    Line(logging.ERROR, "allow= of the inspector failed, and nobody is shown anything", traceback=True),
    # receivers
    Line(logging.WARNING, r".+: \S+ [0-9a-f-]{36} failed, and comes again in [\d.]+ s: .+"),
    Line(logging.WARNING, r".+: \S+ [0-9a-f-]{36} is left alone: .+"),
    Line(logging.ERROR, r".+: \S+ [0-9a-f-]{36} is given up: .+", traceback=True),
    Line(logging.ERROR, r".+: \S+ [0-9a-f-]{36} is given up: the filter .+"),
    Line(logging.ERROR, r".+: \S+ [0-9a-f-]{36} is given up: it has no UUID as its message_id, .+"),
    Line(logging.ERROR, r"on_dead_letter failed for \S+ [0-9a-f-]{36}", traceback=True),
    Line(logging.WARNING, r"the receiver of .+ is [a-z ]+: (?:pause|resume|stop)\(\) changes nothing"),
    Line(logging.WARNING, "the receiver of .+ does not start: .+"),
    Line(logging.WARNING, ".+: the service is degraded, and messages are put back"),
    Line(logging.INFO, ".+: the service is degraded no more"),
    Line(logging.ERROR, ".+: is_degraded failed, and the service counts as degraded", traceback=True),
    # transports
    Line(logging.WARNING, ".+ cannot be reached, and its messages wait: .+"),
    Line(logging.INFO, ".+ is reached again"),
    Line(logging.ERROR, ".+ is lost, and is tried until it is back", traceback=True),
    Line(logging.DEBUG, ".+ is still lost: .+"),
    Line(logging.INFO, ".+ is back"),
    Line(logging.WARNING, r".+: \d+ of \d+ came back after their lease had expired, and somebody else has them"),
    Line(logging.WARNING, r".+: the connection was lost before \d+ of \d+ could be acknowledged, and they come again"),
    Line(logging.WARNING, r".+: \S+ [0-9a-f-]{36} could not be put back: .+"),
    Line(logging.ERROR, ".+: what was put into its stream is no message, and is dropped: .+"),
    # adapters
    Line(logging.ERROR, rf"{ROUTE}: error_response failed; the default answers", traceback=True),
    Line(logging.ERROR, rf"{ROUTE}: the application raised after its response was replaced", traceback=True),
    Line(logging.ERROR, rf"{ROUTE}: a body that is discarded could not be closed", traceback=True),
    Line(logging.INFO, r"the application does not know lifespan, which is answered in its place: \w+\(.*\)"),
    Line(logging.WARNING, r"an unsafe place in the stack: .+ \(\d+: .+\); .+"),
    Line(logging.DEBUG, "the stack of .+ could not be looked into", traceback=True),
    # clean-up
    Line(logging.ERROR, r"<.+ takes longer than [\d.]+ s; its connection is severed"),
    Line(logging.ERROR, "a connection could not be severed", traceback=True),
    # messaging
    Line(logging.WARNING, r"the outbox for \S+ cannot be reached, and its messages wait: \w+: .+"),
    Line(logging.INFO, r"the outbox for \S+ is reached again"),
    # units of work
    Line(logging.WARNING, rf"{LOST}; the database says that it committed"),
    Line(logging.ERROR, "COMMIT succeeded, and what came behind it failed", traceback=True),
    Line(logging.DEBUG, "a transaction in doubt could not be looked up", traceback=True),
    Line(logging.ERROR, "the on_commit callback .+ failed", traceback=True),
    Line(logging.ERROR, rf"{ROUTE}: {NAME} could not .+", traceback=True),
    Line(logging.ERROR, rf"{ROUTE}: the connection of {NAME} could not be given up", traceback=True),
    Line(logging.ERROR, rf"{ROUTE}: interrupted half-way: .+"),
    Line(logging.WARNING, rf"{ROUTE}: {NAME} committed all the same", traceback=True),
    Line(logging.ERROR, rf"{ROUTE}: {NAME} is decided to commit, and somebody rolled it back", traceback=True),
    Line(logging.ERROR, rf"{ROUTE}: {NAME} .+ stays prepared as .+; to end it: .+", traceback=True),
    Line(logging.ERROR, rf"{ROUTE}: {NAME} .+ stays prepared as .+; to end it: .+"),
    # integrations
    Line(logging.ERROR, rf"{ROUTE}: an exception handler failed", traceback=True),
)


class Reader(logging.Handler):
    """Keeps the lines that are of no kind."""

    def __init__(self) -> None:
        super().__init__()
        self.strange: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Read one line."""
        if record.name != "postresponse":
            return
        try:
            known = any(line.is_of(record) for line in LINES)
            said = record.getMessage()
        except (TypeError, ValueError) as error:
            known, said = False, f"{record.msg!r} with {record.args!r}: {error}"
        if not known:
            traceback = "a" if record.exc_info else "no"
            self.strange.append(f"{record.levelname}, with {traceback} traceback: {said}")
