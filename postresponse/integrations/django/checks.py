"""What `manage.py check` says of the set-up, each with its way out."""

import sys
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from typing import Any, Final

from django.apps import apps
from django.conf import settings
from django.core.checks import CheckMessage, Error, Info, Tags, Warning
from django.core.checks import register as register_check
from django.db import connections, router
from django.utils.module_loading import import_string

from postresponse.asgi import PostResponseMiddleware as ASGIMiddleware
from postresponse.exceptions import ConfigurationError
from postresponse.importing import imported
from postresponse.integrations.django.middleware import PostResponseMiddleware
from postresponse.integrations.django.options import SETTING, given, options_for
from postresponse.unit_of_work.django import DjangoUnitOfWork
from postresponse.wsgi import PostResponseMiddleware as WSGIMiddleware

__all__ = ["applications", "register"]

OUTBOX: Final = "postresponse.integrations.django_outbox"
DEEPEST: Final = 4
"""How many layers are looked through for the middleware: an application of a server is seldom wrapped more often."""


def register() -> None:
    """Have Django run them; again does no harm."""
    for check in (check_settings, check_middleware, check_transactions, check_inspector):
        register_check(check, Tags.compatibility)
    register_check(check_outermost, Tags.compatibility, deploy=True)
    register_check(check_outbox, Tags.database)


# -- the settings -----------------------------------------------------------------------------------------------------


def check_settings(**_: Any) -> Iterable[CheckMessage]:
    """E001: POSTRESPONSE has an unknown option, or one with a value that it cannot have."""
    try:
        _check_options()
        if given().get("RELAY") is not None:
            _check_relay(given()["RELAY"])
    except ConfigurationError as error:
        hint = "The options are those of the middleware in capitals; the section Options of the README lists them."
        return [Error(str(error), hint=hint, id="postresponse.E001")]
    return []


def _check_options() -> None:
    """Make a middleware of them; what is async only that of ASGI takes."""
    ASGIMiddleware(_asgi_application, **options_for(ASGIMiddleware, None))


def _check_relay(relay: Any) -> None:
    from postresponse.messaging import Relay  # which loads what a project without an outbox does without

    if not isinstance(imported(relay) if isinstance(relay, str) else relay, Relay):
        raise ConfigurationError(f"{SETTING}['RELAY']: expected a Relay or its module:name, found {relay!r}")


async def _asgi_application(scope: Any, receive: Any, send: Any) -> None:
    raise AssertionError("nobody calls it")


def _unit_of_work() -> Any:
    """The unit of work of the settings; None where they have none, or are wrong, which another check tells."""
    try:
        return options_for(ASGIMiddleware, None).get("unit_of_work")
    except ConfigurationError:
        return None


def check_inspector(**_: Any) -> Iterable[CheckMessage]:
    """W003: the inspector is on, and DEBUG is not."""
    try:
        is_on = bool(given().get("INSPECTOR"))
    except ConfigurationError:
        return []
    if not is_on or settings.DEBUG:
        return []
    return [
        Warning(
            f"{SETTING}['INSPECTOR'] is on, and DEBUG is off: it shows the routes and errors of all requests.",
            hint="Leave INSPECTOR out: it is then on where DEBUG is.",
            id="postresponse.W003",
        )
    ]


# -- where the middleware stands --------------------------------------------------------------------------------------


def check_middleware(**_: Any) -> Iterable[CheckMessage]:
    """W001, W002, E002: the middleware is not installed, not first, or twice."""
    places = _entries()
    if len(places) > 1:
        return [
            Error(
                f"MIDDLEWARE has the entry of postresponse {len(places)} times; one of them does all.",
                hint="Leave the first one.",
                id="postresponse.E002",
            )
        ]
    if places and places[0] > 0:
        return [
            Warning(
                f"The entry of postresponse is number {places[0] + 1} of MIDDLEWARE: what stands before it changes "
                "responses, and uses the database, behind the commit.",
                hint="Put it first.",
                id="postresponse.W002",
            )
        ]
    return [] if places or _is_outermost() else [_not_installed()]


def _not_installed() -> CheckMessage:
    return Warning(
        "postresponse is in INSTALLED_APPS, and its middleware is nowhere: nothing is committed or told by it.",
        hint=(
            "Let wsgi.py and asgi.py have get_wsgi_application() and get_asgi_application() of "
            "postresponse.integrations.django, and name them in WSGI_APPLICATION and ASGI_APPLICATION; or put "
            "'postresponse.integrations.django.PostResponseMiddleware' first into MIDDLEWARE."
        ),
        id="postresponse.W001",
    )


