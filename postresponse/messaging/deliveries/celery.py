"""Celery as a destination: each message is a task, sent through the application's own routes, queues and broker.

A task is made and routed by `app.amqp`, which is what `send_task` does. `send_task` itself also tells the result
backend that somebody is going to wait for the result: with Redis that is a subscription for each message, which nobody
ever ends, in a relay that sends millions.
"""

from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any, Final

from celery import Celery
from celery.app.task import Context
from kombu import Producer
from kombu.transport.pyamqp import Transport

from postresponse.exceptions import ConfigurationError, MessageRefused, UnknownVersion
from postresponse.messaging.deliveries.arguments import arguments
from postresponse.messaging.deliveries.confirms import ConfirmedLine, connected, connection_errors, let_go, refused
from postresponse.messaging.deliveries.lines import Errors, Line, Lines
from postresponse.messaging.deliveries.rabbitmq import CONNECTING, amqp_options
from postresponse.messaging.deliveries.trouble import OUTAGES, unreachable
from postresponse.messaging.delivery import Delivery
from postresponse.work.checks import check_count, check_seconds

__all__ = ["CeleryDestination"]

JSON: Final = frozenset({"json", "application/json"})
RESERVED: Final[frozenset[str]] = frozenset(vars(Context)) | {"argsrepr", "compression", "kwargsrepr", "lang", "task"}
"""Headers that Celery has a meaning for: one of a message's with such a name would make another task of it."""
OPTIONS: Final = ("queue", "exchange", "routing_key", "priority", "delivery_mode", "compression")
LIMITS: Final = ("expires", "time_limit", "soft_time_limit")
"""What a task may have been declared with, if it is known to the application: how it is published, and what it says."""


class CeleryDestination:
    """Sends messages as tasks: the name is the task's, the id is the task id, and the headers are headers.

    A dictionary as payload gives keyword arguments, a list positional ones, None none, and anything else is the one
    argument. The serializer is JSON, whatever the application's is. The task need not be known here; if it is, the
    options count that it was declared with. Headers are found in `task.request.headers`.

    With RabbitMQ each message is confirmed, whether the application asks for that or not: a batch is published, and its
    confirms are awaited together. With Redis the reply to each push is the confirmation. No result is waited for; what
    workers store is found under the message's id.

    Args:
        app: The `Celery` application, configured.
        batch: How many are sent at once.
        timeout: Seconds that a batch may take, with connecting. What is not confirmed by then comes again.
        allow_unconfirmed: Send where the broker, its library or `confirm_publish: False` in `broker_transport_options`
            gives no confirms: what is lost on the way is lost then, and nobody is told.

    Raises:
        ConfigurationError: A value that an option cannot have; an application whose workers refuse JSON; a broker that
            does not confirm, without *allow_unconfirmed*.
    """

    concurrency: int = 1
    unreachable: tuple[type[BaseException], ...] = OUTAGES

    def __init__(self, app: Any, *, batch: int = 100, timeout: float = 10.0, allow_unconfirmed: bool = False) -> None:
        if not isinstance(app, Celery):
            raise ConfigurationError(f"app: expected a Celery application, found {app!r}")
        if not isinstance(allow_unconfirmed, bool):
            raise ConfigurationError(f"allow_unconfirmed: expected True or False, found {allow_unconfirmed!r}")
        self.batch: int = check_count("batch", batch)
        self.timeout: float = check_seconds("timeout", timeout)
        self._app = app
        accepts = app.conf.accept_content or ()
        if JSON.isdisjoint(accepts):
            raise ConfigurationError(
                f"app: messages are sent as JSON, and its workers take {', '.join(sorted(accepts)) or 'nothing'}; "
                "add 'json' to accept_content"
            )
        self._confirms = self._check_confirms(allow_unconfirmed)
        self._lines = Lines(self._connect, self.timeout)

    def _check_confirms(self, allow_unconfirmed: bool) -> bool:
        """Tell whether publisher confirms are there to be had, and wanted."""
        try:
            transport = self._app.connection_for_write().get_transport_cls()
        except (ImportError, KeyError, ValueError) as error:
            raise ConfigurationError(f"app: its broker_url is of no use: {error}") from error
        speaks_amqp = getattr(transport, "driver_type", None) == "amqp"
        if speaks_amqp and not issubclass(transport, Transport):
            missing = f"{transport.__module__} knows none; use pyamqp:// as broker_url"
        elif speaks_amqp and (self._app.conf.broker_transport_options or {}).get("confirm_publish") is False:
            missing = "broker_transport_options switch them off; leave confirm_publish out"
        else:
            return speaks_amqp
        if not allow_unconfirmed:
            raise ConfigurationError(
                f"app: without confirms a broker that fails loses messages, and nobody is told: {missing}, or give "
                "allow_unconfirmed=True"
            )
        return False

    async def send(self, messages: Sequence[Delivery]) -> Sequence[BaseException | None]:
        """Send *messages*, and wait until the broker has confirmed each.

        Raises:
            Unreachable: The broker cannot be reached.
        """
        return await self._lines.send(messages)

    async def aclose(self) -> None:
        """Close the connections; sending opens new ones."""
        await self._lines.aclose()

    # -- on a thread --------------------------------------------------------------------------------------------------

    def _connect(self) -> Line:
        app, seconds = self._app, self.timeout / CONNECTING
        given = app.conf.broker_transport_options or {}
        if self._confirms:
            options = {**amqp_options(seconds), **given, "confirm_publish": False}
            connection = app.connection_for_write(connect_timeout=seconds, transport_options=options)
            return ConfirmedLine(connection, lambda channel: _Tasks(app, channel, mandatory=True))
        # Each transport takes what it knows: py-amqp, unconfirmed, the first two, and Redis the others.
        options = {**amqp_options(seconds), "socket_timeout": seconds, "socket_connect_timeout": seconds, **given}
        connection = app.connection_for_write(connect_timeout=seconds, transport_options=options)
        return _PushingLine(connection, lambda channel: _Tasks(app, channel))


