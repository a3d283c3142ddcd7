"""`manage.py postresponse`: what is set, what is wrong with the project, and the outbox on a database of Django's."""

import argparse
import inspect
import sys
from contextlib import ExitStack
from typing import Any, Final

from django import conf
from django.core.management.base import BaseCommand
from django.core.wsgi import get_wsgi_application
from django.db import DEFAULT_DB_ALIAS, connections
from sqlalchemy import MetaData

from postresponse.asgi import PostResponseMiddleware
from postresponse.cli import loaded, outbox
from postresponse.cli.ending import ended, terminable
from postresponse.cli.loaded import Loaded
from postresponse.cli.target import Target
from postresponse.configuration import Origin
from postresponse.doctor.reached import middlewares_of
from postresponse.exceptions import ConfigurationError
from postresponse.importing import imported
from postresponse.integrations.django.checks import applications
from postresponse.integrations.django.options import OWN, SETTING, given, options_for
from postresponse.messaging import Relay
from postresponse.messaging.database import Database
from postresponse.messaging.django_store import engine_of
from postresponse.messaging.tables import Tables

__all__ = ["Command"]

LACKING: Final = f"name a Relay in {SETTING}['RELAY'], by module:name"
MIGRATE: Final = "put 'postresponse.integrations.django_outbox' into INSTALLED_APPS and run `manage.py migrate`"


class Command(BaseCommand):  # type: ignore[misc]
    """Show what is set, and look after the outbox."""

    help: Any = "Show what POSTRESPONSE sets, say what is wrong with the project, and look after the outbox."
    requires_system_checks: Any = ()

    def add_arguments(self, parser: Any) -> None:
        """Add the commands."""
        commands = parser.add_subparsers(dest="what", metavar="COMMAND", required=True)
        loaded.add_to(commands)
        about = commands.add_parser(
            "outbox",
            help="send the messages of an outbox, and look after them",
            description="Run the relay of an outbox, and look after what waits, is paused, or is dead.",
        )
        about.add_argument(
            "--database",
            default=DEFAULT_DB_ALIAS,
            choices=sorted(connections.settings),
            help=f"whose outbox, where {SETTING} has no RELAY (default: {DEFAULT_DB_ALIAS})",
        )
        outbox.add_commands(about, with_target=False)

    def handle(self, *args: Any, **options: Any) -> None:
        """Run the command, and end the process with its exit code."""
        code = ended(lambda: _run(argparse.Namespace(**options)))
        if code:
            sys.exit(code)


def _run(told: argparse.Namespace) -> int:
    with terminable(told), ExitStack() as stack:
        if told.what == "outbox":
            return outbox.run(told, lambda: _target(told.database, stack, relays=told.action == "relay"))
        project = Loaded(
            apps=_applications,
            options=_settings,
            relay=lambda: _relay(stack, or_of_tasks=True),
            lacking=LACKING,
            tables=MIGRATE,
        )
        return loaded.run(told.what, told, project)


def _applications() -> list[Any]:
    """What servers run: those with the middleware around them where any has it, since the others are seldom served."""
    for name in ("WSGI_APPLICATION", "ASGI_APPLICATION"):
        if getattr(conf.settings, name, None):
            imported(getattr(conf.settings, name))  # the check passes by what is not there
    found = list(applications())
    return [app for app in found if middlewares_of(app)] or found or [get_wsgi_application()]


def _settings() -> list[Origin]:
    """What each option is, and who says so."""
    settings, made = given(), options_for(PostResponseMiddleware, "rendered_by")
    told = {name.lower(): value for name, value in settings.items() if value is not None}
    parameters = inspect.signature(PostResponseMiddleware).parameters.values()
    defaults = {each.name: each.default for each in parameters if each.kind is each.KEYWORD_ONLY}
    rows = []
    for name in sorted({*defaults, *made, OWN[0].lower()}):
        value = told.get(name, made.get(name, defaults.get(name)))
        rows.append(Origin(name.upper(), repr(value), SETTING if name in told else "default"))
    return rows


def _target(alias: str, stack: ExitStack, *, relays: bool) -> Target:
    """Return what the commands are about: the RELAY of the settings, or the outbox on the database *alias*.

    The connections of an engine that is made here are closed with *stack*.
    """
    relay = _relay(stack, or_of_tasks=relays)
    if relay is None and relays:
        raise ConfigurationError(f"there is no relay: {LACKING}")
    if relay is None:
        engine = engine_of(alias)
        stack.callback(engine.dispose)
        return Target(Tables(MetaData(), "postresponse_outbox", None), Database(engine), way_out=MIGRATE)
    return Target.of(relay, MIGRATE)


def _relay(stack: ExitStack, *, or_of_tasks: bool) -> Any:
    """Return the RELAY of the settings, or that of the tasks, whose connections are closed with *stack*; or None."""
    named = given().get("RELAY")
    relay = imported(named) if isinstance(named, str) else named
    if relay is None:
        relay = _relay_of_tasks() if or_of_tasks else None
        if relay is not None:
            stack.callback(relay._database.engine.dispose)
    elif not isinstance(relay, Relay):
        raise ConfigurationError(f"{SETTING}['RELAY']: expected a Relay or its module:name, found {named!r}")
    return relay


def _relay_of_tasks() -> Any:
    """Return the relay of the one task back end that has one; None where there is none, as before Django 6."""
    try:
        from django.tasks import task_backends
    except ImportError:
        return None
    makers = [backend.relay for backend in task_backends.all() if hasattr(backend, "relay")]
    if len(makers) > 1:
        raise ConfigurationError(f"TASKS has {len(makers)} outboxes: name one Relay for all in {SETTING}['RELAY']")
    return makers[0]() if makers else None
