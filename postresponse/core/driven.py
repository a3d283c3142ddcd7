"""What the adapters and the settlement do with an exchange: take events, judge, and tell how it ended."""

from dataclasses import replace
from typing import Final

from postresponse.core.exchange import Exchange, Failure, Stage
from postresponse.core.lifecycle import MOVES, Action, CommitPoint, Event, Moments, Outcome, State, ending_of
from postresponse.core.log import TENANT, first_time, logger, path_of, template_of
from postresponse.core.observer import Observer, asked, tell
from postresponse.core.policy import Verdict, below_400, head_of, is_transient, verdict_of
from postresponse.core.settings import Settings
from postresponse.core.trace import Trace, mode_of
from postresponse.exceptions import CommitInDoubt, MessageOrderError, PartialCommit, ResponseReplaced

__all__ = ["DrivenExchange"]


class DrivenExchange(Exchange):
    """An exchange, for those who drive it."""

    __slots__ = ()

    def _advance(self, event: Event) -> Action:
        """Take *event* through the table and return what is to be done."""
        try:
            self._state, action = self._moves[self._state][event]
        except KeyError:
            raise MessageOrderError(_out_of_order(event, self._state)) from None
        return action

    def _adopt(self, settings: Settings) -> None:
        """Take over the unit of work of a middleware further in, where this one has none; both are told the outcome."""
        outer, self._policy = self._settings, None
        joining = tuple(each for each in settings.observers if each not in outer.observers)
        self._settings = replace(
            settings,
            error_response=settings.error_response or outer.error_response,
            on_commit_failed=settings.on_commit_failed or outer.on_commit_failed,
            on_error=settings.on_error or outer.on_error,
            on_finished=outer.on_finished or settings.on_finished,
            retries=False,
            observers=outer.observers + joining,
        )
        if settings.retries and first_time("retry"):
            logger.warning("a Retry of a middleware that is not the outermost one has no effect; give it to that one")
        if outer.on_finished is not None and settings.on_finished is not None:
            self.on_finished(settings.on_finished)
        self._unheard = self._unheard and settings.on_finished is None
        if joining:
            self._begin_observed(joining)
        self._moves = MOVES[self.policy.point]

    def _begin_observed(self, observers: tuple[Observer, ...]) -> None:
        """Tell *observers* that the exchange has begun, and keep what each returns for its end."""
        self._unheard = False
        self._begun = (*self._begun, *(asked(observer, "began", self) for observer in observers))

    def _trace(self, outcome: Outcome) -> Trace:
        """Tell how it went; called once, when the outcome is known."""
        scope = self._scope or {}
        settings = self._settings
        return Trace(
            number=self.number,
            time=settings.wall_clock()
            - (settings.clock() - self._began) / 1e9,  # both of now: hooks have run meanwhile
            method=scope.get("REQUEST_METHOD") or scope.get("method", ""),
            path=path_of(scope),
            template=template_of(scope),
            mode=mode_of(self.policy.point, managed=self._unit is not None),
            tenant=scope.get(TENANT),
            outcome=outcome,
            length=self._declared,
            idle=self._was_idle,
            doomed=self._doomed if self._verdict is Verdict.ROLL_BACK else None,
            commits=tuple(self._commits or ()),
            messages=tuple(self._messages or ()),
        )

    def _tell_observers(self, outcome: Outcome) -> None:
        trace = self._trace(outcome)
        for observer, begun in zip(self._settings.observers, self._begun, strict=False):
            asked(observer, "ended", trace, begun)
        tell(self._more_observers, "ended", trace, None)

    def _fits(self, size: int) -> bool:
        """Whether the policy lets a body of *size* bytes be held."""
        limit = self.policy.max_body
        return limit is None or size <= limit

    def _limit(self, size: int) -> Action:
        """Tell what becomes of a held body of *size* bytes: nothing, or what the policy says of one over its limit."""
        if self._fits(size):
            return Action.NOTHING
        policy = self.policy
        if policy.on_overflow == "error":
            return self._advance(Event.OVERFLOW)
        self._moves = MOVES[CommitPoint.HEAD]
        return self._advance(Event.BODY)

    def _judge(self) -> Verdict:
        policy = self.policy
        needs_headers = policy.commit_if is not below_400
        head = self._head() if needs_headers or self._status is None else head_of(self._status)
        # A response that was refused is no better than an exception: nothing that it stood for may be committed.
        raised = self._raised or self._failure is not None
        return verdict_of(raised, self._verdict, self._unit.active, self._left, policy, head)

    def _fail(self, stage: Stage, exception: BaseException, *, unknown: bool = False) -> Failure:
        self._exception = exception
        unknown, partial = unknown or isinstance(exception, CommitInDoubt), isinstance(exception, PartialCommit)
        transient = is_transient(exception) and not unknown and not partial
        self._failure = Failure(self, stage, exception, transient, unknown, partial)
        return self._failure

    def _stopped(self) -> ResponseReplaced:
        return ResponseReplaced(f"the response is {self.state}; nobody takes the rest of it")

    def _in_use(self) -> bool:
        """Whether the unit of work has to be called at all: one that tells that it was not touched has not."""
        return self._kind is None or not self._kind.lazy or self._unit.touched

    def _is_abandoned(self) -> bool:
        """Whether the request was cancelled, and a handler on a thread may still be running."""
        error = self._exception
        ends = (Exception, SystemExit, KeyboardInterrupt)  # else it is a cancellation, on whatever event loop
        return self._settings.is_async and error is not None and not isinstance(error, ends)

    def _may_run_again(self) -> bool:
        """Tell whether the rules allow another attempt; the unit of work has ended, and did not commit.

        Nothing has left; an attempt is left, and the body; the failure is one that the policy's `Retry` names, raised
        here or seen by the unit of work; and nobody has decided otherwise: an answer below 500 is the handler's own, to
        doom it is, and what ends a task or a process is never run again.
        """
        failure, error = self._failure, self._exception
        if self._head_sent is not None or self.is_last_attempt:
            return False
        if failure is not None and (failure.unknown or failure.partial):
            return False
        if getattr(self._unit, "committed", False):
            return False
        if error is None and (self._verdict is Verdict.ROLL_BACK or self._status is None or self._status < 500):
            return False
        if error is not None and not isinstance(error, Exception):
            return False
        retry = self.policy.retry
        seen = getattr(self._unit, "statement_error", None)
        return retry is not None and any(retry.on(each) for each in (error, seen) if each is not None)

    def _outcome(self, ended: int) -> Outcome:
        """Tell how it ended; called once, when the state is `OVER`."""
        taken = self._body_sent is not None
        missing = self._declared is not None and not self._needs_no_body and self._bytes < self._declared
        missing = missing and self._counted and self._tallied
        ending = ending_of(
            taken=taken,
            raised=self._raised and not taken,
            left=self._left,
            missing=missing,
            ended=taken or (not self._counted) or (self._declared is not None and not missing),
        )
        return Outcome(
            ending=ending,
            unit_of_work=self._unit_state,
            status=self._status,
            bytes_sent=self._bytes if self._counted and self._tallied else None,
            exception=self._exception,
            drained=self._drained,
            attempt=self.attempt,
            moments=Moments(
                began=self._began,
                decided=self._decided,
                settling=self._settling,
                settled=self._settled,
                head_sent=self._left_at or self._head_sent,
                body_sent=self._body_sent,
                ended=ended,
            ),
        )

    def _has_nothing_left(self) -> bool:
        """Whether nothing is to be settled, cleaned up or told any more."""
        kind = self._kind
        if kind is not None and (not self._unit_ended or (kind.lazy and self._unit.touched)):
            return False
        return self._at_end is None and self._unheard and self._commits is None


_EVENT_WORDS: Final = {
    Event.START: "status and headers",
    Event.RESTART: "new status and headers",
    Event.BODY: "a part of the body",
    Event.FINAL: "the end of the body",
}


def _out_of_order(event: Event, state: State) -> str:
    said = _EVENT_WORDS.get(event, event.name.lower())
    if state is State.PENDING:
        way_out = "send http.response.start (WSGI: call start_response) first"
    elif event is Event.START:
        way_out = "a response has one head; to replace it after an error under WSGI pass exc_info"
    else:
        way_out = "wait for the previous send() to return"
    return f"the application gave {said} while its response is {state.words}; {way_out}"
