"""The harness, before it judges anything."""

from pathlib import Path

import pytest

from tests.servers.apps.bare import BODY
from tests.servers.client import Client
from tests.servers.harness import KINDS, Kind, Server, StartFailed


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_every_server_starts_keeps_its_connection_and_stops(kind: Kind, tmp_path: Path) -> None:
    server = Server(kind, f"tests.servers.apps.bare:{kind.protocol}", tmp_path, {})
    server.start()
    try:
        with Client(server.port) as client:
            bodies = [client.request("GET", path).body for path in ("/length", "/length", "/length", "/")]
        assert bodies == [BODY] * 4
        assert client.connections == (1 if kind.keeps_alive else 4)
    finally:
        server.stop()
    assert not server.alive()


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    server = Server(KINDS["waitress"], "tests.servers.apps.bare:nothing", tmp_path, {})
    with pytest.raises(StartFailed, match="nothing"):
        server.start()
    server.stop()
