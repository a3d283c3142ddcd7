"""What the unit of work did to a response is rendered by a Django project's exception middleware and error views."""

import gc
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.apps import apps
from django.core.asgi import get_asgi_application
from django.core.exceptions import PermissionDenied
from django.core.signals import got_request_exception
from django.core.wsgi import get_wsgi_application
from django.db import IntegrityError, connection, connections
from django.http import FileResponse, Http404, HttpResponse, JsonResponse, StreamingHttpResponse
from django.template.response import TemplateResponse
from django.test import override_settings
from django.urls import path, reverse

from postresponse import CommitPolicy, Retry, asgi, commit_policy, current_exchange, wsgi
from postresponse.core.exchange import Failure
from postresponse.core.lifecycle import Outcome
from postresponse.exceptions import BodyTooLarge, CommitInDoubt, ConfigurationError, PartialCommit
from postresponse.integrations.django import rendered_by
from postresponse.unit_of_work.django import DjangoUnitOfWork
from tests.fakes import Conflict, FakeUnits, run_asgi, run_wsgi
from tests.servers.client import Client, Connection
from tests.servers.harness import KINDS, Server
from tests.servers.site import eventually
from tests.unit_of_work.django_project.databases import SQLite

pytestmark = pytest.mark.usefixtures("project")

View = Callable[..., Any]
EARLY = pytest.mark.parametrize("commit", ["head", "buffered"])
KIND = pytest.mark.parametrize("kind", ["wsgi", "asgi", "wsgi, async view", "asgi, async view"])


def order(request: Any) -> HttpResponse:
    """Place an order by a customer who does not exist, which COMMIT refuses."""
    apps.get_model("django_project.Order").objects.create(customer_id=404)
    return HttpResponse("stored", status=201, headers={"ETag": "x", "Set-Cookie": "a=b", "Location": "/orders/1"})


async def async_order(request: Any) -> HttpResponse:
    await apps.get_model("django_project.Order").objects.acreate(customer_id=404)
    return HttpResponse("stored", status=201)


