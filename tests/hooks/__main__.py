"""Measures each hook, and prints the table that the README has; `--versions` says of what."""

import argparse
import logging
from importlib.metadata import version

from tests.hooks import asgi, wsgi
from tests.hooks.stamping import fired_under_asgi, fired_under_wsgi

__all__ = ["measured", "table"]

HEADINGS = ("framework", "hook", "fires", "when the view raises")
DISTRIBUTIONS = ("Flask", "Django", "Pyramid", "Falcon", "Starlette", "FastAPI", "Litestar", "Quart")


def measured() -> list[tuple[str, ...]]:
    """Call each hook twice, once of a view that raises, and return the rows."""
    rows = []
    for framework, name, make in wsgi.CASES:
        file = "send_file" in name
        rows.append((framework, name, *(fired_under_wsgi(make, path, file_wrapper=file) for path in ("/", "/raises"))))
    for framework, name, make in asgi.CASES:
        rows.append((framework, name, *(fired_under_asgi(make, path) for path in ("/", "/raises"))))
    return rows


def table(rows: list[tuple[str, ...]]) -> str:
    """The rows in Markdown."""
    return "\n".join(f"| {' | '.join(row)} |" for row in [HEADINGS, ("---",) * len(HEADINGS), *rows])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.hooks", description=__doc__)
    parser.add_argument("--versions", action="store_true", help="say which releases were measured")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)  # what the views raise
    print(table(measured()))
    if options.versions:
        print("\n" + ", ".join(f"{name} {version(name)}" for name in DISTRIBUTIONS))


if __name__ == "__main__":
    main()
