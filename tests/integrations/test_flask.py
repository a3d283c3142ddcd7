"""What the unit of work did to a response is rendered by the error handlers of a Flask application."""

import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import flask
import pytest
from flask import Blueprint, Flask, g
from sqlalchemy import text
from sqlalchemy.exc import DatabaseError, IntegrityError, OperationalError, SQLAlchemyError
from werkzeug.exceptions import HTTPException, InternalServerError
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.serving import make_server

from postresponse import CommitPolicy, Retry, asgi, commit_policy, current_exchange
from postresponse.exceptions import (
    BodyTooLarge,
    CommitInDoubt,
    ConfigurationError,
    PartialCommit,
    PostResponseError,
    UnitOfWorkError,
)
from postresponse.integrations.flask import rendered_by
from postresponse.wsgi import PostResponseMiddleware
from tests.fakes import Conflict, FakeUnits, StrictWSGIServer, linted, run_asgi, run_wsgi
from tests.integrations.shop import REFUSED, Order, Shop
from tests.servers.client import Client
from tests.servers.harness import KINDS, Server

EARLY = pytest.mark.parametrize("commit", ["head", "buffered"])


def ordering(shop: Shop, why: str = "at the commit", app: Any = None) -> Flask:
    """An application, or a blueprint, in which the order at /orders is refused by COMMIT."""
    app = app or Flask("shop")

    def order() -> Any:
        shop.db.session.add_all(REFUSED[why]())
        return "stored", 201, {"Location": "http://localhost/orders/1", "Set-Cookie": "a=b", "ETag": '"x"'}

    app.add_url_rule("/orders", view_func=order, methods=["GET", "POST"])
    return app  # type: ignore[no-any-return]


def wrapped(app: Flask, shop: Shop, **options: Any) -> Flask:
    options = {"unit_of_work": shop.db, "error_response": rendered_by(app), **shop.told, **options}
    app.wsgi_app = PostResponseMiddleware(app.wsgi_app, **options)  # type: ignore[method-assign]
    return app


def ask(app: Any, method: str = "GET", path: str = "/orders", **environ: Any) -> StrictWSGIServer:
    """Answer one request; the environ has what is given besides."""

    def asked(given: dict[str, Any], start_response: Any) -> Any:
        given.update(environ, PATH_INFO=path)
        return app(given, start_response)

    return run_wsgi(asked, method=method)


def header(server: StrictWSGIServer, name: str) -> str | None:
    return next((value for key, value in server.headers if key.lower() == name), None)


def is_default(server: StrictWSGIServer) -> bool:
    """Whether the package itself answered."""
    return header(server, "content-type") == "application/problem+json" and b"Traceback" not in server.body


def errors(caplog: pytest.LogCaptureFixture, name: str = "postresponse") -> list[str]:
    """What was logged at ERROR by one logger."""
    return [record.getMessage() for record in caplog.records if (record.name, record.levelname) == (name, "ERROR")]


# -- by class ---------------------------------------------------------------------------------------------------------


@EARLY
@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("why", REFUSED)
def test_a_handler_of_the_exceptions_class_answers(shop: Shop, why: str, kind: str, commit: str) -> None:
    app = ordering(shop, why)
    seen: list[Exception] = []

    def conflict(error: IntegrityError) -> Any:
        seen.append(error)
        response = flask.make_response({"title": "taken", "url": flask.request.path}, 409)
        response.set_cookie("tried", "yes")
        return response

    async def async_conflict(error: IntegrityError) -> Any:
        return conflict(error)

    app.register_error_handler(IntegrityError, conflict if kind == "sync" else async_conflict)
    server = ask(wrapped(app, shop, commit=commit))
    assert (server.code, server.body) == (409, b'{"title":"taken","url":"/orders"}\n')
    assert [value for name, value in server.headers if name == "Set-Cookie"] == ["tried=yes; Path=/"]
    assert header(server, "location") is None
    assert header(server, "etag") is None
    assert [failure.exception for failure in shop.failures] == seen
    assert (shop.items, shop.unit, shop.outcomes[0].status) == ([], "failed", 409)


