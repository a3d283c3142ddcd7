"""Django behind real servers: the client is told the truth, and its connection lives on."""

from pathlib import Path

import pytest

from tests.servers.client import Client
from tests.servers.harness import KINDS, Server


@pytest.mark.parametrize(
    ("server", "views"), [("uvicorn-httptools", ["sync", "async"]), ("gunicorn-gthread", ["sync"])]
)
def test_a_real_server_tells_the_truth_and_keeps_the_connection(server: str, views: list[str], tmp_path: Path) -> None:
    kind = KINDS[server]
    running = Server(kind, f"tests.unit_of_work.django_project.site:{kind.protocol}", tmp_path, {})
    running.start()
    try:
        with Client(running.port) as client:
            for view in views:
                for at in ("head", "buffered", "after_send"):
                    failed = client.request("GET", f"/{view}?at={at}&fail=1")
                    assert failed.status == (201 if at == "after_send" else 500), running.log()
                    assert client.request("GET", f"/{view}?at={at}").status == 201, running.log()
            if kind.protocol == "wsgi":
                assert client.request("GET", "/streamed?at=buffered&fail=1").status == 500
                assert client.request("GET", "/streamed?at=buffered").body.endswith(b" and another")
            assert client.connections == 1
    finally:
        running.stop()
    ends = (tmp_path / "outcomes.jsonl").read_text().splitlines()
    once = ['["handed_over", "failed", false]', '["handed_over", "committed", false]']
    # Not in order: after send, the next request on the connection may overtake the end of this one.
    assert sorted(ends) == sorted(once * (3 * len(views) + (kind.protocol == "wsgi")))
    assert "IntegrityError" in running.log()
