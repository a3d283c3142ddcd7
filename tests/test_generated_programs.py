"""Generated applications on both sides: legal and illegal orders, whatever fails, whoever leaves.

A program is a list of things that an application does. It runs bare against a strict server first, which tells whether
it is legal and what the client should get; then inside the middleware. What is checked holds for every program.
"""

import gc
import io
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

import anyio
import pytest
from anyio.lowlevel import checkpoint
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from postresponse import CommitPolicy, Outcome, current_exchange, doom, force_commit
from postresponse.asgi import PostResponseMiddleware as ASGIMiddleware
from postresponse.core.lifecycle import Ending, UnitState
from postresponse.exceptions import CommitInDoubt, PostResponseError
from postresponse.wsgi import PostResponseMiddleware as WSGIMiddleware
from tests.fakes import BODY, CLOSINGS, START, FakeUnits, StrictASGIServer, StrictWSGIServer

Op = tuple[Any, ...]

SHARE: Final = 4 if "POSTRESPONSE_FEW_EXAMPLES" in os.environ else 1
"""Where thousands of mutants are tried, each that lives costs them all."""


@pytest.fixture(autouse=True, scope="module")
def quiet() -> Iterator[None]:
    """Say nothing of the failures, which are made by the thousand."""
    logger = logging.getLogger("postresponse")
    logger.disabled = True
    yield
    logger.disabled = False


EXTENSIONS: Final = ("http.response.early_hint", "http.response.pathsend", "http.response.trailers")
REQUEST: Final = (b"first, ", b"second")
HOOKS: Final = ("on_start", "before_commit", "after_commit", "after_rollback", "on_finished")
SIZES: Final = (0, 1, 7, 70_000)


class Raised(Exception):
    """What a generated application raises."""


class HookFailed(Exception):
    """What a generated hook raises."""


@dataclass
class Around:
    """What stands around a program: the policy, the unit of work and what fails of it."""

    at: Any = None
    is_async: bool = True
    fails: dict[str, type[Exception]] = field(default_factory=dict)
    max_body: int | None = None
    on_overflow: Any = "error"
    on_disconnect: Any = "commit"
    max_memory: int = 1 << 20
    units: FakeUnits = field(init=False)
    outcomes: list[Outcome] = field(default_factory=list)
    hooks: list[str] = field(default_factory=list)
    refused: list[BaseException] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.units = FakeUnits({name: error(name) for name, error in self.fails.items()}, is_async=self.is_async)

    @property
    def options(self) -> dict[str, Any]:
        """The options of the middleware."""
        if self.at is None:
            return {"on_finished": self.outcomes.append}
        policy = CommitPolicy(
            at=self.at,
            on_disconnect=self.on_disconnect,
            on_overflow=self.on_overflow,
            max_body=self.max_body,
            max_memory=self.max_memory,
        )
        return {"unit_of_work": self.units, "commit": policy, "on_finished": self.outcomes.append}

    def say(self, op: Op) -> None:
        """Do what needs an exchange: too late is refused, and that is all."""
        try:
            if op[0] == "doom":
                doom("generated")
            elif op[0] == "force":
                force_commit()
            elif op[0] == "hook":
                self._register(op[1], fails=op[2])
        except PostResponseError as error:
            self.refused.append(error)

    def _register(self, kind: str, *, fails: bool) -> None:
        def hook(*_: object) -> None:
            self.hooks.append(kind)
            if fails:
                raise HookFailed(kind)

        getattr(current_exchange(), kind)(hook)


FAILURES: Final[tuple[dict[str, type[Exception]], ...]] = (
    {},
    {"begin": LookupError},
    {"commit": LookupError},
    {"commit": CommitInDoubt},
    {"rollback": LookupError},
    {"close": LookupError},
    {"commit": LookupError, "rollback": LookupError, "close": LookupError},
)


