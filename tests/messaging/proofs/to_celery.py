"""A relay to Celery, for a process of its own."""

from postresponse.messaging import Relay
from postresponse.messaging.deliveries.celery import CeleryDestination
from tests.messaging.deliveries.celery_app import app
from tests.messaging.proofs.programs import OUTBOX, given, keeps_a_log

keeps_a_log()
relay = Relay(OUTBOX, given("URL"), {"tasks": CeleryDestination(app, batch=25)}, polls=(0.05, 0.5))
