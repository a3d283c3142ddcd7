"""The picture of the inspector in the README: `python -m tests.inspector.picture PATH`.

It starts the example on uvicorn, sends it what a shop is sent, and takes a picture of the page that this makes.
"""

import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Final

from tests.inspector.browser import Browser
from tests.servers.client import Client
from tests.servers.harness import KINDS, Server

EXAMPLES: Final = Path(__file__).resolve().parents[2] / "examples"
TRAFFIC: Final = (
    *("orders/tea", "visits", "orders/gold", "orders/tea", "reviews", "export", "orders/coal", "orders/milk"),
    *("visits", "orders/gold", "export", "orders/tea", "reviews"),
)
"""What is asked for, the last of it the newest row; the export by GET, all else by POST."""
WORK: Final = sum(each.startswith("orders/") and each != "orders/gold" for each in TRAFFIC)
"""How much of it starts work that goes on behind its response."""


def take(path: Path) -> None:
    """Take the picture."""
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if program is None or driver is None:
        raise SystemExit("there is no Chromium with its driver: apt-get install chromium chromium-driver")
    with tempfile.TemporaryDirectory() as folder:
        environment = {"PYTHONPATH": str(EXAMPLES), "TMPDIR": folder}
        server = Server(KINDS["uvicorn-httptools"], "inspector_app:app", Path(folder), environment)
        server.start()
        browser = Browser(program, driver, Path(folder))
        try:
            shop(server)
            browser.look_like(1280, 600)
            browser.open(server)
            browser.until(lambda: len(browser.rows()) == len(TRAFFIC) + 1)
            browser.until(lambda: browser.js("return jobs.size") == WORK)
            browser.until(lambda: browser.count("outbox") == "0")
            browser.row("/reviews").click()
            browser.js("document.activeElement.blur(); scrollTo(0, 0)")
            assert re.search(r"commit\.start +observed, not managed, get_db \(", browser.text(".detail"))
            path.write_bytes(browser.picture("picture"))
        finally:
            browser.quit()
            server.stop()


def shop(server: Server) -> None:
    """Send the traffic, one request behind the other."""
    with Client(server.port) as client:
        client.request("GET", "/openapi.json")  # what a first request costs more
        for each in TRAFFIC:
            client.request("GET" if each == "export" else "POST", f"/{each}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: python -m tests.inspector.picture PATH")
    take(Path(sys.argv[1]))