def arounds(is_async: st.SearchStrategy[bool]) -> st.SearchStrategy[Around]:
    return st.builds(
        Around,
        at=st.sampled_from([None, "head", "buffered", "after_send"]),
        is_async=is_async,
        fails=st.sampled_from(FAILURES),
        max_body=st.sampled_from([None, None, 3]),
        on_overflow=st.sampled_from(["error", "head"]),
        on_disconnect=st.sampled_from(["commit", "rollback"]),
        max_memory=st.sampled_from([4, 1 << 20]),
    )


def wishes() -> st.SearchStrategy[Op]:
    hooks = st.tuples(st.just("hook"), st.sampled_from(HOOKS), st.sampled_from([False, False, False, True]))
    return st.one_of(hooks, hooks, st.just(("doom",)), st.just(("force",)))


def mutated(draw: Any, program: list[Op]) -> list[Op]:
    """Leave *program* as it is, or break its order: drop, double, swap, or raise somewhere."""
    for kind in draw(st.lists(st.sampled_from(["drop", "double", "swap", "raise"]), max_size=2)):
        where = draw(st.integers(0, max(0, len(program) - 1)))
        if kind == "raise":
            program.insert(where, ("raise",))
        elif kind == "drop":
            del program[where : where + 1]
        elif kind == "double":
            program[where:where] = program[where : where + 1]
        else:
            program[where : where + 2] = reversed(program[where : where + 2])
    return program


# -- what holds for every program -------------------------------------------------------------------------------------


def check_the_unit(around: Around) -> UnitState:
    """It ended once, in one of the ways there are, was closed, and the outcome says which."""
    (outcome,) = around.outcomes
    state = outcome.unit_of_work
    if around.at is None:
        assert state is UnitState.NONE
        return state
    bad = {name: f"{name}!" if name in around.fails else name for name in ("commit", "rollback", "close")}
    rolled_back = [bad["rollback"], "invalidate"] if "rollback" in around.fails else ["rollback"]
    closed = [bad["close"], "invalidate"] if "close" in around.fails else ["close"]
    log = around.units.log
    if "begin" in around.fails:
        assert log == ["begin!", *rolled_back, *closed]
        return state
    if state is UnitState.COMMITTED:
        assert log == ["begin", "commit", *closed]
    elif state in (UnitState.FAILED, UnitState.UNKNOWN):
        tried = ["commit!"] if "commit!" in log else []
        assert log == ["begin", *tried, *rolled_back, *closed]
        assert (state is UnitState.UNKNOWN) == (around.fails.get("commit") is CommitInDoubt) or not tried
    else:
        assert state is UnitState.ROLLED_BACK
        assert log == ["begin", *rolled_back, *closed]
    return state


def check_the_hooks(around: Around, program: list[Op], state: UnitState) -> None:
    """Each ran at most once, and those of the unit of work as it ended."""
    for kind in HOOKS:
        assert around.hooks.count(kind) <= sum(op[:2] == ("hook", kind) for op in program)
    if around.at is not None and "begin" not in around.fails:
        assert "after_commit" not in around.hooks or state is UnitState.COMMITTED
        assert "after_rollback" not in around.hooks or state in (UnitState.ROLLED_BACK, UnitState.FAILED)


def check_what_left(around: Around, program: list[Op], status: int | None, state: UnitState) -> None:
    """Head and buffered: nothing of a response below 400 left unless its unit committed, or was doomed."""
    if around.at in ("head", "buffered") and status is not None and status < 400 and ("doom",) not in program:
        assert state is UnitState.COMMITTED


def is_undisturbed(around: Around, program: list[Op]) -> bool:
    """Whether nothing fails besides what the application does itself, so that the client gets what it would bare."""
    has_failing_hook = any(op[0] == "hook" and op[2] for op in program)
    overflows = around.at == "buffered" and around.max_body is not None
    return not has_failing_hook and not (around.at and set(around.fails) & {"begin", "commit"}) and not overflows


# -- ASGI -------------------------------------------------------------------------------------------------------------


