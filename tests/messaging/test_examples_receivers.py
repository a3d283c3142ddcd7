"""The examples of receivers, started as their docstrings say, and asked over real sockets."""

import json
import time
from pathlib import Path
from typing import Any

from tests.servers.client import Client
from tests.test_examples import first_command, serving, until


def ask(client: Client, method: str, path: str, body: bytes = b"") -> Any:
    answer = client.request(method, path, body=body)
    assert answer.status in (200, 202), answer
    return json.loads(answer.body)


def test_orders_are_taken_while_the_receiver_is_paused_and_booked_in_order_behind_it(tmp_path: Path) -> None:
    with serving(first_command("receiver_paused"), tmp_path) as running, Client(running.port) as client:
        ask(client, "POST", "/orders", b"tea")
        assert until(lambda: ask(client, "GET", "/orders")["booked"] == ["tea"]), running.log()
        assert ask(client, "POST", "/pause") == "paused"
        for item in (b"milk", b"sugar", b"gold"):
            ask(client, "POST", "/orders", item)
        time.sleep(0.1)
        assert ask(client, "GET", "/orders") == {"booked": ["tea"], "waiting": 3, "receiver": "paused"}
        ask(client, "POST", "/pause")
        assert ask(client, "POST", "/resume") == "running"
        assert until(lambda: ask(client, "GET", "/orders")["waiting"] == 0), running.log()
        assert ask(client, "GET", "/orders")["booked"] == ["tea", "milk", "sugar", "gold"]
    assert "the receiver of memory is paused: pause() changes nothing" in running.log()
    assert "Traceback" not in running.log()


def test_orders_are_put_back_while_the_bank_is_away_and_each_is_paid_once(tmp_path: Path) -> None:
    with serving(first_command("receiver_degraded"), tmp_path) as running, Client(running.port) as client:
        ask(client, "PUT", "/bank/away")
        for item in (b"tea", b"milk"):
            ask(client, "POST", "/orders", item)
        time.sleep(0.3)
        assert ask(client, "GET", "/orders") == {"paid": [], "given up": []}
        ask(client, "PUT", "/bank/there")
        assert until(lambda: len(ask(client, "GET", "/orders")["paid"]) == 2), running.log()
        ask(client, "POST", "/orders", b"sugar")
        assert until(lambda: len(ask(client, "GET", "/orders")["paid"]) == 3), running.log()
        assert sorted(ask(client, "GET", "/orders")["paid"]) == ["milk", "sugar", "tea"]
    assert running.log().count("the service is degraded, and messages are put back") == 1
    assert "Traceback" not in running.log()
