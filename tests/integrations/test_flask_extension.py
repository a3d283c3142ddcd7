"""The extension: an application is wrapped once, configured by its own settings or by keyword, and has commands."""

import gc
import json
import logging
import weakref
from pathlib import Path
from typing import Any

import pytest
from flask import Blueprint, Flask, request
from sqlalchemy import MetaData, create_engine
from sqlalchemy.exc import IntegrityError

from postresponse.core.exchange import Failure
from postresponse.exceptions import ConfigurationError
from postresponse.integrations.flask import PostResponse
from postresponse.messaging import Message, Outbox, Relay
from postresponse.wsgi import PostResponseMiddleware
from tests.fakes import FakeUnits
from tests.integrations.shop import REFUSED, Shop

units = FakeUnits()


def configured(**settings: Any) -> Flask:
    """An application with settings, whose one view answers with the commit point of its request."""
    app = Flask("shop")
    app.config.update(settings)

    @app.get("/")
    def point() -> str:
        return str(request.environ["postresponse.exchange"].policy.point.value)

    return app


def asked(app: Flask, path: str = "/", **how: Any) -> Any:
    return app.test_client().open(path, buffered=True, **how)


def test_the_settings_of_an_application_are_its_options_and_what_is_given_by_keyword_wins() -> None:
    extension = PostResponse(unit_of_work=units)
    first, second = configured(POSTRESPONSE_COMMIT="buffered"), configured(POSTRESPONSE_COMMIT="after_send")
    for app in (first, second):
        extension.init_app(app)
        assert app.extensions["postresponse"] is extension
    assert [asked(app).text for app in (first, second)] == ["buffered", "after_send"]
    third = configured(POSTRESPONSE_COMMIT="buffered", POSTRESPONSE_CLEANUP_TIMEOUT=None)
    PostResponse(third, unit_of_work=units, commit="head")
    assert asked(third).text == "head"


def test_what_settings_name_is_imported() -> None:
    app = configured(POSTRESPONSE_UNIT_OF_WORK=f"{__name__}:units")
    PostResponse(app)
    before = len(units.made)
    assert asked(app).text == "head"
    assert len(units.made) == before + 1


