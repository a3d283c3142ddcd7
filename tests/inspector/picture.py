"""The picture of the inspector in the README: `python -m tests.inspector.picture PATH`.

It starts the example on uvicorn, sends it what a shop is sent, and takes a picture of the page that this makes.
"""

import json
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Final

from tests.inspector.browser import Browser
from tests.servers.client import Client, Fields
from tests.servers.harness import KINDS, Server

EXAMPLES: Final = Path(__file__).resolve().parents[2] / "examples"
JSON: Final[Fields] = (("Content-Type", "application/json"),)
TRAFFIC: Final = (
    *("tea", "gold", "tea", "GET /export", "milk", "POST /visits", "coal", "gold", "GET /export", "tea"),
    *("POST /visits", "coal", "tea"),
)
"""Orders, by their item, and other requests."""
ACCEPTED: Final = sum(" " not in each and each != "gold" for each in TRAFFIC)


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
            browser.look_like(1280, 590)
            browser.open(server)
            browser.until(lambda: len(browser.rows()) == len(TRAFFIC) + 1)
            browser.until(lambda: browser.js("return jobs.size") == ACCEPTED)
            browser.row("/orders", "committed").click()
            browser.js("document.activeElement.blur(); scrollTo(0, 0)")
            browser.until(lambda: re.search(r"[0-9a-f-]{36} left", browser.text(".detail")))
            path.write_bytes(browser.picture("picture"))
        finally:
            browser.quit()
            server.stop()


def shop(server: Server) -> None:
    """Send the traffic, one request behind the other."""
    with Client(server.port) as client:
        client.request("GET", "/openapi.json")  # what a first request costs more
        for each in TRAFFIC:
            if " " in each:
                method, path = each.split()
                client.request(method, path)
            else:
                client.request("POST", "/orders", JSON, json.dumps({"item": each}).encode())


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: python -m tests.inspector.picture PATH")
    take(Path(sys.argv[1]))