def check_outermost(**_: Any) -> Iterable[CheckMessage]:
    """I001, of `check --deploy`: only the entry of MIDDLEWARE is installed."""
    if not _entries() or _is_outermost():
        return []
    return [
        Info(
            "postresponse is installed by its entry of MIDDLEWARE alone, which does not see the server: it cannot tell "
            "whether a client stayed, run a request again, or end its work with the server.",
            hint=(
                "Let wsgi.py and asgi.py have get_wsgi_application() and get_asgi_application() of "
                "postresponse.integrations.django; the entry may stay, and steps aside."
            ),
            id="postresponse.I001",
        )
    ]


def _entries() -> list[int]:
    """The places of the entry in MIDDLEWARE, by whatever name it is imported."""
    return [place for place, name in enumerate(settings.MIDDLEWARE) if _is_entry(name)]


def _is_entry(name: str) -> bool:
    try:
        found = import_string(name)
    except ImportError:  # Django says so itself
        return False
    return isinstance(found, type) and issubclass(found, PostResponseMiddleware)


def _is_outermost() -> bool:
    """Whether an application for servers has the middleware around it."""
    return any(_holds(found, DEEPEST) for found in applications())


def applications() -> Iterator[Any]:
    """What servers run: as the settings name it, and `asgi.py` beside the module of WSGI_APPLICATION or of the URLs."""
    names = [getattr(settings, name, None) for name in ("WSGI_APPLICATION", "ASGI_APPLICATION")]
    urls = settings.ROOT_URLCONF if isinstance(settings.ROOT_URLCONF, str) else ""
    folders = {str(name).rpartition(".")[0].rpartition(".")[0] for name in [*filter(None, names), f"{urls}."]}
    names += [
        f"{folder}.{module}.application" for folder in sorted(filter(None, folders)) for module in ("wsgi", "asgi")
    ]
    for name in dict.fromkeys(filter(None, names)):
        module = name.rpartition(".")[0]
        if module in sys.modules or _is_there(module):
            try:
                yield import_string(name)
            except Exception:  # noqa: BLE001 (whatever it raises, it is no application that could be looked at)
                continue


def _is_there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _holds(app: Any, depth: int) -> bool:
    """Whether *app* is the middleware, or keeps it as what it calls."""
    if isinstance(app, WSGIMiddleware | ASGIMiddleware):
        return True
    kept = vars(app) if depth and hasattr(app, "__dict__") else {}
    values = [*kept.values(), *(each for value in kept.values() if isinstance(value, dict) for each in value.values())]
    return any(callable(value) and _holds(value, depth - 1) for value in values)


# -- databases --------------------------------------------------------------------------------------------------------


def check_transactions(**_: Any) -> Iterable[CheckMessage]:
    """W004: ATOMIC_REQUESTS stands beside the unit of work."""
    unit = _unit_of_work()
    alias = unit._using if isinstance(unit, DjangoUnitOfWork) else None
    if alias is None or not connections.settings[alias].get("ATOMIC_REQUESTS"):
        return []
    return [
        Warning(
            f"DATABASES[{alias!r}] has ATOMIC_REQUESTS on, and postresponse has a transaction around each request "
            "already: each view costs a savepoint more.",
            hint="Leave it out, unless a view that raises is to be rolled back where COMMIT commits errors.",
            id="postresponse.W004",
        )
    ]


def check_outbox(databases: Any = None, **_: Any) -> Iterable[CheckMessage]:
    """W005: the outbox is on a database without SKIP LOCKED."""
    if not apps.is_installed(OUTBOX):
        return
    for alias in databases or ():
        connection = connections[alias]
        label = apps.get_containing_app_config(f"{OUTBOX}.models").label
        if router.allow_migrate(alias, label) and not connection.features.has_select_for_update_skip_locked:
            yield Warning(
                f"The outbox is on {alias!r}, and {connection.display_name} there has no SKIP LOCKED: "
                f"{_consequence(connection)}",
                hint="PostgreSQL, MariaDB from 10.6 and MySQL from 8.0.16 have it.",
                id="postresponse.W005",
            )


def _consequence(connection: Any) -> str:
    if connection.vendor == "sqlite":
        return "relays beside each other take turns, and each waits for whoever writes; one relay works as anywhere."
    return "no relay works on it."
