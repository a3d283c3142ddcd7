"""Tasks of Django 6 in the outbox and after the response, as its API promises them."""

import asyncio
import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.core.management import call_command
from django.db import connections, transaction
from django.http import HttpResponse
from django.test import AsyncClient, Client, override_settings
from django.urls import path

from postresponse import doom
from postresponse.exceptions import ConfigurationError, MessageRefused
from postresponse.integrations.django.management.commands.postresponse import Command
from postresponse.messaging import Message
from postresponse.messaging.store import Store, Which
from tests.integrations.django_shop import made as made_shop
from tests.integrations.django_shop import manage
from tests.integrations.django_shop import serving as serving_shop
from tests.messaging.django_places import ALIAS, Place, made
from tests.servers.site import eventually
from tests.unit_of_work.django_project.databases import SQLite

if find_spec("django.tasks") is None:
    pytest.skip("django.tasks came with Django 6.0", allow_module_level=True)

from django.tasks import TaskResultStatus, task_backends
from django.tasks.exceptions import InvalidTask
from django.tasks.signals import task_enqueued, task_finished, task_started

from postresponse.integrations.django_tasks import AfterResponseBackend, OutboxBackend

pytestmark = pytest.mark.usefixtures("project")


class _Tasks:
    """The module of tasks, which can be imported when Django is configured."""

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module("tests.integrations.django_tasks"), name)


django_tasks: Any = _Tasks()
KINDS = [
    "sqlite",
    pytest.param("postgresql", marks=pytest.mark.service("postgresql")),
    pytest.param("mariadb", marks=pytest.mark.service("mariadb")),
]


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """A database with an outbox, and what tasks have done so far."""
    django_tasks.done.clear()
    with made(request.param, tmp_path) as place, tasks():
        place.migrate()
        yield place
        place.engine.dispose()


only_sqlite = pytest.mark.parametrize("place", ["sqlite"], indirect=True)


@contextmanager
def tasks(**options: Any) -> Iterator[None]:
    """The back ends."""
    durable = {
        "BACKEND": "postresponse.integrations.django_tasks.OutboxBackend",
        "QUEUES": ["default", "mail"],
        "OPTIONS": {"database": ALIAS, "attempts": 2, **options},
    }
    after = {"BACKEND": "postresponse.integrations.django_tasks.AfterResponseBackend"}
    with override_settings(TASKS={"default": durable, "after": after}):
        yield


@pytest.fixture
def signals() -> Iterator[list[tuple[str, str, str]]]:
    """The signals that were sent: which, the task, and its status then."""
    told: list[tuple[str, str, str]] = []
    named = {"enqueued": task_enqueued, "started": task_started, "finished": task_finished}
    receivers = []
    for name, signal in named.items():

        def receive(sender: Any, task_result: Any, name: str = name, **_: Any) -> None:
            assert sender in (OutboxBackend, AfterResponseBackend)
            told.append((name, task_result.task.name, task_result.status))

        signal.connect(receive)
        receivers.append((signal, receive))
    yield told
    for signal, receive in receivers:
        signal.disconnect(receive)


def relay() -> None:
    """Run what is due, as `manage.py postresponse outbox relay` does."""
    call_command(Command(), "outbox", "relay", "--until-empty")


def waiting(place: Place) -> list[str]:
    return [row.name.rpartition(".")[2] for row in place.rows()]


def test_a_task_runs_if_its_transaction_commits(place: Place, signals: list[Any]) -> None:
    with transaction.atomic(ALIAS):
        django_tasks.add.enqueue(1, 2)
        transaction.set_rollback(True, ALIAS)
    assert (waiting(place), signals) == ([], [])
    with transaction.atomic(ALIAS):
        result = django_tasks.add.enqueue(1, b=2)
        assert signals == []
    assert signals == [("enqueued", "add", "READY")]
    assert (result.status, result.args, result.kwargs) == (TaskResultStatus.READY, [1], {"b": 2})
    assert (place.rows()[0].destination, str(place.rows()[0].message_id)) == ("tasks.default", result.id)
    relay()
    assert django_tasks.done == [("add", 3)]
    assert signals[1:] == [("started", "add", "RUNNING"), ("finished", "add", "SUCCESSFUL")]
    assert waiting(place) == []


