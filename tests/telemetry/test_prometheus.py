"""Metrics as a scrape reads them, after requests to a real server, of real jobs, and of a real outbox."""

import logging
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from fastapi import FastAPI, HTTPException
from prometheus_client import CollectorRegistry, Counter, generate_latest, make_asgi_app
from sqlalchemy import create_engine, event, insert, select
from sqlalchemy.ext.asyncio import create_async_engine

from postresponse import after_response, asgi, wsgi
from postresponse.exceptions import ConfigurationError
from postresponse.messaging import Message, Outbox
from postresponse.messaging.clock import now
from postresponse.telemetry.prometheus import PrometheusObserver
from postresponse.telemetry.prometheus_outbox import OutboxCollector
from postresponse.work import Bulkhead, TaskSupervisor
from tests.fakes import FakeUnits, run_wsgi
from tests.integrations.shop import REFUSED, Shop
from tests.messaging.databases import DATABASES, database
from tests.servers.client import Connection
from tests.services.ports import free_port
from tests.telemetry.serving import serving_asgi
from tests.work.waiting import idle, until


def scraped(registry: CollectorRegistry) -> dict[str, float]:
    """What a scrape reads, by name and labels; without what says when a metric was made, and the buckets."""
    lines = generate_latest(registry).decode().splitlines()
    found = (line.rpartition(" ") for line in lines if not line.startswith("#"))
    return {name: float(value) for name, _, value in found if not re.search(r"_created\b|_bucket\b", name)}


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def supervisor() -> Iterator[TaskSupervisor]:
    made = TaskSupervisor(name="mine")
    yield made
    made.close(2)


def fastapi_shop(shop: Shop, registry: CollectorRegistry) -> FastAPI:
    app = FastAPI()
    app.mount("/metrics", make_asgi_app(registry))

    @app.post("/orders/{item}", status_code=201)
    async def order(item: str) -> None:
        after_response(anyio.sleep, 0, name="receipt")
        if item.isdigit():  # else there is nothing to commit, and nothing to count
            await shop.adb.session.execute(select(1))
        if item == "refused":
            shop.adb.session.add_all(REFUSED["at the commit"]())
        if item == "gold":
            raise HTTPException(409)

    return app


def test_real_requests_are_counted_by_the_template_of_their_route(
    tmp_path: Path, registry: CollectorRegistry, supervisor: TaskSupervisor, quiet: None
) -> None:
    shop = Shop(tmp_path / "shop.sqlite3")
    metrics = PrometheusObserver(registry=registry, supervisors=[supervisor])
    app = asgi.PostResponseMiddleware(
        fastapi_shop(shop, registry), unit_of_work=shop.adb, supervisor=supervisor, observers=[metrics]
    )
    asked = [("POST", f"/orders/{number}") for number in range(5)]
    asked += [("POST", "/orders/refused"), ("POST", "/orders/gold"), ("GET", "/nowhere/1"), ("PROPFIND", "/nowhere/2")]
    with serving_asgi(app) as port, Connection(port) as connection:
        statuses = [connection.request(method, path).status for method, path in asked]
        until(lambda: scraped(registry).get('postresponse_jobs_total{job="receipt",outcome="done"}') == 5)
        shown = connection.request("GET", "/metrics/").body.decode()
    shop.engine.dispose()
    assert statuses == [201] * 5 + [500, 409, 404, 404]
    found = scraped(registry)
    order, managed = 'method="POST",route="/orders/{item}"', 'managed="yes"'
    before = f'{{{managed},method="POST",outcome="%s",position="before_head",route="/orders/{{item}}"}}'
    assert f'postresponse_responses_total{{ending="handed_over",{order}}} 7.0' in shown
    assert {name: found[f"postresponse_commits_total{before % name}"] for name in ("committed", "failed")} == {
        "committed": 5,
        "failed": 1,
    }
    assert found[f"postresponse_commits_total{before % 'rolled_back'}"] == 1
    assert found['postresponse_commit_seconds_count{managed="yes",outcome="failed"}'] == 1
    unmatched = 'postresponse_responses_total{ending="handed_over",method="%s",route="unmatched"}'
    assert (found[unmatched % "GET"], found[unmatched % "other"]) == (2, 1)  # one is the scrape


