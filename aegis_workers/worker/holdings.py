"""What this process knows of the messages that it holds: which of them somebody here works on, and which nobody does any more.

A message is put back by whoever can be sure that nobody works on it: by this process, when its task says so, when it ends, or
when nothing here knows of the message any more; by another one, when this process was declared dead. Never by a lost connection.
"""

import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import redis
import structlog
from redis.exceptions import RedisError, ResponseError

from aegis_workers.settings import Settings
from aegis_workers.state import connection, envelope, held
from aegis_workers.state.held import End, Holder, Settled, Settlement
from aegis_workers.state.liveness import TTL_S
from aegis_workers.worker import identity
from aegis_workers.worker.coming import Coming
from aegis_workers.worker.repetition import Repetition

log = structlog.get_logger(__name__)

# Two looks this far apart must miss the same message before it is put back: the reply that brings it may still be on its way.
LOOK_EVERY_S = 5.0
# Every so many looks read the whole list, also where its length is as expected.
_THOROUGH_EVERY = 12
# Names of deliveries that were put back although their reply may still come; it is then passed over.
_REMEMBERED = 10_000
# It is asked about once a second; a refusal says this long that it gives none.
_REFUSAL_COUNTS_S = 5.0


@dataclass(frozen=True, kw_only=True)
class _Held:
    """A message as it lies in Redis. `worked_on` returns nothing once nobody works on it."""

    raw: bytes
    task_id: str
    worked_on: Callable[[], Any]


