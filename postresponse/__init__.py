"""When does my work happen, relative to my response?

Middleware for any WSGI or ASGI application that knows when a response leaves and ties a unit of work to that moment:
`postresponse.asgi.PostResponseMiddleware` and `postresponse.wsgi.PostResponseMiddleware`. Here are the names that a
handler uses, whatever the framework; each is loaded when it is asked for, and none loads an event loop or a database
library.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
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

_HOMES: Final = {
    "CommitPolicy": "postresponse.core.policy",
    "Outcome": "postresponse.core.lifecycle",
    "Retry": "postresponse.core.policy",
    "after_response": "postresponse.work.current",
    "commit_policy": "postresponse.core.current",
    "current_exchange": "postresponse.core.current",
    "doom": "postresponse.core.current",
    "first_success": "postresponse.work.race",
    "force_commit": "postresponse.core.current",
    "launch": "postresponse.work.current",
    "scope": "postresponse.work.scope",
}
"""Where each name is; loaded when it is first asked for, so that whoever imports one module pays for that one."""

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module 'postresponse' has no attribute {name!r}")
        found = globals()[name] = getattr(import_module(_HOMES[name]), name)
        return found

    def __dir__() -> list[str]:
        return sorted(__all__)
