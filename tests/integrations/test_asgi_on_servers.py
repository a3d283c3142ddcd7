"""Starlette, FastAPI and Litestar on real servers, in each mode: the same shop, the same questions."""

from collections.abc import Iterator
from typing import Any, Final

import pytest

from tests.integrations.scenarios import MODES, SCENARIOS, Served, Site, serving

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


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_real_server(served: Served, scenario: str, mode: str) -> None:
    served.ask(scenario, mode)


def test_a_shutdown_drains_the_work_of_each_mode(served: Served) -> None:
    served.drains()
