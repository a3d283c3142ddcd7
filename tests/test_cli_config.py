"""The command `postresponse config`: what each middleware was told, its defaults marked, and nothing secret."""

import json
import sys
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import pytest
from flask import Flask

from postresponse import CommitPolicy, Retry
from postresponse.cli import main
from postresponse.doctor.reached import middlewares_of, reached
from tests.test_readme import keywords

Captured = pytest.CaptureFixture[str]
APPS = """
import functools
from fastapi import FastAPI
from flask import Flask
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import sessionmaker
from starlette.middleware import Middleware
from starlette.routing import Mount
from postresponse import CommitPolicy, Retry, asgi, wsgi
from postresponse.observing import Observer
from postresponse.unit_of_work.composite import Chained
from postresponse.unit_of_work.sqlalchemy import AsyncSQLAlchemyUnitOfWork, SQLAlchemyUnitOfWork
from postresponse.work import Bulkhead, TaskSupervisor

class Telemetry(Observer):
    pass

def report(secret, outcome):
    pass

url = "postgresql+psycopg://app:secret@db1:5433/orders?sslpassword=secret"
db = SQLAlchemyUnitOfWork(sessionmaker(create_engine(url)))
audit = SQLAlchemyUnitOfWork(sessionmaker(create_engine("sqlite://")))
adb = AsyncSQLAlchemyUnitOfWork(async_sessionmaker(create_async_engine("sqlite+aiosqlite:///orders.db")))
supervisor = TaskSupervisor(name="shop", max_threads=4, grace=2.5)
mail = Bulkhead("mail", max_concurrency=3, max_queue=7, timeout=30, supervisor=supervisor)

plain = asgi.PostResponseMiddleware(FastAPI())
application = Flask(__name__)
application.wsgi_app = wsgi.PostResponseMiddleware(
    application.wsgi_app,
    unit_of_work=Chained(orders=db, audit=audit),
    commit=CommitPolicy("buffered", commit_if=lambda head: True, max_body=None, retry=Retry(attempts=5, backoff=0.25)),
    on_finished=functools.partial(report, "secret"),
    cleanup_timeout=2,
    supervisor=supervisor,
    observers=[Telemetry()],
)
added = FastAPI(routes=[Mount("/old", asgi.PostResponseMiddleware(FastAPI(), unit_of_work=lambda exchange: None))])
added.add_middleware(asgi.PostResponseMiddleware, unit_of_work=adb, commit=lambda scope: "head")
bare = FastAPI()


class Broken:
    def __init__(self, app):
        raise LookupError("no such metric")


broken = FastAPI(middleware=[Middleware(Broken)])
"""


@pytest.fixture(scope="module", autouse=True)
def module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("configured")
    (folder / "configured.py").write_text(APPS)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "path", [str(folder), *sys.path])
        yield
    sys.modules.pop("configured", None)


