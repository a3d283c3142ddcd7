"""Work that accompanies or outlives a response, in this process and best effort."""

from postresponse.work.bulkhead import Bulkhead, BulkheadLimits
from postresponse.work.completion import complete, complete_later, suspend
from postresponse.work.current import after_response, default_supervisor, launch
from postresponse.work.flow import Flow, FlowContext, FlowResult, FlowState, par, seq, step
from postresponse.work.job import Job, JobState
from postresponse.work.polling import distinct_until_changed, poll
from postresponse.work.race import first_success, first_success_sync
from postresponse.work.scope import scope
from postresponse.work.stream import ServerSentEvent, Stream
from postresponse.work.supervisor import TaskSupervisor
from postresponse.work.valve import Valve, ValveGroup

__all__ = [
    "Bulkhead",
    "BulkheadLimits",
    "Flow",
    "FlowContext",
    "FlowResult",
    "FlowState",
    "Job",
    "JobState",
    "ServerSentEvent",
    "Stream",
    "TaskSupervisor",
    "Valve",
    "ValveGroup",
    "after_response",
    "complete",
    "complete_later",
    "default_supervisor",
    "distinct_until_changed",
    "first_success",
    "first_success_sync",
    "launch",
    "par",
    "poll",
    "scope",
    "seq",
    "step",
    "suspend",
]
