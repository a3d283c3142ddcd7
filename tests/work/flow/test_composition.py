"""Flows put together: by functions, by operators, and from a text, with the place of what is wrong."""

import functools
from collections.abc import Callable
from typing import Any

import pytest

from postresponse.exceptions import ConfigurationError, FlowError, NotAFunction
from postresponse.work import Flow, par, seq, step


def a(ctx: Any) -> str:
    return "a"


def b(ctx: Any) -> str:
    return "b"


async def c(ctx: Any) -> str:
    return "c"


def d(ctx: Any) -> str:
    return "d"


STEPS = {"a": a, "b": b, "c": c, "d": d}


def shape(flow: Flow) -> Any:
    """What it is made of: a name, or the kind and its parts."""
    return flow.name if flow.kind == "step" else (flow.kind, *map(shape, flow.children))


WHOLE = ("seq", "a", ("par", "b", "c"), "d")


def test_functions_operators_and_a_text_make_the_same() -> None:
    made = [
        seq(a, par(b, c), d),
        step(a) + (step(b) | c) + d,
        a + (b | step(c)) + d,
        Flow.parse("a + (b | c) + d", STEPS),
        Flow.parse("a + b | c + d", STEPS),
        Flow.parse("a+b|c+d", [a, b, c, d]),
        Flow.parse(" ( a\n+ (b | c) ) + d ", STEPS),
    ]
    assert [shape(each) for each in made] == [WHOLE] * len(made)
    assert {str(each) for each in made} == {"a + (b | c) + d"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a", "a"),
        ("((a))", "a"),
        ("a + b", ("seq", "a", "b")),
        ("(a + b) + c", ("seq", "a", "b", "c")),
        ("a | b | c", ("par", "a", "b", "c")),
        ("(a + b) | c", ("par", ("seq", "a", "b"), "c")),
        ("a + (b | (c + d))", ("seq", "a", ("par", "b", ("seq", "c", "d")))),
        ("a | b + c | d", ("seq", ("par", "a", "b"), ("par", "c", "d"))),
        ("a + (b | b | b)", ("seq", "a", ("par", "b", "b", "b"))),
        ("(b | b) | b", ("par", "b", "b", "b")),
    ],
)
def test_a_text_is_read(text: str, expected: Any) -> None:
    flow = Flow.parse(text, {name: STEPS[name] for name in STEPS if name in text})
    assert shape(flow) == expected
    assert shape(Flow.parse(str(flow), {name: STEPS[name] for name in STEPS if name in text})) == expected


@pytest.mark.parametrize(
    ("text", "position", "says"),
    [
        ("", 0, r"expected a step or '\(', found the end, at character 1:\n  \n  \^"),
        ("  ", 2, r"expected a step or '\(', found the end, at character 3"),
        ("a +", 3, r"expected a step or '\(', found the end, at character 4:\n  a \+\n     \^"),
        ("(a", 2, r"expected '\+', '\|' or the '\)' of the '\(' at 1, found the end, at character 3"),
        ("a)", 1, r"expected '\+', '\|' or the end, found '\)', at character 2"),
        ("()", 1, r"expected a step or '\(', found '\)', at character 2"),
        ("a & b", 2, r"expected '\+', '\|' or the end, found '&', at character 3"),
        ("a b", 2, r"expected '\+', '\|' or the end, found 'b', at character 3"),
        ("a | | b", 4, r"expected a step or '\(', found '\|', at character 5"),
        ("a + 1b", 4, r"expected a step or '\(', found '1', at character 5"),
        ("a +\n b $ c", 7, r"found '\$', at character 8:\n   b \$ c\n     \^"),
        ("a + e", 4, r"there is no step 'e' \(there are: a, b, c, d\); give it in steps=, at character 5"),
        ("a + b + a", 8, r"two steps are called 'a', .* in steps=, at character 9"),
        ("a + (b | a)", 9, r"two steps are called 'a', .* at character 10"),
        ("(a | (b + a))", 10, r"two steps are called 'a', .* at character 11"),
        ("((b + a) | a)", 11, r"two steps are called 'a', .* at character 12"),
    ],
)
def test_what_cannot_be_read_is_told_with_its_place(text: str, position: int, says: str) -> None:
    with pytest.raises(FlowError, match=says) as raised:
        Flow.parse(text, STEPS)
    assert raised.value.position == position


def test_an_unknown_step_that_is_near_to_a_known_one_is_asked_for() -> None:
    with pytest.raises(FlowError, match=r"there is no step 'invoce'; did you mean 'invoice'\?"):
        Flow.parse("invoce", {"invoice": a})


def test_a_step_that_is_not_used_is_named() -> None:
    with pytest.raises(FlowError, match=r"steps: 'd', number 3, is not used in 'a \+ b'") as raised:
        Flow.parse("a + b", {"a": a, "b": b, "d": d})
    assert raised.value.position == 2


