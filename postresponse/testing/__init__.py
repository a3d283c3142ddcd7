"""For the tests of whoever uses the package: work that waits for the test, and the order in which things happened.

`captured()` holds work back until it is run, `immediate()` runs it at once, and both tell of each exchange. Under
pytest they are the fixtures `postresponse` and `postresponse_inline`. `serving()` runs an application on a real server,
since no client in the same process can show when a response left. `postresponse.testing.contracts` has the suites that
a unit of work, a transport or the store of an outbox of your own has to pass.
"""

from postresponse.testing.capturing import Captured, Immediate, PendingJob, captured, immediate
from postresponse.testing.client import Client, Connection, ConnectionEnded, Head, Response
from postresponse.testing.serving import ServerFailed, Site, serving

__all__ = [
    "Captured",
    "Client",
    "Connection",
    "ConnectionEnded",
    "Head",
    "Immediate",
    "PendingJob",
    "Response",
    "ServerFailed",
    "Site",
    "captured",
    "immediate",
    "serving",
]
