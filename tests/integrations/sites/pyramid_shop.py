"""The shop of the scenarios in Pyramid; an exception view answers a commit that was refused."""

from pathlib import Path
from typing import Any

from pyramid.config import Configurator
from pyramid.response import Response
from sqlalchemy.exc import IntegrityError

from postresponse import after_response
from tests.integrations.shop import Shop
from tests.integrations.sites.modes import for_wsgi
from tests.integrations.sites.trading import ordered, parts, slowly

shop = Shop(Path("shop.sqlite3"))


def place(request: Any) -> Response:
    request.dbsession.add(ordered(request.matchdict["item"]))
    return Response("stored", status=201, location=request.path)


def stream(request: Any) -> Response:
    request.dbsession.add(ordered(request.matchdict["item"]))
    return Response(app_iter=parts(request.matchdict["item"]))


def slow(request: Any) -> Response:
    request.dbsession.add(ordered(request.matchdict["item"]))
    after_response(slowly, request.matchdict["item"])
    return Response("stored", status=201)


def refused(error: IntegrityError, request: Any) -> Response:
    return Response("refused", status=409)


def create_app(mode: str) -> Any:
    with Configurator(settings={"postresponse.commit": mode, "postresponse.unit_of_work": shop.db}) as config:
        config.include("postresponse.integrations.pyramid")
        config.add_request_method(lambda request: shop.db.session, "dbsession", property=True)
        config.add_exception_view(refused, context=IntegrityError)
        for name, view in {"orders": place, "stream": stream, "slow": slow}.items():
            config.add_route(name, f"/{name}/{{item}}")
            config.add_view(view, route_name=name)
        return config.make_wsgi_app()


app = for_wsgi(create_app)
