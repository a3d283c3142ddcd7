"""Starlette, FastAPI and Litestar on real servers, in each mode: the same shop, the same questions."""

from collections.abc import Iterator
from typing import Any, Final

import pytest

from tests.integrations.scenarios import SCENARIOS, Site, Visit, visiting, visits
from tests.servers.harness import KINDS

# Starlette and Litestar cancel a body whose client has left, which the session of FastAPI's dependency has outrun.
HANDLED: Final[dict[str, Any]] = {"refused": (409, b"refused"), "left": "rolled_back"}
SITES = (
    Site("starlette", "uvicorn-httptools", "tests.integrations.sites.starlette_shop:app", **HANDLED),
    Site("fastapi", "hypercorn", "tests.integrations.sites.fastapi_shop:app", refused=(409, b"refused")),
    Site("litestar-uvicorn", "uvicorn-h11", "tests.integrations.sites.litestar_shop:app", **HANDLED),
    Site("litestar-granian", "granian-asgi", "tests.integrations.sites.litestar_shop:app", **HANDLED),
)


@pytest.fixture(scope="module", params=visits(SITES), ids=str)
def visit(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Visit]:
    """One server for each site and mode."""
    with visiting(request.param, tmp_path_factory.mktemp("site")) as visit:
        yield visit


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_real_server(visit: Visit, scenario: str) -> None:
    if KINDS[visit.site.server].tells_late and (visit.mode, scenario) == ("buffered", "a client leaves"):
        pytest.skip("the whole body is made before this server tells that the client left")
    visit.ask(scenario)
