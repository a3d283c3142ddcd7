"""The example, as its first lines say: each request has its row, with what they promise of it."""

import json
import re
from pathlib import Path
from typing import Any

from tests.inspector.asking import PAGE
from tests.servers.client import Client
from tests.test_examples import first_command, serving, until


def test_each_request_of_the_example_has_the_row_that_it_is_there_for(tmp_path: Path) -> None:
    with serving(first_command("inspector_app"), tmp_path) as running, Client(running.port) as client:

        def rows() -> dict[str, Any]:
            told = json.loads(client.request("GET", f"{PAGE}changes").body)
            return {f"{each['path']} {each['status']} {each['problem']}": each for each in told["requests"]}

        for item in ("tea", "gold", "coal"):
            client.request("POST", f"/orders/{item}")
        client.request("GET", "/export")
        for path in ("/visits", "/reviews"):
            client.request("POST", path)
        expected = {"/orders/coal 201 True", "/visits 202 False", "/reviews 201 True"}
        assert until(lambda: expected <= rows().keys()), running.log()
        found = rows()
        assert found["/orders/gold 409 False"]["verdict"] == "rolled back (409)"
        assert found["/orders/coal 201 True"]["verdict"] == "work after the response failed (warm_cache)"
        assert found["/visits 202 False"]["committed"] == "by choice"
        late = found["/reviews 201 True"]
        assert re.fullmatch(r"committed \d+\.\d ms AFTER the first byte", late["verdict"])
        assert (late["committed"], late["by"]) == ("late", ["get_db"])
        assert late["way_out"] == "give the session to unit_of_work=, or commit before the response starts"
        assert (late["mode"], late["idle"]) == ("head", True)  # its own unit of work was asked for nothing
        bars = [(each["kind"], each["name"].partition(" ")[0], each["failed"]) for each in late["segments"]]
        assert bars == [("handler", "", False), ("body", "", False), ("commit", "get_db", True)]
        events = {(name, detail.partition(" (")[0]) for _, name, detail in late["events"]}
        assert {("commit.start", "observed, not managed, get_db"), ("commit.done", "nothing to commit")} <= events
        tea = found["/orders/tea 201 False"]
        assert (tea["committed"], len(tea["messages"]), tea["way_out"]) == ("before", 1, "")
        export = {each["kind"]: each["end"] - each["begin"] for each in found["/export 200 False"]["segments"]}
        assert export["body"] > 40  # five lines, with ten milliseconds behind each
        assert until(lambda: json.loads(client.request("GET", f"{PAGE}outbox").body)["pending"] == 0), running.log()
