"""The examples of streams, started as their docstrings say."""

import json
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.servers.client import Client, Connection
from tests.test_examples import ROOT, first_command, serving, until


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        ([], 0, ["stored 1,000 rows in 20 batches; at most"]),
        (["250", "1"], 1, ["failed behind the rows before it: row 125 has no item", "stored 125 rows in 3 batches"]),
    ],
)
def test_rows_are_stored_in_batches_and_an_error_comes_behind_those_before_it(
    arguments: list[str], status: int, says: list[str]
) -> None:
    _, *command = shlex.split(first_command("stream_batches"), comments=True)
    ran = subprocess.run([sys.executable, *command, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stderr) == (status, "")
    lines = ran.stdout.splitlines()
    assert all(line.startswith(said) for line, said in zip(lines, says, strict=True)), lines
    assert int(lines[-1].split()[-2]) <= 100


def test_a_page_hears_of_each_row_when_it_is_made_and_who_asks_again_has_a_204(tmp_path: Path) -> None:
    with serving(first_command("stream_events"), tmp_path) as running, Client(running.port) as client:
        page = client.request("GET", "/").body.decode()
        assert 'new EventSource("/exports/"' in page
        assert client.request("POST", "/exports").body == b"1"
        begun, times, rows = time.monotonic(), [], []
        with Connection(running.port) as reader:
            reader.send("GET", "/exports/1")
            head = reader.read_head()
            assert (head.status, head.get("content-type")) == (200, "text/event-stream; charset=utf-8")
            events = reader.read_body(head)
            for event in events:
                times.append(time.monotonic() - begun)
                if event.startswith(b"event: end"):
                    break
                number, data = event.decode().split("\n")[:2]
                rows.append(json.loads(data.removeprefix("data: "))["row"])
                assert number == f"id: {rows[-1]}"
                if rows[-1] == 3:
                    assert client.request("GET", "/exports/1").status == 409
        assert rows == list(range(1, 41))
        assert times[-1] - times[0] > 1  # live, and not all at the end
        assert client.request("GET", "/exports/1").status == 204
        assert client.request("GET", "/exports/9").status == 204
        assert "Traceback" not in running.log()


def test_an_export_whose_reader_leaves_is_given_up(tmp_path: Path) -> None:
    with serving(first_command("stream_events"), tmp_path) as running, Client(running.port) as client:
        number = client.request("POST", "/exports").body.decode()
        with Connection(running.port) as reader:
            reader.send("GET", f"/exports/{number}")
            assert next(reader.read_body(reader.read_head())).startswith(b"id: 1\n")
        assert until(lambda: f"given up: the stream 'export {number}' is closed: its " in running.log()), running.log()
        assert client.request("GET", f"/exports/{number}").status == 204
        assert "Traceback" not in running.log()
