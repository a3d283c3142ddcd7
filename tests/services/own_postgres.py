"""A PostgreSQL cluster of the tests' own, for settings that one shared with others does not have.

It is made in a temporary folder by the `initdb` that is found, listens on this machine only, and is removed at the end.
As root, which `initdb` refuses to run as, it runs as the user `postgres`.
"""

import functools
import getpass
import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

from tests.services.ports import free_port

OWNER = "postgres"
USER = "app"
"""Who owns the databases, and is no superuser."""


@functools.cache
def binaries() -> Path | None:
    """The folder of `initdb` and `pg_ctl`: as pg_config says, on the PATH, or where Debian puts them."""
    folders: list[Path] = []
    if config := shutil.which("pg_config"):
        told = subprocess.run([config, "--bindir"], capture_output=True, text=True, check=False)
        folders.append(Path(told.stdout.strip()))
    if found := shutil.which("initdb"):
        folders.append(Path(found).resolve().parent)
    folders.extend(
        sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name), reverse=True)
    )
    return next((each for each in folders if (each / "initdb").is_file() and (each / "pg_ctl").is_file()), None)


@functools.cache
def unavailable() -> str | None:
    """Why none can be made, or None."""
    if binaries() is None:
        return "no initdb: a PostgreSQL of the tests' own cannot be made"
    if os.geteuid() == 0:
        try:
            pwd.getpwnam(OWNER)
        except KeyError:
            return f"initdb refuses to run as root, and there is no user {OWNER}"
    return None


class Cluster:
    """A cluster with two databases, `orders` and `audit`, that `app` owns.

    Args:
        folder: An empty folder of the user that it runs as.
        settings: Of `postgresql.conf`.
    """

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self.data = folder / "data"
        self.log = folder / "log"
        self.port: int = free_port()
        self._run(
            "initdb", "--pgdata", self.data, "--username", OWNER, "--auth", "trust", "--no-sync", "--encoding=UTF8"
        )
        every = {
            "port": self.port,
            "listen_addresses": "'127.0.0.1'",
            "unix_socket_directories": "''",
            "fsync": "off",
            "autovacuum": "off",
            **settings,
        }
        with (self.data / "postgresql.conf").open("a") as file:
            file.writelines(f"{name} = {value}\n" for name, value in every.items())

    def start(self) -> None:
        self._run("pg_ctl", "start", "--pgdata", self.data, "--log", self.log, "--wait", "--silent")

    def stop(self, mode: str = "fast") -> None:
        """Stop it; "immediate" is a crash."""
        self._run("pg_ctl", "stop", "--pgdata", self.data, "--mode", mode, "--wait", "--silent")

    def create(self) -> None:
        """Make the user and the databases."""
        with psycopg.connect(self.url("postgres", OWNER), autocommit=True) as connection:
            connection.execute(f"CREATE ROLE {USER} LOGIN")
            for database in ("orders", "audit"):
                connection.execute(f"CREATE DATABASE {database} OWNER {USER}")

    def url(self, database: str, user: str = USER, port: int | None = None) -> str:
        """The URL of a database, without a driver."""
        return f"postgresql://{user}@127.0.0.1:{port or self.port}/{database}"

    def execute(self, database: str, statement: str) -> list[tuple[Any, ...]]:
        """Run a statement as a superuser, and return its rows."""
        with psycopg.connect(self.url(database, OWNER), autocommit=True) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def wait_until_alone(self, timeout: float = 20) -> None:
        """Wait until nobody is connected any more: what a killed process had sent was carried out, or dropped."""
        deadline = time.monotonic() + timeout
        while self.execute("postgres", f"SELECT pid FROM pg_stat_activity WHERE usename = '{USER}'"):
            assert time.monotonic() < deadline, "somebody stays connected"
            time.sleep(0.01)

    def _run(self, program: str, *args: object) -> None:
        folder = binaries()
        assert folder is not None
        user = OWNER if os.geteuid() == 0 else getpass.getuser()
        ran = subprocess.run(
            [folder / program, *map(str, args)],
            user=user if os.geteuid() == 0 else None,
            group=pwd.getpwnam(user).pw_gid if os.geteuid() == 0 else None,
            extra_groups=[] if os.geteuid() == 0 else None,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,  # not a pipe: the server would inherit it
            stderr=subprocess.PIPE if program == "initdb" else subprocess.DEVNULL,
            text=True,
            check=False,
        )
        if ran.returncode != 0:
            said = ran.stderr or (self.log.read_text() if self.log.exists() else "")
            raise RuntimeError(f"{program} failed: {said}")


@contextmanager
def cluster(**settings: Any) -> Iterator[Cluster]:
    """Make a cluster with these settings, start it, and remove it at the end."""
    folder = Path(tempfile.mkdtemp(prefix="postresponse-pg-"))
    try:
        if os.geteuid() == 0:
            shutil.chown(folder, OWNER)
        made = Cluster(folder, settings)
        made.start()
        try:
            made.create()
            yield made
        finally:
            made.stop("immediate")
    finally:
        shutil.rmtree(folder)
