"""Whether a generator commits behind its `yield`, as its source says.

Nothing is run. What a name stands for is looked up where the function would find it, so that the `begin` of a
sessionmaker is told from that of anything else; where that cannot be known, because it is made inside of the function,
its name has to speak of a database. What commits in a function that is called from there is not found: the observing
mode of the middleware sees it, whoever calls it.
"""

import ast
import functools
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from types import FunctionType, MethodType
from typing import Any, Final

__all__ = ["Commit", "commit_behind_yield"]

DEPTH: Final = 3
"""How many context managers are looked into that stand around each other."""

_OF_A_DATABASE: Final = re.compile(r"sess|engine|conn|db|database|maker|pool|uow|unit_of_work|transaction|tx", re.I)
_OF_ANOTHER: Final = re.compile(r"consumer|producer|kafka|offset|git|index|writer", re.I)
_CONTEXTS: Final = ("__aexit__", "__exit__")
_UNKNOWN: Final = object()


@dataclass(frozen=True, slots=True)
class Commit:
    """Where a generator commits behind its yield.

    Attributes:
        function: The function in which it does; not the generator where that is around a context manager.
        file: Where it stands.
        line: Of the commit.
        how: The code that does it, as `session.commit()`.
    """

    function: str
    file: str
    line: int
    how: str


def commit_behind_yield(function: Any, *, depth: int = DEPTH) -> Commit | None:
    """Return the first commit of *function* that runs when it goes on behind its `yield`; None where there is none.

    Args:
        function: A generator function, sync or async, or an object that is called as one.
        depth: How many context managers around the `yield` are looked into.
    """
    code = _Code.of(function)
    if code is None:
        return None
    return next(chain(code.called_behind(), code.left_behind(depth)), None)


