import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import pytest
import redis
import redis.asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aegis_workers.engines.base import Probe, Readiness
from aegis_workers.routing import Engine
from aegis_workers.settings import Settings
from aegis_workers.state import connection, engine_status, keys
from aegis_workers.state.engine_status import UNKNOWN, EngineStatus, ReplicaStatus

pytestmark = pytest.mark.anyio

READY, STARTING, UNAVAILABLE = Readiness.READY, Readiness.STARTING, Readiness.UNAVAILABLE
ONE, TWO = "http://one:8000", "http://two:8000/prefix"
NOW = 1_800_000_000.25


def replica(url: str, state: Readiness, reason: str = "") -> ReplicaStatus:
    return ReplicaStatus(url=url, state=state, reason=reason)


async def test_what_was_reported_is_read_by_others(client: redis.Redis, async_client: redis.asyncio.Redis) -> None:
    found = ReplicaStatus(
        url=ONE, state=READY, reason='words with "quotes", é and \\n\n', version="0.33", loaded=True, running=3, waiting=0
    )
    await engine_status.report(async_client, Engine.OLLAMA, [found], complete=True, now=NOW)
    expected = EngineStatus(state=READY, reason=found.reason, since=NOW, probed_at=NOW, replicas=(replace(found, since=NOW),))
    assert engine_status.read(client, Engine.OLLAMA) == expected
    statuses = (await engine_status.cache(async_client).read()).value
    assert statuses == {Engine.OLLAMA: expected, Engine.VLLM: UNKNOWN}


async def test_what_nobody_has_looked_at_is_not_up_and_says_so(client: redis.Redis) -> None:
    assert engine_status.read(client, Engine.VLLM) == UNKNOWN
    assert UNKNOWN.state is UNAVAILABLE
    assert UNKNOWN.reason == "not probed yet"


async def test_since_moves_only_when_the_state_changes(client: redis.Redis, async_client: redis.asyncio.Redis) -> None:
    for later, state in enumerate([UNAVAILABLE, UNAVAILABLE, STARTING, READY, READY]):
        await engine_status.report(async_client, Engine.VLLM, [replica(ONE, state)], complete=True, now=NOW + later)
    status = engine_status.read(client, Engine.VLLM)
    assert (status.since, status.probed_at) == (NOW + 3, NOW + 4)
    assert status.replicas[0].since == NOW + 3


async def test_an_engine_is_what_its_best_replica_is(client: redis.Redis, async_client: redis.asyncio.Redis) -> None:
    replicas = [replica(ONE, UNAVAILABLE, "gone"), replica(TWO, READY, "serves")]
    await engine_status.report(async_client, Engine.VLLM, replicas, complete=True)
    status = engine_status.read(client, Engine.VLLM)
    assert (status.state, status.reason, status.ready_urls) == (READY, "serves", (TWO,))


async def test_the_loss_of_one_replica_leaves_the_others_and_the_time_of_the_last_probe(
    client: redis.Redis, async_client: redis.asyncio.Redis
) -> None:
    both = [replica(ONE, READY), replica(TWO, READY)]
    await engine_status.report(async_client, Engine.VLLM, both, complete=True, now=NOW)
    await engine_status.report(async_client, Engine.VLLM, [replica(ONE, UNAVAILABLE, "refused")], complete=False, now=NOW + 1)
    status = engine_status.read(client, Engine.VLLM)
    assert (status.ready_urls, status.since, status.probed_at) == ((TWO,), NOW, NOW)


async def test_replicas_that_are_configured_no_more_are_forgotten(client: redis.Redis, async_client: redis.asyncio.Redis) -> None:
    await engine_status.report(async_client, Engine.VLLM, [replica(ONE, READY)], complete=True)
    await engine_status.report(async_client, Engine.VLLM, [replica(TWO, STARTING)], complete=True)
    status = engine_status.read(client, Engine.VLLM)
    assert (status.state, [found.url for found in status.replicas]) == (STARTING, [TWO])
    await engine_status.report(async_client, Engine.VLLM, [], complete=True)
    assert engine_status.read(client, Engine.VLLM) == UNKNOWN


async def test_what_a_newer_version_adds_is_passed_over(client: redis.Redis) -> None:
    facts = {"state": "ready", "reason": "", "since": NOW, "flavour": "new"}
    fields = {"state": "ready", "since": str(NOW), f"replica:{ONE}": json.dumps(facts), "colour": "new"}
    for name, value in fields.items():
        client.hset(keys.engine(Engine.VLLM), name, value)
    assert engine_status.read(client, Engine.VLLM).ready_urls == (ONE,)


def test_a_probe_becomes_a_status_with_all_that_it_found() -> None:
    probe = Probe(readiness=STARTING, reason="loads", version="1", models=("m",), loaded=True, running=1, waiting=2)
    assert engine_status.observed(ONE, probe) == ReplicaStatus(
        url=ONE, state=STARTING, reason="loads", version="1", loaded=True, running=1, waiting=2
    )


RANK = [UNAVAILABLE, STARTING, READY]


@dataclass
class Model:
    """The script of a report, in Python."""

    replicas: dict[str, ReplicaStatus] = field(default_factory=dict)
    state: Readiness | None = None
    since: float | None = None
    probed_at: float | None = None

    def report(self, found: Mapping[str, Readiness], *, complete: bool, now: float) -> None:
        if complete:
            self.replicas = {url: replica for url, replica in self.replicas.items() if url in found}
        for url, state in found.items():
            before = self.replicas.get(url)
            since = before.since if before and before.state is state else now
            self.replicas[url] = replace(replica(url, state, str(state)), since=since)
        if not self.replicas:
            self.state = self.since = self.probed_at = None
            return
        best = max((found.state for found in self.replicas.values()), key=RANK.index)
        if best is not self.state:
            self.state, self.since = best, now
        if complete:
            self.probed_at = now

    @property
    def status(self) -> EngineStatus:
        if self.state is None:
            return UNKNOWN
        replicas = tuple(self.replicas[url] for url in sorted(self.replicas))
        return EngineStatus(
            state=self.state, reason=str(self.state), since=self.since, probed_at=self.probed_at, replicas=replicas
        )


reports = st.tuples(st.dictionaries(st.sampled_from([ONE, TWO, "http://three"]), st.sampled_from(RANK)), st.booleans())


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(reports, max_size=12))
def test_every_run_of_reports_ends_as_the_model_says(
    client: redis.Redis, request: pytest.FixtureRequest, reported: Sequence[tuple[dict[str, Readiness], bool]]
) -> None:
    client.flushall()
    place: Settings = request.getfixturevalue("settings")
    model = Model()

    async def carry_out() -> None:
        async with connection.open_async(place) as writer:
            for later, (states, complete) in enumerate(reported):
                found = [replica(url, state, str(state)) for url, state in states.items()]
                await engine_status.report(writer, Engine.VLLM, found, complete=complete, now=NOW + later)
                model.report(states, complete=complete, now=NOW + later)
                assert engine_status.read(client, Engine.VLLM) == model.status

    asyncio.run(carry_out())