def test_names_past_the_bound_are_counted_together(registry: CollectorRegistry, supervisor: TaskSupervisor) -> None:
    metrics = PrometheusObserver(registry=registry, supervisors=[supervisor], max_routes=3, max_jobs=2)

    def app(environ: Any, start_response: Any) -> list[bytes]:
        number = next(numbers)
        environ["postresponse.route"] = f"/template/{number}"
        after_response(str, name=f"job {number}")
        start_response("200 OK", [("Content-Length", "4")])
        return [b"body"]

    numbers = iter(range(50))
    made = wsgi.PostResponseMiddleware(
        app, unit_of_work=FakeUnits(), supervisor=supervisor, observers=[metrics], commit="after_send"
    )
    for _ in range(50):
        run_wsgi(made)
    other = 'postresponse_jobs_total{job="other",outcome="done"}'
    until(lambda: scraped(registry).get(other) == 48)
    found = scraped(registry)
    responses = {name: value for name, value in found.items() if name.startswith("postresponse_responses")}
    assert sorted(responses.values()) == [1, 1, 1, 47]
    assert {re.findall(r'position="(\w+)"', name)[0] for name in found if "commits_total" in name} == {"after_send"}
    jobs = {name: value for name, value in found.items() if name.startswith("postresponse_jobs")}
    assert sorted(jobs.values()) == [1, 1, 48]


def test_what_waits_and_runs_is_told_when_somebody_asks(
    registry: CollectorRegistry, supervisor: TaskSupervisor, quiet: None
) -> None:
    metrics = PrometheusObserver(registry=registry, supervisors=[supervisor], namespace="shop")
    mails = Bulkhead("mails", max_concurrency=1, max_queue=2, supervisor=supervisor)
    goes_on = threading.Event()
    app = _ok(lambda: after_response(str, bulkhead="mails", name="late"))
    made = wsgi.PostResponseMiddleware(app, observers=[metrics], supervisor=supervisor)
    for _ in range(3):
        mails.submit(goes_on.wait, 10)
    until(lambda: mails.running == 1)
    labels = 'bulkhead="mails",state="%s",supervisor="mine"'
    found = scraped(registry)
    depth = [found[f"shop_bulkhead_jobs{{{labels % state}}}"] for state in ("waiting", "running")]
    live = [found[f'shop_live_jobs{{state="{state}",supervisor="mine"}}'] for state in ("waiting", "running")]
    run_wsgi(made)  # the bulkhead is full: what it registers is dropped, and counted
    goes_on.set()
    idle(supervisor)
    assert (depth, live) == ([2, 1], [2, 1])
    found = scraped(registry)
    assert found['shop_jobs_total{job="late",outcome="dropped"}'] == 1
    assert found[f"shop_bulkhead_jobs{{{labels % 'waiting'}}}"] == 0


def _ok(view: Any) -> Any:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        view()
        start_response("200 OK", [("Content-Length", "4")])
        return [b"body"]

    return app


# -- the outbox ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DATABASES)
def test_an_outbox_tells_what_waits_and_what_is_dead(name: str, tmp_path: Path, registry: CollectorRegistry) -> None:
    outbox = Outbox({"mail": ["send"]})
    with database(name, tmp_path) as (url, connect_args):
        engine = create_engine(url, connect_args=connect_args)
        outbox.tables.waiting.metadata.create_all(engine)
        OutboxCollector(outbox, engine, registry=registry, max_age=0.0)
        assert scraped(registry) == {}
        with engine.begin() as connection:
            for _ in range(3):
                outbox.enlist(Message("mail", "send"), into=connection)
            dead = Message("mail", "send")
            values = {"message_id": dead.id, "destination": "mail", "name": "send", "payload": b"{}", "headers": "{}"}
            of_death = {"attempts": 1, "first_failed_at": now(), "last_error": "no", "died_at": now()}
            filled = {"created_at": now(), "due_at": now(), **of_death}
            columns = outbox.tables.dead.c
            values |= {key: value for key, value in filled.items() if key in columns}
            connection.execute(insert(outbox.tables.dead).values(values))
        found = scraped(registry)
        engine.dispose()
    states = {state: found[_labels(state)] for state in ("due", "delayed", "leased", "dead")}
    assert states == {"due": 3, "delayed": 0, "leased": 0, "dead": 1}
    assert found['postresponse_outbox_oldest_seconds{destination="mail"}'] >= 0
    assert found['postresponse_outbox_paused{destination="mail"}'] == 0


def _labels(state: str) -> str:
    return f'postresponse_outbox_messages{{destination="mail",state="{state}"}}'


def test_the_database_is_asked_once_in_its_time(tmp_path: Path, registry: CollectorRegistry) -> None:
    outbox, asked = Outbox({"mail": ["send"]}), list[str]()
    engine = create_engine(f"sqlite:///{tmp_path}/outbox.sqlite3")
    outbox.tables.waiting.metadata.create_all(engine)
    event.listen(engine, "begin", lambda connection: asked.append("asked"))
    OutboxCollector(outbox, engine, registry=registry, max_age=3600)
    for _ in range(3):
        scraped(registry)
    engine.dispose()
    assert asked == ["asked"]