def told(capsys: Captured, app: str) -> list[tuple[str, dict[str, Any]]]:
    """The middlewares by their protocols, and the options of each by name."""
    assert main(["config", f"configured:{app}", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    return [(each["protocol"], {option["name"]: option for option in each["options"]}) for each in found]


def test_what_was_left_alone_is_marked_as_the_default(capsys: Captured) -> None:
    ((protocol, options),) = told(capsys, "plain")
    assert protocol == "asgi"
    assert all(each["is_default"] for each in options.values())
    assert options["unit_of_work"]["value"] == "none, it observes only"


def test_every_option_of_the_middleware_and_of_its_policy_is_told(capsys: Captured) -> None:
    ((protocol, options),) = told(capsys, "application")
    from postresponse.wsgi import PostResponseMiddleware

    assert protocol == "wsgi"
    assert {name.partition(".")[0] for name in options} == set(keywords(PostResponseMiddleware))
    policy = {name.removeprefix("commit.") for name in options if name.startswith("commit.")}
    retry = {f"retry.{field.name}" for field in fields(Retry)}
    assert policy == {field.name for field in fields(CommitPolicy)} - {"retry"} | retry
    given = {name: each["value"] for name, each in options.items() if not each["is_default"]}
    assert given == {
        "unit_of_work": "Chained(orders=SQLAlchemyUnitOfWork on postgresql+psycopg://app:***@db1:5433/orders, "
        "audit=SQLAlchemyUnitOfWork on sqlite://)",
        "commit.at": "buffered",
        "commit.commit_if": "configured.<lambda> (configured.py:34)",
        "commit.max_body": "none",
        "commit.retry.attempts": "5",
        "commit.retry.backoff": "0.25",
        "on_finished": "configured.report",
        "cleanup_timeout": "2 s",
        "supervisor": "its own, 'shop'",
        "supervisor.max_threads": "4",
        "supervisor.grace": "2.5",
        "supervisor.bulkhead mail": "3 at once, 7 waiting, 30 s each",
        "observers": "configured.Telemetry",
    }


def test_one_that_is_added_and_one_in_a_mounted_application_are_found_the_outer_first(capsys: Captured) -> None:
    outer, inner = told(capsys, "added")
    assert outer[1]["unit_of_work"]["value"] == "AsyncSQLAlchemyUnitOfWork on sqlite+aiosqlite:///orders.db"
    assert outer[1]["commit"]["value"].startswith("by the request: configured.<lambda> (configured.py:")
    assert inner[1]["unit_of_work"]["value"].startswith("configured.<lambda> (configured.py:")
    assert inner[1]["commit.at"] == {"name": "commit.at", "value": "head", "is_default": True}


def test_the_table_is_plain_text_where_nobody_looks_and_no_secret_is_in_it(capsys: Captured) -> None:
    assert main(["config", "configured:application"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "WSGI middleware of configured:application, 1 of 1"
    assert lines[2].split() == ["option", "value", "from"]
    assert [line.split() for line in lines if line.startswith("commit.at ")] == [["commit.at", "buffered", "given"]]
    assert "secret" not in "\n".join(lines)


def test_an_application_without_one_ends_with_1_and_what_is_none_with_2(capsys: Captured) -> None:
    assert main(["config", "configured:bare"]) == 1
    assert "there is no PostResponseMiddleware in configured:bare" in capsys.readouterr().err
    assert main(["config", "configured:nosuch"]) == 2
    assert "has no 'nosuch'" in capsys.readouterr().err
    assert main(["config", "configured:broken"]) == 2
    assert "a middleware raised LookupError while it was made: no such metric" in capsys.readouterr().err


def test_looking_makes_nothing_of_an_application_that_has_not_been_called(capsys: Captured) -> None:
    from configured import added  # type: ignore[import-not-found]

    assert len(middlewares_of(added)) == 1  # that of the mounted one, which is there
    assert len(middlewares_of(added, make=True)) == 2
    assert added.middleware_stack is None


def test_a_proxy_for_what_is_not_there_now_is_passed_by(capsys: Captured) -> None:
    from configured import application

    assert "request" in application.jinja_env.globals  # with session and g, which are proxies too
    assert len(list(reached(application, Flask))) == 1
    assert main(["config", "configured:application"]) == 0
    assert "WSGI middleware of configured:application, 1 of 1" in capsys.readouterr().out


def test_what_is_reached_is_found_along_attributes_closures_slots_and_containers_and_in_no_circle() -> None:
    class Slotted:
        __slots__ = ("inner", "unset")

        def __init__(self, inner: object) -> None:
            self.inner = inner

    class Wanted:
        def method(self) -> None: ...

    def closing_over(held: object) -> Any:
        return lambda: held

    wanted = [Wanted() for _ in range(4)]
    circle: dict[str, Any] = {"slots": Slotted((wanted[0],)), "closure": closing_over({"x": wanted[1]})}
    circle |= {"method": wanted[2].method, "set": frozenset({wanted[3]}), "circle": circle}
    assert set(reached(circle, Wanted)) == set(wanted)
