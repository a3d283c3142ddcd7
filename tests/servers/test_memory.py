"""How much a server's process grows while a large body passes through it.

The peak of the resident set is reset (Linux, /proc/<pid>/clear_refs) after warm-up requests of the same kind and read
after the large one. What the server itself keeps of a body is measured with the bare application in the same process
and granted. Two servers are left out, for they take so much off the application's hands whenever the client is a moment
late that nothing can be said of the application: waitress (15 to 25 MB of 64, and never the same) and daphne (all).
"""

from pathlib import Path

import pytest

from tests.conftest import Scale
from tests.servers.figures import Figures
from tests.servers.site import Site, sites, target

WARM = 3 << 20
MEBI = 1 << 20


@pytest.mark.long
@pytest.mark.parametrize(("at", "limit"), [("buffered", 4 * MEBI), ("head", 2 * MEBI)], ids=["buffered", "head"])
@sites("uvicorn-httptools", "uvicorn-h11", "hypercorn", "granian-asgi", "gunicorn-gthread", "granian-wsgi", "cheroot")
def test_a_large_body_does_not_grow_the_server(
    fresh_site: Site, at: str, limit: int, scale: Scale, figures: Figures
) -> None:
    size = scale.of(off=0, short=16, full=64) * MEBI
    bare = growth(fresh_site, size, through="bare")
    grew = growth(fresh_site, size, at=at, max_memory=MEBI)
    figures.grew(fresh_site.spec.name, f"{at}, {size // MEBI} MiB", grew, bare)
    assert grew < limit + bare, fresh_site.log()


def growth(site: Site, size: int, **asked: str | int) -> int:
    """Bytes by which the peak rose while one body of that size was read promptly."""
    pid = site.status()["pid"]
    for _ in range(3):
        assert fetched(site, WARM, **asked) == WARM
    before = reset_peak(pid)
    assert fetched(site, size, **asked) == size
    return max(peak(pid) - before, 0)


def fetched(site: Site, size: int, **asked: str | int) -> int:
    """Read a streamed body, keep nothing of it, and return its length."""
    count = 0

    def sink(piece: bytes) -> None:
        nonlocal count
        count += len(piece)

    key = site.key("large")
    with site.connection() as connection:
        connection.send("GET", target("/stream", key, size=size, **asked))
        assert connection.read_response(sink).status == 200
    return count


def reset_peak(pid: int) -> int:
    """Make the peak of the resident set what it is now, and return it."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    return peak(pid)


def peak(pid: int) -> int:
    """The peak of the resident set in bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))
