"""What a command or a setting names is found, or it says what was tried."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from postresponse import asgi, wsgi
from postresponse.configuration import options_from
from postresponse.exceptions import ConfigurationError
from postresponse.importing import imported
from postresponse.observing import Observer


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory with a few modules."""
    (tmp_path / "shop_web.py").write_text("class site:\n    app = 'the application'\ndb = len\n")
    (tmp_path / "shop_broken.py").write_text("1 / 0\n")
    (tmp_path / "shop_lacking.py").write_text("import nowhere_at_all\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each not in ("", str(tmp_path))])
    yield tmp_path
    for name in ("shop_web", "shop_broken", "shop_lacking"):
        sys.modules.pop(name, None)


def test_it_is_found_in_the_working_directory_where_that_is_asked_for(shop: Path) -> None:
    with pytest.raises(ConfigurationError, match="there is no module 'shop_web'"):
        imported("shop_web:site.app")
    assert imported("shop_web:site.app", here=True) == "the application"
    assert imported("shop_web.db") is len


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("app", "'app' names nothing: expected 'module:attribute', as in 'shop.web:app'"),
        ("shop_web:", "names nothing"),
        ("a b:app", "names nothing"),
        ("shop_web:sites", "'shop_web:sites': tried to import shop_web, which has no 'sites'; did you mean 'site'?"),
        ("shop_web:site.application", "tried to import shop_web.site, which has no 'application'"),
        ("shop.web:app", "tried to import shop.web, and there is no module 'shop' in "),
        ("shop_lacking:app", "shop_lacking was found, and imports 'nowhere_at_all', which is missing"),
        ("shop_broken:app", "shop_broken was found, and raised ZeroDivisionError while it was imported: division by"),
    ],
)
def test_what_is_not_there_says_what_was_tried(shop: Path, name: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(said)):
        imported(name, here=True)


class Watcher(Observer):
    """Looks on."""


@pytest.mark.parametrize("kind", [asgi.PostResponseMiddleware, wsgi.PostResponseMiddleware])
def test_settings_become_options(shop: Path, kind: Any) -> None:
    sys.path.insert(0, str(shop))
    settings = {
        "UNIT_OF_WORK": "shop_web:db",
        "COMMIT": "buffered",
        "CLEANUP_TIMEOUT": 2.0,
        "ON_ERROR": None,
        "ENABLED": True,
        "OBSERVERS": [f"{__name__}:Watcher", Watcher()],
    }
    options = options_from(settings, kind, source="POSTRESPONSE", more=["ENABLED"])
    observers = options.pop("observers")
    assert options == {"unit_of_work": len, "commit": "buffered", "cleanup_timeout": 2.0}
    assert [type(each).__name__ for each in observers] == ["Watcher", "Watcher"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"COMIT": "head"}, "POSTRESPONSE has no option 'COMIT'; did you mean 'COMMIT'?"),
        ({"UNIT_OF_WORK": "shop_web:dbs"}, "POSTRESPONSE['UNIT_OF_WORK']: 'shop_web:dbs': tried to import shop_web"),
        ({"COMMIT": "shop_web:chose"}, "POSTRESPONSE['COMMIT']: 'shop_web:chose': tried to import shop_web"),
    ],
)
def test_a_setting_that_is_wrong_is_named(shop: Path, settings: dict[str, Any], said: str) -> None:
    sys.path.insert(0, str(shop))
    with pytest.raises(ConfigurationError, match=re.escape(said)):
        options_from(settings, wsgi.PostResponseMiddleware, source="POSTRESPONSE")
