"""A pytest plugin that puts every application of an upstream suite behind PostResponseMiddleware.

It runs inside the interpreter of the upstream suite. The question it helps to answer is whether the middleware is
transparent, so it takes care that only the middleware differs between two runs:

- **The wrapper has the same shape in every mode.** An application is replaced by a `Carrier`, which calls its
  *entrance* and hands every attribute access to the application itself. In the baseline the entrance is the
  application, otherwise the middleware around it. A test that minds being wrapped at all fails in both.
- **Applications are wrapped where they are entered**, not where they are built: a suite builds them in hundreds of ways
  (functions, classes, instances, mounted routers, single responses) and enters them at a handful of places.

  Starlette: `TestClient` (which the suite's `test_client_factory` calls) and `ASGITransport` of httpx get a carrier for
  their `app`, after the client has turned ASGI 2 and class-based applications into what it calls. Tests that call
  `await app(scope, receive, send)` by hand use neither, so `__call__` of the public classes is patched too, and only
  the **outermost** call of a task goes through the middleware, as it would in production; a context variable tells.

  Flask: `Flask.__call__` is what every test client, `run_wsgi_app` and server calls, and what looks `wsgi_app` up.
  Patching it keeps `client.application` the real `Flask` object, which `FlaskClient` needs for its contexts and
  sessions, and a test may still assign its own middleware to `app.wsgi_app`: ours stays outermost.

- **One middleware an application**, not one a request, where the application outlives the request: what the middleware
  keeps between requests is under test as well.

The unit of work is a ledger: its four methods do nothing but count, and complain when they come in an order that no
database would survive. The counts go to the file of `--transparency-tally`, so that a run in which the middleware was
never entered cannot pass for a good one.
"""

import contextvars
import functools
import gc
import importlib
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Wrap = Callable[[Any], Any]
_inside = contextvars.ContextVar("transparency_inside", default=False)


class Tally:
    """What happened in one run: requests, endings, steps of the units of work, and what was wrong with them."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.tests: set[str] = set()
        self.complaints: list[str] = []
        self.units: list[Ledger] = []
        self.current = ""

    def entered(self) -> None:
        """Count a request that went through an entrance."""
        self.counts["requests"] += 1
        self.tests.add(self.current)

    def finished(self, outcome: Any) -> None:
        """Count an exchange by its ending and by what became of its unit of work."""
        self.counts[f"ending {outcome.ending.value}"] += 1
        self.counts[f"unit {outcome.unit_of_work.value}"] += 1

    def failed_hook(self, failure: Any) -> None:
        """Complain about a failing hook: this plugin registers none that may fail."""
        self.complaints.append(f"{self.current}: on_error was called with {failure!r}")

    def as_dict(self) -> dict[str, Any]:
        """Return everything counted, ready for JSON."""
        left_open = [
            f"{unit.test}: unit of work left open after {', '.join(unit.steps)}"
            for unit in self.units
            if "close" not in unit.steps
        ]
        return {"counts": self.counts, "tests": len(self.tests), "complaints": self.complaints + left_open}


class Ledger:
    """A unit of work with no database: it notes each step and complains about an impossible order."""

    active = True

    def __init__(self, tally: Tally) -> None:
        self.steps: list[str] = []
        self.test = tally.current
        self._tally = tally
        tally.units.append(self)

    def note(self, step: str) -> None:
        """Note *step* and check it against the steps before it."""
        began, ended = "begin" in self.steps, "commit" in self.steps or "rollback" in self.steps
        if (step == "begin") is began or (step == "commit" and ended):
            self._tally.complaints.append(f"{self.test}: {step} of a unit of work after {', '.join(self.steps)}")
        self.steps.append(step)
        self._tally.counts[step] += 1


class SyncLedger(Ledger):
    """The ledger for WSGI."""

    def begin(self) -> None:
        """Note it."""
        self.note("begin")

    def commit(self) -> None:
        """Note it."""
        self.note("commit")

    def rollback(self) -> None:
        """Note it."""
        self.note("rollback")

    def close(self) -> None:
        """Note it."""
        self.note("close")


class AsyncLedger(Ledger):
    """The ledger for ASGI."""

    async def begin(self) -> None:
        """Note it."""
        self.note("begin")

    async def commit(self) -> None:
        """Note it."""
        self.note("commit")

    async def rollback(self) -> None:
        """Note it."""
        self.note("rollback")

    async def close(self) -> None:
        """Note it."""
        self.note("close")


class Carrier:
    """Stand in for an application: calls go to *entrance*, attributes come from *app*."""

    def __init__(self, app: Any, entrance: Any, tally: Tally) -> None:
        self.app = app
        self._entrance = entrance
        self._tally = tally

    def __getattr__(self, name: str) -> Any:
        return getattr(self.app, name)


class AsgiCarrier(Carrier):
    """A carrier that is an ASGI 3 application."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Enter the application, and remember inside the task that this happened."""
        if scope["type"] == "http":
            self._tally.entered()
        token = _inside.set(True)
        try:
            await self._entrance(scope, receive, send)
        finally:
            _inside.reset(token)


class WsgiCarrier(Carrier):
    """A carrier that is a WSGI application."""

    def __call__(self, environ: Any, start_response: Any) -> Any:
        """Enter the application."""
        self._tally.entered()
        return self._entrance(environ, start_response)


def pass_through(app: Any) -> Any:
    """Enter the application itself: the baseline."""
    return app


