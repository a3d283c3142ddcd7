"""What became of a transaction whose COMMIT was never answered: PostgreSQL is asked, on a new connection.

Before COMMIT the id of the transaction is asked for: one round trip, for a transaction that may have written. One that
only read, by the look of its statements, is not asked about, and nothing is known of it if it is lost. One that turns
out to have no id wrote nothing, so that nothing of it can be lost (but for what has no id until COMMIT: a NOTIFY alone,
and writes through a foreign data wrapper).

An id names the same transaction only while its server lives. What a crash took before it was on disk, or a failover
before it was on the standby, is forgotten, and its id given to another transaction: "committed" would be said of that
one. So the life of the server is asked for with the id, and an answer out of another life is none.
"""

import enum
import queue
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager, suppress
from typing import Any, Final, NamedTuple

from anyio import sleep

from postresponse.core.log import logger
from postresponse.exceptions import CommitInDoubt, CommitRefused
from postresponse.shielding import time_limit
from postresponse.unit_of_work.statements import sqlstate_of

__all__ = [
    "Fate",
    "Ticket",
    "alook_up",
    "ask",
    "foregone",
    "is_answer_of_mysql",
    "judge",
    "look_up",
    "run",
    "ticket_of",
    "was_refused",
]


LIMIT: float = 5.0
"""Seconds that a look-up may take, from the first attempt to the last."""

Query = Callable[[str], Any]
"""Runs a statement and returns its first row, or None where it has none."""

# A restart changes the one and a crash or a failover the other; in numbers, which no setting of the session changes.
_LIFE: Final = (
    "(extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint::text || '/' "
    "|| coalesce(pg_last_wal_replay_lsn()::text, '')"
)
_TICKET: Final = f"SELECT pg_current_xact_id_if_assigned()::text, {_LIFE}"
_ABLE: Final = "postresponse.in_doubt"

# Connection exceptions, a server that goes down, and "statement completion unknown": no answer to a COMMIT.
_NO_ANSWER: Final = ("08", "57P", "40003")

# The same of MySQL and MariaDB: the server goes down, the connection was killed, or had timed out; besides those that
# the client makes itself.
_KILLED: Final = (1053, 1927, 4031)
_CLIENT: Final = range(2000, 3000)


class Fate(enum.Enum):
    """What became of a transaction."""

    COMMITTED = "committed"
    ABORTED = "aborted"
    UNKNOWN = "unknown"


class Ticket(NamedTuple):
    """What a transaction is looked up by.

    Attributes:
        id: Its id; None for one that wrote nothing.
        life: The life of the server that it ran in.
    """

    id: str | None
    life: str


def ticket_of(query: Query, memory: MutableMapping[Any, Any]) -> Ticket | None:
    """Ask for the ticket of the transaction that *query* runs in; None from a server that has none to give.

    Args:
        query: Runs in the transaction.
        memory: Kept as long as the connection is, to know whether its server can be asked.
    """
    able = memory.get(_ABLE)
    if able is None:
        ticket = _ticket_or_none(query)
        memory[_ABLE] = ticket is not None
        return ticket
    return Ticket(*query(_TICKET)) if able else None


def _ticket_or_none(query: Query) -> Ticket | None:
    """Ask inside a savepoint: where the functions are missing (before 13, or in a relative) the error costs nothing."""
    query("SAVEPOINT postresponse")
    try:
        ticket = Ticket(*query(_TICKET))
    except Exception as error:
        if not was_refused(error):
            raise
        query("ROLLBACK TO SAVEPOINT postresponse")
        ticket = None
    query("RELEASE SAVEPOINT postresponse")
    return ticket


def was_refused(error: BaseException) -> bool:
    """Tell whether *error*, the driver's or one around it, is an answer of PostgreSQL's: that nothing committed.

    Any other leaves a COMMIT in doubt. That a connection is lost is not flagged each time: asyncpg sees the end of the
    stream after it has raised the FATAL error before it, and raises an OSError or a TimeoutError as it is.
    """
    state = sqlstate_of(error)
    return state is not None and not state.startswith(_NO_ANSWER)


def is_answer_of_mysql(error: BaseException) -> bool:
    """Tell whether *error* is an answer of MySQL's or MariaDB's: that nothing committed."""
    code = error.args[0] if error.args else None
    return isinstance(code, int) and code not in _CLIENT and code not in _KILLED


def judge(fate: Fate, error: Exception) -> None:
    """Return if what was lost inside COMMIT has committed all the same.

    Raises:
        CommitInDoubt: Nobody knows.
        CommitRefused: It was rolled back.
    """
    if fate is Fate.UNKNOWN:
        raise CommitInDoubt("the connection was lost inside COMMIT; nobody knows whether it committed") from error
    if fate is Fate.ABORTED:
        raise CommitRefused("the connection was lost inside COMMIT, and the database has rolled back") from error
    logger.warning("the connection was lost inside COMMIT; the database says that it committed")


def run(connection: Any, statement: str) -> Any:
    """Run *statement* on a driver's *connection* and return its first row; `partial(run, connection)` is a `Query`."""
    cursor = connection.cursor()
    try:
        cursor.execute(statement)
        return cursor.fetchone() if cursor.description else None
    finally:
        cursor.close()


def foregone(ticket: Ticket | None) -> Fate | None:
    """Tell what is known of *ticket*'s transaction without asking; None where it has to be looked up."""
    if ticket is None:
        return Fate.UNKNOWN
    return Fate.COMMITTED if ticket.id is None else None


def ask(query: Query, ticket: Ticket) -> Fate | None:
    """Ask what became of *ticket*'s transaction; None while it is still in progress."""
    assert ticket.id is not None
    status, life = query(f"SELECT pg_xact_status('{int(ticket.id)}'::xid8), {_LIFE}")
    if life != ticket.life:
        return Fate.UNKNOWN
    return {"committed": Fate.COMMITTED, "aborted": Fate.ABORTED, "in progress": None}.get(status, Fate.UNKNOWN)


def look_up(attempt: Callable[[], Fate | None]) -> Fate:
    """Call *attempt*, which connects anew and asks, until it answers or `LIMIT` has passed.

    The server may refuse connections for a while, and the lost connection's backend may still be at work. Called on a
    thread of its own, which is left behind where the network is dark: to connect there takes minutes to fail.
    """
    answers: queue.SimpleQueue[Fate] = queue.SimpleQueue()

    def ask_until_known() -> None:
        for pause in _pauses():
            with _failures_logged():
                if (fate := attempt()) is not None:
                    return answers.put(fate)
            time.sleep(pause)

    threading.Thread(target=ask_until_known, name="postresponse look-up", daemon=True).start()
    try:
        return answers.get(timeout=LIMIT)
    except queue.Empty:
        return Fate.UNKNOWN


async def alook_up(attempt: Callable[[], Awaitable[Fate | None]]) -> Fate:
    """Do as `look_up` with an *attempt* to be awaited; one that hangs is cancelled."""
    with suppress(TimeoutError):
        async with time_limit(LIMIT):
            for pause in _pauses():
                with _failures_logged():
                    if (fate := await attempt()) is not None:
                        return fate
                await sleep(pause)
    return Fate.UNKNOWN


def _pauses() -> Iterator[float]:
    """Give the seconds to wait between attempts, short ones first, until `LIMIT` has passed."""
    ends, pause = time.monotonic() + LIMIT, 0.02
    while time.monotonic() < ends:
        yield pause
        pause = min(2 * pause, 0.5)


@contextmanager
def _failures_logged() -> Iterator[None]:
    try:
        yield
    except Exception:
        logger.debug("a transaction in doubt could not be looked up", exc_info=True)
