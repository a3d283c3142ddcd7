"""Flask, Quart, Falcon and Pyramid on real servers, in each mode: the same shop, the same questions."""

from collections.abc import Iterator

import pytest

from tests.integrations.scenarios import SCENARIOS, Site, Visit, visiting, visits

SHOPS = "tests.integrations.sites"
CONFLICT = (409, b'{"title": "refused"}')
SITES = (
    Site(
        "flask",
        "gunicorn-gthread",
        f"{SHOPS}.flask_shop:app",
        template="/orders/<item>",
        refused=(409, b"refused"),
        modes=("head",),  # the others are those of the site behind this one
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
        modes=("head",),  # as the site before this one
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


@pytest.fixture(scope="module", params=visits(SITES), ids=str)
def visit(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Visit]:
    """One server for each site and mode."""
    with visiting(request.param, tmp_path_factory.mktemp("site")) as visit:
        yield visit


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_real_server(visit: Visit, scenario: str) -> None:
    visit.ask(scenario)
