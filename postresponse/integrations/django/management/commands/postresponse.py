"""`manage.py postresponse`: the settings as they are, and the commands of the outbox on a database of Django's."""

import argparse
import inspect
import json
import sys
from contextlib import ExitStack
from typing import Any, Final

from django.core.management.base import BaseCommand
from django.db import DEFAULT_DB_ALIAS, connections
from sqlalchemy import MetaData

from postresponse.asgi import PostResponseMiddleware
from postresponse.cli import outbox
from postresponse.cli.target import Target
from postresponse.exceptions import ConfigurationError
from postresponse.importing import imported
from postresponse.integrations.django.options import OWN, SETTING, given, options_for
from postresponse.messaging import Relay
from postresponse.messaging.database import Database
from postresponse.messaging.django_store import engine_of
from postresponse.messaging.tables import Tables

__all__ = ["Command"]

MIGRATE: Final = "put 'postresponse.integrations.django_outbox' into INSTALLED_APPS and run `manage.py migrate`"


class Command(BaseCommand):  # type: ignore[misc]
    """Show what is set, and look after the outbox."""

    help: Any = "Show what POSTRESPONSE sets, and look after the outbox."
    requires_system_checks: Any = ()

    def add_arguments(self, parser: Any) -> None:
        """Add the commands."""
        commands = parser.add_subparsers(dest="what", metavar="COMMAND", required=True)
        config = commands.add_parser("config", help="print the options that the middleware has, and whence")
        config.add_argument("--json", action="store_true", help="print JSON")
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
        told = argparse.Namespace(**options)
        if told.what == "config":
            code = self._config(as_json=told.json)
        else:
            with ExitStack() as stack:
                code = outbox.run(told, lambda: _target(told.database, stack, relays=told.action == "relay"))
        if code:
            sys.exit(code)

    def _config(self, *, as_json: bool) -> int:
        try:
            rows = _settings()
        except ConfigurationError as error:
            self.stderr.write(f"postresponse config: {error}")
            return 2
        if as_json:
            self.stdout.write(json.dumps(rows, indent=2))
        else:
            for row in rows:
                self.stdout.write(f"{row['name']:18} {row['from']:13} {row['value']}")
        return 0


def _settings() -> list[dict[str, str]]:
    """What each option is, and who says so."""
    settings, made = given(), options_for(PostResponseMiddleware, "rendered_by")
    told = {name.lower(): value for name, value in settings.items() if value is not None}
    parameters = inspect.signature(PostResponseMiddleware).parameters.values()
    defaults = {each.name: each.default for each in parameters if each.kind is each.KEYWORD_ONLY}
    rows = []
    for name in sorted({*defaults, *made, OWN[0].lower()}):
        value = told.get(name, made.get(name, defaults.get(name)))
        rows.append({"name": name.upper(), "from": SETTING if name in told else "default", "value": repr(value)})
    return rows


def _target(alias: str, stack: ExitStack, *, relays: bool) -> Target:
    """Return what the commands are about: the RELAY of the settings, or the outbox on the database *alias*.

    The connections of an engine that is made here are closed with *stack*.
    """
    named = given().get("RELAY")
    relay = imported(named) if isinstance(named, str) else named
    if relay is None and relays:
        relay = _relay_of_tasks()
        stack.callback(lambda: relay is None or relay._database.engine.dispose())
    if relay is None and relays:
        raise ConfigurationError(f"a relay needs its destinations: name a Relay in {SETTING}['RELAY'], by module:name")
    if relay is None:
        engine = engine_of(alias)
        stack.callback(engine.dispose)
        return Target(Tables(MetaData(), "postresponse_outbox", None), Database(engine), way_out=MIGRATE)
    if not isinstance(relay, Relay):
        raise ConfigurationError(f"{SETTING}['RELAY']: expected a Relay or its module:name, found {named!r}")
    return Target.of(relay, MIGRATE)


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
