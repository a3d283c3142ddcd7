"""Chromium, driven by its WebDriver: what a user sees and does on the page of the inspector."""

import base64
import json
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.remote.webelement import WebElement

from tests.inspector.asking import PAGE
from tests.servers.client import Client, ConnectionEnded
from tests.servers.harness import Server

__all__ = ["Browser", "send"]

ROWS = """
const said = (cell) => cell.querySelector("svg")?.getAttribute("aria-label") ?? cell.textContent;
const rows = [...document.querySelectorAll(".row")].filter((row) => row.offsetParent);
return rows.map((row) => [...row.children].map(said));
"""
WIDE, NARROW = (1280, 720), (430, 900)


def send(server: Server, method: str, *paths: str) -> None:
    """Send requests to the application itself, one behind the other."""
    with Client(server.port) as client:
        for path in paths:
            with suppress(ConnectionEnded):  # a response that fails half-way
                client.request(method, path)


class Browser:
    """One Chromium.

    Args:
        program: Its path.
        driver: That of chromedriver.
        folder: Where screenshots and downloads go.
    """

    def __init__(self, program: str, driver: str, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        options = Options()
        options.binary_location = program
        for each in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "hide-scrollbars", "disable-gpu"):
            options.add_argument(f"--{each}")
        # Nothing of its own on the network: what is seen there is the page's.
        for each in ("disable-background-networking", "disable-component-update", "no-first-run", "disable-sync"):
            options.add_argument(f"--{each}")
        options.add_experimental_option("prefs", {"download.default_directory": str(folder)})
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver: Any = webdriver.Chrome(options=options, service=Service(driver))
        self._hosts: set[str] = set()
        self._foreign: list[str] = []
        self._expected: tuple[str, ...] = ()

    def quit(self) -> None:
        """End it."""
        self.driver.quit()

    def begin(self) -> None:
        """Forget what was before a test."""
        self.driver.get("about:blank")
        self._hosts, self._foreign, self._expected = set(), [], ()
        for kind in ("browser", "performance"):
            self.driver.get_log(kind)
        self.look_like(*WIDE)

    # -- how it is -----------------------------------------------------------------------------------------------

    def look_like(self, width: int, height: int, scheme: str = "light") -> None:
        """Have a window of this size, for a user who likes this scheme."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        likes = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", likes)

    def picture(self, name: str) -> bytes:
        """Keep a screenshot."""
        image = base64.b64decode(self.driver.get_screenshot_as_base64())
        (self.folder / f"{name}.png").write_bytes(image)
        return image

    def expect(self, *complaints: str) -> None:
        """Let the browser complain of these."""
        self._expected = complaints

    def complaints(self) -> list[str]:
        """What the console says, apart from what was expected."""
        said = [entry["message"] for entry in self.driver.get_log("browser")]
        return [each for each in said if not any(expected in each for expected in self._expected)]

    def foreign(self) -> list[str]:
        """The addresses that were asked and are not the server's."""
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                address = urlsplit(message["params"]["request"]["url"])
                if address.scheme not in ("data", "about", "blob") and address.netloc not in self._hosts:
                    self._foreign.append(address.geturl())
        return self._foreign

    # -- what is there ---------------------------------------------------------------------------------------------

    def open(self, server: Server, place: str = "") -> None:
        """Open the page, and wait until it has heard of the server."""
        self._hosts.add(f"127.0.0.1:{server.port}")
        self.driver.get(f"http://127.0.0.1:{server.port}{PAGE}{place}")
        self.until(lambda: self.js("return about.live"))

    def js(self, script: str, *arguments: Any) -> Any:
        """Run *script* in the page, and return what it does."""
        return self.driver.execute_script(script, *arguments)

    def until(self, holds: Callable[[], Any], seconds: float = 10.0) -> Any:
        """Wait for *holds*, and return what it does then."""
        deadline = time.monotonic() + seconds
        while not (found := holds()):
            assert time.monotonic() < deadline, f"not within {seconds} s; the page says:\n{self.text('body')}"
            time.sleep(0.02)
        return found

    def all(self, selector: str) -> list[WebElement]:
        """Every element that is to be seen."""
        return [each for each in self.driver.find_elements("css selector", selector) if each.is_displayed()]

    def one(self, selector: str) -> WebElement:
        """The one element."""
        (found,) = self.all(selector)
        return found

    def text(self, selector: str) -> str:
        """What the one element says."""
        return self.one(selector).text

    def rows(self) -> list[list[str]]:
        """The cells of the rows that are to be seen; of a timeline, what is said of it."""
        found: list[list[str]] = self.js(ROWS)
        return found

    def row(self, *words: str) -> WebElement:
        """Wait for the newest row that has all these words, and return it."""

        def find() -> WebElement | None:
            script = """return [...document.querySelectorAll(".row")].find((row) => row.offsetParent
            && arguments[0].every((word) => rows.get(row.dataset.id).words.includes(word.toLowerCase())))"""
            found: WebElement | None = self.js(script, words)
            return found

        found: WebElement = self.until(find)
        return found

    def count(self, name: str) -> str:
        """What a counter of the header says."""
        return self.text(f"#count-{name}")

    # -- what is done ----------------------------------------------------------------------------------------------

    def click(self, selector: str) -> None:
        """Click the one element."""
        self.one(selector).click()

    def press(self, *keys: str) -> None:
        """Press keys, one behind the other, wherever the focus is."""
        ActionChains(self.driver).send_keys(*keys).perform()

    def clipboard(self) -> str:
        """What was copied."""
        with suppress(Exception):
            self.driver.execute_cdp_cmd("Browser.grantPermissions", {"permissions": ["clipboardReadWrite"]})
        script = "const done = arguments[0]; navigator.clipboard.readText().then(done, (error) => done(String(error)))"
        return str(self.driver.execute_async_script(script))
