"""A worker of Celery's without its event loop, which stalls once a broker has died in the middle of a delivery."""

from tests.messaging.deliveries.celery_app import app

app.Worker(
    pool="solo",
    use_eventloop=False,
    loglevel="warning",
    without_gossip=True,
    without_mingle=True,
    without_heartbeat=True,
).start()
