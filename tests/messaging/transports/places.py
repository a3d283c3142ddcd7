"""Queues to run one contract over: in memory, in a table, at RabbitMQ and at Redis."""

import json
import secrets
from abc import abstractmethod
from pathlib import Path
from typing import Any
from uuid import UUID

import redis as client_library
from kombu import Connection
from sqlalchemy import Engine, create_engine, select

from postresponse.messaging import Message, Outbox
from postresponse.messaging.pump import Transport
from postresponse.messaging.transports.kombu import KombuTransport
from postresponse.messaging.transports.memory import MemoryTransport
from postresponse.messaging.transports.stream import StreamTransport
from postresponse.messaging.transports.table import TableTransport
from postresponse.testing.contracts.transport import TransportPlace
from postresponse.work import Stream
from tests.services import rabbitmq, redis

__all__ = ["AtBroker", "AtRabbitMQ", "AtRedis", "InMemory", "InStream", "InTable"]


class InMemory(TransportPlace):
    hands_over_at_close = False

    def __init__(self) -> None:
        self.queue: MemoryTransport = MemoryTransport()

    def transport(self) -> Transport:
        return self.queue

    async def send(self, message: Message) -> None:
        self.queue.send(message)

    def waiting(self) -> int:
        return len(self.queue)

    def dead(self) -> list[UUID]:
        return [delivery.id for delivery, _ in self.queue.dead]


class InStream(InMemory):
    def __init__(self) -> None:
        self.stream: Stream[Message] = Stream("orders", maxsize=100)
        self.queue: StreamTransport = StreamTransport(self.stream)

    async def send(self, message: Message) -> None:
        await self.stream.put(message)


class InTable(TransportPlace):
    hands_over_at_close = False

    def __init__(self, folder: Path) -> None:
        self.engine: Engine = create_engine(f"sqlite:///{folder / 'outbox.sqlite3'}")
        self.outbox = Outbox({"orders": ["book"]})
        for table in self.outbox.tables.all:
            table.create(self.engine)

    def transport(self) -> Transport:
        return TableTransport(self.outbox, self.engine, "orders", polls=(0.005, 0.05))

    async def send(self, message: Message) -> None:
        with self.engine.begin() as connection:
            self.outbox.enlist(message, into=connection)

    def waiting(self) -> int:
        waiting = self.outbox.tables.waiting
        with self.engine.connect() as connection:
            return len(connection.execute(select(waiting.c.id).where(waiting.c.token.is_(None))).all())

    def dead(self) -> list[UUID]:
        with self.engine.connect() as connection:
            return list(connection.execute(select(self.outbox.tables.dead.c.message_id)).scalars())

    def close(self) -> None:
        self.engine.dispose()


class AtBroker(TransportPlace):
    def __init__(self, url: str) -> None:
        self.url = url
        self.queue = f"postresponse-{secrets.token_hex(6)}"
        self.dead_letters = f"{self.queue}-dead"
        self.sender = KombuTransport(url, self.queue, dead_letters=self.dead_letters)
        self.connection: Any = Connection(url)
        self.channel: Any = self.connection.channel()

    def transport(self) -> Transport:
        return KombuTransport(self.url, self.queue, dead_letters=self.dead_letters)

    async def send(self, message: Message) -> None:
        await self.sender.asend(message)

    def waiting(self) -> int:
        return self.size(self.queue)

    @abstractmethod
    def size(self, queue: str) -> int: ...

    def dead(self) -> list[UUID]:
        return [UUID(message.properties["message_id"]) for message in self.got(self.dead_letters)]

    def got(self, queue: str) -> list[Any]:
        """Take what is on *queue*."""
        found = []
        while (message := self.channel.basic_get(queue, no_ack=True)) is not None:
            found.append(self.channel.message_to_python(message))
        return found

    def close(self) -> None:
        self.sender.close()
        for queue in (self.queue, self.dead_letters):
            self.delete(queue)
        self.connection.release()

    def delete(self, queue: str) -> None:
        self.channel.queue_delete(queue)


class AtRabbitMQ(AtBroker):
    def __init__(self, url: str | None = None) -> None:
        super().__init__(url or rabbitmq.url())

    def size(self, queue: str) -> int:
        return int(self.channel.queue_declare(queue, passive=True).message_count)


class AtRedis(AtBroker):
    def __init__(self, url: str | None = None) -> None:
        super().__init__(url or redis.url())

    def size(self, queue: str) -> int:
        return int(self.channel.queue_declare(queue).message_count)

    def delete(self, queue: str) -> None:
        self.channel.queue_purge(queue)
        with client_library.Redis.from_url(self.url) as client:  # and what nobody came back with
            for tag, kept in client.hgetall("unacked").items():
                if json.loads(kept)[2] == queue:
                    client.hdel("unacked", tag)
                    client.zrem("unacked_index", tag)
