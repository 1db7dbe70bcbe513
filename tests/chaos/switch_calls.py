"""Calls that come all the time while engines are switched, and what came of every one of them."""

import json
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import storm
from celery import Celery
from installation import eventually, forget_results
from kombu.exceptions import OperationalError
from memory_host import EngineHost

from aegis_workers.simulator.tally import digest
from aegis_workers.state import keys

EVERY_S = 0.1
FEW = 10


@dataclass(frozen=True, kw_only=True)
class Aftermath:
    """What came of the calls.

    `lost`: without an outcome. `failed`: whose outcome is no answer. `twice`: whose outcome was written more than once.
    `not_once`: whose text was not answered exactly once, by the engines' own record. `slots_left`: leases of slots after it all.
    """

    calls: int
    lost: int
    failed: int
    twice: int
    not_once: int
    slots_left: int

    @property
    def kept(self) -> bool:
        """Whether there were calls, and each has its one answer."""
        return self.calls >= FEW and (self.lost, self.failed, self.twice, self.slots_left) == (0, 0, 0, 0)

    @property
    def holds(self) -> bool:
        """Whether besides no engine was asked for one of them twice."""
        return self.kept and self.not_once == 0


@dataclass
class Calls:
    """Extractions and chats in turn, each with a text of its own, from a thread that enqueues them until it is told to stop."""

    host: EngineHost
    texts: dict[str, str] = field(default_factory=dict)
    _told: threading.Event = field(default_factory=threading.Event)

    def _send(self, producer: Celery, number: int) -> None:
        task_id, text = str(uuid.uuid4()), f"Ada Stone met Bo Hill in town {number}."
        given: dict[str, Any] = {"text": text} if number % 2 else {"messages": [{"role": "user", "content": text}]}
        name, queue = ("aegis.extract", "extraction") if number % 2 else ("aegis.chat", "chat")
        try:
            producer.send_task(name, kwargs={**given, "version": 1}, queue=queue, task_id=task_id, retry=False)
        except (OperationalError, OSError):  # without Redis nothing is enqueued; whether this one was is not known
            return
        self.texts[task_id] = text

    def run(self) -> None:
        """Until it is told to stop."""
        url = self.host.place.settings.redis_url
        producer = Celery("calls", broker=url, backend=url)
        number = 0
        while not self._told.wait(EVERY_S):
            self._send(producer, number)
            number += 1
        forget_results(producer)

    def stop(self) -> None:
        """No call comes after this one."""
        self._told.set()

    def answered(self) -> int:
        """Calls with an outcome."""
        return len(self._outcomes()) - self._outcomes().count(None)

    def await_more(self, count: int = FEW) -> None:
        """Returns when so many more calls have their outcome."""
        before = self.answered()
        eventually(lambda: self.answered() >= before + count, within_s=30)

    def aftermath(self, *, within_s: float = 30.0) -> Aftermath:
        """What came of them, once every call has an outcome, or so much time has passed."""
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline and (None in self._outcomes() or self._slots()):
            time.sleep(0.05)
        outcomes, written, answered = self._outcomes(), storm.written_outcomes(self.host.place), self.host.answered()
        return Aftermath(
            calls=len(outcomes),
            lost=outcomes.count(None),
            failed=outcomes.count("FAILURE"),
            twice=sum(written[task_id] > 1 for task_id in self.texts),
            not_once=sum(answered[digest(text)] != 1 for text in self.texts.values()),
            slots_left=self._slots(),
        )

    def _outcomes(self) -> list[str | None]:
        """Celery's state of each call, None where it has no outcome."""
        names = [f"celery-task-meta-{task_id}" for task_id in list(self.texts)]
        found: Any = self.host.place.redis.mget(names) if names else []
        return [outcome and json.loads(outcome)["status"] for outcome in found]

    def _slots(self) -> int:
        redis = self.host.place.redis
        return sum(int(redis.zcard(name)) for name in list(redis.scan_iter(f"{keys.SLOTS_PREFIX}*")))


@contextmanager
def calling(host: EngineHost) -> Iterator[Calls]:
    """Calls that come until the block ends, of which a few are answered before it begins."""
    calls = Calls(host)
    thread = threading.Thread(target=calls.run, name="calls")
    thread.start()
    try:
        calls.await_more()
        yield calls
    finally:
        calls.stop()
        thread.join()
