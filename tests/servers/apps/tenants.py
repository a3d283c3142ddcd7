"""What tenants may on the servers: one request at a time, and one that waits."""

import json
from collections.abc import Mapping
from typing import Any, Final

from postresponse.tenancy import Load
from postresponse.work import BulkheadLimits
from tests.servers.apps.asked import asked_in

LIMITS: Final = BulkheadLimits(max_concurrency=1, max_queue=1, timeout=30.0)


def tenant_of(context: Mapping[str, Any]) -> str:
    """The first word of the key."""
    return asked_in(context).key.partition("-")[0]


def told(load: list[Load]) -> bytes:
    """Who is served and who waits, as JSON."""
    return json.dumps({str(each.tenant): [each.running, each.waiting] for each in load}).encode()