def test_the_nearest_class_of_the_mro_wins(shop: Shop) -> None:
    app = ordering(shop)
    app.register_error_handler(SQLAlchemyError, lambda error: ("any", 500))
    app.register_error_handler(DatabaseError, lambda error: ("database", 409))
    app.register_error_handler(OperationalError, lambda error: ("another", 503))
    assert ask(wrapped(app, shop)).body == b"database"


def test_the_blueprint_of_the_request_comes_before_the_application(shop: Shop) -> None:
    app, outer, inner = Flask("shop"), Blueprint("outer", "outer"), ordering(shop, app=Blueprint("inner", "inner"))
    other = ordering(shop, app=Blueprint("other", "other"))
    app.register_error_handler(IntegrityError, lambda error: ("application", 409))
    outer.register_error_handler(IntegrityError, lambda error: ("outer", 409))
    other.register_error_handler(OperationalError, lambda error: ("not this one", 409))
    outer.register_blueprint(inner, url_prefix="/inner")  # type: ignore[arg-type]
    app.register_blueprint(outer, url_prefix="/outer")
    app.register_blueprint(other, url_prefix="/other")  # type: ignore[arg-type]
    wrapped(app, shop)
    assert ask(app, path="/outer/inner/orders").body == b"outer"
    assert ask(app, path="/other/orders").body == b"application"


@pytest.mark.parametrize("has_handler", [True, False])
def test_what_a_hook_raises_as_an_http_error_is_one(shop: Shop, has_handler: bool) -> None:
    app = Flask("shop")
    if has_handler:
        app.register_error_handler(410, lambda error: ("sold out", 410))

    @app.get("/orders")
    def order() -> str:
        shop.db.session.add(Order(item="tea"))
        current_exchange().before_commit(lambda: flask.abort(410))
        return "stored"

    server = ask(wrapped(app, shop))
    assert (server.code, shop.items) == (410, [])
    assert (b"sold out" if has_handler else b"<title>410 Gone</title>") in server.body


# -- 500 --------------------------------------------------------------------------------------------------------------


def marked(response: flask.Response) -> flask.Response:
    response.headers["X-Marked"] = "yes"
    return response


@pytest.mark.parametrize("registered", [500, InternalServerError, HTTPException])
def test_the_page_of_500_gets_the_exception_as_the_original_one(
    shop: Shop, registered: Any, caplog: pytest.LogCaptureFixture
) -> None:
    app = ordering(shop)
    pages: list[Any] = []
    signals: list[Any] = []
    torn_down: list[Any] = []
    app.teardown_request(torn_down.append)
    app.after_request(marked)

    def page(error: Any) -> Any:
        pages.append(error)
        return "<h1>Sorry</h1>", 500

    def told(sender: Flask, exception: Exception, **signal: Any) -> None:
        signals.append(exception)

    app.register_error_handler(registered, page)
    with flask.got_request_exception.connected_to(told, app):
        server = ask(wrapped(app, shop))
    assert (server.code, server.body, header(server, "x-marked")) == (500, b"<h1>Sorry</h1>", "yes")
    (error,) = pages
    assert type(error) is InternalServerError
    failed = shop.failures[0].exception
    assert isinstance(failed, IntegrityError)
    assert [error.original_exception, *signals, torn_down[-1]] == [failed] * 3
    assert errors(caplog, "shop") == ["Exception on /orders [GET]"]


def test_a_handler_of_exception_gets_the_exception_itself(shop: Shop) -> None:
    app = ordering(shop)
    app.register_error_handler(Exception, lambda error: (type(error).__name__, 500))
    assert ask(wrapped(app, shop)).body == b"IntegrityError"


@pytest.mark.parametrize(
    "config",
    [
        {"TESTING": True},
        {"DEBUG": True},
        {"PROPAGATE_EXCEPTIONS": True},
        {"DEBUG": True, "TRAP_HTTP_EXCEPTIONS": True, "TRAP_BAD_REQUEST_ERRORS": True},
    ],
    ids=" and ".join,
)
@pytest.mark.parametrize("has_page", [True, False])
def test_no_setting_lets_the_exception_out(shop: Shop, config: dict[str, bool], has_page: bool) -> None:
    app = ordering(shop)
    app.config.update(config)
    if has_page:
        app.register_error_handler(500, lambda error: ("<h1>Sorry</h1>", 500))
    server = ask(wrapped(app, shop))  # which raises what gets out
    assert server.code == 500
    assert server.body == b"<h1>Sorry</h1>" if has_page else is_default(server)