@st.composite
def asgi_programs(draw: Any) -> list[Op]:
    """A legal program, then perhaps broken."""
    parts = draw(st.lists(st.sampled_from(SIZES), max_size=3))
    last = draw(st.sampled_from(SIZES))
    end = draw(st.sampled_from(["final", "final", "final", "trailers", "pathsend"]))
    if end == "pathsend":
        parts, last = [], 0
    total = sum(parts) + last
    declared = draw(st.sampled_from([None, None, total, total, total + 1, max(0, total - 1)]))
    status = draw(st.sampled_from([200, 200, 201, 302, 404, 500]))
    program: list[Op] = [("start", status, None if end == "pathsend" else declared, end == "trailers")]
    for part in parts:
        program.append(("body", part))
        if draw(st.booleans()):
            program.append(draw(st.sampled_from([("hint",), ("turn",), ("receive",)])))
    ends: dict[str, list[Op]] = {
        "final": [("final", last)],
        "trailers": [("final", last), ("trailers",)],
        "pathsend": [("path",)],
    }
    program += ends[end]
    program[:0] = draw(st.lists(wishes(), max_size=3))
    if draw(st.booleans()):
        program.insert(draw(st.integers(0, len(program))), draw(wishes()))
    return mutated(draw, program)


def asgi_application(program: list[Op], around: Around | None, *, swallows: bool) -> Any:
    """Run *program*; with *swallows* it goes on after whatever `send` raised."""
    asked = list(REQUEST)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for op in program:
            try:
                await do(op, receive, send)
            except Raised:
                raise
            except Exception:
                if not swallows:
                    raise

    async def do(op: Op, receive: Any, send: Any) -> None:
        kind = op[0]
        if kind == "raise":
            raise Raised
        if kind == "start":
            headers = [(b"x-of", b"the application")]
            headers += [] if op[2] is None else [(b"content-length", b"%d" % op[2])]
            await send({"type": START, "status": op[1], "headers": headers, "trailers": op[3]})
        elif kind in ("body", "final"):
            await send({"type": BODY, "body": b"x" * op[1], "more_body": kind == "body"})
        elif kind == "trailers":
            await send({"type": "http.response.trailers", "headers": []})
        elif kind == "path":
            await send({"type": "http.response.pathsend", "path": "/srv/report"})
        elif kind == "hint":
            await send({"type": "http.response.early_hint", "links": []})
        elif kind == "receive":
            if asked:  # a part of the request; the next one would wait for the client to leave
                asked.pop()
                await receive()
        elif kind == "turn":
            await checkpoint()
        elif around is not None:
            around.say(op)

    return app


@dataclass
class Client:
    """What the client of a generated request does, and on which loop."""

    backend: str
    method: str
    leaves_at: int | None
    tells: bool
    swallows: bool

    async def _ask(self, app: Any) -> tuple[StrictASGIServer, BaseException | None]:
        server = StrictASGIServer(
            self.method, extensions=EXTENSIONS, leaves_at=self.leaves_at, tells=self.tells, body=REQUEST
        )
        try:
            await server.run(app)
        except Exception as error:
            return server, error
        return server, None

    def ask(self, app: Any) -> tuple[StrictASGIServer, BaseException | None]:
        """Run one request through *app*."""
        return anyio.run(self._ask, app, backend=self.backend)


CLIENTS: Final = st.builds(
    Client,
    backend=st.sampled_from(["asyncio", "asyncio", "trio"]),
    method=st.sampled_from(["GET", "GET", "HEAD"]),
    leaves_at=st.sampled_from([None, None, None, 0, 1, 2]),
    tells=st.booleans(),
    swallows=st.booleans(),
)


