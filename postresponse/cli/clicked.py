"""The commands of an application whose framework has a command line of click's, as `flask postresponse config`."""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import click

from postresponse.cli import outbox
from postresponse.configuration import Origin

__all__ = ["add_to"]


def add_to(group: click.Group, options: Callable[[], Sequence[Origin]], relay: Callable[[], Any]) -> click.Group:
    """Add the commands to *group*, the framework's own kind of one, and return it.

    Args:
        group: Runs its commands where *options* and *relay* find their application.
        options: Tells the options in force.
        relay: Returns the `Relay` of the application, or the text that names it; None where it has none.
    """

    @group.command("config", help="Print the options in force, and where each was given.")
    @click.option("--json", "as_json", is_flag=True, help="Print JSON.")
    def config(as_json: bool) -> None:
        found = options()
        if as_json:
            click.echo(json.dumps([asdict(each) for each in found], indent=2))
        else:
            width = max(len(each.name) for each in found)
            for each in found:
                click.echo(f"{each.name:{width}}  {each.value}  ({each.source})")

    @group.command("relay", help="Send what the outbox holds until told to end, as `postresponse outbox relay` does.")
    @click.option("--until-empty", is_flag=True, help="End when nothing is due any more.")
    @click.option("--json", "as_json", is_flag=True, help="Print JSON.")
    @click.pass_context
    def send(context: click.Context, until_empty: bool, as_json: bool) -> None:
        found = relay()
        if found is None:
            raise click.UsageError(
                "there is no relay: set POSTRESPONSE_RELAY to a Relay, or to its name, as in 'shop.web:relay'"
            )
        context.exit(
            outbox.run(argparse.Namespace(action="relay", target=found, json=as_json, until_empty=until_empty))
        )

    return group
