"""Two-phase commit without a log of its own: one of the databases decides, and its own log says what it decided.

The first member in order that wrote is the decider; it is on PostgreSQL. Each transaction is prepared under a name that
says which transaction of the decider's it follows (`prepared.py`).

1. Every session sends what it holds, and each transaction is asked whether it wrote. Those that only read commit now,
   and where one alone wrote it commits as ever: there is nothing to be decided.
2. The decider is prepared, and then the others. In this order, because an id that was not written to disk may be given
   to another transaction after a crash of the server; so nobody else is prepared before the decider's own is on disk.
3. The decider commits its prepared transaction. That is the decision, and whoever asks its server gets to know it, as
   long as that is the same one: after a failover nobody is asked (`prepared.py` tells why).
4. The others commit theirs.

Whatever happens up to step 3, everything is rolled back, by us or by the recovery. From the moment that the decider's
commit is sent nothing is rolled back here until its server has said that it did not commit; and once it has committed,
the whole is committed, even if another stays prepared for a while, until the recovery commits it.
"""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar, TypeVar

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.orm import Session
from sqlalchemy.util import greenlet_spawn

from postresponse.core.exchange import Exchange
from postresponse.core.log import logger
from postresponse.exceptions import CommitInDoubt, CommitRefused, ConfigurationError, UnitOfWorkError
from postresponse.unit_of_work.branch import FIRST, Branch, Stage, session_of
from postresponse.unit_of_work.composing import Composite
from postresponse.unit_of_work.in_doubt import Fate, alook_up, look_up
from postresponse.unit_of_work.members import ERRORS, Call, Calls, Member, Members
from postresponse.unit_of_work.prepared import ERA, POSTGRESQL, WAY_OUT, Name, check_name
from postresponse.unit_of_work.sqlalchemy import AsyncSQLAlchemyUnitOfWork, SQLAlchemyUnitOfWork
from postresponse.unit_of_work.statements import _GIVEN_UP, sqlstate_of

__all__ = ["TwoPhase"]

T = TypeVar("T")


class _Member(Member):
    __slots__ = ("_is_async", "branch")

    def __init__(self, name: str, unit: Any, branch: Branch) -> None:
        super().__init__(name, unit)
        self.branch = branch
        self._is_async = inspect.iscoroutinefunction(unit.commit)
        unit._make = branch.watch(unit._make)

    @property
    def session(self) -> Session:
        return session_of(self.unit.session)

    def decide(self) -> Name:
        """Return the name of this member's own transaction, which is to decide; begin it if it has not begun."""
        connection = self.session.connection()
        transaction, timeline, _ = connection.exec_driver_sql(f"SELECT pg_current_xact_id()::text, {ERA}").one()
        return Name(self.name, self.branch.system, int(transaction), timeline=timeline)

    def inside(self, call: Callable[[Session], T]) -> Any:
        """Call with the session, or return what can be awaited for it."""
        return self.unit.session.run_sync(call) if self._is_async else call(self.unit.session)

    def anew(self, attempt: Callable[[], Fate | None]) -> Any:
        """Repeat *attempt* until it says how it ended, or too much time has passed; or return what can be awaited."""
        return alook_up(partial(greenlet_spawn, attempt)) if self._is_async else look_up(attempt)


