"""When does my work happen, relative to my response?

Middleware for any WSGI or ASGI application that knows when a response leaves and ties a unit of work to that moment:
`postresponse.asgi.PostResponseMiddleware` and `postresponse.wsgi.PostResponseMiddleware`. Here are the names that a
handler uses, whatever the framework; importing them loads no event loop and no database library.
"""

from postresponse.core.current import commit_policy, current_exchange, doom, force_commit
from postresponse.core.lifecycle import Outcome
from postresponse.core.policy import CommitPolicy, Retry

__all__ = [
    "CommitPolicy",
    "Outcome",
    "Retry",
    "__version__",
    "commit_policy",
    "current_exchange",
    "doom",
    "force_commit",
]

__version__ = "0.1.0"
