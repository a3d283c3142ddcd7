"""One browser, and one server of each protocol, for all tests of the page."""

import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.inspector.browser import Browser
from tests.servers.harness import Kind, Server
from tests.services.ports import free_port

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")


def _uvicorn(target: str, port: int) -> Sequence[str]:
    # Without a time limit for its shutdown: a stream that did not end would hold it for ever.
    # On all addresses of this machine: who comes by another one than 127.0.0.1 is nobody that it knows.
    return ["-m", "uvicorn", target, "--host", "0.0.0.0", "--port", str(port), "--no-access-log"]


def _waitress(target: str, port: int) -> Sequence[str]:
    return ["-m", "waitress", "--host", "127.0.0.1", "--port", str(port), "--threads", "4", target]


def _gunicorn(target: str, port: int) -> Sequence[str]:
    return ["-m", "gunicorn", target, "--bind", f"127.0.0.1:{port}", "--workers", "2", "--no-control-socket"]


SHOP = Kind("uvicorn", "asgi", _uvicorn)
DESK = Kind("waitress", "wsgi", _waitress, heeds_sigterm=False)
DESKS = Kind("gunicorn", "wsgi", _gunicorn)


def started(kind: Kind, target: str, folder: Path, **environment: str) -> Iterator[Server]:
    """Run a server until its tests are over."""
    server = Server(kind, f"tests.inspector.sites.{target}", folder, environment, free_port())
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The shop on uvicorn."""
    yield from started(SHOP, "shop:app", tmp_path_factory.mktemp("shop"))


@pytest.fixture(scope="session")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The desk on waitress, which has four threads."""
    yield from started(DESK, "desk:app", tmp_path_factory.mktemp("desk"))


@pytest.fixture
def desks(tmp_path: Path) -> Iterator[Server]:
    """The desk on gunicorn, in two processes."""
    yield from started(DESKS, "desk:app", tmp_path)


@pytest.fixture
def in_production(tmp_path: Path) -> Iterator[Server]:
    """The desk, where it is not to be looked at."""
    yield from started(DESK, "desk:app", tmp_path, POSTRESPONSE_ENV="production")


@pytest.fixture(scope="session")
def _browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if CHROMIUM is None or DRIVER is None:
        reason = "there is no Chromium with its driver: apt-get install chromium chromium-driver"
        if os.environ.get("POSTRESPONSE_REQUIRE_SERVICES") == "1":
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    pictures = os.environ.get("POSTRESPONSE_SCREENSHOTS")
    browser = Browser(CHROMIUM, DRIVER, Path(pictures) if pictures else tmp_path_factory.mktemp("screenshots"))
    yield browser
    browser.quit()


@pytest.fixture
def browser(_browser: Browser) -> Iterator[Browser]:
    """Chromium, in which nothing may go wrong that a test does not expect."""
    _browser.begin()
    yield _browser
    assert _browser.complaints() == []
    assert _browser.foreign() == []
