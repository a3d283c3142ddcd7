"""The pytest plugin of postresponse: three fixtures, and nothing that a test does not ask for.

pytest loads its plugins in each run, also where no test needs this one. So it imports pytest alone, and the rest of the
package when a fixture is used. `-p no:postresponse` leaves it out.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from postresponse.testing import Captured, Immediate, Site

__all__ = ["postresponse", "postresponse_inline", "postresponse_server"]

pytest.register_assert_rewrite("postresponse.testing.contracts")  # by its name: nothing is imported for it


@pytest.fixture
def postresponse() -> "Iterator[Captured]":
    """Hold back what `after_response` and `launch` start, until `.run()`; tell of each exchange.

    `.pending`, `.run()`, `.outbox.drain()`, `.traces`, `.assert_committed_before_sent()`, `.assert_sent_before(name)`.
    """
    from postresponse.testing import captured

    with captured() as work:
        yield work


@pytest.fixture
def postresponse_inline() -> "Iterator[Immediate]":
    """Run what `after_response` and `launch` start at once; what it raises fails the test at its end."""
    from postresponse.testing import immediate

    with immediate() as work:
        yield work


@pytest.fixture
def postresponse_server() -> "Iterator[Callable[..., Site]]":
    """Serve an application on a real socket: `postresponse_server(app, server="uvicorn")`; see `serving`."""
    from postresponse.testing import serving

    with ExitStack() as servers:

        def serve(app: Any, server: str | None = None, **options: Any) -> "Site":
            return servers.enter_context(serving(app, server, **options))

        yield serve
