"""Units of work: the Protocols, and one module for each library that has one.

`postresponse.unit_of_work.sqlalchemy` and `postresponse.unit_of_work.django` hold factories to be given to a middleware
as `unit_of_work=`; anything that keeps a Protocol can take their place.
"""

from postresponse.typing import AsyncUnitOfWork, LazyUnit, UnitOfWork

__all__ = ["AsyncUnitOfWork", "LazyUnit", "UnitOfWork"]
