"""The examples of flows, run as their docstrings say."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import pytest

from tests.servers.client import Client
from tests.services import redis
from tests.test_examples import EXAMPLES, ROOT, first_command, serving, until


def test_a_payment_holds_up_what_is_behind_it_and_no_response(tmp_path: Path) -> None:
    with serving(first_command("flow_order"), tmp_path) as running, Client(running.port) as client:

        def page() -> str:
            return client.request("GET", "/orders/1").body.decode()

        def states() -> dict[str, str]:
            return dict(re.findall(r"^[│ ├└─]*([a-z]+) .* ([a-z]+)$", page(), re.MULTILINE))

        ordered = client.request("POST", "/orders/tea")
        assert (ordered.status, ordered.body) == (202, b'{"order":1}'), running.log()
        assert until(lambda: states().get("payment") == "suspended"), page()
        assert until(lambda: states()["label"] == "done"), page()
        assert states()["ship"] == "waiting"
        token = page().rpartition("token: ")[2].strip()
        asked = ("x", token, token)
        assert [client.request("POST", f"/payments/{each}").status for each in asked] == [404, 200, 409], running.log()
        assert until(lambda: states()["ship"] == "done"), page()
        assert "Traceback" not in running.log()


@pytest.mark.service("redis")
def test_a_flow_gives_one_result_here_and_on_a_worker(tmp_path: Path) -> None:
    commands = re.findall(
        r"^ *\.venv/bin/(\S+.*?)(?: {2,}#.*)?$", (EXAMPLES / "flow_celery.py").read_text(), re.MULTILINE
    )
    there = Path(sys.executable).parent
    environment = {**os.environ, "BROKER": redis.url(), "QUEUE": f"postresponse-{uuid4().hex}"}
    serve, ask = ([str(there / program), *arguments] for program, *arguments in map(shlex.split, commands))
    with (tmp_path / "worker.log").open("wb") as log:
        worker = subprocess.Popen([*serve, "--without-mingle"], cwd=ROOT, env=environment, stdout=log, stderr=log)
        try:
            ran = subprocess.run(
                ask, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False
            )
        finally:
            worker.kill()
            worker.wait()
    assert ran.returncode == 0, ran.stderr
    results = [line.partition(": ")[2].strip() for line in ran.stdout.splitlines()[-2:]]
    assert results == ["['invoice for tea', 'label for tea']"] * 2
