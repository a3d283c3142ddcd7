"""Flows and what came of them, as pictures made of text."""

from collections.abc import Iterator
from itertools import count
from typing import Any, Final

__all__ = ["flow_chart", "gantt", "tree"]

WIDTH: Final = 32
"""Characters of the bars of a tree."""
MARKS: Final = {"done": "", "running": "active, ", "suspended": "active, "}
"""What Mermaid is told of a state; of the others that they are critical."""


def tree(result: Any) -> str:
    """Draw a tree with times in seconds, and bars that show what ran beside what."""
    rows = list(_rows(result, "", ""))
    whole = max((each.ended or each.began or 0.0 for _, each in rows), default=0.0)
    width = max(len(label) for label, _ in rows)
    lines = []
    for label, each in rows:
        if each.began is None:
            lines.append(f"{label:{width}}  {'':15}  {'':{WIDTH}}  {each.state}")
            continue
        ended = whole if each.ended is None else each.ended
        said = f"{each.state}: {each.error!r}" if each.error is not None else str(each.state)
        bar = _bar(each, ended, whole)
        lines.append(f"{label:{width}}  {each.began:7.3f}-{ended:7.3f}  {bar:{WIDTH}}  {said}")
    return "\n".join(lines)


def _rows(result: Any, first: str, others: str) -> Iterator[tuple[str, Any]]:
    yield f"{first}{result.name}", result
    for place, each in enumerate(result.children):
        is_last = place == len(result.children) - 1
        yield from _rows(each, others + ("└─ " if is_last else "├─ "), others + ("   " if is_last else "│  "))


def _bar(result: Any, ended: float, whole: float) -> str:
    """A bar where it ran, with dots where it was suspended."""
    scale = WIDTH / whole if whole else 0.0
    begin = min(int((result.began or 0.0) * scale), WIDTH - 1)
    drawn = [" "] * begin + ["█"] * max(round(ended * scale) - begin, 1)
    for since, until in result.suspended:
        for place in range(int(since * scale), min(round(until * scale), len(drawn))):
            drawn[place] = "·"
    return "".join(drawn)


def gantt(result: Any) -> str:
    """Draw a Gantt chart, in milliseconds."""
    lines = ["gantt", f"    title {_plain(result.name)}", "    dateFormat x", "    axisFormat %S.%L s"]
    for each in result.steps():
        if each.began is None:
            continue
        begin, end = round(each.began * 1000), round((each.ended or each.began) * 1000)
        span = f"{begin}, {max(end, begin + 1)}"
        lines.append(f"    {_plain(each.name)} {_words(each.state)} :{MARKS.get(each.state, 'crit, ')}{span}")
    return "\n".join(lines) + "\n"


def _words(state: str) -> str:
    return "" if state == "done" else f"({state})"


def _plain(name: str) -> str:
    """Without the signs that mean something to Mermaid."""
    return "".join(" " if sign in ':;#,"\n' else sign for sign in name)


def flow_chart(flow: Any) -> str:
    """Draw a flow chart, from left to right."""
    lines = ["flowchart LR"]
    numbers = count(1)

    def node(shape: str) -> str:
        name = f"n{next(numbers)}"
        lines.append(f"    {name}{shape}")
        return name

    def drawn(each: Any, before: str) -> str:
        """Draw *each* behind *before*, and return what the next one stands behind."""
        if each.kind == "step":
            name = node(f'["{each.name}"]')
            lines.append(f"    {before} --> {name}")
            return name
        if each.kind == "seq":
            for child in each.children:
                before = drawn(child, before)
            return before
        ends = [drawn(child, before) for child in each.children]
        joined = node("((join))")
        lines.extend(f"    {end} --> {joined}" for end in ends)
        return joined

    last = drawn(flow, node("((start))"))
    lines.append(f"    {last} --> {node('((end))')}")
    return "\n".join(lines) + "\n"
