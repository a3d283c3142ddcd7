"""The requests that faults are injected into, and the two applications that answer them."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, Literal

from anyio.lowlevel import checkpoint

from postresponse import current_exchange
from tests.fakes import BODY, START
from tests.faults.kinds import AppFailed

if TYPE_CHECKING:
    from tests.faults.trial import Trial

__all__ = ["HOOKS", "REQUEST", "SHAPES", "Shape", "asgi_application", "wsgi_application"]

REQUEST: Final = (b"one order, ", b"please")
"""The request's body, in the parts that an ASGI server gives; every attempt gets all of it."""
HOOKS: Final = ("on_start", "before_commit", "after_commit", "after_rollback", "on_finished")


@dataclass(frozen=True, slots=True)
class Shape:
    """One way to answer.

    Attributes:
        name: For a test's id.
        status: What the handler answers.
        streamed: In parts, without Content-Length.
        raises: Where the application raises by itself.
        refused: Whether the commit is refused by the database.
        framework: Whether an exception of the handler is turned into a 500, as frameworks do.
        late: Whether the session is used again while the body streams.
        written: Whether the body goes through WSGI's `write`.
        leaves: Whether the client leaves after the first part.
        cold: Whether the pool is empty.
    """

    name: str
    status: int = 201
    streamed: bool = False
    raises: Literal["never", "before the head", "in the body"] = "never"
    refused: bool = False
    framework: bool = False
    late: bool = False
    written: bool = False
    leaves: bool = False
    cold: bool = False

    @property
    def parts(self) -> tuple[bytes, ...]:
        """The body."""
        return (b"<the>", b"<order>", b"<stored>") if self.streamed else (b"<stored>",)

    @property
    def headers(self) -> list[tuple[str, str]]:
        """What must not be left in an error response."""
        headers = [("content-type", "text/plain"), ("set-cookie", "of=the-application")]
        return headers if self.streamed else [*headers, ("content-length", str(len(self.parts[0])))]

    def fits(self, side: str, world: str) -> bool:
        """Whether there is such a request on this side and in this world."""
        if self.written and side != "wsgi":
            return False
        has_session = world in ("Orders", "AsyncOrders")
        return has_session or not (self.late or self.cold)


SHAPES: Final = (
    Shape("small"),
    Shape("streamed", streamed=True),
    Shape("error", status=404),
    Shape("raises", raises="before the head"),
    Shape("cut", streamed=True, raises="in the body"),
    Shape("refused", refused=True),
    Shape("handled", framework=True),
    Shape("late", streamed=True, late=True),
    Shape("written", streamed=True, written=True),
    Shape("left", streamed=True, leaves=True),
    Shape("cold", cold=True, framework=True),
)


def register(trial: "Trial") -> None:
    """Register each hook twice; on a loop the first of them is async."""
    exchange = current_exchange()
    trial.enter(exchange)
    for name in HOOKS:
        if trial.case.at == "observe" and name not in ("on_start", "on_finished"):
            continue
        for index in (0, 1):
            make = _async_hook if index == 0 and trial.case.side != "wsgi" else _hook
            getattr(exchange, name)(make(trial, exchange.attempt, name, index))
    trial.registered = exchange.attempt


def check_request(body: bytes) -> None:
    """Refuse a body that is not the request's; the error comes out of the application, where it is not expected."""
    assert body == b"".join(REQUEST)


def _hook(trial: "Trial", attempt: int, name: str, index: int) -> Callable[..., Any]:
    def hook(*_: object) -> None:
        trial.hooks.append((attempt, name, index))
        trial.plan.around(f"hook.{name}", lambda: None)

    return hook


def _async_hook(trial: "Trial", attempt: int, name: str, index: int) -> Callable[..., Any]:
    hook = _hook(trial, attempt, name, index)

    async def slow(*arguments: object) -> None:
        await checkpoint()
        hook(*arguments)
        await checkpoint()

    return slow


# -- WSGI -------------------------------------------------------------------------------------------------------------


def wsgi_application(trial: "Trial") -> Any:
    """Return an application that answers as the trial's shape says."""
    shape, order = trial.case.shape, trial.order

    def work(environ: dict[str, Any]) -> int:
        check_request(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])))
        trial.step("work")
        with trial.plan.handling():
            trial.world.store(order, refused=shape.refused)
        return shape.status

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        register(trial)
        try:
            status = work(environ)
        except Exception:
            if not shape.framework:
                raise
            status = 500
        trial.step("answer")
        write = start_response(f"{status} {HTTPStatus(status).phrase}", shape.headers)
        if shape.raises == "before the head":
            raise AppFailed("before the head")
        if not shape.streamed:
            return list(shape.parts)
        if shape.written:
            for part in shape.parts:
                trial.step("part")
                write(part)
            return []
        trial.bodies += 1
        return _Body(trial)

    return app


class _Body:
    """A body that is made part by part, and has to be closed."""

    def __init__(self, trial: "Trial") -> None:
        self._trial = trial
        self._parts = self._made()

    def __iter__(self) -> Iterator[bytes]:
        return self._parts

    def _made(self) -> Iterator[bytes]:
        shape = self._trial.case.shape
        for number, part in enumerate(shape.parts):
            self._trial.step("part")
            if number == 1 and shape.raises == "in the body":
                raise AppFailed("in the body")
            if number == 1 and shape.late:
                with self._trial.plan.handling():
                    self._trial.world.store(-self._trial.order)
            yield part
        self._trial.step("done")

    def close(self) -> None:
        self._trial.closes += 1
        self._trial.step("close")


# -- ASGI -------------------------------------------------------------------------------------------------------------


def asgi_application(trial: "Trial") -> Any:
    """Return an application that answers as the trial's shape says."""
    shape, order = trial.case.shape, trial.order

    async def step(name: str) -> None:
        await checkpoint()
        trial.step(name)
        await checkpoint()

    async def work(receive: Any) -> int:
        body, message = b"", dict[str, Any](more_body=True)
        while message.get("more_body", False):
            message = await receive()
            body += message.get("body", b"")
        if message["type"] == "http.request":
            check_request(body)
        await step("work")
        with trial.plan.handling():
            await trial.world.astore(order, refused=shape.refused)
        return shape.status

    async def app(scope: Any, receive: Any, send: Any) -> None:
        register(trial)
        try:
            status = await work(receive)
        except Exception:
            if not shape.framework:
                raise
            status = 500
        await step("answer")
        if shape.raises == "before the head":
            raise AppFailed("before the head")
        headers = [(name.encode(), value.encode()) for name, value in shape.headers]
        await send({"type": START, "status": status, "headers": headers})
        if not shape.streamed:
            await send({"type": BODY, "body": shape.parts[0]})
        else:
            await stream(send)
        await step("done")

    async def stream(send: Any) -> None:
        for number, part in enumerate(shape.parts):
            await step("part")
            if number == 1 and shape.raises == "in the body":
                raise AppFailed("in the body")
            if number == 1 and shape.late:
                with trial.plan.handling():
                    await trial.world.astore(-order)
            await send({"type": BODY, "body": part, "more_body": True})
        await send({"type": BODY, "body": b""})

    return app
