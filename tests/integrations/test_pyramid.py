"""Pyramid: an application that includes the package is wrapped, by its settings, and its exception views answer."""

import logging
from pathlib import Path
from typing import Any

import pytest
from pyramid.config import Configurator
from pyramid.exceptions import ConfigurationConflictError
from pyramid.response import Response
from sqlalchemy.exc import IntegrityError

from postresponse import current_exchange
from postresponse.exceptions import CommitInDoubt, ConfigurationError
from tests.fakes import FakeUnits, StrictWSGIServer, run_wsgi
from tests.integrations.shop import REFUSED, Order, Shop


def ask(app: Any, path: str = "/orders/7") -> StrictWSGIServer:
    def asked(environ: dict[str, Any], start_response: Any) -> Any:
        environ["PATH_INFO"] = path
        return app(environ, start_response)

    return run_wsgi(asked, method="POST")


def configured(view: Any, **settings: Any) -> Configurator:
    """Includes the package, and has *view* for orders; settings by the last part of their names."""
    config = Configurator(settings={f"postresponse.{name}": value for name, value in settings.items()})
    config.include("postresponse.integrations.pyramid")
    config.add_route("order", "/orders/{number}")
    config.add_view(view, route_name="order")
    return config


def ordering(shop: Shop, **settings: Any) -> Configurator:
    """One whose orders COMMIT refuses."""

    def place(request: Any) -> Response:
        shop.db.session.add_all(REFUSED["at the commit"]())
        return Response("stored", location=request.path)

    return configured(place, unit_of_work=shop.db, **shop.told, **settings)


@pytest.mark.parametrize("commit", ["head", "buffered"])
def test_an_exception_view_answers_for_a_commit_that_was_refused(shop: Shop, commit: str) -> None:
    config, seen = ordering(shop, commit=commit), list[Any]()

    def refused(error: IntegrityError, request: Any) -> Response:
        seen.append((error, request.matchdict["number"], request.body))
        return Response("refused", status=409)

    config.add_exception_view(refused, context=IntegrityError)
    server = ask(config.make_wsgi_app())
    assert (server.code, server.body) == (409, b"refused")
    assert "location" not in dict(server.headers)
    assert seen == [(shop.failures[0].exception, "7", b"")]
    assert (shop.items, shop.unit) == ([], "failed")


def test_a_view_of_the_route_comes_before_a_general_one(shop: Shop) -> None:
    config = ordering(shop)
    config.add_exception_view(lambda error, request: Response("general", status=409), context=Exception)
    config.add_exception_view(
        lambda error, request: Response("of the order", status=409), context=Exception, route_name="order"
    )
    assert ask(config.make_wsgi_app()).body == b"of the order"


def test_without_a_view_the_default_answers(shop: Shop) -> None:
    server = ask(ordering(shop).make_wsgi_app())
    assert (server.code, shop.items) == (500, [])
    assert dict(server.headers)["content-type"] == "application/problem+json"


def test_where_nobody_knows_what_was_committed_the_default_says_so() -> None:
    units = FakeUnits({"commit": CommitInDoubt("who knows")})
    config = configured(lambda request: Response("stored"), unit_of_work=units)
    config.add_exception_view(lambda error, request: Response("nothing was stored", status=409), context=Exception)
    server = ask(config.make_wsgi_app())
    assert server.code == 503
    assert b"unknown" in server.body


def test_it_stands_around_tweens_and_callbacks(shop: Shop) -> None:
    happened: list[str] = []

    def place(request: Any) -> Response:
        shop.db.session.add(Order(item="tea"))
        request.add_response_callback(lambda request, response: happened.append(f"response callback, {shop.items}"))
        request.add_finished_callback(lambda request: happened.append(f"finished callback, {shop.items}"))
        current_exchange().after_commit(lambda: happened.append(f"after_commit, {shop.items}"))
        return Response("stored")

    assert ask(configured(place, unit_of_work=shop.db).make_wsgi_app()).code == 200
    assert happened == ["response callback, []", "finished callback, []", "after_commit, ['tea']"]


def test_the_log_names_the_pattern(caplog: pytest.LogCaptureFixture) -> None:
    app = configured(lambda request: Response("seen")).make_wsgi_app()
    with caplog.at_level(logging.INFO, "postresponse.access"):
        assert [ask(app).code, ask(app, "/nowhere").code] == [200, 404]
    lines = [record.getMessage() for record in caplog.records if record.name == "postresponse.access"]
    assert [line.partition(":")[0] for line in lines] == ["POST /orders/{number} 200", "POST /nowhere 404"]


units = FakeUnits()


def test_what_an_ini_file_says_is_read(tmp_path: Path) -> None:
    seen: list[Any] = []

    def place(request: Any) -> Response:
        settings = current_exchange()._settings
        seen.append((settings.cleanup_timeout, settings.policy.point.value, settings.unit_of_work, settings.observers))
        return Response("seen")

    texts = {"cleanup_timeout": "2.5", "commit": "buffered", "unit_of_work": f"{__name__}:units", "on_finished": ""}
    assert ask(configured(place, **texts).make_wsgi_app()).code == 200
    assert seen == [(2.5, "buffered", units, ())]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"comit": "head"}, r"settings postresponse.\* has no option 'COMIT'; did you mean 'COMMIT'"),
        ({"cleanup_timeout": "soon"}, "postresponse.cleanup_timeout: expected seconds, found 'soon'"),
        ({"unit_of_work": "nowhere:db"}, "there is no module 'nowhere'"),
        ({"observers": "nowhere:a nowhere:b"}, "there is no module 'nowhere'"),
        ({"commit": "head"}, "has nothing to commit"),
        ({"inspector": "tru"}, "there is no module 'tru'|expected 'module:name', found 'tru'|'tru'"),
    ],
    ids=str,
)
def test_a_setting_that_cannot_be_says_why(settings: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        configured(lambda request: Response(), **settings)


@pytest.mark.parametrize(("word", "status"), [("true", 308), ("off", 404)])
def test_the_inspector_is_on_by_a_word_of_the_settings(word: str, status: int) -> None:
    app = configured(lambda request: Response("seen"), inspector=word).make_wsgi_app()

    def from_here(environ: dict[str, Any], start_response: Any) -> Any:
        environ |= {"REMOTE_ADDR": "127.0.0.1", "PATH_INFO": "/__postresponse__"}
        return app(environ, start_response)

    assert run_wsgi(from_here).code == status


def test_another_execution_policy_is_a_conflict() -> None:
    config = configured(lambda request: Response("seen"))
    config.commit()

    def includes(inner: Any) -> None:
        inner.set_execution_policy(lambda environ, router: None)

    both = Configurator()
    both.include("postresponse.integrations.pyramid")
    both.include(includes)
    with pytest.raises(ConfigurationConflictError):
        both.make_wsgi_app()