class _Code:
    """The source of a function, and what its names stand for."""

    def __init__(self, function: Any, tree: ast.FunctionDef | ast.AsyncFunctionDef, file: str, first: int) -> None:
        self.name: str = getattr(function, "__qualname__", repr(function))
        self._function = function
        self._tree = tree
        self._file = file
        self._first = first - 1
        self._nodes = list(_own(tree))
        self._types: dict[str, type | None] = {}
        self._types.update(self._local_types())

    @classmethod
    def of(cls, function: Any) -> "_Code | None":
        """Read it, or return None where there is no source."""
        function = _plain(function)
        try:
            lines, first = inspect.getsourcelines(function)
            tree = ast.parse(textwrap.dedent("".join(lines))).body[0]
            file = inspect.getsourcefile(function) or "?"
        except (OSError, TypeError, SyntaxError, IndexError):
            return None
        return cls(function, tree, file, first) if isinstance(tree, ast.FunctionDef | ast.AsyncFunctionDef) else None

    # -- where it commits

    def called_behind(self) -> Iterator[Commit]:
        """Each `.commit()` behind the first yield; not in an `except`, where there is an error and no response yet."""
        yields = [node for node in self._nodes if isinstance(node, ast.Yield)]
        if not yields:
            return
        first = min((node.lineno, node.col_offset) for node in yields)
        handled = {id(node) for each in self._nodes if isinstance(each, ast.ExceptHandler) for node in ast.walk(each)}
        for node in self.commits():
            if (node.lineno, node.col_offset) > first and id(node) not in handled:
                yield self.at(node)

    def commits(self) -> Iterator[ast.Call]:
        """Each call of the `commit` of a transaction."""
        for node in self._nodes:
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute) or node.args:
                continue  # a commit of something else has a message
            if node.func.attr == "commit" and self._is_transaction(node.func.value):
                yield node

    def left_behind(self, depth: int) -> Iterator[Commit]:
        """Each context manager around a yield that commits when it is left."""
        for node in self._nodes:
            if isinstance(node, ast.With | ast.AsyncWith) and any(isinstance(each, ast.Yield) for each in _own(node)):
                for item in node.items:
                    if isinstance(item.context_expr, ast.Call):
                        yield from self._left(item.context_expr, depth)

    def _left(self, call: ast.Call, depth: int) -> Iterator[Commit]:
        made = self._value(call.func)
        if self._begins(call, made):
            yield self.at(call)
        elif made is not _UNKNOWN and depth:
            inner = _inner(made, depth)
            if inner is not None:
                yield inner

    def at(self, node: ast.expr) -> Commit:
        """What is to be told of *node*, which commits."""
        return Commit(self.name, self._file, self._first + node.lineno, ast.unparse(node))

    def _begins(self, call: ast.Call, made: Any) -> bool:
        """Whether what *call* makes is a transaction that is committed when it is left."""
        if made is not _UNKNOWN and getattr(made, "__name__", "") in ("atomic", "in_transaction"):
            return str(getattr(made, "__module__", "")).partition(".")[0] in ("django", "tortoise", "peewee")
        if not isinstance(call.func, ast.Attribute) or call.func.attr not in ("begin", "transaction"):
            return False
        kind = self._type(call.func.value)
        if kind is None:
            return bool(_OF_A_DATABASE.search(ast.unparse(call.func.value)))
        return hasattr(kind, "rollback") or _is_of(kind, "sqlalchemy", "asyncpg", "psycopg", "databases")

    def _is_transaction(self, receiver: ast.expr) -> bool:
        kind = self._type(receiver)
        return not _OF_ANOTHER.search(ast.unparse(receiver)) if kind is None else hasattr(kind, "rollback")

    # -- what a name stands for

    def _local_types(self) -> Iterator[tuple[str, type | None]]:
        """The names that are the function's own, with the type of what they hold where that can be known."""
        arguments = self._tree.args
        for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs):
            yield argument.arg, self._annotated(argument.annotation)
        for node in self._nodes:
            if isinstance(node, ast.Assign):
                for target in node.targets:
                    if isinstance(target, ast.Name):
                        yield target.id, self._made(node.value)
            elif isinstance(node, ast.With | ast.AsyncWith):
                for item in node.items:
                    if isinstance(item.optional_vars, ast.Name):
                        yield item.optional_vars.id, self._made(item.context_expr)

    def _annotated(self, annotation: ast.expr | None) -> type | None:
        while isinstance(annotation, ast.Subscript):  # Annotated[Session, ...]
            inner = annotation.slice
            annotation = inner.elts[0] if isinstance(inner, ast.Tuple) else None
        found = _UNKNOWN if annotation is None else self._value(annotation)
        return found if isinstance(found, type) and found not in (Any, object) else None

    def _made(self, node: ast.expr) -> type | None:
        """The type of what *node* makes: a class that is called, or a sessionmaker."""
        while isinstance(node, ast.Await):
            node = node.value
        if not isinstance(node, ast.Call):
            return None
        maker = self._value(node.func)
        if isinstance(maker, type):
            return maker
        made = getattr(maker, "class_", None)  # of a sessionmaker, sync or async
        return made if isinstance(made, type) else None

    def _type(self, node: ast.expr) -> type | None:
        if isinstance(node, ast.Name) and node.id in self._types:
            return self._types[node.id]
        if isinstance(node, ast.Call):
            return self._made(node)
        found = self._value(node)
        return None if found is _UNKNOWN else found if isinstance(found, type) else type(found)

    def _value(self, node: ast.expr) -> Any:
        """What a dotted name stands for outside of the function."""
        if isinstance(node, ast.Name):
            if node.id in self._types:
                return _UNKNOWN
            return _names_of(self._function).get(node.id, _UNKNOWN)
        if isinstance(node, ast.Attribute):
            owner = self._value(node.value)
            found = _UNKNOWN if owner is _UNKNOWN else inspect.getattr_static(owner, node.attr, _UNKNOWN)
            if isinstance(found, staticmethod | classmethod):
                return found.__func__
            return _UNKNOWN if inspect.isdatadescriptor(found) else found  # what a property returns, only a call tells
        return _UNKNOWN


def _inner(made: Any, depth: int) -> Commit | None:
    """What commits when the context manager that *made* makes is left."""
    if isinstance(made, type):
        for name in _CONTEXTS:
            method = getattr(made, name, None)
            code = None if method is None or _is_of(method, "sqlalchemy") else _Code.of(method)
            if code is not None and (call := next(code.commits(), None)) is not None:
                return code.at(call)
        return None
    wrapped = getattr(made, "__wrapped__", None)  # by contextlib.contextmanager
    if wrapped is not None and (inspect.isgeneratorfunction(wrapped) or inspect.isasyncgenfunction(wrapped)):
        return commit_behind_yield(wrapped, depth=depth - 1)
    return None


def _is_of(kind: Any, *packages: str) -> bool:
    return str(getattr(kind, "__module__", "")).partition(".")[0] in packages


def _own(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node below *tree* but what stands in a function of its own."""
    for node in ast.iter_child_nodes(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.ClassDef):
            yield node
            yield from _own(node)


def _plain(function: Any) -> Any:
    while isinstance(function, functools.partial):
        function = function.func
    function = inspect.unwrap(function)
    if callable(function) and not isinstance(function, FunctionType | MethodType | type):
        return type(function).__call__  # an object that is called as a function
    return function


def _names_of(function: Callable[..., Any]) -> Mapping[str, Any]:
    function = getattr(function, "__func__", function)
    names = dict(getattr(function, "__globals__", {}))
    free = getattr(getattr(function, "__code__", None), "co_freevars", ())
    for name, cell in zip(free, getattr(function, "__closure__", None) or (), strict=False):
        try:
            names[name] = cell.cell_contents
        except ValueError:  # not set yet
            continue
    return names