@dataclass
class Answer:
    """What a client, and a middleware around everything, saw of one request."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes
    failures: list[Failure]
    outcomes: list[Outcome]

    def get(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key.lower() == name), None)

    @property
    def is_default(self) -> bool:
        """Whether the package itself answered."""
        return self.get("content-type") == "application/problem+json" and b"Traceback" not in self.body


@dataclass
class Site:
    """A Django project with one view, behind the middleware.

    Args:
        view: At /orders; None for the one that places an order, in both kinds.
        middleware: Its middlewares, in order.
        handlers: Error views of the URLconf, by name.
        settings: Other settings.
    """

    kind: str = "wsgi"
    view: View | None = None
    middleware: list[Any] = field(default_factory=list)
    handlers: dict[str, View] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)

    def ask(self, method: str = "GET", body: bytes = b"", environ: dict[str, Any] | None = None) -> Answer:
        failures: list[Failure] = []
        outcomes: list[Outcome] = []
        told = {"on_commit_failed": failures.append, "on_error": failures.append, "on_finished": outcomes.append}
        with self._project():
            if self.kind.startswith("wsgi"):
                status, headers, content = self._wsgi(told, method, body, environ or {})
            else:
                status, headers, content = self._asgi(told, method, body)
            # What the strict servers ask on this thread has to be closed as it would be on theirs.
            assert not any(each.in_atomic_block for each in connections.all(initialized_only=True))
        return Answer(status, headers, content, failures, outcomes)

    def _options(self, app: Any, told: dict[str, Any]) -> dict[str, Any]:
        options = {"unit_of_work": DjangoUnitOfWork(), **told, **self.options}
        if "error_response" not in options:
            options["error_response"] = rendered_by(app)
        return options

    def _wsgi(self, told: dict[str, Any], method: str, body: bytes, environ: dict[str, Any]) -> Any:
        app = get_wsgi_application()
        wrapped = wsgi.PostResponseMiddleware(app, **self._options(app, told))

        def asked(given: dict[str, Any], start_response: Any) -> Any:
            given.update(environ)
            return wrapped(given, start_response)

        server = run_wsgi(asked, method=method, content=body)
        return server.code, server.headers, server.body

    def _asgi(self, told: dict[str, Any], method: str, body: bytes) -> Any:
        app = get_asgi_application()
        wrapped = asgi.PostResponseMiddleware(app, **self._options(app, told))
        server = run_asgi(wrapped, method=method, body=[body], headers=FORM)
        return server.status, [(name.decode(), value.decode()) for name, value in server.headers], server.body

    @contextmanager
    def _project(self) -> Iterator[None]:
        view = self.view or (async_order if "async" in self.kind else order)
        urls: Any = ModuleType("urls_of_this_test")
        urls.urlpatterns = [path("orders", view, name="order")]
        vars(urls).update(self.handlers)
        classes: Any = ModuleType("middlewares_of_this_test")
        vars(classes).update({f"n{number}": each for number, each in enumerate(self.middleware)})
        names = [f"{classes.__name__}.n{number}" for number in range(len(self.middleware))]
        sys.modules[classes.__name__] = classes
        try:
            with override_settings(ROOT_URLCONF=urls, MIDDLEWARE=names, **self.settings):
                yield
        finally:
            del sys.modules[classes.__name__]


FORM = [(b"content-type", b"application/x-www-form-urlencoded")]


def excepting(process_exception: View, process_request: View = lambda request: None) -> Any:
    """Make a middleware."""

    class Excepting:
        def __init__(self, get_response: View) -> None:
            self._get_response = get_response

        def __call__(self, request: Any) -> Any:
            process_request(request)
            return self._get_response(request)

        def process_exception(self, request: Any, exception: Exception) -> Any:
            return process_exception(request, exception)

    return Excepting


def async_excepting(process_exception: View) -> Any:
    """Make an async middleware."""

    class Excepting:
        sync_capable, async_capable = False, True

        def __init__(self, get_response: View) -> None:
            self._get_response = get_response
            assert iscoroutinefunction(get_response)
            markcoroutinefunction(self)

        async def __call__(self, request: Any) -> Any:
            return await self._get_response(request)

        async def process_exception(self, request: Any, exception: Exception) -> Any:
            return process_exception(request, exception)

    return Excepting


def saying(answer: str, status: int = 409) -> View:
    """Make an error view, or a `process_exception`."""
    return lambda request, exception=None: HttpResponse(answer, status=status)


def nothing(request: Any, exception: Exception) -> None:
    """A `process_exception` that leaves it to others."""


SORRY = {"handler500": saying("<h1>Sorry</h1>", 500)}


def errors(caplog: pytest.LogCaptureFixture, name: str = "postresponse") -> list[str]:
    """What was logged at ERROR by one logger."""
    return [record.getMessage() for record in caplog.records if (record.name, record.levelname) == (name, "ERROR")]


@pytest.fixture
def signals() -> Iterator[list[Any]]:
    """What `got_request_exception` was sent with: the request, and the exception that its receivers see."""
    sent: list[Any] = []

    def receive(sender: Any, request: Any, **signal: Any) -> None:
        assert sender is None
        sent.append((request.path, sys.exc_info()[1]))

    got_request_exception.connect(receive)
    yield sent
    got_request_exception.disconnect(receive)


# -- process_exception ------------------------------------------------------------------------------------------------


@EARLY
@KIND
def test_the_exception_middleware_answers_with_the_views_own_request(
    default: SQLite, kind: str, commit: str, signals: list[Any]
) -> None:
    seen: list[Any] = []

    def sign_in(request: Any) -> None:
        request.user = "ada"
        assert request.POST["item"] == "tea"

    def conflict(request: Any, exception: Exception) -> HttpResponse:
        seen.append(exception)
        answer = {"user": request.user, "item": request.POST["item"], "view": request.resolver_match.url_name}
        response = JsonResponse(answer, status=409)
        response.set_cookie("tried", "yes", path=None)
        return response

    environ = {"CONTENT_TYPE": "application/x-www-form-urlencoded"}
    site = Site(kind, middleware=[excepting(conflict, sign_in)], options={"commit": commit})
    answer = site.ask("POST", b"item=tea", environ)
    assert (answer.status, answer.body) == (409, b'{"user": "ada", "item": "tea", "view": "order"}')
    assert [value for name, value in answer.headers if name.lower() == "set-cookie"] == ["tried=yes"]
    assert answer.get("etag") is None
    assert answer.get("location") is None
    assert [failure.exception for failure in answer.failures] == seen
    assert isinstance(seen[0], IntegrityError)
    assert [(outcome.unit_of_work, outcome.status) for outcome in answer.outcomes] == [("failed", 409)]
    assert (default.orders(), signals) == ([], [])


@KIND
def test_the_last_middleware_is_asked_first_and_the_first_answer_counts(default: SQLite, kind: str) -> None:
    asked: list[str] = []

    def answering(name: str, answer: Any) -> View:
        def process_exception(request: Any, exception: Exception) -> Any:
            asked.append(name)
            return answer

        return process_exception

    middleware = [
        excepting(answering("first", HttpResponse("first", status=409))),
        excepting(answering("second", HttpResponse("second", status=409))),
        excepting(answering("third", None)),
    ]
    assert Site(kind, middleware=middleware).ask().body == b"second"
    assert asked == ["third", "second"]


@KIND
def test_an_async_middleware_is_asked_as_well(default: SQLite, kind: str) -> None:
    if kind.startswith("wsgi"):
        middleware = [excepting(saying("taken"))]
        # Under WSGI Django adapts an async method of a middleware that is not async itself.
        sync = middleware[0].process_exception

        async def process_exception(self: Any, request: Any, exception: Exception) -> Any:
            return sync(self, request, exception)

        middleware[0].process_exception = process_exception
    else:
        middleware = [async_excepting(saying("taken"))]
    assert Site(kind, middleware=middleware).ask().body == b"taken"


LOCMEM = {
    "TEMPLATES": [
        {
            "BACKEND": "django.template.backends.django.DjangoTemplates",
            "OPTIONS": {
                "loaders": [
                    (
                        "django.template.loaders.locmem.Loader",
                        {"500.html": "<h1>Sorry, {{ 6|add:3 }} times</h1>", "409.html": "{{ item }} is taken"},
                    )
                ]
            },
        }
    ]
}


@KIND
def test_a_template_response_is_rendered(default: SQLite, kind: str) -> None:
    def conflict(request: Any, exception: Exception) -> Any:
        return TemplateResponse(request, "409.html", {"item": "tea"}, status=409)

    answer = Site(kind, middleware=[excepting(conflict)], settings=LOCMEM).ask()
    assert (answer.status, answer.body) == (409, b"tea is taken")
    view = {"handler500": lambda request: conflict(request, Exception())}
    assert Site(kind, handlers=view, settings=LOCMEM).ask().body == b"tea is taken"


# -- error views ------------------------------------------------------------------------------------------------------


@EARLY
@KIND
def test_then_handler500_answers_and_the_signal_is_sent(
    default: SQLite, kind: str, commit: str, signals: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    def page(request: Any) -> HttpResponse:
        return HttpResponse(f"<h1>Sorry, {request.user}: {reverse('order')}</h1>", status=500)

    site = Site(
        kind,
        middleware=[excepting(nothing, lambda request: setattr(request, "user", "ada"))],
        handlers={"handler500": page},
        options={"commit": commit},
    )
    answer = site.ask()
    assert (answer.status, answer.body) == (500, b"<h1>Sorry, ada: /orders</h1>")
    assert signals == [("/orders", answer.failures[0].exception)]
    assert errors(caplog, "django.request") == ["Internal Server Error: /orders"]


@KIND
def test_the_urlconf_of_the_request_is_the_one(default: SQLite, kind: str) -> None:
    other: Any = ModuleType("other_urls")
    other.urlpatterns = [path("orders", async_order if "async" in kind else order)]
    other.handler500 = saying("the other site is sorry", 500)

    def choose(request: Any) -> None:
        request.urlconf = other

    site = Site(kind, view=saying("never"), middleware=[excepting(nothing, choose)], handlers=SORRY)
    assert site.ask().body == b"the other site is sorry"


@KIND
def test_without_handler500_its_template_is_used(default: SQLite, kind: str) -> None:
    answer = Site(kind, settings=LOCMEM).ask()
    assert (answer.status, answer.body) == (500, b"<h1>Sorry, 9 times</h1>")


@KIND
@pytest.mark.parametrize(("error", "status"), [(Http404("sold out"), 404), (PermissionDenied(), 403)])
def test_what_a_hook_raises_goes_to_the_view_of_its_status(
    default: SQLite, kind: str, error: Exception, status: int, signals: list[Any]
) -> None:
    def fail() -> None:
        raise error

    def view(request: Any) -> HttpResponse:
        current_exchange().before_commit(fail)
        return HttpResponse("stored")

    assert Site(kind, view).ask().status == status
    handlers = {**SORRY, f"handler{status}": lambda request, exception: HttpResponse(repr(exception), status=status)}
    answer = Site(kind, view, handlers=handlers, settings={"DEBUG": True}).ask()
    assert (answer.status, answer.body.decode()) == (status, repr(error))
    assert signals == []


@KIND
@pytest.mark.parametrize("setting", ["DEBUG", "DEBUG_PROPAGATE_EXCEPTIONS"])
@pytest.mark.parametrize("has_page", [True, False])
def test_no_setting_lets_the_exception_out_or_shows_a_traceback(
    default: SQLite, kind: str, setting: str, has_page: bool
) -> None:
    answer = Site(kind, handlers=SORRY if has_page else {}, settings={setting: True}).ask()
    assert answer.status == 500
    assert answer.body == b"<h1>Sorry</h1>" if has_page else answer.is_default


# -- nobody's ---------------------------------------------------------------------------------------------------------


@KIND
def test_without_a_handler_the_default_answers(
    default: SQLite, kind: str, signals: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    handlers = {"handler404": saying("not found", 404)}
    answer = Site(kind, middleware=[excepting(nothing)], handlers=handlers).ask()
    assert (answer.status, answer.is_default) == (500, True)
    assert len(signals) == 1
    assert errors(caplog) == ["GET /orders: the unit of work could not commit"]


def stored(request: Any) -> HttpResponse:
    return HttpResponse("stored")


def units(kind: str, error: Exception, call: str = "commit") -> dict[str, Any]:
    return {"unit_of_work": FakeUnits({call: error}, is_async=kind == "asgi")}


BOTH = pytest.mark.parametrize("kind", ["wsgi", "asgi"])


@BOTH
def test_and_says_so_where_trying_again_may_help(kind: str) -> None:
    answer = Site(kind, stored, options=units(kind, Conflict())).ask()
    assert (answer.status, answer.get("retry-after"), answer.is_default) == (503, "1", True)


@BOTH
def test_of_a_request_that_is_run_again_the_last_attempt_is_rendered(kind: str) -> None:
    attempts: list[Any] = []

    def view(request: Any) -> HttpResponse:
        request.number = current_exchange().attempt
        return HttpResponse("stored")

    def failed(request: Any, exception: Exception) -> HttpResponse:
        attempts.append(request.number)
        return HttpResponse("try later", status=503)

    options = {**units(kind, Conflict()), "commit": CommitPolicy(retry=Retry(attempts=3, backoff=0))}
    assert Site(kind, view, [excepting(failed)], options=options).ask().body == b"try later"
    assert attempts == [3]


def undecided(kind: str, error: Exception) -> Answer:
    """Ask a project whose pages say that nothing was stored, and a commit of which nobody can say that."""
    middleware = [excepting(saying("nothing was stored"))]
    return Site(kind, stored, middleware, SORRY, options=units(kind, error)).ask()


@BOTH
def test_no_page_answers_where_nobody_knows_what_was_committed(kind: str, signals: list[Any]) -> None:
    answer = undecided(kind, CommitInDoubt("lost"))
    assert (answer.status, answer.is_default) == (503, True)
    assert b"is unknown: it may or may not have been carried out" in answer.body
    assert signals == []


@BOTH
def test_no_page_answers_where_a_part_was_committed(kind: str, signals: list[Any]) -> None:
    answer = undecided(kind, PartialCommit(("a",), "b"))
    assert (answer.status, answer.is_default) == (500, True)
    assert b"was carried out in part only" in answer.body
    assert signals == []


# -- a handler that fails ---------------------------------------------------------------------------------------------

BROKEN: dict[str, View] = {
    "raises": lambda request, exception=None: 1 / 0,
    "returns no response": lambda request, exception=None: "no",
}


@EARLY
@KIND
@pytest.mark.parametrize("how", BROKEN)
@pytest.mark.parametrize("which", ["process_exception", "handler500"])
def test_a_broken_handler_falls_back_to_the_default(
    default: SQLite, which: str, how: str, kind: str, commit: str, caplog: pytest.LogCaptureFixture
) -> None:
    site = Site(kind, options={"commit": commit})
    if which == "process_exception":
        site.middleware = [excepting(BROKEN[how])]
    else:
        site.handlers = {which: BROKEN[how]}
    assert site.ask().is_default
    assert "GET /orders: error_response failed; the default answers" in errors(caplog)
    assert default.orders() == []


@KIND
def test_a_middleware_that_fails_is_an_error_like_any_other(default: SQLite, kind: str, signals: list[Any]) -> None:
    answer = Site(kind, middleware=[excepting(BROKEN["raises"])], handlers=SORRY).ask()
    assert answer.body == b"<h1>Sorry</h1>"
    ((_, error),) = signals
    assert isinstance(error, ZeroDivisionError)
    assert error.__context__ is answer.failures[0].exception


@KIND
def test_a_handler_may_use_the_database_and_leaves_nothing_open(default: SQLite, kind: str) -> None:
    def conflict(request: Any, exception: Exception) -> HttpResponse:
        apps.get_model("django_project.Order").objects.create(customer_id=None)
        return HttpResponse(f"{connection.in_atomic_block}", status=409)

    assert Site(kind, middleware=[excepting(conflict)]).ask().body == b"False"
    assert default.orders() == [None]  # in autocommit, as a failed attempt is written down


@BOTH
def test_a_handler_runs_on_the_thread_of_the_request(default: SQLite, kind: str) -> None:
    threads: list[int] = []

    def view(request: Any) -> HttpResponse:
        threads.append(threading.get_ident())
        return order(request)

    def conflict(request: Any, exception: Exception) -> HttpResponse:
        threads.append(threading.get_ident())
        return HttpResponse("taken", status=409)

    assert Site(kind, view, [excepting(conflict)]).ask().status == 409
    assert threads[0] == threads[1]


@KIND
def test_a_handler_that_fails_at_the_database_falls_back(default: SQLite, kind: str) -> None:
    def conflict(request: Any, exception: Exception) -> HttpResponse:
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM nowhere")
        raise AssertionError

    answer = Site(kind, middleware=[excepting(conflict)], handlers={"handler500": conflict}).ask()
    assert (answer.is_default, default.orders()) == (True, [])


# -- requests and responses of all kinds ------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("stage", ["begin", "before_commit", "on_start", "commit_if", "overflow"])
@pytest.mark.parametrize("by_middleware", [True, False])
def test_whatever_failed_goes_the_same_way(stage: str, kind: str, by_middleware: bool) -> None:
    def fail(*_: object) -> None:
        raise LookupError

    @commit_policy("buffered", max_body=3)
    def view(request: Any) -> HttpResponse:
        exchange = current_exchange()
        if stage in ("before_commit", "on_start"):
            getattr(exchange, stage)(fail)
        if stage == "commit_if":
            exchange.policy = CommitPolicy(commit_if=fail)
        return HttpResponse("too large" if stage == "overflow" else "ok")

    def failed(request: Any, exception: Exception | None = None) -> HttpResponse:
        assert exception is None or isinstance(exception, LookupError | BodyTooLarge)
        assert (request.path, request.method, request.body) == ("/orders", "GET", b"")
        return HttpResponse(f"{stage} failed", status=424)

    site = Site(kind, view, options=units(kind, LookupError(), "begin" if stage == "begin" else "commit"))
    if by_middleware:
        site.middleware = [excepting(failed)]
    else:
        site.handlers = {"handler500": failed}
    answer = site.ask()
    assert (answer.status, answer.body.decode()) == (424, f"{stage} failed")


@BOTH
def test_an_exception_that_ends_a_process_is_not_the_handlers(kind: str) -> None:
    def leave() -> None:
        raise SystemExit(3)

    def view(request: Any) -> HttpResponse:
        current_exchange().before_commit(leave)
        return HttpResponse("stored")

    assert Site(kind, view, [excepting(saying("mine"))], SORRY, options=units(kind, AssertionError())).ask().is_default


@KIND
def test_a_head_request_gets_the_head_only(default: SQLite, kind: str) -> None:
    answer = Site(kind, middleware=[excepting(saying("taken"))]).ask("HEAD")
    assert (answer.status, answer.body) == (409, b"")


@KIND
def test_a_response_of_any_kind_is_sent_whole_and_closed(default: SQLite, kind: str, tmp_path: Path) -> None:
    large = tmp_path / "large"
    large.write_bytes(b"0123456789" * 10_000)
    files: list[Any] = []

    def file(request: Any, exception: Exception) -> Any:
        files.append(large.open("rb"))
        return FileResponse(files[-1], status=409)

    def stream(request: Any, exception: Exception) -> Any:
        return StreamingHttpResponse(iter(["no ", "such ", "thing"]), status=409)

    answer = Site(kind, middleware=[excepting(file)]).ask()
    assert (answer.status, answer.body, files[0].closed) == (409, large.read_bytes(), True)
    answer = Site(kind, middleware=[excepting(stream)]).ask()
    assert (answer.status, answer.body, answer.get("content-length")) == (409, b"no such thing", "13")


def test_the_request_does_not_outlive_its_response(default: SQLite) -> None:
    """Under ASGI Django's own tasks hold it for longer."""
    requests: list[Any] = []
    site = Site(middleware=[excepting(nothing, lambda request: requests.append(weakref.ref(request)))])
    gc.disable()
    try:
        site.ask()
        assert [request() for request in requests] == [None]
    finally:
        gc.enable()


