"""Who takes the work of all supervisors of this process: a test that wants to start it itself."""

from typing import Any, Final, Protocol

from postresponse.core.exchange import Exchange

__all__ = ["Captor", "captors", "wanted"]


class Captor(Protocol):
    """Takes work that was about to start."""

    def takes(self, job: Any, exchange: Exchange | None, timeout: float | None) -> bool:
        """Whether the `Job` *job* is the captor's to start, and not its supervisor's."""

    def wanted(self, job: Any) -> None:
        """Somebody is about to wait for *job*, and can start nothing meanwhile."""


captors: Final[list[Captor]] = []
"""The last one takes the work. Looked at once for each piece of work, and never by a request that has none."""


def wanted(job: Any) -> None:
    """Tell the captors, of which one may have taken it, that somebody is about to wait for *job*."""
    for captor in captors:
        captor.wanted(job)
