"""Work of several steps: written as a sequence, run beside each other where that is said."""

from postresponse.work.flow.composition import Flow, par, seq, step
from postresponse.work.flow.context import FlowContext
from postresponse.work.flow.result import FlowResult, FlowState

__all__ = ["Flow", "FlowContext", "FlowResult", "FlowState", "par", "seq", "step"]
