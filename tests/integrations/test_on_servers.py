"""Flask, Quart, Falcon and Pyramid on real servers, in each mode: the same shop, the same questions."""

from collections.abc import Iterator

import pytest

from tests.integrations.scenarios import MODES, SCENARIOS, Served, Site, serving

SHOPS = "tests.integrations.sites"
CONFLICT = (409, b'{"title": "refused"}')
SITES = (
    Site(
        "flask",
        "gunicorn-gthread",
        f"{SHOPS}.flask_shop:app",
        template="/orders/<item>",
        refused=(409, b"refused"),
    ),
    Site(
        "flask-sqlalchemy",
        "gunicorn-gthread",
        f"{SHOPS}.flask_sqlalchemy_shop:app",
        template="/orders/<item>",
        refused=(409, b"refused"),
    ),
    Site(
        "flask-sqlalchemy-lite",
        "gunicorn-gthread",
        f"{SHOPS}.flask_sqlalchemy_shop:lite_app",
        template="/orders/<item>",
        refused=(409, b"refused"),
    ),
    Site(
        "quart",
        "hypercorn",
        f"{SHOPS}.quart_shop:app",
        template="/orders/<item>",
        refused=(409, b"refused"),
        left="rolled_back",  # Quart cancels what handles a request whose client has left
    ),
    Site("falcon", "gunicorn-gthread", f"{SHOPS}.falcon_shop:app", refused=CONFLICT),
    Site("falcon-asgi", "uvicorn-h11", f"{SHOPS}.falcon_shop:asgi_app", refused=CONFLICT),
    Site("pyramid", "gunicorn-gthread", f"{SHOPS}.pyramid_shop:app", refused=(409, b"refused")),
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