@KIND
def test_the_exception_keeps_the_traceback_that_it_came_with(default: SQLite, kind: str) -> None:
    frames: list[str] = []
    answer = Site(kind, middleware=[excepting(saying("taken"))]).ask()
    traceback = answer.failures[0].exception.__traceback__
    while traceback is not None:
        frames.append(traceback.tb_frame.f_code.co_filename)
        traceback = traceback.tb_next
    assert any("django/db" in name for name in frames)
    assert not any("integrations" in name for name in frames)


def test_a_handler_of_django_serves_requests_of_nobody_else_as_ever() -> None:
    with Site(view=stored)._project():
        app = get_wsgi_application()
        rendered_by(app)
        assert run_wsgi(app).body == b"stored"


# -- bad input --------------------------------------------------------------------------------------------------------


def test_what_is_no_handler_of_django_is_refused() -> None:
    with override_settings(ROOT_URLCONF=(), MIDDLEWARE=[]):
        app = get_wsgi_application()
        for wrong in (wsgi.PostResponseMiddleware(app), None, "shop"):
            with pytest.raises(ConfigurationError, match=r"expected what get_wsgi_application\(\) or get_asgi_app"):
                rendered_by(wrong)  # type: ignore[arg-type]
        with pytest.raises(ConfigurationError, match="is async, and there is no event loop under WSGI"):
            wsgi.PostResponseMiddleware(app, error_response=rendered_by(get_asgi_application()))