# -- nobody's ---------------------------------------------------------------------------------------------------------


def test_without_a_handler_the_default_answers(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    app = ordering(shop)
    app.register_error_handler(404, lambda error: ("not found", 404))
    server = ask(wrapped(app, shop))
    assert (server.code, is_default(server)) == (500, True)
    assert errors(caplog) == ["GET /orders: the unit of work could not commit"]


def test_and_says_so_where_trying_again_may_help() -> None:
    app = Flask("shop")
    app.add_url_rule("/orders", view_func=lambda: "stored")
    app.wsgi_app = PostResponseMiddleware(  # type: ignore[method-assign]
        app.wsgi_app, unit_of_work=FakeUnits({"commit": Conflict()}), error_response=rendered_by(app)
    )
    server = ask(app)
    assert (server.code, header(server, "retry-after"), is_default(server)) == (503, "1", True)


UNDECIDED = pytest.mark.parametrize("error", [CommitInDoubt("lost"), PartialCommit(("a",), "b")], ids=["doubt", "part"])


Handlers = dict[type[Exception], Any]


def undecided(error: Exception, handlers: Handlers | None = None, blueprints: Handlers | None = None) -> Flask:
    """An application whose general pages say that nothing was stored, and a commit of which nobody can say that."""
    app, blueprint = Flask("shop"), Blueprint("orders", "orders")
    blueprint.add_url_rule("/orders", view_func=lambda: "stored")
    for place in (app, blueprint):
        place.register_error_handler(Exception, lambda error: ("nothing was stored", 500))
    app.register_error_handler(500, lambda error: ("nothing was stored", 500))
    for place, own in ((app, handlers), (blueprint, blueprints)):
        for kind, handler in (own or {}).items():
            place.register_error_handler(kind, handler)
    app.register_blueprint(blueprint)
    app.wsgi_app = PostResponseMiddleware(  # type: ignore[method-assign]
        app.wsgi_app, unit_of_work=FakeUnits({"commit": error}), error_response=rendered_by(app)
    )
    return app


def test_no_general_page_answers_where_nobody_knows_what_was_committed() -> None:
    server = ask(undecided(CommitInDoubt("lost")))
    assert (server.code, is_default(server)) == (503, True)
    assert b"is unknown: it may or may not have been carried out" in server.body


def test_no_general_page_answers_where_a_part_was_committed() -> None:
    server = ask(undecided(PartialCommit(("a",), "b")))
    assert (server.code, is_default(server)) == (500, True)
    assert b"was carried out in part only" in server.body


@UNDECIDED
@pytest.mark.parametrize("near", [True, False])
def test_a_handler_of_this_packages_own_classes_does(error: Exception, near: bool) -> None:
    kind = type(error) if near else PostResponseError
    app = undecided(error, {kind: lambda error: (f"look it up: {type(error).__name__}", 202)})
    assert ask(app).body.decode() == f"look it up: {type(error).__name__}"


@UNDECIDED
def test_the_one_of_the_blueprint_first_and_it_may_be_async(error: Exception) -> None:
    async def look(error: Exception) -> Any:
        return "blueprint", 202

    app = undecided(error, {type(error): lambda error: ("application", 202)}, {PostResponseError: look})
    assert ask(app).body == b"blueprint"


@UNDECIDED
def test_one_of_them_that_fails_is_no_reason_for_a_general_page(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    assert is_default(ask(undecided(error, {UnitOfWorkError: lambda error: 1 / 0})))
    assert "GET /orders: error_response failed; the default answers" in errors(caplog)


# -- a handler that fails ---------------------------------------------------------------------------------------------


BROKEN: dict[str, Callable[[Any], Any]] = {
    "raises": lambda error: 1 / 0,
    "aborts": lambda error: flask.abort(409),
    "returns None": lambda error: None,
    "returns no response": lambda error: object(),
}


@EARLY
@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_handler_falls_back_to_the_default(
    shop: Shop, how: str, commit: str, caplog: pytest.LogCaptureFixture
) -> None:
    app = ordering(shop)
    app.register_error_handler(IntegrityError, BROKEN[how])
    assert is_default(ask(wrapped(app, shop, commit=commit)))
    assert errors(caplog)[1:] == ["GET /orders: error_response failed; the default answers"]
    assert (shop.items, shop.unit) == ([], "failed")


@pytest.mark.parametrize("how", BROKEN)
def test_or_to_the_page_of_500_if_there_is_one(shop: Shop, how: str, caplog: pytest.LogCaptureFixture) -> None:
    app = ordering(shop)
    app.register_error_handler(IntegrityError, BROKEN[how])
    app.register_error_handler(500, lambda error: ("<h1>Sorry</h1>", 500))
    assert ask(wrapped(app, shop)).body == b"<h1>Sorry</h1>"
    assert errors(caplog, "shop") == ["Exception on /orders [GET]"]


def test_and_to_the_default_again_where_that_one_is_broken_too(shop: Shop) -> None:
    app = ordering(shop)
    for kind in (IntegrityError, 500):
        app.register_error_handler(kind, BROKEN["raises"])
    assert is_default(ask(wrapped(app, shop)))


def test_a_handler_that_raises_the_exception_again_leaves_it_to_the_default(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    app = ordering(shop)

    @app.errorhandler(IntegrityError)
    def not_mine(error: IntegrityError) -> Any:
        raise error

    assert is_default(ask(wrapped(app, shop)))
    assert errors(caplog) == ["GET /orders: the unit of work could not commit"]


def test_a_header_that_would_forge_another_one_is_not_sent(shop: Shop) -> None:
    app = ordering(shop)

    @app.errorhandler(IntegrityError)
    def forged(error: IntegrityError) -> Any:
        response = flask.make_response("no", 409)
        response.headers._list.append(("X-Item", "tea\r\nSet-Cookie: a=b"))
        return response

    assert is_default(ask(wrapped(app, shop)))


def test_a_handler_may_read_the_database_in_a_transaction_of_its_own(shop: Shop) -> None:
    app = ordering(shop)

    @app.errorhandler(IntegrityError)
    def conflict(error: IntegrityError) -> Any:
        count = shop.db.session.scalar(text("SELECT count(*) FROM orders"))
        return f"{count} orders", 409

    assert ask(wrapped(app, shop)).body == b"0 orders"
    assert shop.all_given_back()


def test_what_a_handler_writes_into_it_is_not_kept(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    app = ordering(shop)

    @app.errorhandler(IntegrityError)
    def conflict(error: IntegrityError) -> Any:
        shop.db.session.add(Order(item="refused"))
        return "no", 409

    assert ask(wrapped(app, shop)).code == 409
    assert shop.items == []
    assert any("late write" in record.getMessage() for record in caplog.records)


def test_a_handler_that_fails_at_the_database_falls_back(shop: Shop) -> None:
    app = ordering(shop)

    @app.errorhandler(IntegrityError)
    def conflict(error: IntegrityError) -> Any:
        return str(shop.db.session.scalar(text("SELECT count(*) FROM nowhere"))), 409

    assert is_default(ask(wrapped(app, shop)))
    assert shop.all_given_back()


# -- what is around a handler -----------------------------------------------------------------------------------------


def test_functions_around_a_request_run_as_users_expect(shop: Shop) -> None:
    app = ordering(shop)
    ran: list[str] = []

    @app.before_request
    def before() -> None:
        ran.append("before_request")
        g.user, g._extension = "ada", "of this request"

    @app.after_request
    def after(response: flask.Response) -> flask.Response:
        ran.append(f"after_request {response.status_code}")
        response.headers["X-User"] = g.user
        return response

    @app.teardown_request
    def teardown_request(error: object) -> None:
        ran.append("teardown_request")

    @app.teardown_appcontext
    def teardown_appcontext(error: object) -> None:
        ran.append("teardown_appcontext")

    @app.errorhandler(IntegrityError)
    def conflict(error: IntegrityError) -> Any:
        ran.append(f"handler for {g.user}")
        return str(g.get("_extension")), 409

    server = ask(wrapped(app, shop))
    assert (server.body, header(server, "x-user")) == (b"None", "ada")
    torn_down = ["teardown_request", "teardown_appcontext"]
    assert ran == [
        *("before_request", "after_request 201", *torn_down),
        *("handler for ada", "after_request 409", *torn_down),
    ]
    assert not flask.has_request_context()
    assert not flask.has_app_context()


def test_an_after_request_function_that_fails_does_not_take_the_page_away(shop: Shop) -> None:
    app = ordering(shop)
    app.register_error_handler(IntegrityError, lambda error: ("taken", 409))

    @app.after_request
    def after(response: flask.Response) -> flask.Response:
        assert response.status_code == 201
        return response

    assert ask(wrapped(app, shop)).body == b"taken"


def test_of_the_session_only_what_the_handler_put_there_is_kept(shop: Shop) -> None:
    app = Flask("shop")
    app.secret_key = "x"

    @app.get("/orders")
    def order() -> str:
        flask.flash("Your order was stored")
        shop.db.session.add_all(REFUSED["at the commit"]())
        return "stored"

    @app.errorhandler(IntegrityError)
    def conflict(error: IntegrityError) -> Any:
        flask.flash("Nobody of that name")
        return "no", 409

    @app.get("/flashes")
    def flashes() -> Any:
        return flask.get_flashed_messages()

    wrapped(app, shop)
    cookie = header(ask(app), "set-cookie")
    assert cookie is not None
    assert ask(app, path="/flashes", HTTP_COOKIE=cookie.split(";")[0]).body == b'["Nobody of that name"]\n'


def test_a_body_that_was_being_streamed_leaves_no_context_behind(shop: Shop) -> None:
    app = Flask("shop")

    @app.get("/orders")
    def order() -> Any:
        shop.db.session.add_all(REFUSED["at the commit"]())

        def lines() -> Iterator[str]:
            yield f"{flask.request.path}\n"
            yield "more\n"

        return flask.stream_with_context(lines()), 201

    @app.errorhandler(IntegrityError)
    def conflict(error: IntegrityError) -> Any:
        return flask.stream_with_context(iter(["no ", "such ", f"thing at {flask.request.path}"])), 409

    server = ask(wrapped(app, shop))
    assert (server.code, server.body) == (409, b"no such thing at /orders")
    assert not flask.has_request_context()


@pytest.mark.parametrize("stage", ["begin", "before_commit", "on_start", "commit_if", "overflow"])
def test_whatever_failed_goes_the_same_way(stage: str) -> None:
    app = Flask("shop")
    units = FakeUnits({"begin": LookupError()} if stage == "begin" else {})

    def fail(*_: object) -> None:
        raise LookupError

    @app.get("/orders")
    @commit_policy("buffered", max_body=3)
    def order() -> str:
        exchange = current_exchange()
        if stage in ("before_commit", "on_start"):
            getattr(exchange, stage)(fail)
        if stage == "commit_if":
            exchange.policy = CommitPolicy(commit_if=fail)
        return "too large" if stage == "overflow" else "ok"

    app.register_error_handler(LookupError, lambda error: (f"{stage} failed", 424))
    app.register_error_handler(BodyTooLarge, lambda error: (f"{stage} failed", 424))
    app.wsgi_app = PostResponseMiddleware(  # type: ignore[method-assign]
        app.wsgi_app, unit_of_work=units, error_response=rendered_by(app)
    )
    server = ask(app)
    assert (server.code, server.body.decode()) == (424, f"{stage} failed")
    assert "commit" not in units.log


def test_of_a_request_that_is_run_again_the_last_attempt_is_rendered() -> None:
    app = Flask("shop")

    @app.get("/orders")
    def order() -> str:
        g.attempts = [*g.get("attempts", ()), current_exchange().attempt]
        return "stored"

    app.register_error_handler(Conflict, lambda error: ({"attempts": g.attempts}, 503))
    app.wsgi_app = PostResponseMiddleware(  # type: ignore[method-assign]
        app.wsgi_app,
        unit_of_work=FakeUnits({"commit": Conflict()}),
        commit=CommitPolicy(retry=Retry(attempts=3, backoff=0)),
        error_response=rendered_by(app),
    )
    assert ask(app).body == b'{"attempts":[3]}\n'


def test_an_exception_that_ends_a_process_is_not_the_handlers(shop: Shop) -> None:
    app = Flask("shop")

    @app.get("/orders")
    def order() -> str:
        current_exchange().before_commit(lambda: (_ for _ in ()).throw(SystemExit(3)))
        return "stored"

    app.register_error_handler(Exception, lambda error: ("mine", 500))
    assert is_default(ask(wrapped(app, shop)))


# -- requests and responses of all kinds ------------------------------------------------------------------------------


def test_a_head_request_gets_the_head_only(shop: Shop) -> None:
    app = ordering(shop)
    app.register_error_handler(IntegrityError, lambda error: (f"{flask.request.method} refused", 409))
    server = ask(wrapped(app, shop), "HEAD")
    assert (server.code, server.body) == (409, b"")


class Connection:
    """A `wsgi.input` without an end: a read behind the body would wait for the client."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    def read(self, size: int = -1) -> bytes:
        assert 0 <= size <= len(self._body), "a read that waits for ever"
        part, self._body = self._body[:size], self._body[size:]
        return part


def test_the_body_is_not_read_from_the_server_again(shop: Shop) -> None:
    app = ordering(shop)
    read: list[Any] = []

    @app.before_request
    def read_it() -> None:
        read.append(flask.request.form.to_dict())

    @app.errorhandler(IntegrityError)
    def conflict(error: IntegrityError) -> Any:
        read.append((flask.request.method, flask.request.form.to_dict(), flask.request.get_data()))
        return "no", 409

    environ: dict[str, Any] = {
        "wsgi.input": Connection(b"item=tea"),
        "CONTENT_LENGTH": "8",
        "CONTENT_TYPE": "application/x-www-form-urlencoded",
    }
    assert ask(wrapped(app, shop), "POST", **environ).code == 409
    assert read == [{"item": "tea"}, ("POST", {}, b"")]


class ForTheServer:
    """A `wsgi.file_wrapper` that nobody but the server can read from."""

    def __init__(self, file: Any, block_size: int = 8192) -> None:
        self.close = file.close


def test_a_file_is_sent_whole(shop: Shop, tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(b"0123456789" * 10_000)
    app = ordering(shop)
    app.register_error_handler(IntegrityError, lambda error: (flask.send_file(path), 409))
    environ: dict[str, Any] = {"wsgi.file_wrapper": ForTheServer}
    server = ask(wrapped(app, shop), **environ)
    assert (server.code, server.body) == (409, path.read_bytes())


def test_both_sides_pass_the_validators(shop: Shop) -> None:
    app = ordering(shop)
    app.register_error_handler(IntegrityError, lambda error: ("taken", 409))
    render = rendered_by(app)

    def middleware(inner: Any) -> Any:
        return PostResponseMiddleware(inner, unit_of_work=shop.db, error_response=render, **shop.told)

    server = run_wsgi(linted(app.wsgi_app, middleware))
    assert (server.code, server.body) == (409, b"taken")


def test_an_application_that_is_mounted_renders_its_own(shop: Shop) -> None:
    inner = ordering(shop)

    @inner.errorhandler(IntegrityError)
    def conflict(error: IntegrityError) -> Any:
        return flask.url_for("order"), 409

    outer = Flask("outer")
    outer.register_error_handler(IntegrityError, lambda error: ("not mine", 409))
    site = DispatcherMiddleware(outer, {"/inner": inner})
    app = PostResponseMiddleware(site, unit_of_work=shop.db, error_response=rendered_by(inner), **shop.told)
    assert ask(app, path="/inner/orders").body == b"/inner/orders"


def test_the_middleware_of_a_mounted_application_renders_where_the_outer_one_lends_it_the_request(shop: Shop) -> None:
    inner = ordering(shop)
    inner.register_error_handler(IntegrityError, lambda error: ("inner", 409))
    wrapped(inner, shop)
    app = PostResponseMiddleware(DispatcherMiddleware(Flask("outer"), {"/inner": inner}))
    assert ask(app, path="/inner/orders").body == b"inner"


def test_requests_side_by_side_do_not_mix(shop: Shop) -> None:
    app, met = Flask("shop"), threading.Barrier(2, timeout=10)

    @app.get("/<name>")
    def order(name: str) -> str:
        g.name = name
        current_exchange().before_commit(lambda: met.wait() and None)
        current_exchange().before_commit(lambda: 1 / 0)
        return "stored"

    @app.errorhandler(ZeroDivisionError)
    def failed(error: ZeroDivisionError) -> Any:
        met.wait()
        return f"{g.name} {flask.request.path}", 500

    wrapped(app, shop)
    bodies: dict[str, bytes] = {}
    threads = [
        threading.Thread(target=lambda name=name: bodies.update({name: ask(app, path=f"/{name}").body}))
        for name in ("ada", "bob")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert bodies == {"ada": b"ada /ada", "bob": b"bob /bob"}


def test_the_exception_keeps_the_traceback_that_it_came_with(shop: Shop) -> None:
    app = ordering(shop)
    frames: list[str] = []

    @app.errorhandler(IntegrityError)
    def conflict(error: IntegrityError) -> Any:
        return "no", 409

    ask(wrapped(app, shop))
    traceback = shop.failures[0].exception.__traceback__
    while traceback is not None:
        frames.append(traceback.tb_frame.f_code.co_filename)
        traceback = traceback.tb_next
    assert any("sqlalchemy" in name for name in frames)
    assert not any("integrations" in name for name in frames)


def test_the_application_serves_requests_of_nobody_else_as_ever() -> None:
    app = Flask("shop")
    app.add_url_rule("/orders", view_func=lambda: "stored")
    rendered_by(app)
    assert ask(app).body == b"stored"


# -- bad input --------------------------------------------------------------------------------------------------------


def test_what_is_no_flask_application_is_refused() -> None:
    app = Flask("shop")
    for wrong in (app.wsgi_app, PostResponseMiddleware(app.wsgi_app), None, "shop"):
        with pytest.raises(ConfigurationError, match="expected the Flask application itself"):
            rendered_by(wrong)  # type: ignore[arg-type]


def test_a_request_of_the_other_protocol_is_named_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body"})

    render = rendered_by(Flask("shop"))
    units = FakeUnits({"commit": LookupError()}, is_async=True)
    assert run_asgi(asgi.PostResponseMiddleware(app, unit_of_work=units, error_response=render)).status == 500
    assert "rendered_by: Flask renders under WSGI" in caplog.text


# -- on real servers --------------------------------------------------------------------------------------------------


def test_a_real_server_tells_the_client_and_keeps_the_connection(tmp_path: Path) -> None:
    """One of those that `test_on_servers.py` leaves out."""
    running = Server(KINDS["waitress"], "tests.integrations.sites.flask_site:app", tmp_path, {})
    running.start()
    try:
        with Client(running.port) as client:
            for _ in range(3):
                taken = client.request("POST", "/orders", body=b"item=tea")
                assert (taken.status, taken.body) == (409, b"taken"), running.log()
                page = client.request("POST", "/reports", body=b"item=tea")
                assert (page.status, page.body) == (500, b"<h1>Sorry</h1>"), running.log()
                broken = client.request("POST", "/broken", body=b"item=tea")
                assert (broken.status, broken.head.get("content-type")) == (500, "application/problem+json")
                assert client.request("HEAD", "/orders").status == 409
                assert client.request("GET", "/").body == b"0", running.log()
            assert client.connections == 1
    finally:
        running.stop()


def test_a_handler_that_asks_for_the_body_again_does_not_wait_for_the_client(shop: Shop) -> None:
    """On a server whose `wsgi.input` is the socket itself."""
    app = ordering(shop)

    @app.before_request
    def read_it() -> None:
        assert flask.request.get_data() == b"item=tea"

    @app.errorhandler(IntegrityError)
    def conflict(error: IntegrityError) -> Any:
        return flask.request.get_data() or b"nothing left of it", 409

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = make_server("127.0.0.1", 0, wrapped(app, shop), threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        with Client(server.server_port, timeout=10) as client:
            answer = client.request("POST", "/orders", body=b"item=tea")
        assert (answer.status, answer.body) == (409, b"nothing left of it")
    finally:
        server.shutdown()
        thread.join(10)
        server.server_close()
