"""Django with a database that cannot be reached when the request starts."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.db import OperationalError, connections, transaction
from django.http import HttpResponse

from postresponse import current_exchange
from postresponse.exceptions import CommitRefused
from tests.unit_of_work import django_project
from tests.unit_of_work.django_project.driving import KIND, Answer, Site, orders

ALIAS = "down"


class Down:
    """A database in a folder that is not there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def come_up(self) -> None:
        self.folder.mkdir()
        django_project.create_tables(ALIAS)

    def get(self, view: Any, kind: str, **options: Any) -> Answer:
        answer = Site(view, kind, ALIAS, options=options).get()
        assert "ensure_connection" not in vars(connections[ALIAS])
        assert connections[ALIAS].execute_wrappers == []
        return answer


@pytest.fixture
def down(project: None, tmp_path: Path) -> Iterator[Down]:
    database = Down(tmp_path / "missing")
    told = django_project.sqlite(database.folder / "down.sqlite3")
    connections.settings[ALIAS] = connections.configure_settings({"default": {}, ALIAS: told})[ALIAS]
    yield database
    connections[ALIAS].close()
    del connections[ALIAS], connections.settings[ALIAS]


def placing(request: Any) -> HttpResponse:
    orders(ALIAS).create()
    return HttpResponse("placed", status=201)


@KIND
def test_a_view_that_needs_no_database_is_answered(down: Down, kind: str) -> None:
    answer = down.get(lambda request: HttpResponse("well"), kind)
    assert (answer.unit, answer.body) == ((200, "committed"), b"well")


@KIND
@pytest.mark.parametrize("atomic", [False, True], ids=["a query", "ATOMIC_REQUESTS"])
def test_what_needs_it_is_answered_by_django(
    down: Down, kind: str, atomic: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(connections.settings[ALIAS], "ATOMIC_REQUESTS", atomic and kind != "async")
    monkeypatch.setattr(settings, "DEBUG_PROPAGATE_EXCEPTIONS", False)
    units: list[Any] = []

    def view(request: Any) -> HttpResponse:
        units.extend(current_exchange().units.values())
        return placing(request)

    answer = down.get(view, kind)
    assert answer.unit == (500, "rolled_back")
    assert b"<h1>Server Error (500)</h1>" in answer.body
    assert atomic or isinstance(units[0].statement_error, OperationalError)


@KIND
def test_an_error_that_a_view_caught_refuses_the_commit(down: Down, kind: str) -> None:
    told: list[BaseException] = []

    def view(request: Any) -> HttpResponse:
        for _ in range(2):
            with pytest.raises(OperationalError, match="unable to open"), transaction.atomic(ALIAS):
                orders(ALIAS).create()
        return HttpResponse("placed", status=201)

    answer = down.get(view, kind, on_commit_failed=lambda failure: told.append(failure.exception))
    assert answer.unit == (500, "failed")
    assert isinstance(told[0], CommitRefused)
    assert isinstance(told[0].__cause__, OperationalError)


@KIND
def test_one_that_comes_up_is_there_for_the_next_request(down: Down, kind: str) -> None:
    """And not for this one, which has no transaction there."""

    def view(request: Any) -> HttpResponse:
        down.folder.mkdir()
        return placing(request)

    assert down.get(view, kind).unit == (500, "rolled_back")
    down.folder.rmdir()
    down.come_up()
    assert down.get(placing, kind).unit == (201, "committed")
    assert orders(ALIAS).count() == 1
