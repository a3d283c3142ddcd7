"""What is compared: a suite for each row of the design's table, with the ratios that it asks of this package.

A target stands beside the mode that the design names. For a stream it names none, and all that stream have it;
holding has it for a unit of work that does nothing and for one that nobody touched.
"""

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Final

from tests.benchmarks import (
    asgi,
    asgi_contenders,
    flows,
    growth,
    holding,
    imports,
    outbox,
    relaying,
    streams,
    work,
    wsgi,
    wsgi_contenders,
)
from tests.benchmarks.runner import Case, Contender, Suite
from tests.benchmarks.wire import WireSubject

__all__ = ["SUITES"]

STREAMING: Final = ("observe", "observe, on_finished", "head, fake unit", "head, untouched unit")
OVER_THE_WIRE: Final = (
    "bare application",
    "send-wrapping class",
    "contextvar, phases, stamps",
    "BaseHTTPMiddleware",
    "OpenTelemetry",
    *STREAMING,
    "buffered, fake unit",
)
KILO: Final = 1024


def asgi_single() -> Sequence[Case]:
    """One response of 1 kB."""
    targets = {"observe": 2.0, "head, fake unit": 2.6}
    return [Case("1 kB", asgi_contenders.contenders(asgi.single, targets))]


def asgi_chunks() -> Sequence[Case]:
    """1,000 chunks of 1 kB."""
    targets = dict.fromkeys(STREAMING, 1.45)
    return [Case("1,000 x 1 kB", asgi_contenders.contenders(asgi.chunked(1000), targets))]


def wsgi_single() -> Sequence[Case]:
    """One response of 1 kB; and Pyramid with pyramid_tm beside Pyramid."""
    targets = {"observe": 5.0, "head, fake unit": 8.0}
    return [
        Case("1 kB", wsgi_contenders.contenders(wsgi.single, targets)),
        Case("1 kB, inside Pyramid", wsgi_contenders.pyramid_contenders()),
    ]


def wsgi_chunks() -> Sequence[Case]:
    """1,000 chunks of 1 kB: where Content-Length makes counting needed, and where there is none."""
    return [
        Case(name, wsgi_contenders.contenders(wsgi.chunked(1000, sized=sized), dict.fromkeys(STREAMING, target)))
        for name, sized, target in (("Content-Length", True, 2.0), ("no Content-Length", False, 1.15))
    ]


def wire() -> Sequence[Case]:
    """One response of 1 kB, from uvicorn."""
    return [
        Case(
            "1 kB",
            [
                Contender(
                    name,
                    (way := asgi_contenders.WAYS[name]).kind,
                    partial(WireSubject, name),
                    ("uvicorn", "httptools", *way.needs),
                    1.2 if name in STREAMING else None,
                )
                for name in OVER_THE_WIRE
            ],
        )
    ]


def held() -> Sequence[Case]:
    """A body of 1 kB, 1 MB and 100 MB."""
    sizes: Iterable[tuple[str, int, float]] = (
        ("1 kB", KILO, 2.0),
        ("1 MB", KILO * KILO, 1.4),
        ("100 MB", 100 * KILO * KILO, 7.0),
    )
    return [Case(name, holding.contenders(size, target)) for name, size, target in sizes]


def imported() -> Sequence[Case]:
    """A new interpreter that imports."""
    return [Case("a new interpreter", imports.contenders())]


SUITES: Final = (
    Suite("asgi-single", "ASGI, one 1 kB response, CPU", asgi_single),
    Suite("asgi-chunks", "ASGI, 1,000 chunks of 1 kB, CPU", asgi_chunks),
    Suite("wsgi-single", "WSGI, one 1 kB response, CPU", wsgi_single),
    Suite("wsgi-chunks", "WSGI, 1,000 chunks of 1 kB, CPU", wsgi_chunks),
    Suite("wire", "Over the wire, uvicorn, CPU a request", wire, block=2, rounds=0.5),
    Suite("holding", "Holding a body, CPU", held, rounds=0.5),
    Suite("import", "Import, CPU", imported, rounds=0.5),
    Suite("after-response", "Work after the response, CPU", work.after),
    Suite("bulkhead", "Bounded work, CPU", work.bulkheads),
    Suite("flow", "A flow, CPU", flows.flows, block=0.5),
    Suite("stream", "Streams, CPU", streams.passed),
    Suite("outbox-one", "Outbox, one message in a unit of work", outbox.one, block=5, rounds=0.5),
    Suite("outbox-many", "Outbox, 100 messages in a transaction", outbox.many, block=5, rounds=0.5),
    Suite("relay", "Relay, claim and acknowledge 100", outbox.relaying, block=5, rounds=0.5),
    Suite("relay-rabbitmq", "Relay to RabbitMQ, confirmed, time", relaying.to_rabbitmq, block=2, rounds=0.5),
    Suite("relay-redis", "Relay to Redis, time", relaying.to_redis, block=2, rounds=0.5),
    Suite("growth-asgi-chunks", "ASGI, cost by chunks", growth.asgi_chunks, block=0.5, rounds=0.5, axis="chunks"),
    Suite("growth-wsgi-chunks", "WSGI, cost by chunks", growth.wsgi_chunks, block=0.5, rounds=0.5, axis="chunks"),
    Suite("growth-asgi-hooks", "ASGI, cost by hooks", growth.asgi_hooks, block=0.5, rounds=0.5, axis="hooks"),
    Suite("growth-wsgi-hooks", "WSGI, cost by hooks", growth.wsgi_hooks, block=0.5, rounds=0.5, axis="hooks"),
    Suite("growth-held", "Holding, cost by size", growth.held, rounds=0.3, axis="held"),
    Suite("growth-batch", "Outbox, cost by messages", outbox.growth_batch, rounds=0.3, axis="messages"),
    Suite("growth-backlog", "Relay, cost by backlog", outbox.growth_backlog, rounds=0.3, axis="backlog"),
    Suite("growth-steps", "A flow, cost by steps", flows.growth_steps, block=0.5, rounds=0.5, axis="steps"),
    Suite("growth-jobs", "Work after the response, cost by jobs", work.growth_jobs, rounds=0.5, axis="jobs"),
    Suite("growth-lists", "Streams, cost by the size of a list", streams.growth_lists, rounds=0.5, axis="items"),
)