@pytest.mark.parametrize(
    ("settings", "options", "said"),
    [
        (
            {"POSTRESPONSE_COMIT": "head"},
            {},
            r"app.config POSTRESPONSE_\* has no option 'COMIT'; did you mean 'COMMIT'",
        ),
        ({}, {"observer": []}, r"PostResponse has no option 'observer'; did you mean 'observers'"),
        ({"POSTRESPONSE_COMMIT": "never"}, {"unit_of_work": units}, "'never'"),
        ({"POSTRESPONSE_COMMIT": "head"}, {}, "has nothing to commit: give unit_of_work="),
        ({"POSTRESPONSE_UNIT_OF_WORK": "nowhere:db"}, {}, "there is no module 'nowhere'"),
    ],
)
def test_an_option_that_cannot_be_says_why(settings: dict[str, Any], options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        PostResponse(configured(**settings), **options)


def test_an_option_that_there_is_not_is_told_before_there_is_an_application() -> None:
    with pytest.raises(ConfigurationError, match="no option 'comit'"):
        PostResponse(comit="head")


def test_an_application_is_wrapped_once() -> None:
    app = configured()
    extension = PostResponse(app)
    wrapped = app.wsgi_app
    for again in (extension.init_app, PostResponse):
        with pytest.raises(ConfigurationError, match=r"<Flask 'shop'> has a PostResponse already: leave out this"):
            again(app)
    assert app.wsgi_app is wrapped
    assert isinstance(wrapped, PostResponseMiddleware)
    with pytest.raises(ConfigurationError, match="expected the Flask application itself"):
        PostResponse().init_app(app.wsgi_app)  # type: ignore[arg-type]


def test_the_extension_keeps_no_application_alive() -> None:
    extension = PostResponse(unit_of_work=units)
    app = configured()
    extension.init_app(app)
    asked(app)
    gone = weakref.ref(app)
    del app
    gc.collect()
    assert gone() is None


# -- what it adds to the middleware -----------------------------------------------------------------------------------


def test_the_log_names_the_url_rule(caplog: pytest.LogCaptureFixture) -> None:
    app, orders = configured(), Blueprint("orders", __name__, url_prefix="/orders")
    orders.add_url_rule("/<int:number>", view_func=lambda number: str(number))
    app.register_blueprint(orders)
    PostResponse(app)
    with caplog.at_level(logging.INFO, "postresponse.access"):
        assert asked(app, "/orders/7").text == "7"
        assert asked(app, "/nowhere").status_code == 404
    lines = [record.getMessage() for record in caplog.records if record.name == "postresponse.access"]
    told = [line.partition(": handed_over")[0] for line in lines]
    assert told == ["GET /orders/<int:number> 200", "GET /nowhere 404"]


@pytest.mark.parametrize("renders", [True, False])
def test_the_applications_error_handlers_answer_unless_something_else_is_to(shop: Shop, renders: bool) -> None:
    app = Flask("shop")

    @app.post("/orders")
    def place() -> str:
        shop.db.session.add_all(REFUSED["at the commit"]())
        return "stored"

    @app.errorhandler(IntegrityError)
    def refused(error: IntegrityError) -> Any:
        return "refused", 409

    def default(failure: Failure) -> None:
        return None

    PostResponse(app, unit_of_work=shop.db, **({} if renders else {"error_response": default}))
    answer = asked(app, "/orders", method="POST")
    assert answer.status_code == (409 if renders else 500)
    assert (answer.text == "refused") is renders


# -- commands ---------------------------------------------------------------------------------------------------------


def test_config_prints_the_options_in_force_and_where_each_was_given() -> None:
    app = configured(POSTRESPONSE_CLEANUP_TIMEOUT=2.0)
    PostResponse(app, unit_of_work=units, commit="buffered")
    printed = app.test_cli_runner().invoke(args=["postresponse", "config"])
    lines = [line.split(maxsplit=1) for line in printed.output.splitlines()]
    found = {name: rest.split() for name, rest in lines}
    assert found["commit"] == ["keyword", "'buffered'"]
    assert found["cleanup_timeout"] == ["POSTRESPONSE_CLEANUP_TIMEOUT", "2.0"]
    assert found["on_finished"] == ["default", "None"]
    as_json = app.test_cli_runner().invoke(args=["postresponse", "config", "--json"])
    assert {"name": "commit", "value": "'buffered'", "source": "keyword"} in json.loads(as_json.output)


def relaying(path: Path) -> tuple[Relay, list[Any]]:
    """An outbox with one message for "mail", its relay, and what that sends."""
    metadata = MetaData()
    outbox = Outbox({"mail": ["send"]}, metadata)
    engine = create_engine(f"sqlite:///{path}")
    metadata.create_all(engine)
    sent: list[Any] = []
    relay = Relay(outbox, f"sqlite:///{path}", {"mail": lambda delivery: sent.append(delivery.payload)})
    with engine.begin() as connection:
        outbox.enlist(Message("mail", "send", {"item": "tea"}), into=connection)
    engine.dispose()
    return relay, sent


def test_relay_sends_what_the_outbox_holds(tmp_path: Path) -> None:
    relay, sent = relaying(tmp_path / "outbox.sqlite3")
    app = configured(POSTRESPONSE_RELAY=relay)
    PostResponse(app)
    ran = app.test_cli_runner().invoke(args=["postresponse", "relay", "--until-empty"])
    assert (ran.exit_code, sent) == (0, [{"item": "tea"}]), ran.output


def test_relay_says_what_is_missing() -> None:
    app = configured()
    PostResponse(app)
    ran = app.test_cli_runner().invoke(args=["postresponse", "relay"])
    assert ran.exit_code == 2
    assert "set POSTRESPONSE_RELAY" in ran.output
    app.config["POSTRESPONSE_RELAY"] = "nowhere:relay"
    ran = app.test_cli_runner().invoke(args=["postresponse", "relay"])
    assert ran.exit_code == 2
    assert "there is no module 'nowhere'" in ran.output


@pytest.mark.parametrize("debug", [True, False])
def test_in_debug_mode_there_is_the_inspector(debug: bool) -> None:
    app = Flask("shop")
    app.debug = debug
    PostResponse(app)
    status = app.test_client().get("/__postresponse__/", buffered=True).status_code
    assert status == (200 if debug else 404)
    told = app.test_cli_runner().invoke(args=["postresponse", "config"]).output
    (line,) = [line for line in told.splitlines() if line.startswith("inspector")]
    assert ("True" in line, "by the integration" in line) == (debug, debug)