class Holdings:
    """The messages of this process. Threads and the event loop use it alike."""

    def __init__(self, client: redis.Redis, holder: Holder) -> None:
        self.holder = holder
        self.coming = Coming()
        self._client = client
        self._lock = threading.Lock()
        self._held: dict[str, _Held] = {}
        self._unsettled: dict[str, Settlement] = {}
        self._strangers: set[str] = set()
        self._given_up: deque[str] = deque(maxlen=_REMEMBERED)
        self._looks = 0
        self._may_take = False
        self._fenced = False
        self._ended = False
        self._refused_until = float("-inf")
        self._refusal = Repetition()
        self._lived_at = float("-inf")

    @property
    def may_take(self) -> bool:
        """Whether messages may be taken: others know that this process lives."""
        return self._may_take

    @property
    def fenced(self) -> bool:
        """Whether this process was declared dead: what it held is others' by now."""
        return self._fenced

    @property
    def count(self) -> int:
        """Messages that somebody here works on."""
        return len(self._held)

    @property
    def refused_until(self) -> float:
        """Until when Redis has kept this process from taking messages, in monotonic seconds: full, say, although it answers."""
        return self._refused_until if self._may_take else time.monotonic()

    def note_refusal(self) -> None:
        """Redis did not do what it was asked."""
        self._refused_until = time.monotonic() + _REFUSAL_COUNTS_S

    def refused(self, error: RedisError) -> None:
        """Redis gives no messages; says so now and then, for a worker that others know: a reaper speaks of the other kind."""
        self.note_refusal()
        if self._may_take and self._refusal.is_due():
            log.warning("redis.gives_no_messages", error=str(error), queue=self.holder.queue)

    def may_connect(self) -> bool:
        """Whether Redis takes what a consumer tells it when it connects; one that is full does not. Raises `RedisError`."""
        try:
            held.check_room(self._client)
        except ResponseError as error:
            self.refused(error)
            return False
        return True

    def lived(self, at: float) -> None:
        """Redis noted that this process lives; it was told so at `at` (monotonic seconds) or later."""
        self._lived_at = at

    def seems_alive(self) -> bool:
        """Whether nobody can have declared this process dead yet: it may have thawed a moment ago, and not know it."""
        return not self._fenced and time.monotonic() < self._lived_at + TTL_S / 2

    def open(self) -> None:
        """Others know that this process lives: it may take messages from now on."""
        self._may_take, self._refused_until = True, time.monotonic()

    def fence(self) -> None:
        """This process was declared dead: it takes nothing more, and settles nothing."""
        self._may_take, self._fenced = False, True

    def take(self, raw: bytes) -> Mapping[str, Any] | None:
        """The envelope of a message that has just been taken; None where it is not to be delivered.

        That is so for one that was given up before its reply came, for all once this process ends, and for one that nobody can
        read, which is dropped.
        """
        found = envelope.read(raw)
        tag = None if found is None else envelope.tag(found)
        if tag is None:
            log.error("message.unreadable", queue=self.holder.queue, size_bytes=len(raw))
            self._settle(_name(raw), Settlement(raw=raw))
            return None
        with self._lock:
            if tag in self._given_up or not self._may_take:
                return None
            headers = found.get("headers") if found else None
            task_id = self.coming.taken(headers if isinstance(headers, dict) else {})
            self._held[tag] = _Held(raw=raw, task_id=task_id, worked_on=lambda: True)
        return found

    def track(self, tag: str, message: Any) -> None:
        """Somebody works on the message that was taken for as long as `message` lives."""
        with self._lock:
            self._held[tag] = replace(self._held[tag], worked_on=weakref.ref(message))

    def done(self, tag: str) -> None:
        """The message is done with."""
        with self._lock:
            known = self._held.pop(tag, None)
            if known is not None:
                self.coming.over(known.task_id)
                self._unsettled[tag] = Settlement(raw=known.raw)
        self._settle_if_due(tag)

    def put_back(self, tag: str, end: End) -> None:
        """The message goes back to its queue."""
        with self._lock:
            known = self._held.pop(tag, None)
            if known is not None:
                self.coming.over(known.task_id)
                self._unsettled[tag] = Settlement(raw=known.raw, end=end, again=envelope.again(known.raw))
        self._settle_if_due(tag)

    def let_go(self, tag: str) -> None:
        """Nobody works on the message any more, and nobody says what becomes of it: it goes back to the front of its queue."""
        self.put_back(tag, End.FRONT)

    def _settle_if_due(self, tag: str) -> None:
        settlement = self._unsettled.get(tag)
        if settlement is not None:
            self._settle(tag, settlement)

    def _settle(self, tag: str, settlement: Settlement) -> None:
        """Tells Redis now, or at a later look when it does not answer."""
        if self._fenced:
            return
        try:
            settled = held.settle(self._client, self.holder, settlement)
        except (RedisError, OSError) as error:
            self._unsettled[tag] = settlement
            log.debug("message.settled_later", error=type(error).__name__)
            return
        self._unsettled.pop(tag, None)
        if settled is Settled.FENCED:
            log.warning("message.not_settled", reason="this worker was declared dead; the message is another's")

    def look(self) -> None:
        """Settle what Redis was not told of, and put back what nobody here works on. Raises `RedisError`."""
        for tag, settlement in list(self._unsettled.items()):
            self._settle(tag, settlement)
        with self._lock:
            forgotten = [tag for tag, known in self._held.items() if known.worked_on() is None]
        for tag in forgotten:
            self.put_back(tag, End.FRONT)
        self._look_for_strangers()
        if forgotten:
            log.warning("messages.put_back", count=len(forgotten), reason="nobody here works on them any more")

    def _look_for_strangers(self) -> None:
        """Messages that Redis moved here and whose reply never came: at the second look they are put back."""
        self._looks += 1
        with self._lock:
            known = self._held.keys() | self._unsettled.keys()
        as_expected = not self._strangers and held.count(self._client, self.holder) == len(known)
        if as_expected and self._looks % _THOROUGH_EVERY:
            return
        found = {tag: raw for raw in held.read(self._client, self.holder) if (tag := _name(raw)) not in known}
        with self._lock:
            lost = [tag for tag in found if tag in self._strangers and tag not in self._held]
            self._given_up.extend(lost)
            self._strangers = found.keys() - set(lost)
        for tag in lost:
            self._settle(tag, Settlement(raw=found[tag], end=End.FRONT, again=envelope.again(found[tag])))
        if lost:
            log.warning("messages.put_back", count=len(lost), reason="Redis gave them to this worker, and the reply was lost")

    def tidy_queue(self) -> None:
        """Take up what producers enqueued with a priority: a worker takes from one list. Raises `RedisError`."""
        held.gather_priorities(self._client, self.holder.queue)

    def give_up(self) -> None:
        """The end of a process, when nothing runs any more: puts everything back that is still held, and is forgotten."""
        if self._ended:
            return
        self._may_take, self._ended = False, True
        try:
            returned = self._return_all()
        except (RedisError, OSError) as error:
            log.warning("messages.left", error=repr(error), reason="other workers put them back, once they find this one gone")
        else:
            log.info("worker.left", messages_put_back=returned)
        self._client.close()

    def _return_all(self) -> int:
        for tag, settlement in list(self._unsettled.items()):
            self._settle(tag, settlement)
        returned = 0
        while not self._fenced and (raw := held.bury(self._client, self.holder)) is not None:
            settlement = Settlement(raw=raw, end=End.FRONT, again=envelope.again(raw))
            if held.settle(self._client, self.holder, settlement) is Settled.FENCED:
                break
            returned += 1
        return returned


def _name(raw: bytes) -> str:
    found = envelope.read(raw)
    return (found and envelope.tag(found)) or f"unreadable {len(raw)}"


_current: tuple[int, Holdings] | None = None


def begin(settings: Settings, queue: str) -> Holdings:
    """This process is a worker from now on, and takes its messages from `queue`."""
    global _current  # noqa: PLW0603 - Celery gives its parts no other place to find what their process holds
    holder = Holder(worker_id=identity.worker_id(), queue=queue)
    _current = (os.getpid(), Holdings(connection.open_sync(settings, raw=True), holder))
    return _current[1]


def current() -> Holdings | None:
    """What this process holds, if it is a worker."""
    return _current[1] if _current is not None and _current[0] == os.getpid() else None
