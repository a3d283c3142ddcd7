"""Suites that a part of your own has to pass to do what the package promises of its like; they run under pytest.

Each is a class to be subclassed, with the few methods and fixtures that it asks for. The package's own parts pass them.
"""

from postresponse.testing.contracts.store import OutboxStoreContract
from postresponse.testing.contracts.transport import TransportContract, TransportPlace
from postresponse.testing.contracts.unit_of_work import UnitOfWorkContract

__all__ = ["OutboxStoreContract", "TransportContract", "TransportPlace", "UnitOfWorkContract"]