def test_the_handler_of_the_other_protocol_is_named_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    site = Site("asgi", stored, handlers=SORRY, options=units("asgi", LookupError()))
    with override_settings(ROOT_URLCONF=(), MIDDLEWARE=[]):
        site.options["error_response"] = rendered_by(get_wsgi_application())
    assert site.ask().is_default
    assert "give it what get_asgi_application() returned" in caplog.text


# -- on real servers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("server", ["uvicorn-httptools", "gunicorn-gthread"])
def test_a_real_server_tells_the_client_and_keeps_the_connection(server: str, tmp_path: Path) -> None:
    kind = KINDS[server]
    running = Server(kind, f"tests.integrations.sites.django_site:{kind.protocol}", tmp_path, {})
    running.start()
    try:
        with Client(running.port, timeout=10) as client:
            for view in ("sync", "async"):
                taken = client.request("POST", f"/{view}?how=taken", body=b"item=tea")
                assert (taken.status, taken.body) == (409, b"item=tea taken"), running.log()
                page = client.request("POST", f"/{view}?how=page", body=b"item=tea")
                assert (page.status, page.body) == (500, b"<h1>Sorry</h1>"), running.log()
                broken = client.request("POST", f"/{view}?how=broken", body=b"item=tea")
                assert (broken.status, broken.head.get("content-type")) == (500, "application/problem+json")
                assert client.request("HEAD", f"/{view}?how=taken").status == 409
                assert client.request("GET", "/count").body == b"0", running.log()
            assert client.connections == 1
    finally:
        running.stop()


def test_work_goes_on_behind_a_stream_that_django_cancels_since_its_client_left(tmp_path: Path) -> None:
    running = Server(KINDS["uvicorn-h11"], "tests.integrations.sites.django_site:asgi", tmp_path, {})
    running.start()
    try:
        with Connection(running.port) as connection:
            connection.send("GET", "/stream")
            while b"part" not in connection.socket.recv(10_000):
                pass
        eventually((tmp_path / "cancelled").exists, "Django has cancelled the stream")
        eventually((tmp_path / "began").exists, "the work began")
        eventually((tmp_path / "done").exists, "the work is done")
    finally:
        running.stop()
    assert "Traceback" not in running.log()
