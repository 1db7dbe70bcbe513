"""Slots and breakers as they should be: what the scripts of `state.slots` are held against, and what dispatch is tested on."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from aegis_workers.routing import Engine, Lane
from aegis_workers.state.breaker import CLOSED, FAILURES_TO_OPEN, FIRST_OPEN_S, LONGEST_OPEN_S, Breaker
from aegis_workers.state.cancels import Cancel
from aegis_workers.state.slots import DEMAND_S, LEASE_S, Ended, Exchange, Give, Held, Outcome, Refusal, Replica, Want

TRIAL_MS = 130_000


def after(breaker: Breaker, member: str, call_id: str, ended: Ended, now_ms: int) -> Breaker:
    """The breaker after a call gave its slot back."""
    if breaker.opens:
        return _after_trial(breaker, ended, now_ms) if breaker.trial == member else breaker
    if ended is Ended.SERVED:
        return CLOSED
    if ended is Ended.FAILED and call_id not in breaker.failed:
        failed = (*breaker.failed, call_id)
        return _open(1, now_ms) if len(failed) >= FAILURES_TO_OPEN else Breaker(failed=failed)
    return breaker


def _after_trial(breaker: Breaker, ended: Ended, now_ms: int) -> Breaker:
    match ended:
        case Ended.SERVED:
            return CLOSED
        case Ended.FAILED:
            return _open(breaker.opens + 1, now_ms)
        case Ended.OTHER:
            return replace(breaker, trial="", trial_until_ms=0)


def _open(opens: int, now_ms: int) -> Breaker:
    return Breaker(opens=opens, until_ms=now_ms + int(1000 * min(LONGEST_OPEN_S, FIRST_OPEN_S * 2 ** (opens - 1))))


@dataclass
class SlotModel:
    """What Redis holds. `pushed`: engines for which a slot became free while another worker waited."""

    mode: str | None = None
    now_ms: int = 1_700_000_000_000
    epochs: dict[Engine, str] = field(default_factory=dict)
    fenced: set[Engine] = field(default_factory=set)
    ready: Callable[[str], bool] = lambda _url: True
    breakers: dict[str, Breaker] = field(default_factory=dict)
    leases: dict[tuple[str, Lane], dict[str, int]] = field(default_factory=dict)
    demand: dict[tuple[Engine, Lane], tuple[str, int]] = field(default_factory=dict)
    revoked: set[str] = field(default_factory=set)
    pushed: list[Engine] = field(default_factory=list)

    def count(self, url: str, lane: Lane | None = None) -> int:
        lanes = Lane if lane is None else (lane,)
        return sum(len(self.leases.get((url, one), {})) for one in lanes)

    def waits_elsewhere(self, worker: str, engine: Engine, lane: Lane) -> bool:
        waiting, till = self.demand.get((engine, lane), ("", 0))
        return bool(waiting) and till > self.now_ms and waiting != worker

    def exchange(self, worker: str, asked: Exchange) -> Outcome:
        freed = [self._give(worker, give) for give in asked.gives]
        if any(freed) and any(self.waits_elsewhere(worker, asked.engine, lane) for lane in Lane):
            self.pushed.append(asked.engine)
        refusals: dict[Lane, Refusal] = {}
        if asked.mode != self.mode:
            refusals = dict.fromkeys(Lane, Refusal.MODE)
        elif asked.engine in self.fenced or asked.epoch != self.epochs.get(asked.engine, ""):
            refusals = dict.fromkeys(Lane, Refusal.ENGINE)
        urls = [self._want(worker, asked, want, refusals) for want in asked.wants]
        self._note_demand(worker, asked, refusals)
        cancelled = {want.call_id: Cancel.REVOKE for want in asked.wants if want.task_id in self.revoked}
        others_wait = any(self.waits_elsewhere(worker, asked.engine, lane) for lane in Lane)
        return Outcome(urls=urls, cancelled=cancelled, refusals=refusals, others_wait=others_wait)

    def _give(self, worker: str, give: Give) -> bool:
        member = f"{worker}|{give.call_id}"
        before = self.breakers.get(give.url, CLOSED)
        self.breakers[give.url] = after(before, member, give.call_id, give.ended, self.now_ms)
        return self.leases.get((give.url, give.lane), {}).pop(member, None) is not None

    def _want(self, worker: str, asked: Exchange, want: Want, refusals: dict[Lane, Refusal]) -> str | None:
        if want.task_id in self.revoked or want.lane in refusals:
            return None
        taken = self._taken_over(asked, want) if want.again else None
        if taken is None:
            taken = self._choose(worker, asked, want.lane)
        if isinstance(taken, Refusal):
            refusals[want.lane] = taken
            return None
        member = f"{worker}|{want.call_id}"
        self.leases.setdefault((taken, want.lane), {})[member] = self.now_ms + int(LEASE_S * 1000)
        breaker = self.breakers.get(taken, CLOSED)
        if breaker.opens:
            self.breakers[taken] = replace(breaker, trial=member, trial_until_ms=self.now_ms + TRIAL_MS)
        return taken

    def _taken_over(self, asked: Exchange, want: Want) -> str | None:
        for replica in asked.replicas:
            held = self.leases.get((replica.url, want.lane), {})
            for member in sorted(held):
                if member.endswith(f"|{want.call_id}"):
                    del held[member]
                    return replica.url
        return None

    def _choose(self, worker: str, asked: Exchange, lane: Lane) -> str | Refusal:
        ready = [replica for replica in asked.replicas if self.ready(replica.url)]
        if not ready:
            return Refusal.ENGINE
        passing = [replica for replica in ready if self.breakers.get(replica.url, CLOSED).lets_through(self.now_ms)]
        if not passing:
            return Refusal.BREAKER
        free = {replica.url: self._room(replica, lane) for replica in passing}
        left_to_others = int(self.waits_elsewhere(worker, asked.engine, lane))
        yields = lane is Lane.BULK and self.waits_elsewhere(worker, asked.engine, Lane.INTERACTIVE)
        if yields or sum(free.values()) <= left_to_others:
            return Refusal.FULL
        return min((url for url in free if free[url]), key=self.count)

    def _room(self, replica: Replica, lane: Lane) -> int:
        free = replica.limit - self.count(replica.url)
        if lane is Lane.BULK:
            free = min(free, replica.limit - replica.kept - self.count(replica.url, Lane.BULK))
        return max(0, free)

    def _note_demand(self, worker: str, asked: Exchange, refusals: dict[Lane, Refusal]) -> None:
        for lane in {want.lane for want in asked.wants}:
            key = asked.engine, lane
            waiting, till = self.demand.get(key, ("", 0))
            known = till > self.now_ms
            if refusals.get(lane) is Refusal.FULL:
                if not known or (waiting == worker and till - self.now_ms < DEMAND_S * 500):
                    self.demand[key] = (worker, self.now_ms + int(DEMAND_S * 1000))
            elif known and waiting == worker:
                del self.demand[key]

    def forget(self, worker: str) -> int:
        """A worker is dead."""
        for url, breaker in self.breakers.items():
            if breaker.trial.startswith(f"{worker}|"):
                self.breakers[url] = replace(breaker, trial="", trial_until_ms=0)
        its = [(held, member) for held in self.leases.values() for member in held if member.startswith(f"{worker}|")]
        for held, member in its:
            del held[member]
        return len(its)


def _set() -> asyncio.Event:
    event = asyncio.Event()
    event.set()
    return event


@dataclass
class LocalLedger:
    """One worker's way to the model, in place of Redis. `asked`: every exchange so far; answers come once `answers` is set."""

    model: SlotModel
    worker: str = "this"
    away: Callable[[], Exception | None] = lambda: None
    asked: list[Exchange] = field(default_factory=list)
    answers: asyncio.Event = field(default_factory=_set)

    def now_ms(self) -> int:
        return self.model.now_ms

    async def exchange(self, asked: Exchange) -> Outcome:
        if error := self.away():
            raise error
        self.asked.append(asked)
        outcome = self.model.exchange(self.worker, asked)
        await self.answers.wait()
        if error := self.away():
            raise error
        return outcome

    async def refresh(self, held: Held) -> None:
        if error := self.away():
            raise error
        for key, call_ids in held.items():
            kept = {f"{self.worker}|{call_id}": self.model.now_ms + int(LEASE_S * 1000) for call_id in call_ids}
            self.model.leases.setdefault(key, {}).update(kept)
