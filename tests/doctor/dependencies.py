"""Dependencies that commit behind their yield, and their near misses, which do not."""

import functools
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Annotated, Any, Self

from django.db import transaction
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, scoped_session, sessionmaker

ENGINE = create_engine("sqlite://")
Maker = sessionmaker(ENGINE)
AsyncMaker = async_sessionmaker(create_async_engine("sqlite+aiosqlite://"))
Scoped = scoped_session(Maker)


class Settings:
    """What an application often has: an object with everything on it."""

    engine = ENGINE
    sessions = Maker

    @property
    def session(self) -> Session:
        return Maker()

    @staticmethod
    @contextmanager
    def transaction() -> Iterator[Session]:
        with Maker.begin() as session:
            yield session


settings = Settings()

# -- they commit late -------------------------------------------------------------------------------------------------


async def plain() -> AsyncIterator[AsyncSession]:
    async with AsyncMaker() as session:
        yield session
        await session.commit()


def in_a_finally() -> Iterator[Session]:
    session = Maker()
    try:
        yield session
    finally:
        session.commit()
        session.close()


def in_an_else() -> Iterator[Session]:
    session = Session(ENGINE)
    try:
        yield session
    except Exception:
        session.rollback()
        raise
    else:
        session.commit()


def if_nothing_failed(committing: bool = True) -> Iterator[Session]:
    session = Scoped()
    yield session
    if committing:
        session.commit()


def around_a_sessionmaker() -> Iterator[Session]:
    with Maker.begin() as session:
        yield session


async def around_a_session() -> AsyncIterator[AsyncSession]:
    async with AsyncMaker() as session, session.begin():
        yield session


def around_an_engine() -> Iterator[Connection]:
    with settings.engine.begin() as connection:
        yield connection


def of_an_attribute() -> Iterator[Session]:
    with settings.sessions() as session:
        yield session
        session.commit()


def of_a_parameter(session: Annotated[Session, "injected"]) -> Iterator[Session]:
    yield session
    session.commit()


def of_something(request: Any) -> Iterator[Any]:
    with request.app.state.database.begin() as connection:
        yield connection


def of_an_unknown_unit(uow: Any) -> Iterator[Any]:
    yield uow
    uow.commit()


@contextmanager
def transaction_of() -> Iterator[Session]:
    session = Maker()
    yield session
    session.commit()


def in_a_context_manager() -> Iterator[Session]:
    with transaction_of() as session:
        yield session


@asynccontextmanager
async def by_a_decorator() -> AsyncIterator[AsyncSession]:
    async with AsyncMaker.begin() as session:
        yield session


class UnitOfWork:
    """A context manager of one's own."""

    def __enter__(self) -> Self:
        self.session = Maker()
        return self

    def __exit__(self, *failure: object) -> None:
        if failure[0] is None:
            self.session.commit()
        self.session.close()


def in_a_class() -> Iterator[UnitOfWork]:
    with UnitOfWork() as unit:
        yield unit


class Provider:
    """A dependency that is an object."""

    def __call__(self) -> Iterator[Session]:
        with Maker() as session:
            yield session
            session.commit()


def with_an_option(expire: bool) -> Iterator[Session]:
    with Maker(expire_on_commit=expire) as session:
        yield session
        session.commit()


def around_a_call() -> Iterator[None]:
    with Maker().begin():
        yield


def of_an_annotation(session: "Session", *, other: Session | None = None) -> Iterator[Session]:
    yield session
    session.commit()


async def of_what_was_awaited() -> AsyncIterator[Any]:
    connection = await connect()
    yield connection
    await connection.commit()


async def connect() -> Any: ...


def in_django() -> Iterator[None]:
    with transaction.atomic():
        yield


def made_for(maker: "sessionmaker[Session]") -> Any:
    def made() -> Iterator[Session]:
        with maker.begin() as session:
            yield session

    return made


def of_a_property() -> Iterator[Session]:
    yield settings.session
    settings.session.commit()


def in_a_static_method() -> Iterator[Session]:
    with settings.transaction() as session:
        yield session


LATE: list[Any] = [
    of_a_property,
    in_a_static_method,
    around_a_call,
    of_an_annotation,
    of_what_was_awaited,
    in_django,
    made_for(Maker),
    plain,
    in_a_finally,
    in_an_else,
    if_nothing_failed,
    around_a_sessionmaker,
    around_a_session,
    around_an_engine,
    of_an_attribute,
    of_a_parameter,
    of_something,
    of_an_unknown_unit,
    in_a_context_manager,
    by_a_decorator,
    in_a_class,
    Provider(),
    functools.partial(with_an_option, False),
]

# -- they do not ------------------------------------------------------------------------------------------------------


def only_closes() -> Iterator[Session]:
    with Maker() as session:
        yield session


def rolls_back() -> Iterator[Session]:
    session = Maker()
    try:
        yield session
    finally:
        session.rollback()
        session.close()


def commits_before() -> Iterator[Session]:
    with Maker() as session:
        session.execute(text("SELECT 1"))
        session.commit()
        yield session


def in_a_savepoint() -> Iterator[Session]:
    with Maker() as session, session.begin_nested():
        yield session


def ends_its_transaction_before() -> Iterator[Session]:
    with Maker.begin() as session:
        session.execute(text("SELECT 1"))
    with Maker() as session:
        yield session


def only_on_an_error() -> Iterator[Session]:
    session = Maker()
    try:
        yield session
    except ValueError:
        session.commit()  # the failure is written down, before there is a response
        raise


def hands_out_a_function() -> Iterator[Any]:
    session = Maker()

    def save() -> None:
        session.commit()

    yield save
    session.close()


class Consumer:
    """What has a commit, and no transaction: the offsets of a topic."""

    def commit(self) -> None: ...


CONSUMER = Consumer()


def offsets() -> Iterator[Consumer]:
    yield CONSUMER
    CONSUMER.commit()


def offsets_of(consumer: Any) -> Iterator[Any]:
    yield consumer
    consumer.commit()


class Timer:
    """What begins, and is no transaction."""

    @contextmanager
    def begin(self) -> Iterator[None]:
        yield


TIMER = Timer()


def timed() -> Iterator[None]:
    with TIMER.begin():
        yield


def a_repository(repository: Any) -> Iterator[Any]:
    yield repository
    repository.index.commit("with a message")


@contextmanager
def session_of() -> Iterator[Session]:
    with Maker() as session:
        yield session


def in_one_that_only_closes() -> Iterator[Session]:
    with session_of() as session, suppress(LookupError):
        yield session


async def no_generator() -> AsyncSession:
    return AsyncMaker()


def with_a_name_that_comes_later() -> Any:
    later: Any

    def made() -> Iterator[Any]:
        with later() as something:
            yield something

    if TIMER is None:
        later = TIMER.begin
    return made


SOUND: list[Any] = [
    with_a_name_that_comes_later(),
    only_closes,
    rolls_back,
    commits_before,
    in_a_savepoint,
    ends_its_transaction_before,
    only_on_an_error,
    hands_out_a_function,
    offsets,
    offsets_of,
    timed,
    a_repository,
    in_one_that_only_closes,
    no_generator,
    len,  # without a source
]
