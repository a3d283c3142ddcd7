"""When does my work happen, relative to my response?

Middleware for any WSGI or ASGI application that knows when a response leaves and ties a unit of work to that moment:
`postresponse.asgi.PostResponseMiddleware` and `postresponse.wsgi.PostResponseMiddleware`. Here are the names that a
handler uses, whatever the framework; importing them loads no event loop and no database library.
"""

from postresponse.core.current import commit_policy, current_exchange, doom, force_commit
from postresponse.core.lifecycle import Outcome
from postresponse.core.policy import CommitPolicy, Retry
from postresponse.work.current import after_response, launch
from postresponse.work.race import first_success
from postresponse.work.scope import scope

__all__ = [
    "CommitPolicy",
    "Outcome",
    "Retry",
    "__version__",
    "after_response",
    "commit_policy",
    "current_exchange",
    "doom",
    "first_success",
    "force_commit",
    "launch",
    "scope",
]

__version__ = "0.1.0"
