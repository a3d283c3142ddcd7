"""The client takes nothing for what it is not, and the servers that it is for are started as a user would."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from postresponse.exceptions import ConfigurationError
from postresponse.testing import Client, Connection, ConnectionEnded
from postresponse.testing.servers import KINDS, kinds_named

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


def test_a_client_opens_another_connection_only_where_it_was_told_to(answering: Answering) -> None:
    with Client(answering(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")) as client:
        assert client.request("GET", "/").status == 200
        assert client.connections == 1
    cut = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"
    with Client(answering(cut)) as client, pytest.raises(ConnectionEnded):
        client.request("GET", "/")


def test_a_response_is_read_piece_by_piece_up_to_the_end_of_the_connection(answering: Answering) -> None:
    with Connection(answering(b"HTTP/1.0 200 OK\r\n\r\npieces"), receive_buffer=4096) as connection:
        connection.send("GET", "/")
        head = connection.read_head()
        assert (head.get("no"), connection.read_some(3), connection.read_some()) == (None, b"pie", b"ces")
        assert connection.ended()
    with Connection(answering(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n")) as connection:
        connection.request("HEAD", "/")


def test_each_server_is_told_what_to_serve_and_where() -> None:
    for kind in KINDS.values():
        command = " ".join(kind.command("shop.web:app", 8001))
        assert "shop.web:app" in command
        assert "8001" in command
        assert not kind.missing
        assert str(kind) == kind.name
    assert [kind.name for kind in kinds_named("granian")] == ["granian-asgi", "granian-wsgi"]
    assert [kind.name for kind in kinds_named("hypercorn")] == ["hypercorn"]
    with pytest.raises(ConfigurationError, match="serves wsgi, and the application is asgi"):
        kinds_named("uwsgi", "asgi")
