"""A relay to an engine that may be away, and to another one, for a process of its own."""

import time

from postresponse.messaging import Backoff, Delivery, Relay
from postresponse.messaging.deliveries.rabbitmq import RabbitMQDestination
from tests.messaging.proofs.programs import OUTBOX, given, keeps_a_log, note


def send(delivery: Delivery) -> None:
    """Write down what is sent, and when."""
    if delivery.name == "poison":
        raise ValueError("no")
    note("mail", f"{delivery.payload} {time.time()}")


keeps_a_log()
relay = Relay(
    OUTBOX,
    given("URL"),
    {"queue": RabbitMQDestination(given("BROKER"), batch=25), "mail": send},
    attempts=3,
    backoff=Backoff(0.2, 0.5),
    polls=(0.05, 0.5),
)
