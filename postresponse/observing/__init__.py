"""Who looks on: observers are told of each exchange and each job, and change none.

Give them to a middleware, or to a `TaskSupervisor`, as `observers=[...]`.
"""

from postresponse.core.observer import Observer
from postresponse.core.trace import EnlistedMessage, JobTrace, ObservedCommit, Trace, TraceEvent

__all__ = ["EnlistedMessage", "JobTrace", "ObservedCommit", "Observer", "Trace", "TraceEvent"]