@settings(max_examples=400 // SHARE, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(program=asgi_programs(), around=arounds(st.sampled_from([True, True, True, False])), client=CLIENTS)
def test_every_asgi_program_keeps_the_promises(program: list[Op], around: Around, client: Client) -> None:
    bare, bare_error = client.ask(asgi_application(program, None, swallows=client.swallows))
    app = asgi_application(program, around, swallows=client.swallows)
    server, error = client.ask(ASGIMiddleware(app, **around.options))
    (outcome,) = around.outcomes
    state = check_the_unit(around)
    check_the_hooks(around, program, state)
    check_what_left(around, program, server.status, state)
    assert sum(message["type"] == START for message in server.messages) <= 1
    if not bare.broken:
        assert server.broken == []
    if server.complete and not server.left:
        assert outcome.ending is Ending.HANDED_OVER
    if outcome.ending is Ending.HANDED_OVER:
        assert server.complete or server.left
    if isinstance(bare_error, Raised) and outcome.ending is Ending.FAILED:
        assert isinstance(error, Raised)
    if is_undisturbed(around, program) and not bare.broken and client.leaves_at is None:
        check_the_same_asgi(bare, server, around)


def check_the_same_asgi(bare: StrictASGIServer, server: StrictASGIServer, around: Around) -> None:
    """The client got what it would have got without the middleware, or nothing where that was half of a response."""
    if around.at in ("head", "buffered") and not bare.complete:
        if around.at == "head" and server.status is not None:
            assert (server.status, server.body) == (bare.status, bare.body)
        return
    assert (server.status, server.body, server.path) == (bare.status, bare.body, bare.path)
    assert server.complete == bare.complete
    assert [pair for pair in server.headers if pair[0] != b"content-length" or pair in bare.headers] == bare.headers
    hints = [message["type"] for message in bare.messages if message["type"] != BODY]
    assert [message["type"] for message in server.messages if message["type"] != BODY] == hints


# -- WSGI -------------------------------------------------------------------------------------------------------------


@dataclass
class WSGIProgram:
    """What a WSGI application does.

    Attributes:
        call: What it does in the call, or for a lazy one in the first `next`.
        kind: What it returns: list, tuple, iterator, lazy or file.
        chunks: The sizes of what that holds.
        raises_at: The chunk instead of which the iterator raises.
        close_raises: Whether its `close` does.
    """

    call: list[Op]
    kind: str
    chunks: list[int]
    raises_at: int | None
    close_raises: bool


@st.composite
def wsgi_programs(draw: Any) -> WSGIProgram:
    """A legal program, then perhaps broken."""
    chunks = draw(st.lists(st.sampled_from(SIZES), max_size=3))
    written = draw(st.lists(st.sampled_from(SIZES), max_size=2))
    total = sum(chunks) + sum(written)
    declared = draw(st.sampled_from([None, None, total, total, total + 1]))
    call: list[Op] = [("start", draw(st.sampled_from([200, 200, 201, 302, 404, 500])), declared)]
    if draw(st.sampled_from([False, False, False, True])):
        call.append(("restart", draw(st.sampled_from([200, 500])), declared))
    call += [("write", size) for size in written]
    call[:0] = draw(st.lists(wishes(), max_size=3))
    return WSGIProgram(
        mutated(draw, call),
        draw(st.sampled_from(["list", "tuple", "iterator", "lazy", "file"])),
        chunks,
        draw(st.sampled_from([None, None, None, 0, 1])),
        draw(st.sampled_from([False, False, False, True])),
    )


class Chunks:
    """A body that counts how often it is closed."""

    def __init__(self, program: WSGIProgram, call: Any = None) -> None:
        self.program = program
        self.call = call
        self.given = self.closed = 0

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        call, self.call = self.call, None
        if call is not None:
            call()
        if self.program.raises_at == self.given:
            raise Raised
        if self.given >= len(self.program.chunks):
            raise StopIteration
        self.given += 1
        return b"x" * self.program.chunks[self.given - 1]

    def close(self) -> None:
        self.closed += 1
        if self.program.close_raises:
            raise Raised


class CountedFile(io.BytesIO):
    """A file that counts how often it is closed."""

    closings = 0

    def close(self) -> None:
        self.closings += 1
        super().close()


class WSGIApplication:
    """Run a program; what it returned last is kept."""

    def __init__(self, program: WSGIProgram, around: Around | None) -> None:
        self.program = program
        self.around = around
        self.body: Any = None

    def __call__(self, environ: Any, start_response: Any) -> Any:
        def call() -> None:
            write: Any = None
            for op in self.program.call:
                write = self.do(op, start_response, write)

        program = self.program
        if program.kind == "lazy":
            self.body = Chunks(program, call)
            return self.body
        call()
        whole = [b"x" * size for size in program.chunks]
        if program.kind == "file":
            self.body = CountedFile(b"".join(whole))
            return environ["wsgi.file_wrapper"](self.body, 8192)
        if program.kind == "iterator":
            self.body = Chunks(program)
            return self.body
        return whole if program.kind == "list" else tuple(whole)

    def do(self, op: Op, start_response: Any, write: Any) -> Any:
        kind = op[0]
        if kind == "raise":
            raise Raised
        if kind in ("start", "restart"):
            headers = [("X-Of", "the application")]
            headers += [] if op[2] is None else [("Content-Length", str(op[2]))]
            if kind == "start":
                return start_response(f"{op[1]} Generated", headers)
            try:
                raise Raised
            except Raised:
                return start_response(f"{op[1]} Generated", headers, sys.exc_info())
        if kind == "write":
            if write is not None:
                write(b"x" * op[1])
        elif self.around is not None:
            self.around.say(op)
        return write


WSGI_SERVERS: Final = st.fixed_dictionaries(
    {
        "method": st.sampled_from(["GET", "GET", "HEAD"]),
        "closing": st.sampled_from([*CLOSINGS, "normal", "normal"]),
        "writes": st.booleans(),
        "file_wrapper": st.booleans(),
    }
)


@settings(max_examples=800 // SHARE, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(program=wsgi_programs(), around=arounds(st.just(False)), request=WSGI_SERVERS)
def test_every_wsgi_program_keeps_the_promises(program: WSGIProgram, around: Around, request: Any) -> None:
    request = dict(request, file_wrapper=request["file_wrapper"] or program.kind == "file")
    if any(op[0] == "write" for op in program.call):
        # Where the server has no write, an application is not told so as long as its head is withheld.
        request["writes"] = True
    if request["closing"] == "never" and (request["file_wrapper"] or program.close_raises or around.fails):
        # The one server that never closes has no file wrapper; and errors that are kept would keep the body alive.
        request["closing"] = "normal"
    bare_app = WSGIApplication(program, None)
    bare = StrictWSGIServer(**request).run(bare_app)
    app = WSGIApplication(program, around)
    server = StrictWSGIServer(**request).run(WSGIMiddleware(app, **around.options))
    if request["closing"] == "never":
        gc.collect(1)
    (outcome,) = around.outcomes
    state = check_the_unit(around)
    check_the_hooks(around, program.call, state)
    check_what_left(around, program.call, server.code if server.head_left else None, state)
    assert server.heads <= 1
    if not bare.broken:
        assert server.broken == []
    if outcome.ending is Ending.HANDED_OVER:
        assert server.status is not None
    if server.ended and not program.close_raises and request["closing"] in ("normal", "twice") and not server.broken:
        # What the server sends as a file is seen to be closed, not to be asked for its end.
        assert outcome.ending is Ending.HANDED_OVER or (server.sent_as_file and outcome.sent)
    if isinstance(app.body, Chunks):
        assert app.body.closed == 1
    if isinstance(app.body, CountedFile):
        with suppress(ValueError):
            app.body.close()
        assert app.body.closings >= 2
    same = is_undisturbed(around, program.call) and not bare.broken and bare.raised is None
    if same and request["closing"] in ("normal", "twice"):
        assert (server.status, server.body) == (bare.status, bare.body)
        kept = [pair for pair in server.headers if pair[0].lower() != "content-length" or pair in bare.headers]
        assert kept == bare.headers
        assert server.raised is None


def test_programs_of_every_kind_are_generated() -> None:
    legal, illegal = 0, 0

    @settings(max_examples=200, deadline=None, derandomize=True, database=None)
    @given(program=asgi_programs())
    def count(program: list[Op]) -> None:
        nonlocal legal, illegal
        client = Client("asyncio", "GET", None, tells=False, swallows=False)
        server, error = client.ask(asgi_application(program, None, swallows=False))
        legal += error is None and server.complete
        illegal += bool(server.broken)

    count()
    assert legal >= 40
    assert illegal >= 40