class _TwoPhaseMembers(Members):
    __slots__ = ("_command",)

    members: tuple[_Member, ...]

    def __init__(self, members: tuple[_Member, ...], exchange: Exchange) -> None:
        super().__init__(members, exchange)
        self._command = "postresponse recover " + " ".join(f"{member.name}=URL" for member in members)

    def commit(self) -> Calls[None]:
        due = [member for member in self.members if member.takes_part]
        self._due = [*due]
        if len(due) == 1:
            yield from self._commit_alone(due[0])
            return
        ids = {}
        for member in due:
            ids[member] = yield from self._vote(member)
        writers = {member: transaction for member, transaction in ids.items() if transaction is not None}
        for member in due:
            if member not in writers:
                yield from self._commit_reader(member)
        if len(writers) > 1:
            yield from self._commit_writers(writers)
        elif writers:
            yield from self._commit_alone(*writers)

    def _vote(self, member: _Member) -> Calls[int | None]:
        try:
            voted: int | None = yield Call(member, partial(member.inside, member.branch.vote))
        except DBAPIError as error:
            if sqlstate_of(error) != _GIVEN_UP:
                raise
            raise CommitRefused(
                f"{member.name}: a statement failed, its error was swallowed, and the transaction can only be rolled "
                "back; let the error through, or put what may fail into session.begin_nested()"
            ) from (member.unit.statement_error or error)
        return voted

    def _commit_alone(self, member: _Member) -> Calls[None]:
        if member.branch.is_promised:
            raise _decided_early(member)
        yield Call(member, member.unit.commit)
        member.settled = True

    def _commit_reader(self, member: _Member) -> Calls[None]:
        try:
            yield from self._commit_alone(member)
        except CommitInDoubt as error:
            raise CommitRefused(f"{member.name}, which wrote nothing, lost its connection inside COMMIT") from error

    def _commit_writers(self, writers: dict[_Member, int]) -> Calls[None]:
        decider, *others = writers
        for member, name in _names(writers).items():
            yield Call(member, partial(member.inside, _ignoring(partial(member.branch.prepare, name))))
        for member in writers:
            member.branch.stage = Stage.HANDS_OFF
        yield from self._decide(decider, others)
        passing: BaseException | None = None
        for member in others:
            passing = (yield from self._follow(member)) or passing
        if passing is not None:
            raise passing

    def _decide(self, decider: _Member, others: list[_Member]) -> Calls[None]:
        """Commit the decider's prepared transaction, which decides for all.

        Raises:
            CommitInDoubt: Nobody knows whether it did, and all stay prepared.
            CommitRefused: It did not and never will, and the others are to be rolled back.
        """
        try:
            yield Call(decider, partial(decider.inside, Session.commit))
        except ERRORS as error:
            yield from self._give_up(decider)
            fate = yield Call(decider, partial(decider.anew, decider.branch.commit_anew))
            if fate is not Fate.UNKNOWN:
                decider.branch.stage = Stage.ENDED
            if fate is Fate.COMMITTED:
                logger.warning("%s: %s committed all the same", self.route, decider.name, exc_info=error)
                return
            if fate is Fate.UNKNOWN:
                raise CommitInDoubt(
                    f"nobody knows whether {decider.name} committed, and {' and '.join(each.name for each in others)} "
                    f"wait for it, prepared; to end them: {self._command}"
                ) from error
            for member in others:
                member.branch.stage = Stage.PREPARED
            raise CommitRefused(
                f"{decider.name} was rolled back before it could decide, by a recovery or by hand"
            ) from error
        decider.settled = True

    def _follow(self, member: _Member) -> Calls[BaseException | None]:
        """Commit what the decider has decided; whatever happens here changes nothing of it."""
        try:
            yield Call(member, partial(member.inside, Session.commit))
        except GeneratorExit:
            raise
        except BaseException as error:
            # First, because MariaDB lets nobody else end what a connection holds that is still there.
            passing = yield from self._give_up(member)
            fate = yield Call(member, partial(member.anew, member.branch.commit_anew))
            member.branch.stage = Stage.ENDED  # all that can be done for it here is done
            if fate is Fate.COMMITTED:
                logger.warning("%s: %s committed all the same", self.route, member.name, exc_info=error)
            elif fate is Fate.ABORTED:
                logger.error(
                    "%s: %s is decided to commit, and somebody rolled it back", self.route, member.name, exc_info=error
                )
            else:
                self._say_left(member, "is decided to commit and, unless its server has lost it,", error)
            return passing if isinstance(error, ERRORS) else error
        member.settled = True
        return None

    def rollback(self) -> Calls[None]:
        """Roll back those that take part, in reverse, but none whose decision may have been made."""
        yield from self._undo(self._roll_back_open)

    def invalidate(self) -> Calls[None]:
        """Give up those that are neither committed nor rolled back; what they prepared is rolled back all the same."""
        yield from self._undo(self._give_up_all)

    def _undo(self, how: Callable[[], Calls[BaseException | None]]) -> Calls[None]:
        passing: BaseException | None = None
        for member in self.members:
            if member.branch.stage is Stage.HANDS_OFF and not member.settled:
                self._say_left(member, "waits for a decision and", None)
                passing = (yield from self._give_up(member)) or passing
                member.branch.stage = Stage.ENDED
        passing = (yield from how()) or passing
        for member in self.members:
            if member.branch.stage in (Stage.PREPARING, Stage.PREPARED):
                yield from self._roll_back_anew(member)
        if passing is not None:
            raise passing

    def _roll_back_open(self) -> Calls[BaseException | None]:
        return self._roll_back_all(self._open())

    def _roll_back_anew(self, member: _Member) -> Calls[None]:
        """Roll back what its own connection could not; if PREPARE was not answered, there may be nothing as yet."""
        fate = yield Call(member, partial(member.anew, member.branch.roll_back_anew))
        if fate is not Fate.ABORTED or member.branch.stage is Stage.PREPARING:
            self._say_left(member, "may be prepared, and if so", None)
        member.branch.stage = Stage.ENDED

    def _say_left(self, member: _Member, why: str, error: BaseException | None) -> None:
        logger.error(
            "%s: %s %s stays prepared as %s; to end it: %s",
            self.route,
            member.name,
            why,
            member.branch.name,
            self._command,
            exc_info=error,
        )

    def close(self) -> Calls[None]:
        """Close those that are touched."""
        try:
            yield from super().close()
        finally:
            for member in self.members:
                member.branch.forget()


def _ignoring(call: Callable[[], None]) -> Callable[[Session], None]:
    return lambda session: call()


