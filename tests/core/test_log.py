from types import SimpleNamespace
from typing import Any

import pytest

from postresponse.core.log import route_of


@pytest.mark.parametrize(
    ("scope", "route"),
    [
        (None, "a finished request"),
        ({}, "a finished request"),
        ({"type": "http", "method": "GET", "path": "/orders/7"}, "GET /orders/7"),
        ({"type": "http", "method": "GET", "path": "/orders/7", "route": object()}, "GET /orders/7"),
        (
            {"type": "http", "method": "GET", "path": "/orders/7", "route": SimpleNamespace(path="/orders/{id}")},
            "GET /orders/{id}",
        ),
        ({"type": "http", "method": "GET"}, "GET "),
        ({"type": "websocket", "path": "/feed"}, " /feed"),
        ({"REQUEST_METHOD": "PUT", "SCRIPT_NAME": "/shop", "PATH_INFO": "/orders"}, "PUT /shop/orders"),
        ({"REQUEST_METHOD": "PUT"}, "PUT "),
        ({"REQUEST_METHOD": "PUT", "SCRIPT_NAME": "/caf\xc3\xa9", "PATH_INFO": "/\xc3\xa9t\xc3\xa9"}, "PUT /café/été"),
        ({"REQUEST_METHOD": "PUT", "PATH_INFO": "/\xff"}, "PUT /\ufffd"),
        ({"REQUEST_METHOD": "PUT", "PATH_INFO": "/\u20ac"}, "PUT /?"),  # of a server that keeps to no rule
        ({"type": "http", "method": "GET", "path": "/été"}, "GET /été"),
    ],
)
def test_a_route_is_named_by_its_method_and_template_or_path(scope: Any, route: str) -> None:
    assert route_of(scope) == route
