"""The project of `sites.django_shop` on a real server, or asked by `manage.py`."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.integrations.sites.django_shop.telling import noted
from tests.servers.client import Client
from tests.servers.harness import KINDS, TESTS, Server
from tests.servers.site import eventually

__all__ = ["Shop", "made", "manage", "serving"]

PROJECT = "tests.integrations.sites.django_shop"


def manage(folder: Path, *command: str, code: int = 0, **environment: str) -> str:
    """Run a command of the project in *folder*, as `manage.py` would, and return what it printed."""
    link = folder / "path" / "tests"
    if not link.exists():
        link.parent.mkdir(parents=True)
        link.symlink_to(TESTS, target_is_directory=True)
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "django", *command],
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, [str(link.parent), os.environ.get("PYTHONPATH")])),
            "DJANGO_SETTINGS_MODULE": f"{PROJECT}.settings",
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == code, ran.stdout + ran.stderr
    return ran.stdout + ran.stderr


def made(folder: Path) -> Path:
    """Make the database of the project in *folder*, with an operator and two who may do less."""
    manage(folder, "shell", "-c", TABLES)
    return folder / "shop.sqlite3"


TABLES = """
from django.contrib.auth.models import Permission, User
from django.core.management import call_command
call_command("migrate", run_syncdb=True, verbosity=0)
User.objects.create_superuser("root", password="secret")
for name, may in {"viewer": ("view",), "operator": ("change",), "nobody": ()}.items():
    user = User.objects.create_user(name, password="secret", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=[f"{each}_deadmessage" for each in may]))
"""


@dataclass
class Shop:
    """One running server."""

    server: Server
    folder: Path
    client: Client
    told: int = field(default=0)

    def orders(self) -> int:
        """How many orders somebody else sees."""
        with closing(sqlite3.connect(self.folder / "shop.sqlite3", timeout=10)) as connection:
            return int(connection.execute("SELECT count(*) FROM orders").fetchone()[0])

    def outcome(self) -> list[str | int | None]:
        """How the next exchange that is not told of yet ended: its ending, its unit of work and its status."""
        eventually(lambda: len(noted(self.folder, "outcomes")) > self.told, f"it ended: {self.server.log()}")
        self.told += 1
        found: list[str | int | None] = json.loads(noted(self.folder, "outcomes")[self.told - 1])
        return found

    def notes(self) -> list[str]:
        """What was noted by work."""
        return noted(self.folder)


@contextmanager
def serving(kind: str, installed: str, database: Path, folder: Path) -> Iterator[Shop]:
    """Run the project on a server of *kind*, with a database of its own."""
    shutil.copy(database, folder / "shop.sqlite3")
    server = Server(KINDS[kind], f"{PROJECT}.{KINDS[kind].protocol}:application", folder, {"SHOP_INSTALLED": installed})
    server.start()
    try:
        with Client(server.port, timeout=60) as client:  # a worker of gunicorn's may still load the project
            yield Shop(server, folder, client)
    finally:
        server.stop()
