"""What is known to be broken: each entry is a promise that does not hold yet, and is deleted when it does.

An entry hides violations from the enumeration, and its example is a test that is expected to fail; so an entry that is
no longer true fails the suite.
"""

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final

from tests.faults.plan import Plan

__all__ = ["KNOWN", "Known", "is_known"]


@dataclass(frozen=True, slots=True)
class Known:
    """One reason why rules do not hold; *cases* and faults are patterns.

    Attributes:
        reason: Why.
        rules: Which.
        faults: One of these has happened.
        case: The example's case.
        example: Its faults.
        along: One of these as well; empty where one fault is enough.
        cases: In which cases.
    """

    reason: str
    rules: tuple[str, ...]
    faults: tuple[str, ...]
    case: str
    example: str
    along: tuple[str, ...] = ()
    cases: str = "*"

    def explains(self, rule: str, case: str, fired: list[str]) -> bool:
        """Whether this is why *rule* does not hold."""
        if rule not in self.rules or not fnmatchcase(case, self.cases):
            return False
        return _any(self.faults, fired) and (not self.along or _any(self.along, fired))


KNOWN: Final = (
    Known(
        "a KeyboardInterrupt keeps the rest of the settlement from running, and a WSGI exchange from its end",
        rules=("one_outcome", "truth", "connections", "over", "closed", "hooks", "told", "next"),
        faults=("* interrupt before", "* interrupt after"),
        case="after_send-wsgi-Fakes-streamed",
        example="hook.after_commit#1 interrupt before",
    ),
)


def is_known(rule: str, case: str, plan: Plan) -> bool:
    """Whether it is known why *rule* does not hold in *case*, after what has happened of *plan*."""
    fired = [str(fired.fault) for fired in plan.fired]
    return any(known.explains(rule, case, fired) for known in KNOWN)


def _any(patterns: tuple[str, ...], fired: list[str]) -> bool:
    return any(fnmatchcase(fault, pattern) for fault in fired for pattern in patterns)
