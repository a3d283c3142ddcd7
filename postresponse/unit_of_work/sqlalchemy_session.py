"""What one session of SQLAlchemy's did, transaction by transaction, and whether that may be, and was, committed."""

from typing import Final

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from postresponse.core.log import logger
from postresponse.exceptions import CommitRefused, PartialCommit
from postresponse.unit_of_work.in_doubt import Fate, judge
from postresponse.unit_of_work.sqlalchemy_transaction import Transaction, transaction_on
from postresponse.unit_of_work.statements import worst_of

__all__ = ["Use", "check_kept"]

_SWALLOWED: Final = (
    "a statement failed, its error was swallowed, and the database has given up the transaction; let the error "
    "through, put what may fail into session.begin_nested(), or roll back on purpose with doom()"
)


# No savepoint is left to go back to.
_ROLLED_BACK: Final = (
    "a statement failed, its error was swallowed, and the database has rolled back all that came before it; let the "
    "error through, so that the request can be run again, or roll back on purpose with doom()"
)


class Use:
    """What one session did since it was made or closed: seen by SQLAlchemy's events, with no reference back to it."""

    __slots__ = ("_asks", "_committed", "_error", "transactions")

    def __init__(self) -> None:
        self._asks = False
        self._committed = False
        self._error: BaseException | None = None
        self.transactions: dict[Connection, Transaction] = {}

    @property
    def error(self) -> BaseException | None:
        """The error of a statement in the session's transaction, or in its last one."""
        return worst_of(each.error for each in self.transactions.values()) or self._error

    @property
    def committed(self) -> bool:
        """Whether anything was committed, ever: by a COMMIT that was sent and not refused, or without one."""
        each = self.transactions.values()
        return self._committed or any(one.kept or (one.sent and not one.refused) for one in each)

    def closed(self) -> None:
        self._error = self.error
        self._forget()

    def _forget(self) -> None:
        self._committed = self.committed
        self._asks = False
        for each in self.transactions.values():
            each.error = None  # the connection keeps its transaction in the pool
        self.transactions.clear()

    def on_begin(self, session: Session, transaction: object, connection: Connection) -> None:
        if connection in self.transactions and transaction_on(connection) is self.transactions[connection]:
            return  # a savepoint
        if not any(other.in_transaction() for other in self.transactions if other is not connection):
            self._forget()
            self._error = None
        self.transactions[connection] = Transaction(connection, asks=self._asks)
        if len(self.transactions) > 1:
            for each in self.transactions.values():
                each.is_alone = False

    def on_commit(self) -> None:
        """From now on every COMMIT is the unit's own."""
        self._asks = True
        for each in self.transactions.values():
            each.asks = True

    def on_commit_failed(self, error: Exception) -> None:
        for connection, each in self.transactions.items():
            each.on_commit_failed(connection, error)

    def lost(self) -> list[tuple[Connection, Transaction]]:
        """The transactions that may be lost with a statement that failed."""
        return [(connection, each) for connection, each in self.transactions.items() if each.failed or each.running]

    def is_committed(self, fates: list[Fate], error: Exception) -> bool:
        """Tell whether all is committed in spite of the *error* that the session's commit raised.

        Raises:
            CommitInDoubt: Nobody knows.
            PartialCommit: Of several databases some committed.
            CommitRefused: The connection was lost, and the transaction rolled back.
        """
        known = list(zip(self.transactions.values(), fates, strict=True))
        for each, fate in known:
            each.refused = each.refused or fate is Fate.ABORTED
        known = [(each, fate) for each, fate in known if not each.is_empty] or known
        if any(fate is Fate.UNKNOWN for _, fate in known):
            judge(Fate.UNKNOWN, error)
        committed = tuple(repr(each.engine.url) for each, fate in known if fate is Fate.COMMITTED)
        failed = tuple(repr(each.engine.url) for each, fate in known if fate is Fate.ABORTED)
        if committed and failed:
            raise PartialCommit(committed, failed[0], failed[1:]) from error
        if any(each.lost for each, _ in known):
            judge(Fate.COMMITTED if committed else Fate.ABORTED, error)
        elif committed:
            logger.error("COMMIT succeeded, and what came behind it failed", exc_info=error)
        return bool(committed)


def check_kept(suspects: list[tuple[Connection, Transaction]]) -> None:
    """Refuse to commit what the database has given up already, behind a statement whose error was swallowed.

    PostgreSQL answers such a COMMIT with a rollback and no error. Others have rolled back at the error (`gave_up`), and
    COMMIT then keeps only what came after it.
    """
    for connection, transaction in suspects:
        if connection.dialect.name == "postgresql":
            try:
                connection.exec_driver_sql("SELECT 1")
            except SQLAlchemyError:
                raise CommitRefused(_SWALLOWED) from transaction.error
        elif transaction.gave_up:
            raise CommitRefused(_ROLLED_BACK) from transaction.error
