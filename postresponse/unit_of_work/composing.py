"""The factories of several units of work as one: members by name, checked as early as can be."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from postresponse.core.exchange import Exchange
from postresponse.core.units import kind_of
from postresponse.exceptions import ConfigurationError, UnitOfWorkError, WrongApplication
from postresponse.unit_of_work.members import AsyncUnit, Member, Members, SyncUnit

__all__ = ["Composite", "Factory"]

Factory = Callable[[Exchange], Any]
"""Makes the unit of work of one attempt at a request."""


class Composite:
    """The base of the factories: members by name, checked as early as can be."""

    rules: ClassVar[type[Members]]

    def __init__(self, /, **members: Factory) -> None:
        self._factories = members
        self._name = type(self).__name__
        self._check()
        kinds = {getattr(factory, "is_async", None) for factory in members.values()} - {None}
        self.is_async: bool | None = kinds.pop() if kinds else None

    def __call__(self, exchange: Exchange) -> Any:
        """Make the units of work of *exchange*, and one of them all; the middleware calls it."""
        units = {name: factory(exchange) for name, factory in self._factories.items()}
        kinds = {name: self._is_async(name, unit) for name, unit in units.items()}
        self._check_kinds(kinds)
        members = self.rules(self._members_of(units), exchange)
        return AsyncUnit(members) if any(kinds.values()) else SyncUnit(members)

    def _members_of(self, units: Mapping[str, Any]) -> tuple[Member, ...]:
        return tuple(Member(name, unit) for name, unit in units.items())

    def _is_async(self, name: str, unit: Any) -> bool:
        try:
            return kind_of(unit).is_async
        except UnitOfWorkError as error:
            raise UnitOfWorkError(f"{self._name}: {name}: {str(error).removeprefix('unit_of_work: ')}") from None

    def _check(self) -> None:
        factories = self._factories
        if len(factories) < 2:
            raise ConfigurationError(
                f"{self._name}: expected two or more units of work by name, as in {self._name}(orders=..., audit=...), "
                f"found {', '.join(factories) or 'none'}; give a single one to the middleware itself"
            )
        for name, factory in factories.items():
            if not callable(factory) or inspect.iscoroutinefunction(factory):
                raise ConfigurationError(
                    f"{self._name}: {name}: expected a plain function that makes a unit of work from the exchange, "
                    f"found {factory!r}"
                )
        by_factory: dict[int, str] = {}
        for name, factory in factories.items():
            earlier = by_factory.setdefault(id(factory), name)
            if earlier != name:
                raise ConfigurationError(f"{self._name}: {earlier} and {name} are the same unit of work; give it once")
        kinds = {name: getattr(factory, "is_async", None) for name, factory in factories.items()}
        self._check_kinds({name: kind for name, kind in kinds.items() if kind is not None})

    def _check_kinds(self, kinds: Mapping[str, bool]) -> None:
        """Refuse sync and async members together: one cannot wait for the other."""
        if len(set(kinds.values())) > 1:
            names = {kind: " and ".join(name for name in kinds if kinds[name] is kind) for kind in (False, True)}
            raise WrongApplication(
                f"{self._name}: {names[False]} is sync and {names[True]} is async; give members of one kind, "
                "such as SQLAlchemyUnitOfWork or AsyncSQLAlchemyUnitOfWork for all"
            )
