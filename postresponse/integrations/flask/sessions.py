"""The session of Flask-SQLAlchemy, or of Flask-SQLAlchemy-Lite, as the unit of work of a request.

Both close their sessions when Flask leaves the application context: inside of the call, before the head has left, and
so before the commit. Therefore the session of a request is not theirs but its unit of work's, and `db.session` gives
that one out. It is found by the application context, as theirs is: what a nested context has is its own, and outside
of requests, in a command or a shell, all is as without this package.

Flush, commit, rollback and close run in a copy of the context variables that the request had, because the extension
looks for the application there to choose an engine, and listeners and column defaults look for the request. No Flask
context is pushed for that: popping it would run the teardown functions again.
"""

from collections.abc import Callable
from contextvars import Context, copy_context
from typing import Any, Final
from weakref import ref

from flask import (
    Flask,
    appcontext_pushed,
    appcontext_tearing_down,
    current_app,
    g,
    has_app_context,
    request,
    request_finished,
    request_started,
)
from sqlalchemy.orm import Session, scoped_session

from postresponse.core.current import current
from postresponse.core.exchange import KEY, Exchange
from postresponse.core.lifecycle import State
from postresponse.exceptions import ConfigurationError, NoExchange
from postresponse.unit_of_work.sqlalchemy import SQLAlchemyUnitOfWork, _SyncUnit
from postresponse.unit_of_work.sqlalchemy_transaction import listen

__all__ = ["FlaskSQLAlchemyUnitOfWork"]

_G: Final = "_postresponse_units"
"""Under which name `g` has the units of work of its application context."""
_TORN_DOWN: Final = "_postresponse_torn_down"
"""Under which name `g` tells that nobody closes what is opened in its context any more."""


class FlaskSQLAlchemyUnitOfWork(SQLAlchemyUnitOfWork):
    """Make `db.session` of Flask-SQLAlchemy, or of Flask-SQLAlchemy-Lite, the unit of work of each request.

    Views use `db.session` and need no `commit()`: it is committed or rolled back as the policy says, once, before the
    head leaves. A view that ends the transaction itself, by `db.session.commit()` or `rollback()`, is left alone.

    Work after the response, scripts and tasks open their own: `with app.app_context(), scope(unit_of_work=...)`.

    `db.session.remove()` in a view discards what it did, as ever. Once the response is made, it leaves the session to
    this package: it is what teardown functions call, and those run before the commit. Several applications may share
    *db*. An own session in a nested application context, Lite's sessions with a name, and its async ones stay the
    extension's: nobody commits them but you.

    Args:
        db: The extension's object, `flask_sqlalchemy.SQLAlchemy` or `flask_sqlalchemy_lite.SQLAlchemy`. Its `init_app`
            may be called before or later.

    Raises:
        ConfigurationError: *db* is something else.

    Example:
        >>> from flask_sqlalchemy import SQLAlchemy
        >>> db = SQLAlchemy()
        >>> unit_of_work = FlaskSQLAlchemyUnitOfWork(db)
    """

    def __init__(self, db: Any) -> None:
        self._place = _place_in(db)
        super().__init__(self._place.make)
        for signal, receiver in (
            (appcontext_pushed, self._on_pushed),
            (request_started, self._on_started),
            (request_finished, self._on_finished),
            (appcontext_tearing_down, self._on_tearing_down),
        ):
            signal.connect(receiver)  # as long as this object lives

    def __call__(self, exchange: Exchange) -> "_RequestUnit":
        """Make the unit of work of *exchange*; the middleware calls it."""
        unit = exchange.units[self] = _RequestUnit(self._place, exchange)
        if has_app_context():  # of a script, or of a test around its request
            unit.bind()
        return unit

    def _on_pushed(self, app: Flask, **signal: Any) -> None:
        """Take the first application context of a request: what opens Flask's session may want a database's."""
        g.pop(_TORN_DOWN, None)  # a test's client pushes it anew, and will have it torn down again
        exchange = current.get()
        unit = None if exchange is None else exchange.units.get(self)
        if unit is not None and unit.app is None and not unit.is_over:
            unit.bind()

    def _on_started(self, app: Flask, **signal: Any) -> None:
        unit = self._unit_of_request()
        if unit is not None:
            unit.bind()

    def _on_finished(self, app: Flask, **signal: Any) -> None:
        unit = self._unit_of_request()
        if unit is not None:
            unit.answered = True
            unit.remember()

    def _on_tearing_down(self, app: Flask, **signal: Any) -> None:
        setattr(g, _TORN_DOWN, True)

    def _unit_of_request(self) -> "_RequestUnit | None":
        exchange: Exchange | None = request.environ.get(KEY)
        found: _RequestUnit | None = None if exchange is None else exchange.units.get(self)
        return found


