"""The harness and the client, before they judge anything."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.servers.apps.bare import BODY
from tests.servers.client import Client, Connection, ConnectionEnded
from tests.servers.harness import KINDS, Kind, Server, StartFailed

Answering = Callable[[bytes], int]


@pytest.fixture
def answering() -> Iterator[Answering]:
    """A peer that answers whatever comes with given bytes and ends the connection; returns its port."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        threads: list[threading.Thread] = []

        def answer(raw: bytes) -> None:
            peer, _ = listener.accept()
            with closing(peer):
                peer.recv(65536)
                peer.sendall(raw)

        def start(raw: bytes) -> int:
            threads.append(threading.Thread(target=answer, args=(raw,)))
            threads[-1].start()
            return int(listener.getsockname()[1])

        yield start
        for thread in threads:
            thread.join(10)


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


def test_the_client_puts_chunks_together(answering: Answering) -> None:
    raw = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\none \r\n3;x=y\r\ntwo\r\n0\r\nTrailer: t\r\n\r\n"
    with Connection(answering(raw)) as connection:
        response = connection.request("GET", "/")
    assert (response.status, response.body) == (200, b"one two")
    assert response.head.first_byte <= response.last_byte


def test_the_client_passes_over_interim_responses(answering: Answering) -> None:
    raw = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n"
    with Connection(answering(raw)) as connection:
        response = connection.request("GET", "/")
    assert (response.status, response.body, response.head.get("link")) == (204, b"", None)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfour",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nfour\r\n",
    ],
    ids=["no head", "half a head", "too short", "no last chunk"],
)
def test_the_client_does_not_take_a_cut_response_for_a_whole_one(answering: Answering, raw: bytes) -> None:
    with Connection(answering(raw)) as connection, pytest.raises(ConnectionEnded):
        connection.request("GET", "/")


def test_a_body_without_a_length_ends_with_the_connection(answering: Answering) -> None:
    with Connection(answering(b"HTTP/1.0 200 OK\r\n\r\nto the end")) as connection:
        response = connection.request("GET", "/")
    assert response.body == b"to the end"
    assert not response.head.keeps_alive