def middleware(interface: str, mode: str, tally: Tally) -> Wrap:
    """Return what puts the middleware of *interface* around an application, in *mode*."""
    options: dict[str, Any] = {"on_finished": tally.finished, "on_error": tally.failed_hook}
    if mode != "observe":
        ledger = AsyncLedger if interface == "asgi" else SyncLedger
        options |= {"unit_of_work": lambda exchange: ledger(tally), "commit": mode}
    # By name: the interpreter of a WSGI suite need not be able to import the ASGI side, nor the baseline either.
    return functools.partial(importlib.import_module(f"postresponse.{interface}").PostResponseMiddleware, **options)


def starlette(wrap: Wrap, tally: Tally) -> None:
    """Wrap what Starlette's test client, httpx's transports and tests that call by hand enter."""
    from starlette import testclient

    def carried(app: Any) -> AsgiCarrier:
        return AsgiCarrier(app, wrap(app), tally)

    build_client = testclient.TestClient.__init__

    @functools.wraps(build_client)
    def client(self: Any, app: Any, *args: Any, **kwargs: Any) -> None:
        build_client(self, app, *args, **kwargs)
        self.app = self._transport.app = carried(self.app)

    testclient.TestClient.__init__ = client  # type: ignore[method-assign]
    for name in ("httpx", "httpx2"):
        _wrap_transport(importlib.import_module(name).ASGITransport, carried)
    for name in STARLETTE_CLASSES:
        module, _, attribute = name.partition(":")
        _wrap_outermost(getattr(importlib.import_module(module), attribute), carried)


# The public classes with a `__call__` of their own. starlette.middleware.wsgi is missing: importing it warns, which its
# own tests expect to happen while they run.
STARLETTE_CLASSES = (
    "starlette.applications:Starlette",
    "starlette.middleware.authentication:AuthenticationMiddleware",
    "starlette.middleware.base:BaseHTTPMiddleware",
    "starlette.middleware.body_limit:RequestBodyLimitMiddleware",
    "starlette.middleware.cors:CORSMiddleware",
    "starlette.middleware.errors:ServerErrorMiddleware",
    "starlette.middleware.exceptions:ExceptionMiddleware",
    "starlette.middleware.gzip:GZipMiddleware",
    "starlette.middleware.httpsredirect:HTTPSRedirectMiddleware",
    "starlette.middleware.opentelemetry:OpenTelemetryMiddleware",
    "starlette.middleware.sessions:SessionMiddleware",
    "starlette.middleware.trustedhost:TrustedHostMiddleware",
    "starlette.responses:FileResponse",
    "starlette.responses:Response",
    "starlette.responses:StreamingResponse",
    "starlette.routing:BaseRoute",
    "starlette.routing:Router",
    "starlette.staticfiles:StaticFiles",
)


def _wrap_transport(transport: Any, carried: Wrap) -> None:
    build = transport.__init__

    @functools.wraps(build)
    def init(self: Any, app: Any, *args: Any, **kwargs: Any) -> None:
        build(self, carried(app), *args, **kwargs)

    transport.__init__ = init


def _wrap_outermost(cls: Any, carried: Wrap) -> None:
    call = vars(cls)["__call__"]

    @functools.wraps(call)
    async def outermost(self: Any, scope: Any, receive: Any, send: Any) -> None:
        if _inside.get():
            await call(self, scope, receive, send)
        else:
            await carried(functools.partial(call, self))(scope, receive, send)

    cls.__call__ = outermost


def flask(wrap: Wrap, tally: Tally) -> None:
    """Wrap what every WSGI server and test client calls: the Flask object."""
    from flask import Flask

    def call(self: Any, environ: Any, start_response: Any) -> Any:
        if "_transparency_carrier" not in vars(self):
            self._transparency_carrier = WsgiCarrier(self, wrap(lambda *args: self.wsgi_app(*args)), tally)
        return self._transparency_carrier(environ, start_response)

    Flask.__call__ = call  # type: ignore[method-assign]


ENTRANCES: dict[str, Callable[[Wrap, Tally], None]] = {"starlette": starlette, "flask": flask}

_tally = pytest.StashKey[Tally]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options that say what to wrap, with what, and where the tally goes."""
    parser.addoption("--transparency-entrance", choices=sorted(ENTRANCES), required=True)
    parser.addoption("--transparency-interface", choices=["asgi", "wsgi"], required=True)
    parser.addoption("--transparency-mode", required=True, help="baseline, observe, or a value of commit=")
    parser.addoption("--transparency-tally", type=Path, required=True, help="file for the counts, as JSON")


def pytest_configure(config: pytest.Config) -> None:
    """Patch the suite's entrances before its tests are imported."""
    tally = config.stash[_tally] = Tally()
    mode = config.getoption("--transparency-mode")
    wrap = pass_through if mode == "baseline" else middleware(config.getoption("--transparency-interface"), mode, tally)
    ENTRANCES[config.getoption("--transparency-entrance")](wrap, tally)
    config.pluginmanager.register(_Current(tally), "transparency-current")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the tally, after the end of responses that a test client dropped without closing them."""
    gc.collect()
    path: Path = session.config.getoption("--transparency-tally")
    path.write_text(json.dumps(session.config.stash[_tally].as_dict()), encoding="utf-8")


class _Current:
    def __init__(self, tally: Tally) -> None:
        self._tally = tally

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._tally.current = nodeid
