"""A session on MariaDB that ends in one phase, behind a PostgreSQL that does not decide for it."""

from typing import Any

import pytest
from sqlalchemy import create_engine, event, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker
from werkzeug.test import create_environ, run_wsgi_app

from postresponse import CommitPolicy, Outcome, Retry, current_exchange, wsgi
from postresponse.exceptions import CommitInDoubt, UnitOfWorkError
from postresponse.unit_of_work.composite import TwoPhase
from postresponse.unit_of_work.sqlalchemy import SQLAlchemyUnitOfWork
from tests.unit_of_work.two_databases import READ, WRITE, MixedShop

pytestmark = [pytest.mark.service("own postgresql"), pytest.mark.service("mariadb")]


class Base(DeclarativeBase):
    pass


class Item(Base):
    __tablename__ = "item"
    id: Mapped[int] = mapped_column(primary_key=True)


class Site:
    """An application that calls *view* with its sessions by name, and what became of each request."""

    def __init__(self, shop: MixedShop, view: Any, **options: Any) -> None:
        self.shop = shop
        self.engines = {name: create_engine(shop.url(name)) for name in shop.members}
        self.outcomes: list[Outcome] = []
        members = {name: SQLAlchemyUnitOfWork(sessionmaker(engine)) for name, engine in self.engines.items()}

        def app(environ: Any, start_response: Any) -> list[bytes]:
            view(members)
            start_response("201 Created", [("Content-Type", "text/plain")])
            return [b"stored"]

        unit_of_work = TwoPhase(**members)
        self.app = wsgi.PostResponseMiddleware(
            app, unit_of_work=unit_of_work, on_finished=self.outcomes.append, **options
        )

    def lose(self, statement: str, *, arrives: bool) -> None:
        """Cut MariaDB's connection at *statement*, which is carried out before or not; once."""
        pending = [statement]

        def cut(cursor: Any, said: str, *others: Any) -> None:
            if pending and said.startswith(pending[0]):
                pending.clear()
                if arrives:
                    cursor.execute(said)
                self.shop.cut("audit")
                cursor.execute("SELECT 1")  # which finds out

        event.listen(self.engines["audit"], "do_execute", cut)
        event.listen(self.engines["audit"], "do_execute_no_params", cut)

    def post(self) -> tuple[str, str]:
        """Answer one request; the status, and what became of the unit of work."""
        try:
            _, status, _ = run_wsgi_app(self.app, create_environ("/orders"), buffered=True)
        finally:
            for engine in self.engines.values():
                engine.dispose()
        return status[:3], str(self.outcomes[-1].unit_of_work)


def stores_at_the_commit(members: Any) -> None:
    """Sends nothing before: so the first member has not begun either."""
    members["audit"].session.add(Item(id=1))


def test_a_commit_in_one_phase_whose_answer_is_lost_is_unknown(mixed: MixedShop) -> None:
    site = Site(mixed, stores_at_the_commit)
    site.lose("XA COMMIT", arrives=True)
    assert site.post() == ("503", "unknown")
    assert isinstance(site.outcomes[0].exception, CommitInDoubt)
    assert mixed.stored == [[], [1]]


def test_a_commit_in_one_phase_that_was_not_sent_when_the_connection_was_lost_is_no_doubt(mixed: MixedShop) -> None:
    site = Site(mixed, stores_at_the_commit)
    site.lose("XA END", arrives=False)
    assert site.post() == ("500", "failed")
    assert mixed.stored == [[], []]


def test_a_commit_in_one_phase_by_the_handler_whose_answer_is_lost_is_not_run_again(mixed: MixedShop) -> None:
    attempts: list[int] = []

    def view(members: Any) -> None:
        attempts.append(current_exchange().attempt)
        members["audit"].session.execute(text(WRITE.format(len(attempts))))
        members["audit"].session.commit()

    retry = Retry(on=lambda error: isinstance(error, DBAPIError), backoff=0)
    site = Site(mixed, view, commit=CommitPolicy(retry=retry))
    site.lose("XA COMMIT", arrives=True)
    with pytest.raises(DBAPIError):
        site.post()
    assert (attempts, mixed.stored) == ([1], [[], [1]])


@pytest.mark.parametrize("reads", [False, True], ids=["", "reads again"])
@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_it_does_not_commit_alone_where_the_handler_ended_the_one_that_was_to_decide(
    mixed: MixedShop, end: str, reads: bool
) -> None:
    def view(members: Any) -> None:
        members["audit"].session.execute(text(WRITE.format(1)))
        orders: Session = members["orders"].session
        orders.execute(text(WRITE.format(1)))
        getattr(orders, end)()
        if reads:
            orders.execute(text(READ))

    site = Site(mixed, view)
    assert site.post() == ("500", "failed")
    assert isinstance(site.outcomes[0].exception, UnitOfWorkError)
    assert "its decider was ended early: the handler ended the first member's" in str(site.outcomes[0].exception)
    assert mixed.stored == [[1] if end == "commit" else [], []]


def test_one_that_writes_again_once_the_handler_ended_both_commits_alone(mixed: MixedShop) -> None:
    def view(members: Any) -> None:
        members["audit"].session.execute(text(WRITE.format(1)))
        members["audit"].session.commit()
        members["orders"].session.rollback()
        members["audit"].session.add(Item(id=2))

    assert Site(mixed, view).post() == ("201", "committed")
    assert mixed.stored == [[], [1, 2]]