@only_sqlite
def test_without_a_transaction_it_has_one_of_its_own_and_async_code_enqueues_too(place: Place) -> None:
    async def enqueue() -> None:
        await django_tasks.aadd.aenqueue(3, 4)
        await sync_to_async(forget)()

    def forget() -> None:
        """The thread is one for all tests, and the database another one in each."""
        connections[ALIAS].close()
        del connections[ALIAS]

    django_tasks.add.enqueue(1, 2)
    asyncio.run(enqueue())
    assert waiting(place) == ["add", "aadd"]
    relay()
    assert sorted(django_tasks.done) == [("aadd", 7), ("add", 3)]


def test_a_task_is_due_when_it_says_and_in_the_queue_that_it_says(place: Place) -> None:
    later = datetime.now(UTC) + timedelta(hours=1)
    django_tasks.add.using(run_after=later, queue_name="mail").enqueue(1, 2)
    relay()
    (row,) = place.rows()
    assert (django_tasks.done, row.destination, row.due_at) == ([], "tasks.mail", later)


@only_sqlite
def test_a_task_that_fails_is_run_again_and_is_dead_behind_its_last_attempt(
    place: Place, signals: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = task_backends["default"]
    result = django_tasks.fail.enqueue("no mailbox")
    store, moved = Store(backend.outbox.tables), ("started", "fail", "RUNNING")
    relay()
    assert signals == [("enqueued", "fail", "READY"), moved]
    with place.engine.begin() as connection:
        assert store.hurry(connection, place.rows()[0].message_id) == 1
    relay()
    assert signals[2:] == [moved, ("finished", "fail", "FAILED")]
    assert django_tasks.done == [("attempt", 1, result.id), ("attempt", 2, result.id)]
    assert waiting(place) == []
    with place.engine.begin() as connection:
        (dead,) = store.listed(connection, dead=True, destination=None, limit=9)
        assert dead["last_error"].startswith("LookupError")
        assert store.replay(connection, 1, Which(destination="tasks.default")) == 1


@only_sqlite
def test_what_it_cannot_keep_is_refused(place: Place) -> None:
    for refused in ({"priority": 5}, {"queue_name": "nowhere"}):
        with pytest.raises(InvalidTask):
            django_tasks.add.using(**refused)
    with pytest.raises(InvalidTask, match="run_after"):
        django_tasks.add.using(backend="after", run_after=datetime.now(UTC))
    with pytest.raises(TypeError):
        django_tasks.add.enqueue(object())
    backend = task_backends["default"]
    flags = ("supports_defer", "supports_async_task", "supports_get_result", "supports_priority")
    assert [getattr(backend, flag) for flag in flags] == [True, True, False, False]
    assert [getattr(task_backends["after"], flag) for flag in flags] == [False, True, False, False]
    with pytest.raises(NotImplementedError):
        django_tasks.add.get_result("1")
    assert list(backend.check()) == []
    with override_settings(INSTALLED_APPS=[]):
        assert [each.id for each in backend.check()] == ["postresponse.E003"]


@only_sqlite
def test_what_names_no_task_is_not_run(place: Place) -> None:
    backend = task_backends["default"]
    with transaction.atomic(ALIAS):
        backend.outbox.enlist(Message("tasks.default", "os.getcwd", {"args": []}), into=connections[ALIAS])
    relay()
    with place.engine.begin() as connection:
        (dead,) = Store(backend.outbox.tables).listed(connection, dead=True, destination=None, limit=9)
    assert dead["last_error"].startswith(MessageRefused.__name__)


def test_options_are_checked() -> None:
    with tasks(atempts=3), pytest.raises(ConfigurationError, match="no option 'atempts'; did you mean 'attempts'"):
        task_backends["default"]
    wrong = {"default": {"BACKEND": "postresponse.integrations.django_tasks.OutboxBackend", "QUEUES": []}}
    with override_settings(TASKS=wrong), pytest.raises(ConfigurationError, match=r"QUEUES.*: name them"):
        task_backends["default"]


@only_sqlite
def test_two_outboxes_want_a_relay_to_be_named(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    backend = {"BACKEND": "postresponse.integrations.django_tasks.OutboxBackend"}
    with override_settings(TASKS={"default": backend, "other": backend}), pytest.raises(SystemExit):
        relay()
    assert "TASKS has 2 outboxes" in capsys.readouterr().err


@only_sqlite
def test_a_relay_in_the_web_process_is_woken_by_a_task(place: Place) -> None:
    running = task_backends["default"].relay(autostart=True)
    try:
        django_tasks.add.enqueue(1, 2)
        eventually(lambda: django_tasks.done == [("add", 3)], "the task ran")
    finally:
        running.stop()
        running._job.result(10)
        running._database.engine.dispose()


@pytest.mark.parametrize("server", ["uvicorn-httptools", "gunicorn-gthread"])
def test_on_a_real_server_both_kinds_run_for_the_order_that_is_kept(server: str, tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    (tmp_path / "served").mkdir()
    with serving_shop(server, "outermost", made_shop(tmp_path / "made"), tmp_path / "served") as shop:
        assert shop.client.request("POST", "/tasks?fail").status == 500, shop.server.log()
        assert shop.client.request("POST", "/tasks").status == 201, shop.server.log()
        eventually(lambda: shop.notes() == ["after the response"], "the one ran")
        told = manage(shop.folder, "postresponse", "outbox", "relay", "--until-empty")
        assert "delivered: 1" in told
        assert shop.notes() == ["after the response", "by the outbox"]


# -- after the response -----------------------------------------------------------------------------------------------


@contextmanager
def serving(view: Any) -> Iterator[None]:
    """A project with one view, and the entry of MIDDLEWARE."""
    urls: Any = ModuleType("urls_of_the_tasks")
    urls.urlpatterns = [path("", view)]
    entry = "postresponse.integrations.django.PostResponseMiddleware"
    django_tasks.done.clear()
    with tasks(), override_settings(ROOT_URLCONF=urls, MIDDLEWARE=[entry], POSTRESPONSE={"UNIT_OF_WORK": "default"}):
        yield


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_it_runs_behind_the_response_if_that_committed(default: SQLite, signals: list[Any], is_async: bool) -> None:
    results: list[Any] = []

    def view(request: Any) -> HttpResponse:
        results.append(django_tasks.add.using(backend="after").enqueue(1, 2))
        results.append(django_tasks.fail.using(backend="after").enqueue("x"))
        if "doom" in request.GET:
            doom()
        return HttpResponse("taken")

    async def aview(request: Any) -> HttpResponse:
        results.append(await django_tasks.add.using(backend="after").aenqueue(1, 2))
        results.append(await django_tasks.afail.using(backend="after").aenqueue("x"))
        if "doom" in request.GET:
            doom()
        return HttpResponse("taken")

    def ask(address: str) -> Any:
        if is_async:
            return asyncio.run(AsyncClient().get(address))
        return Client().get(address)

    with serving(aview if is_async else view):
        assert ask("/?doom").content == b"taken"
        refused, results[:] = list(results), []
        assert ask("/").content == b"taken"
        eventually(lambda: [name for name, *_ in signals].count("finished") == 2, "the tasks ran")
    assert [each.status for each in refused] == [TaskResultStatus.READY] * 2
    good, bad = results
    assert (good.return_value, good.attempts) == (3, 1)
    assert (bad.status, bad.errors[0].exception_class) == (TaskResultStatus.FAILED, LookupError)
    assert django_tasks.done[0] == ("add", 3)
    names = [name for name, *_ in signals]
    assert (names.count("enqueued"), names.count("started"), names.count("finished")) == (4, 2, 2)


def test_outside_of_a_request_it_starts_with_the_commit(default: SQLite) -> None:
    with tasks():
        task = django_tasks.add.using(backend="after")
        with transaction.atomic():
            first = task.enqueue(1, 2)
            assert first.status == TaskResultStatus.READY
        with transaction.atomic():
            never = task.enqueue(3, 4)
            transaction.set_rollback(True)
        last = task.enqueue(5, 6)
        eventually(lambda: first.is_finished and last.is_finished, "the tasks ran")
    assert (first.return_value, never.status, last.return_value) == (3, TaskResultStatus.READY, 11)
