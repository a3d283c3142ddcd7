"""FastAPI's dependencies that commit behind their `yield`: when the response, and its background tasks, are over.

FastAPI need not be there. It is where an application of it is.
"""

import inspect
import sys
from collections.abc import Iterator
from typing import Any

from postresponse.doctor.commits import commit_behind_yield
from postresponse.doctor.reached import reached
from postresponse.stack import Finding

__all__ = ["findings_of_dependencies"]


def findings_of_dependencies(app: Any) -> Iterator[Finding]:
    """Judge the dependencies of each path operation that *app* holds, mounted applications included, once each.

    Those of WebSockets are left out: they have no response to be late for.
    """
    seen: dict[Any, list[str]] = {}
    for function, route in _of_routes(app):
        seen.setdefault(function, []).append(route)
    for function in _of_routers(app):
        seen.setdefault(function, ["a router"])
    for function, routes in seen.items():
        commit = commit_behind_yield(function)
        if commit is not None:
            used = f"{routes[0]} and {len(routes) - 1} more" if len(routes) > 1 else routes[0]
            name = getattr(function, "__qualname__", type(function).__qualname__)
            yield Finding(
                "dependency_commits_late",
                "error",
                f"the dependency {name} of {used} commits by {commit.how} behind its yield: when the response has "
                "left, so that a commit that fails was answered 2xx",
                f"{commit.function}, {commit.file}:{commit.line}",
                f"Depends({name}, scope='function'); or leave the commit to a unit_of_work of PostResponseMiddleware",
            )


def _of_routes(app: Any) -> Iterator[tuple[Any, str]]:
    """Give each generator that goes on when the response is over, and the operation that wants it."""
    routing = sys.modules.get("fastapi.routing")
    for route in () if routing is None else reached(app, routing.APIRoute):
        name = f"{'/'.join(sorted(route.methods or ()))} {route.path}"
        for function in _below(route.dependant):
            yield function, name


def _of_routers(app: Any) -> Iterator[Any]:
    """Give those of routers, which some versions note where one is included, and give to none of its routes."""
    params = sys.modules.get("fastapi.params")
    for depends in () if params is None else reached(app, params.Depends):
        if depends.dependency is not None and _is_of_request(depends.dependency, getattr(depends, "scope", None)):
            yield depends.dependency


def _below(dependant: Any) -> Iterator[Any]:
    for each in dependant.dependencies:
        if each.call is not None and _is_of_request(each.call, getattr(each, "scope", None)):
            yield each.call
        yield from _below(each)


def _is_of_request(call: Any, scope: str | None) -> bool:
    if scope == "function":
        return False
    plain = inspect.unwrap(call)
    called = plain if isinstance(plain, type) else type(plain).__call__
    return any(inspect.isgeneratorfunction(each) or inspect.isasyncgenfunction(each) for each in (call, plain, called))
