"""Starlette, FastAPI and Litestar on real servers, in each mode: the same shop, the same questions."""

from collections.abc import Iterator
from typing import Any, Final

import pytest

from tests.integrations.scenarios import MODES, SCENARIOS, Served, Site, Visit, serving
from tests.servers.harness import KINDS

# Starlette and Litestar cancel a body whose client has left, which the session of FastAPI's dependency has outrun.
HANDLED: Final[dict[str, Any]] = {"refused": (409, b"refused"), "left": "rolled_back"}
SITES = (
    Site("starlette", "uvicorn-httptools", "tests.integrations.sites.starlette_shop:app", **HANDLED),
    Site("fastapi", "hypercorn", "tests.integrations.sites.fastapi_shop:app", refused=(409, b"refused")),
    Site("litestar-uvicorn", "uvicorn-h11", "tests.integrations.sites.litestar_shop:app", **HANDLED),
    Site("litestar-granian", "granian-asgi", "tests.integrations.sites.litestar_shop:app", **HANDLED),
)


@pytest.fixture(scope="module", params=SITES, ids=str)
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One server for each site."""
    with serving(request.param, tmp_path_factory.mktemp("site")) as served:
        yield served


def a_client_leaves_late(visit: Visit) -> None:
    """The server may take all of the body before it tells that nobody is there: then that is how it ended."""
    tea = visit.item()
    connection = visit.stream(tea)
    visit.noted(f"began.{tea}")
    connection.reset()
    visit.note(f"go.{tea}")
    ending, unit = visit.outcome(tea)
    assert (ending, unit) in (("handed_over", "committed"), ("aborted", "committed"), ("aborted", "rolled_back"))
    assert visit.stored(tea) is (unit == "committed"), visit.log()
    with visit.client() as client:
        assert visit.request(client, "POST", f"/orders/{visit.item()}").status == 201, visit.log()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_real_server(served: Served, scenario: str, mode: str) -> None:
    if scenario == "a client leaves" and KINDS[served.site.server].tells_late:
        a_client_leaves_late(served.visit(mode))
    else:
        served.ask(scenario, mode)


def test_a_shutdown_drains_the_work_of_each_mode(served: Served) -> None:
    served.drains()
