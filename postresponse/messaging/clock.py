"""The database's clock: the one that all who share an outbox go by."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import DateTime, Dialect, TypeDecorator
from sqlalchemy.dialects import mysql
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

__all__ = ["Moment", "later", "now"]


class Moment(TypeDecorator[datetime]):
    """A moment: aware in Python; in a database without time zones it is that of UTC."""

    impl: Any = DateTime(timezone=True)
    cache_ok: bool | None = True

    def load_dialect_impl(self, dialect: Dialect) -> Any:
        if dialect.name in ("mysql", "mariadb"):
            return dialect.type_descriptor(mysql.DATETIME(fsp=6))
        return dialect.type_descriptor(DateTime(timezone=True))

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None or dialect.name == "postgresql":
            return value
        return value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return value.replace(tzinfo=UTC) if value is not None and value.tzinfo is None else value


class now(FunctionElement[datetime]):
    """The moment at which the statement began: the same for all rows, so that an index serves."""

    type: Any = Moment()
    inherit_cache: bool | None = True


class later(FunctionElement[datetime]):
    """So many seconds behind `now()`."""

    type: Any = Moment()
    inherit_cache: bool | None = True


@compiles(now, "postgresql")
def _now_postgresql(element: now, compiler: Any, **options: Any) -> str:
    return "statement_timestamp()"


@compiles(now, "mysql", "mariadb")
def _now_mysql(element: now, compiler: Any, **options: Any) -> str:
    return "UTC_TIMESTAMP(6)"


@compiles(now, "sqlite")
def _now_sqlite(element: now, compiler: Any, **options: Any) -> str:
    return _literal("strftime('%Y-%m-%d %H:%M:%f000', 'now')", compiler)  # six digits, as SQLAlchemy reads them


def _seconds(element: later, compiler: Any, options: Any) -> str:
    (seconds,) = element.clauses
    return str(compiler.process(seconds, **options))


@compiles(later, "postgresql")
def _later_postgresql(element: later, compiler: Any, **options: Any) -> str:
    return f"statement_timestamp() + make_interval(secs => CAST({_seconds(element, compiler, options)} AS float8))"


@compiles(later, "mysql", "mariadb")
def _later_mysql(element: later, compiler: Any, **options: Any) -> str:
    seconds = _seconds(element, compiler, options)
    return f"UTC_TIMESTAMP(6) + INTERVAL CAST({seconds} * 1000000 AS SIGNED) MICROSECOND"


@compiles(later, "sqlite")
def _later_sqlite(element: later, compiler: Any, **options: Any) -> str:
    seconds = _seconds(element, compiler, options)
    given = _literal("strftime('%Y-%m-%d %H:%M:%f000', 'now', printf('%.3f seconds', {}))", compiler)
    return given.format(seconds)


def _literal(text: str, compiler: Any) -> str:
    """Write *text* into a statement in which the driver may take '%' for a parameter."""
    return text.replace("%", "%%") if compiler.preparer._double_percents else text
