"""Servers that stay up from test to test, one at a time, and the table of figures at the end."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.servers.figures import Figures
from tests.servers.orders import DATABASES
from tests.servers.site import Site, Spec

FIGURES = pytest.StashKey[Figures]()


class Sites:
    """Keeps one server running until another is asked for: starting one costs more than most tests."""

    def __init__(self, factory: pytest.TempPathFactory) -> None:
        self._factory = factory
        self._resources = ExitStack()
        self._current: Site | None = None
        self._tests = 0

    def get(self, spec: Spec) -> Site:
        """Return a running server."""
        if self._current is None or self._current.spec != spec or not self._current.server.alive():
            self.close()
            self._current = self._start(spec)
        self._tests += 1
        return self._current

    def fresh(self, spec: Spec) -> Site:
        """Return the server that `get` returned, started anew if another test has had it."""
        if self._tests > 1:
            self.close()
        return self.get(spec)

    def close(self) -> None:
        """Stop what runs."""
        self._current, self._tests = None, 0
        self._resources.close()

    def _start(self, spec: Spec) -> Site:
        folder = self._factory.mktemp(spec.name)
        orders = self._resources.enter_context(DATABASES[spec.database](folder))
        site = Site(spec, orders, folder)
        self._resources.callback(site.server.stop)
        site.server.start()
        return site


@pytest.fixture(scope="session")
def _sites(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sites]:
    sites = Sites(tmp_path_factory)
    yield sites
    sites.close()


@pytest.fixture
def site(request: pytest.FixtureRequest, _sites: Sites) -> Site:
    """The running server that the test is parametrized with."""
    return _sites.get(request.param)


@pytest.fixture
def fresh_site(site: Site, _sites: Sites) -> Site:
    """The same server, started anew: its memory holds nothing of other tests."""
    return _sites.fresh(site.spec)


@pytest.fixture(scope="session")
def figures(pytestconfig: pytest.Config) -> Figures:
    """The table that the long run prints."""
    return pytestconfig.stash.setdefault(FIGURES, Figures())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Bring together the tests of one server, so that each is started once."""
    names: dict[str, int] = {}
    places = [at for at, item in enumerate(items) if _site_of(item)]
    ours = sorted((items[at] for at in places), key=lambda item: names.setdefault(_site_of(item), len(names)))
    for at, item in zip(places, ours, strict=True):
        items[at] = item


def _site_of(item: pytest.Item) -> str:
    callspec = getattr(item, "callspec", None)
    spec = callspec.params.get("site") if callspec else None
    return spec.name if isinstance(spec, Spec) else ""


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the figures of a long run."""
    figures = config.stash.get(FIGURES, None)
    if figures and config.getoption("--long") != "off":
        terminalreporter.section("what clients saw")
        for line in figures.lines():
            terminalreporter.write_line(line)
