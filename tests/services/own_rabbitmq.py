"""A RabbitMQ of the tests' own, to be stopped, killed and started again while others use the shared one.

It keeps everything in a temporary folder, listens on this machine only, has a name service (epmd) of its own, and is
removed at the end; on Linux it ends with the tests even if those are killed. As root it runs as the user `rabbitmq`.
"""

import functools
import getpass
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kombu import Connection

from tests.services.children import die_with_parent
from tests.services.ports import free_port

OWNER = "rabbitmq"


@functools.cache
def program() -> Path | None:
    """The program that runs as whoever calls it: Debian's in /usr/sbin insists on its own user and folders."""
    found = shutil.which("rabbitmq-server")
    known = [Path("/usr/lib/rabbitmq/bin/rabbitmq-server"), *([Path(found)] if found else [])]
    return next((each for each in known if each.is_file()), None)


@functools.cache
def unavailable() -> str | None:
    """Why none can be made, or None."""
    if program() is None or shutil.which("epmd") is None:
        return "no rabbitmq-server, or no epmd: a RabbitMQ of the tests' own cannot be made"
    if os.geteuid() == 0:
        try:
            pwd.getpwnam(OWNER)
        except KeyError:
            return f"RabbitMQ is not run as root, and there is no user {OWNER}"
    return None


class Broker:
    """One node. It is to be started from a thread that lasts, for it ends with the one that started it.

    Args:
        folder: An empty folder of the user that it runs as.
    """

    def __init__(self, folder: Path) -> None:
        self.port: int = free_port()
        self.url: str = f"amqp://guest:guest@127.0.0.1:{self.port}//"
        self._folder = folder
        self._names_port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        files = {
            "CONFIG_FILE": ("rabbitmq.conf", ""),
            "CONF_ENV_FILE": ("rabbitmq-env.conf", ""),
            "ENABLED_PLUGINS_FILE": ("enabled_plugins", "[]."),
        }
        for name, text in files.values():
            (folder / name).write_text(text)
        self._environment = {
            "PATH": os.environ["PATH"],
            "LANG": "C.UTF-8",
            "HOME": str(folder),  # where the cookie is
            "ERL_EPMD_PORT": str(self._names_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": f"postresponse-{self.port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_PID_FILE": str(folder / "pid"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
            "detached": "1",  # no shell in front of it, whose signals it would not get
            **{f"RABBITMQ_{key}": str(folder / name) for key, (name, _) in files.items()},
        }
        self._names = self._run("epmd", "-port", self._names_port, "-address", "127.0.0.1")

    @property
    def is_running(self) -> bool:
        """Whether there is a process; it may be starting."""
        return self._process is not None and self._process.poll() is None

    def start(self, timeout: float = 90) -> None:
        """Start it, unless it runs, and wait until it takes connections.

        Raises:
            RuntimeError: It does not.
        """
        if not self.is_running:
            self._process = self._run(str(program()))
        deadline = time.monotonic() + timeout
        while not self._answers():
            if not self.is_running or time.monotonic() > deadline:
                raise RuntimeError(f"RabbitMQ did not start: {(self._folder / 'said').read_text()[-4000:]}")
            time.sleep(0.1)

    def stop(self) -> None:
        """Stop it in good order."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Crash it."""
        self._end(signal.SIGKILL)

    def close(self) -> None:
        """Crash it for good, and its name service with it."""
        self.kill()
        self._names.kill()
        self._names.wait()

    def _end(self, how: signal.Signals) -> None:
        process = self._process
        if process is not None:
            process.send_signal(how)
            try:
                process.wait(60)
            finally:
                process.kill()

    def _answers(self) -> bool:
        with Connection(self.url, connect_timeout=3) as connection:
            try:
                connection.connect()
            except (OSError, *connection.connection_errors, *connection.channel_errors):
                return False
            return True

    def _run(self, *command: object) -> "subprocess.Popen[bytes]":
        user = OWNER if os.geteuid() == 0 else getpass.getuser()
        with (self._folder / "said").open("ab") as said:
            return subprocess.Popen(
                [*map(str, command)],
                user=user if os.geteuid() == 0 else None,
                group=pwd.getpwnam(user).pw_gid if os.geteuid() == 0 else None,
                extra_groups=[] if os.geteuid() == 0 else None,
                cwd=self._folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                start_new_session=True,  # Ctrl-C is for the tests
                preexec_fn=die_with_parent,
            )


@contextmanager
def broker() -> Iterator[Broker]:
    """Make a broker, start it, and remove it at the end."""
    folder = Path(tempfile.mkdtemp(prefix="postresponse-rabbitmq-"))
    try:
        if os.geteuid() == 0:
            shutil.chown(folder, OWNER)
        made = Broker(folder)
        try:
            made.start()
            yield made
        finally:
            made.close()
    finally:
        shutil.rmtree(folder)
