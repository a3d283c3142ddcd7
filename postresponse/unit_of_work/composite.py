"""Several units of work for one request: `Chained`, one after the other, and `TwoPhase`, all or none.

`TwoPhase` needs SQLAlchemy, which is loaded when it is first asked for.
"""

from typing import TYPE_CHECKING, Any, ClassVar

from postresponse.core.log import logger
from postresponse.exceptions import CommitInDoubt, PartialCommit
from postresponse.unit_of_work.composing import Composite
from postresponse.unit_of_work.members import Call, Calls, Member, Members

if TYPE_CHECKING:
    from postresponse.unit_of_work.two_phase import TwoPhase

__all__ = ["Chained", "TwoPhase"]


class _ChainedMembers(Members):
    __slots__ = ()

    def commit(self) -> Calls[None]:
        self._due = due = [member for member in self.members if member.takes_part]
        yield from self.flush()
        for number, member in enumerate(due):
            try:
                yield Call(member, member.unit.commit)
            except GeneratorExit:
                raise
            except BaseException as error:
                if number > 0:
                    self._half_way(PartialCommit(_names(due[:number]), member.name, _names(due[number + 1 :])), error)
                raise
            member.settled = True

    def _half_way(self, partial: PartialCommit, error: BaseException) -> None:
        """Raise that *error* came after others had committed; what ends a process passes, and only the log says it.

        An exit out of COMMIT says nothing of how that one went on, and the core takes it for unknown.
        """
        if isinstance(error, CommitInDoubt):
            partial.__cause__ = error
            raise CommitInDoubt(
                f"nobody knows whether {partial.failed} committed, after {', '.join(partial.committed)} had"
            ) from partial
        if isinstance(error, Exception):
            raise partial from error
        logger.error("%s: interrupted half-way: %s", self.route, partial)


def _names(members: list[Member]) -> tuple[str, ...]:
    return tuple(member.name for member in members)


class Chained(Composite):
    """Several units of work of one request, committed one after the other.

    They commit in the order that they are given in and are rolled back in reverse. One that the request did not touch
    costs nothing, and one that the handler ended itself is left alone. Before the first commit each that has a `flush`,
    as sessions have, is told to send what it still holds, so that most of what can fail does so while nothing is
    committed.

    When a later one fails after an earlier one has committed, the outcome is `failed`, and its exception a
    `PartialCommit` that names which did what; the request is never run again. If nobody knows whether it committed,
    that is a `CommitInDoubt` (and the outcome `unknown`) whose `__cause__` is the `PartialCommit`. Where that must not
    happen, and all are SQLAlchemy sessions on PostgreSQL or MariaDB, `TwoPhase` prepares all of them first.

    Args:
        members: Two or more factories of units of work, by the names that errors and logs call them by; all sync, or
            all async.

    Raises:
        ConfigurationError: Less than two, the same one twice, or what is no factory.
        WrongApplication: Sync and async ones; raised for the request where only their units of work tell.

    Example:
        >>> from sqlalchemy import create_engine
        >>> from sqlalchemy.orm import sessionmaker
        >>> from postresponse.unit_of_work.sqlalchemy import SQLAlchemyUnitOfWork
        >>> orders = SQLAlchemyUnitOfWork(sessionmaker(create_engine("sqlite://")))
        >>> audit = SQLAlchemyUnitOfWork(sessionmaker(create_engine("sqlite://")))
        >>> both = Chained(orders=orders, audit=audit)
    """

    rules: ClassVar[type[Members]] = _ChainedMembers


def __getattr__(name: str) -> Any:
    if name == "TwoPhase":
        from postresponse.unit_of_work.two_phase import TwoPhase

        return TwoPhase
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