def test_a_database_that_is_away_leaves_its_metrics_out_and_is_logged_once(
    registry: CollectorRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    Counter("other", "What else there is to be scraped.", registry=registry).inc()
    url = f"postgresql+psycopg://nobody@127.0.0.1:{free_port()}/nothing"
    OutboxCollector(Outbox({"mail": ["send"]}), url, registry=registry, max_age=0.0)
    with caplog.at_level(logging.INFO, "postresponse"):
        found = [scraped(registry) for _ in range(3)]
    assert found == [{"other_total": 1.0}] * 3
    (record,) = caplog.records
    assert re.match("postresponse_outbox cannot be counted, and its metrics are left out: ", record.getMessage())


def test_a_database_that_is_back_is_counted_again(
    tmp_path: Path, registry: CollectorRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    outbox = Outbox({"mail": ["send"]})
    engine = create_engine(f"sqlite:///{tmp_path}/outbox.sqlite3")
    OutboxCollector(outbox, engine, registry=registry, max_age=0.0)
    with caplog.at_level(logging.INFO, "postresponse"):
        assert scraped(registry) == {}
        outbox.tables.waiting.metadata.create_all(engine)
        with engine.begin() as connection:
            outbox.enlist(Message("mail", "send"), into=connection)
        assert scraped(registry)[_labels("due")] == 1
    engine.dispose()
    assert [record.getMessage().partition(",")[0] for record in caplog.records] == [
        "postresponse_outbox cannot be counted",
        "postresponse_outbox is counted again",
    ]


def test_a_scrape_on_an_event_loop_does_not_wait_for_the_database(tmp_path: Path, registry: CollectorRegistry) -> None:
    outbox, threads = Outbox({"mail": ["send"]}), list[str]()
    engine = create_engine(f"sqlite:///{tmp_path}/outbox.sqlite3")
    outbox.tables.waiting.metadata.create_all(engine)
    with engine.begin() as connection:
        outbox.enlist(Message("mail", "send"), into=connection)
    answers = threading.Event()

    def asked(connection: Any) -> None:
        threads.append(threading.current_thread().name)
        answers.wait(10)

    event.listen(engine, "begin", asked)
    collector = OutboxCollector(outbox, engine, registry=registry, max_age=0.0)

    async def scrape() -> dict[str, float]:
        return scraped(registry)

    assert [anyio.run(scrape) for _ in range(2)] == [{}, {}]  # it has not answered, and is asked once
    answers.set()
    until(lambda: not collector._asking.locked())
    assert anyio.run(scrape)[_labels("due")] == 1
    until(lambda: not collector._asking.locked())
    engine.dispose()
    assert threads == ["postresponse-outbox-metrics"] * 2


# -- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"registry": 3}, "registry: expected a CollectorRegistry of prometheus_client's, found 3"),
        ({"namespace": "my shop"}, "namespace: expected letters, digits and underscores, found 'my shop'"),
        ({"supervisors": TaskSupervisor()}, "supervisors: expected a list of TaskSupervisor, found <"),
        ({"max_routes": 0}, "max_routes: expected a whole number from 1 on, found 0"),
        ({"max_jobs": True}, "max_jobs: expected a whole number from 1 on, found True"),
    ],
)
def test_a_value_that_an_option_cannot_have_is_refused(options: Any, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        PrometheusObserver(**{"registry": CollectorRegistry(), **options})


def test_two_of_one_name_are_refused_and_leave_the_registry_as_it_was(registry: CollectorRegistry) -> None:
    PrometheusObserver(registry=registry)
    with pytest.raises(ConfigurationError, match="it has metrics of 'postresponse' already; give one observer"):
        PrometheusObserver(registry=registry)
    Counter("jobs", "Of somebody else.", namespace="another", registry=registry)
    before = list(registry.collect())
    with pytest.raises(ConfigurationError, match="it has metrics of 'another' already"):
        PrometheusObserver(registry=registry, namespace="another")
    assert [each.name for each in registry.collect()] == [each.name for each in before]
    PrometheusObserver(registry=registry, namespace="a_third")


def test_an_outbox_is_asked_by_a_sync_engine(registry: CollectorRegistry) -> None:
    outbox = Outbox({"mail": ["send"]})
    for given in (create_async_engine("sqlite+aiosqlite://"), "sqlite+aiosqlite:///a.sqlite3"):
        with pytest.raises(ConfigurationError, match=r"engine: .+ is async, and a scrape is not; give the URL"):
            OutboxCollector(outbox, given, registry=registry)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="outbox: expected an Outbox, found 3"):
        OutboxCollector(3, "sqlite://", registry=registry)  # type: ignore[arg-type]
