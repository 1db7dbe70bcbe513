"""How a worker takes messages: each moves from the queue to the worker's own list in one command, and stays until it is done.

Kombu's Redis transport takes a message off the queue, and then notes it where all applications on that Redis note theirs: a kill
in between loses it, and a lost connection gives back what tasks still run. Here a connection holds nothing, the process does.
Only the connection from which a worker takes its tasks is of this kind; producers and remote control have kombu's own.
"""

from queue import Empty
from time import monotonic
from typing import Any

import structlog
from celery.worker import state as worker_state
from kombu.connection import Connection as KombuConnection
from kombu.transport import redis as kombu_redis
from kombu.transport import virtual
from redis.exceptions import ResponseError

from aegis_workers.address import Kind
from aegis_workers.state.held import End
from aegis_workers.worker import runtime
from aegis_workers.worker.holdings import Holdings

log = structlog.get_logger(__name__)

# A Redis that gives no messages, because it is full or cannot write its log, is asked again after this.
REFUSED_S = 1.0
# What kombu raises for a message that is not of its own making.
_MALFORMED = (AttributeError, LookupError, TypeError, ValueError)


class Unreadable(Exception):
    """A message that is not of kombu's form: its body or its properties are not."""


class Message(virtual.Message):
    """A message of the queue. Whoever works on it has it in hand; when nobody does, it is put back."""

    def __init__(self, payload: Any, channel: Any = None, **options: Any) -> None:
        try:
            super().__init__(payload, channel, **options)
        except _MALFORMED as error:
            raise Unreadable from error
        if not isinstance(self.body, str | bytes) or not isinstance(self.headers, dict):
            raise Unreadable


class QoS(virtual.QoS):
    """Settles messages with the holdings of the process, whichever connection brought them."""

    restore_at_shutdown = False  # a connection that ends says nothing of the tasks that run

    def can_consume(self) -> bool:
        """Whether the process may hold another message; what earlier connections brought counts as well.

        A message may hold many calls: the process takes on twice what an engine may have, and leaves the rest to others.
        """
        worker = runtime.started()
        has_room = worker is None or worker.has_room
        return has_room and (not self.prefetch_count or self.channel.held.count < self.prefetch_count)

    def append(self, message: Any, delivery_tag: str) -> None:
        """The message was delivered."""
        self.channel.held.track(delivery_tag, message)

    def ack(self, delivery_tag: str) -> None:
        """The message is done with."""
        self.channel.held.done(delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:  # noqa: FBT001, FBT002 - kombu's signature
        """The message is done with, or goes back: behind all others, or before them if this worker stops."""
        if not requeue:
            self.channel.held.done(delivery_tag)
            return
        self.channel.held.put_back(delivery_tag, End.FRONT if _is_stopping() else End.BACK)


def _is_stopping() -> bool:
    flags = (worker_state.should_stop, worker_state.should_terminate)
    return any(flag is not None and flag is not False for flag in flags)  # a set flag is an exit code, which may be 0


class Channel(kombu_redis.Channel):
    """Takes messages with `BLMOVE`, one at a time."""

    QoS = QoS  # type: ignore[assignment]  # kombu asks for no more than its virtual one
    Message = Message
    do_restore = False

    def __init__(self, connection: Any, **options: Any) -> None:
        self.held: Holdings = connection.client.held
        self._ask_again_at = 0.0
        self._moves = False  # whether the pop that is under way is one of ours
        super().__init__(connection, **options)

    def _brpop_start(self, timeout: float | None = None) -> None:
        holder = self.held.holder
        if holder.queue not in self.active_queues:
            # The answers of other workers, whom a new one asks who they are; nobody acknowledges them.
            self._moves = False
            super()._brpop_start(timeout)
            return
        if not self.held.may_take or monotonic() < self._ask_again_at:
            return
        self._moves = True
        self._in_poll = self.client.connection
        self._brpop_sent_at = monotonic()  # type: ignore[assignment]  # it begins as None
        wait_s = timeout or self.brpop_timeout or 0
        self.client.connection.send_command("BLMOVE", holder.queue, holder.key, "RIGHT", "LEFT", wait_s)

    def _brpop_read(self, **options: Any) -> bool:
        if not self._moves:
            return bool(super()._brpop_read(**options))
        try:
            raw = self._reply(**options)
            if raw is None:
                raise Empty
            self._deliver(raw)
            return True
        finally:
            self._in_poll = False
            self._flush_brpop_reauth()

    def _reply(self, **options: Any) -> bytes | None:
        try:
            found: bytes | None = self.client.parse_response(self.client.connection, "BLMOVE", **options)
        except self.connection_errors:
            self.client.connection.disconnect()
            raise
        except ResponseError as error:
            self._refused(error)
            return None
        return found

    def _deliver(self, raw: bytes) -> None:
        payload = self.held.take(raw)
        if payload is None:
            return
        try:
            self.connection._deliver(payload, self.held.holder.queue)  # noqa: SLF001 - kombu's own way
        except Unreadable:  # it would come back for ever
            log.error("message.unreadable", queue=self.held.holder.queue, size_bytes=len(raw))  # noqa: TRY400 - its trace says no more
            self.held.done(payload["properties"]["delivery_tag"])

    def _refused(self, error: ResponseError) -> None:
        """Waits: a worker that ended could not take messages either."""
        self._ask_again_at = monotonic() + REFUSED_S
        self.held.refused(error)

    def maybe_refresh_binding_expiry(self) -> None:
        """Says once a second that remote control is still wanted. A full Redis refuses that too; kombu would log it each time."""
        try:
            super().maybe_refresh_binding_expiry()
        except ResponseError as error:
            self.held.refused(error)


class Transport(kombu_redis.Transport):
    """Kombu's Redis transport with channels of ours."""

    Channel = Channel


class SentinelChannel(Channel, kombu_redis.SentinelChannel):
    """Likewise, from the master that Sentinels name: each new connection asks them."""


class SentinelTransport(Transport):
    """Likewise, behind Sentinels."""

    default_port = kombu_redis.SentinelTransport.default_port  # type: ignore[assignment]  # it begins as None
    Channel = SentinelChannel


class Connection(KombuConnection):
    """The connection from which a worker takes its tasks."""

    held: Holdings

    def get_transport_cls(self) -> type[Transport]:
        """Ours, for the kind of Redis that the URL names."""
        return SentinelTransport if self.transport_cls == Kind.SENTINEL.value else Transport


def connection(like: KombuConnection, held: Holdings) -> Connection:
    """A connection to the same Redis as `like`, whose messages `held` holds."""
    made = Connection(**dict(like._info(resolve=False)))  # noqa: SLF001 - as kombu clones a connection
    made.held = held
    return made
