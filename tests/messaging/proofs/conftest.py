"""A RabbitMQ of the tests' own, for those that end it."""

from collections.abc import Iterator

import pytest

from tests.services.own_rabbitmq import Broker, broker


@pytest.fixture(scope="module")
def own_rabbitmq() -> Iterator[Broker]:
    """One for a module."""
    with broker() as made:
        yield made


@pytest.fixture
def rabbitmq(own_rabbitmq: Broker) -> Broker:
    """It, running."""
    own_rabbitmq.start()
    return own_rabbitmq
