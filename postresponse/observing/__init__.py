"""Who looks on: observers are told of each exchange and each job, and change none.

Give them to a middleware, or to a `TaskSupervisor`, as `observers=[...]`. Without any, `late_commits()` tells which
routes commit after their first byte, of the commits that the middleware does not manage.
"""

from postresponse.core.observer import Observer
from postresponse.core.trace import EnlistedMessage, JobTrace, ObservedCommit, Trace, TraceEvent
from postresponse.observing.late import LateCommits, late_commits

__all__ = [
    "EnlistedMessage",
    "JobTrace",
    "LateCommits",
    "ObservedCommit",
    "Observer",
    "Trace",
    "TraceEvent",
    "late_commits",
]