def test_two_functions_of_one_name_are_refused() -> None:
    def other() -> Callable[[Any], Any]:
        def a(ctx: Any) -> None: ...

        return a

    with pytest.raises(FlowError, match="steps: number 2 is called 'a', as one before it; give them by name") as raised:
        Flow.parse("a", [a, other()])
    assert raised.value.position == 1
    with pytest.raises(FlowError, match=r"two steps are called 'a', .* own: step\(a, name=\.\.\.\)"):
        seq(a, other())
    assert str(seq(a, step(other(), name="again"))) == "a + again"


def test_operators_that_python_reads_another_way_are_refused() -> None:
    mixtures: list[Callable[[], Flow]] = [
        lambda: step(a) + b | c,
        lambda: step(a) | step(b) + c,
        lambda: step(a) + b | step(c) + d,
        lambda: (step(a) + b) | c,
    ]
    for mixed in mixtures:
        with pytest.raises(FlowError, match=r"ambiguous: .* put b \| c in parentheses, or use par\(seq\(a, b\), c\)"):
            mixed()
    assert shape(par(step(a) + b, c)) == ("par", ("seq", "a", "b"), "c")
    assert shape((step(a) + b).with_options(name="first") | step(c)) == ("par", ("seq", "a", "b"), "c")


def test_a_flow_is_never_changed_by_what_is_made_of_it() -> None:
    first = step(a) + b
    second = first + c
    assert (str(first), str(second)) == ("a + b", "a + b + c")
    assert str(seq(first, c)) == "(a + b) + c"


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (seq, FlowError, r"seq\(\) has nothing to run"),
        (par, FlowError, r"par\(\) has nothing to run"),
        (lambda: seq(a, 3), NotAFunction, r"step\(\): expected a function, found 3"),
        (lambda: step(a) + None, NotAFunction, r"step\(\): expected a function, found None"),
        (lambda: par(c(None), b), NotAFunction, r"found the coroutine c\(\): give the function itself"),
        (lambda: step(a, name=" "), ConfigurationError, "name: expected letters, digits.*found ' '"),
        (lambda: step(a, name="a+b"), ConfigurationError, "name: expected letters, digits.*found 'a\\+b'"),
        (lambda: step(lambda ctx: ctx), ConfigurationError, r"give .*<lambda> a name="),
        (lambda: step(a, timeout=0), ConfigurationError, "timeout: expected seconds above 0, found 0"),
        (lambda: step(a, timeout=-1.5), ConfigurationError, "timeout: expected seconds above 0, found -1.5"),
        (lambda: seq(a, on_error="skip"), ConfigurationError, "on_error: expected 'stop' or 'continue', found 'skip'"),  # type: ignore[arg-type]
        (lambda: seq(a, name=""), ConfigurationError, "name: expected a text that is not blank, found ''"),
        (lambda: Flow.parse("a", {"a": 3}), NotAFunction, "expected a function, found 3"),
        (lambda: Flow.parse("a", {"": a}), ConfigurationError, "steps: expected names of letters.*found ''"),
        (lambda: Flow.parse("a", "abc"), ConfigurationError, "steps: expected functions by name.*found 'abc'"),  # type: ignore[arg-type]
        (lambda: Flow.parse(7, STEPS), ConfigurationError, "parse\\(\\) takes a text such as .*found 7"),  # type: ignore[arg-type]
    ],
)
def test_bad_input_is_told_where_it_is_given(make: Callable[[], Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        make()


def test_names_come_from_functions_partials_and_methods() -> None:
    class Shop:
        def send(self, ctx: Any) -> None: ...

    assert [each.name for each in seq(a, functools.partial(b), Shop().send).steps()] == ["a", "b", "send"]


def test_flows_are_steps_of_a_text() -> None:
    inner = seq(b, c)
    flow = Flow.parse("a + inner", {"a": a, "inner": inner}, name="order", on_error="continue")
    assert (flow.name, flow.on_error, shape(flow)) == ("order", "continue", ("seq", "a", ("seq", "b", "c")))
    assert inner.name == "b + c"


def test_a_flow_chart_has_the_steps_the_forks_and_the_joins() -> None:
    assert Flow.parse("a + (b | c) + d", STEPS).mermaid() == (
        "flowchart LR\n"
        "    n1((start))\n"
        '    n2["a"]\n'
        "    n1 --> n2\n"
        '    n3["b"]\n'
        "    n2 --> n3\n"
        '    n4["c"]\n'
        "    n2 --> n4\n"
        "    n5((join))\n"
        "    n3 --> n5\n"
        "    n4 --> n5\n"
        '    n6["d"]\n'
        "    n5 --> n6\n"
        "    n7((end))\n"
        "    n6 --> n7\n"
    )