class _RequestUnit(_SyncUnit):
    """The session of one exchange, which `db.session` gives out in its application contexts.

    Attributes:
        place: Where the extension gives out its sessions.
        app: The application; None before the first context.
        answered: Whether the view's response is made, and teardown functions are to come.
    """

    __slots__ = ("_around", "_exchange", "answered", "app", "place")

    def __init__(self, place: "_Place", exchange: Exchange) -> None:
        super().__init__(place.make)
        self._exchange = ref(exchange)
        self._around: Context | None = None
        self.place: _Place = place
        self.app: Flask | None = None
        self.answered: bool = False

    @property
    def session(self) -> Session:
        if self._session is None:
            self._around = self._surroundings()
            return self._around.copy().run(lambda: super(_RequestUnit, self).session)
        return super().session

    @property
    def is_over(self) -> bool:
        """Whether the request is, so that whoever has its application context still has the extension's session."""
        exchange = self._exchange()
        # In after_send mode the unit of work, and what is hooked to it, comes last.
        return exchange is None or (exchange._state is State.OVER and exchange._unit_ended)

    @property
    def is_made(self) -> bool:
        """Whether the request has asked for a session."""
        return self._session is not None

    def bind(self) -> None:
        """Be what `db.session` gives out in the application context that is current."""
        self.app = current_app._get_current_object()  # type: ignore[attr-defined]
        bound: list[_RequestUnit] = g.setdefault(_G, {}).setdefault(self.place, [])
        if self not in bound:
            bound.append(self)

    def remember(self) -> None:
        """Keep the context variables that the session's end is to see, if there is one."""
        if self._around is not None:
            self._around = copy_context()

    def flush(self) -> None:
        self._inside(super().flush)

    def commit(self) -> None:
        self._inside(super().commit)

    def rollback(self) -> None:
        self._inside(super().rollback)

    def close(self) -> None:
        self._inside(super().close)
        self._around = None

    def invalidate(self) -> None:
        self._inside(super().invalidate)
        self._around = None

    def _inside(self, call: Callable[[], None]) -> None:
        if self._around is None:
            call()
        else:
            self._around.copy().run(call)  # a copy: one cannot be entered twice, and a commit flushes

    def _surroundings(self) -> Context:
        """Return context variables with an application context in them: hooks run when Flask has left its own."""
        around = copy_context()
        if not has_app_context() and self.app is not None:
            around.run(self.app.app_context().push)  # never popped, so that nothing is torn down
        return around


# Work after the response has the context variables of its request, and so that application context.
_OVER: Final = (
    "db.session: the request is over, and its application context torn down, so that nobody would close this session; "
    "work after the response opens its own: with app.app_context(), scope(unit_of_work=...): ..."
)


def _unit_here(place: "_Place") -> _RequestUnit | None:
    """Find whose session is to be given out: the innermost unit of the application context; in a hook the request's."""
    if has_app_context():
        bound: list[_RequestUnit] = g.get(_G, {}).get(place, [])
        unit = next((unit for unit in reversed(bound) if not unit.is_over), None)
        if unit is None and bound and g.get(_TORN_DOWN):
            raise NoExchange(_OVER)
        return unit
    exchange = current.get()
    units = [] if exchange is None else exchange.units.values()
    ours = (each for each in units if isinstance(each, _RequestUnit) and each.place is place)
    return next((each for each in ours if not each.is_over), None)


# -- where the extensions give their sessions out ---------------------------------------------------------------------


class _Registry:
    """The registry of Flask-SQLAlchemy's `db.session`, in front of its own one."""

    def __init__(self, db: Any) -> None:
        self._db = db
        self._inner: Any = db.session.registry

    def make(self) -> Session:
        made: Session = self._db.session.session_factory(db=_AppEngines(self._db))
        return made

    def __call__(self) -> Session:
        unit = _unit_here(self)
        session: Session = self._inner() if unit is None else unit.session
        return session

    def has(self) -> bool:
        unit = _unit_here(self)
        return bool(self._inner.has()) if unit is None else unit.is_made and not unit.answered

    def set(self, session: Session) -> None:
        if _unit_here(self) is not None:
            raise ConfigurationError(
                "db.session(...): in a request the session is made by the unit of work; give its options to "
                "SQLAlchemy(session_options=...)"
            )
        self._inner.set(session)

    def clear(self) -> None:
        """Forget the session; that of a request was closed by `remove()`, and can be used anew."""
        if _unit_here(self) is None:
            self._inner.clear()


class _AppEngines:
    """What a session of Flask-SQLAlchemy asks for engines: those of one application, within its context or not."""

    def __init__(self, db: Any) -> None:
        self._db = db
        self.engines: Any = db.engines
        for engine in self.engines.values():
            listen(engine)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._db, name)


class _LiteSessions:
    """The `get_session` of Flask-SQLAlchemy-Lite, in front of its own one; `session` is that with no name given."""

    def __init__(self, db: Any) -> None:
        self._db = db
        self._inner: Callable[[str], Session] = db.get_session

    def make(self) -> Session:
        for engine in self._db.engines.values():
            listen(engine)
        made: Session = self._db.sessionmaker()
        return made

    def __call__(self, name: str = "default") -> Session:
        unit = _unit_here(self) if name == "default" else None
        return self._inner(name) if unit is None else unit.session


_Place = _Registry | _LiteSessions


def _place_in(db: Any) -> _Place:
    """Have *db* give out the sessions of requests, once for each object."""
    if hasattr(type(db), "get_session") and hasattr(type(db), "sessionmaker"):
        if not isinstance(db.get_session, _LiteSessions):
            db.get_session = _LiteSessions(db)
        lite: _LiteSessions = db.get_session
        return lite
    session = getattr(db, "session", None)
    if isinstance(session, scoped_session) and hasattr(type(db), "engines"):
        if not isinstance(session.registry, _Registry):
            session.registry = _Registry(db)  # type: ignore[assignment]
        registry: Any = session.registry
        return registry  # type: ignore[no-any-return]
    raise ConfigurationError(
        f"FlaskSQLAlchemyUnitOfWork: expected the SQLAlchemy object of Flask-SQLAlchemy 3.1 or of "
        f"Flask-SQLAlchemy-Lite, found {db!r}; for a plain sessionmaker there is SQLAlchemyUnitOfWork"
    )
