"""What every transport does, and every receiver with it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from postresponse.testing.contracts import TransportContract, TransportPlace
from tests.messaging.transports.places import AtRabbitMQ, AtRedis, InMemory, InStream, InTable


class TestTransports(TransportContract):
    """Each of the package's own."""

    @pytest.fixture(
        params=[
            "memory",
            "stream",
            "table",
            pytest.param("rabbitmq", marks=pytest.mark.service("rabbitmq")),
            pytest.param("redis", marks=pytest.mark.service("redis")),
        ]
    )
    def place(self, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[TransportPlace]:
        made: dict[str, Any] = {
            "memory": InMemory,
            "stream": InStream,
            "table": lambda: InTable(tmp_path),
            "rabbitmq": AtRabbitMQ,
            "redis": AtRedis,
        }
        place: TransportPlace = made[request.param]()
        yield place
        place.close()