class _Counting(Producer):  # type: ignore[misc] # its base has no types
    """Counts what it publishes: a task, and the event that it was sent, where the application wants events."""

    published = 0

    def publish(self, *args: Any, **options: Any) -> Any:
        result = super().publish(*args, **options)
        self.published += 1
        return result


class _Tasks:
    """Sends tasks on one channel."""

    def __init__(self, app: Any, channel: Any, **options: Any) -> None:
        self._app = app
        self._producer = _Counting(channel, auto_declare=False)
        self._options = options
        self._tells = app.conf.task_send_sent_event

    @property
    def published(self) -> int:
        return int(self._producer.published)

    def send(self, message: Delivery) -> None:
        app, amqp, name, headers = self._app, self._app.amqp, message.name, message.headers
        if headers and not RESERVED.isdisjoint(headers):
            raise MessageRefused(f"headers: Celery has a meaning of its own for {', '.join(RESERVED & headers.keys())}")
        args, kwargs = arguments(message.payload)
        declared = app.tasks.get(name)
        options = amqp.router.route(_declared(declared, OPTIONS), name, args, kwargs, declared)
        task = amqp.create_task_message(
            str(message.id),
            name,
            args,
            kwargs,
            create_sent_event=self._tells,
            argsrepr=_shown(args, amqp.argsrepr_maxsize),
            kwargsrepr=_shown(kwargs, amqp.kwargsrepr_maxsize),
            **_declared(declared, LIMITS),
        )
        own = {"serializer": "json", "retry": False, "headers": dict(headers), **self._options}
        amqp.send_task_message(self._producer, name, task, **{**options, **own})


def _declared(task: Any, names: Sequence[str]) -> dict[str, Any]:
    """Return those options of *names* that *task* was declared with, if it is known."""
    if task is None:
        return {}
    found = {name: getattr(task, name, None) for name in names}
    return {name: value for name, value in found.items() if value is not None}


def _shown(arguments: Any, most: int) -> str:
    """Return what monitors show. Celery's own way is safe for any object, and takes a fifth of the time of sending."""
    text = repr(arguments)
    return text if len(text) <= most else f"{text[: most - 3]}..."


class _PushingLine:
    """A connection on which each message has been taken when the call returns, as far as the broker tells."""

    def __init__(self, connection: Any, sender: Callable[[Any], _Tasks]) -> None:
        self.is_sound: bool = True
        self._connection = connected(connection)
        self._uri: str = connection.as_uri()
        self._lost = connection_errors(connection)
        try:
            self._sender = sender(connection.default_channel)
        except self._lost as error:
            self.is_sound = False
            self.close()
            raise unreachable(self._uri, error) from error

    def send(self, messages: Sequence[Delivery], deadline: float) -> Errors:
        """Send one message after the other until *deadline*, or until the connection is lost."""
        errors: Errors = []
        for message in messages:
            try:
                if monotonic() >= deadline:
                    raise TimeoutError("it was too slow")
                self._sender.send(message)
            except self._lost as error:
                self.is_sound = False
                return errors + [unreachable(self._uri, error)] * (len(messages) - len(errors))
            except (MessageRefused, UnknownVersion) as error:
                errors.append(error)
            except Exception as error:  # noqa: BLE001 (told of by the relay)
                errors.append(refused(error))
            else:
                errors.append(None)
        return errors

    def close(self) -> None:
        """Let it go."""
        let_go(self._connection, self.is_sound)