def _names(writers: dict[_Member, int]) -> dict[_Member, Name]:
    """Return the names to prepare under, the decider's first."""
    decider, *others = writers
    if decider.branch.database is not POSTGRESQL:
        raise _decided_early(decider)
    own = Name(decider.name, decider.branch.system, writers[decider], timeline=decider.branch.timeline)
    names = {decider: own} | {member: own._replace(branch=member.branch.number) for member in others}
    for member, name in names.items():
        if member.branch.name not in (None, name):
            raise UnitOfWorkError(
                f"{member.name} follows {member.branch.name}, and {own} decides: the handler ended a transaction of "
                f"the first member after {member.name} had begun; leave that to the middleware"
            )
    return names


def _decided_early(member: _Member) -> UnitOfWorkError:
    return UnitOfWorkError(
        f"{member.name} is on MariaDB, which cannot decide, and its decider was ended early: the handler ended the "
        "first member's transaction; leave that to the middleware"
    )


class TwoPhase(Composite):
    """Several SQLAlchemy sessions of one request, committed all or none, also if the process dies in between.

    They are prepared in order and then committed; a failure before the first commit rolls all of them back, whatever
    fails later is committed by the next recovery. Sessions that the request did not use, or only read with, take no
    part; if one alone wrote, it commits as it would by itself.

    What a process leaves prepared when it dies holds its locks until `postresponse recover` is run, or
    `postresponse.unit_of_work.recovery.recover`: run it after a crash, or every few minutes. It is safe to run while
    the application serves.

    The first member has to be on PostgreSQL 13 or later; the others may be on MariaDB 10.5 or later as well, each on a
    database of its own or not. PostgreSQL needs `max_prepared_transactions` above zero, and refuses to prepare a
    transaction with temporary tables or NOTIFY in it. One with NOTIFY and no write counts as one that only read, and
    those commit before anything is decided, so that a serialization failure of theirs still rolls all back: it is sent
    even if the request is then answered with an error. On MariaDB, a session's first statement also begins the first
    member's transaction, and a handler must not end that one by itself.

    A commit of the first member that is not answered is looked up. If nobody can tell, the outcome is `unknown`, and
    all stay prepared until the recovery has found out; or, where the server that decided was lost to a failover or a
    restore, until you have.

    Args:
        members: Two or more `SQLAlchemyUnitOfWork`, or two or more `AsyncSQLAlchemyUnitOfWork`, by name. The first one
            that wrote decides, so its name is a part of each prepared transaction's: keep it when you deploy.

    Raises:
        ConfigurationError: Less than two, the same one twice, a name of more than 16 letters, or a database that keeps
            no prepared transactions; raised by a session's first statement where only the connection tells. There a
            session that uses a second database is refused as well, with a `UnitOfWorkError`.
        WrongApplication: Sync and async ones.

    Example:
        >>> from sqlalchemy import create_engine
        >>> from sqlalchemy.orm import sessionmaker
        >>> orders = SQLAlchemyUnitOfWork(sessionmaker(create_engine("postgresql+psycopg:///orders")))
        >>> audit = SQLAlchemyUnitOfWork(sessionmaker(create_engine("postgresql+psycopg:///audit")))
        >>> both = TwoPhase(orders=orders, audit=audit)
    """

    rules: ClassVar[type[Members]] = _TwoPhaseMembers

    def __init__(self, /, **members: SQLAlchemyUnitOfWork | AsyncSQLAlchemyUnitOfWork) -> None:
        super().__init__(**members)

    def _check(self) -> None:
        super()._check()
        for number, (name, factory) in enumerate(self._factories.items()):
            owner = f"TwoPhase: {name}"
            check_name(name, owner)
            if not isinstance(factory, SQLAlchemyUnitOfWork | AsyncSQLAlchemyUnitOfWork):
                raise ConfigurationError(
                    f"{owner}: expected a SQLAlchemyUnitOfWork or an AsyncSQLAlchemyUnitOfWork, found {factory!r}; "
                    "Chained takes any unit of work"
                )
            dialect = _dialect_of(factory)
            if dialect is not None and dialect not in ("postgresql", "mysql", "mariadb"):
                raise ConfigurationError(f"{owner} is on {dialect}, which keeps no prepared transactions; {WAY_OUT}")
            if number == 0 and dialect not in (None, "postgresql"):
                raise ConfigurationError(f"{owner} is on {dialect}, which cannot decide; {FIRST}")

    def _members_of(self, units: Mapping[str, Any]) -> tuple[_Member, ...]:
        members: list[_Member] = []
        for number, (name, unit) in enumerate(units.items()):
            branch = Branch(f"TwoPhase: {name}", number, members[0].decide if members else None)
            members.append(_Member(name, unit, branch))
        return tuple(members)


def _dialect_of(factory: Any) -> str | None:
    """Return the name of the dialect that *factory* makes sessions on, where its sessionmaker tells."""
    bind = getattr(factory._make, "kw", {}).get("bind")
    return str(bind.dialect.name) if isinstance(bind, Engine | AsyncEngine) else None
