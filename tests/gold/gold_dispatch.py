"""Gold documents on their way through the real dispatch: admitted, asked for, asked for again, and merged."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import gold_scoring
from gold_documents import Gold
from gold_engine import ScriptedEngine
from gold_runs import ANSWERED, DEFAULT, Cut, Finding, count_astray, due_status
from kept_answers import KeptAnswers
from slot_model import LocalLedger, SlotModel
from structlog.testing import capture_logs
from suspects_here import SuspectsHere

from aegis_workers.completion import Completion, CompletionRequest, Message
from aegis_workers.dispatch import calls, inputs
from aegis_workers.dispatch.admission import Admission
from aegis_workers.dispatch.attempts import MAX_REASKS
from aegis_workers.dispatch.calls import Calls
from aegis_workers.dispatch.delivery import Delivery
from aegis_workers.dispatch.documents import Documents
from aegis_workers.dispatch.fleet import Fleet, Limits
from aegis_workers.dispatch.inputs import ExtractionPlan
from aegis_workers.engines.base import EngineClient, Probe, Readiness
from aegis_workers.errors import EngineLost
from aegis_workers.extraction import chunking, prompt
from aegis_workers.outcome import Status
from aegis_workers.routing import Engine, Mode, Policy
from aegis_workers.settings import Settings
from aegis_workers.state.cached import Cached
from aegis_workers.state.engine_status import UNKNOWN, EngineStatus, ReplicaStatus, Statuses
from aegis_workers.state.mode import ModeReading

T = TypeVar("T")

_URL = "http://scripted"
_DEADLINE_S = 30.0
_IN_FLIGHT = 8
_MAX_TICKS = 20


@dataclass(eq=False)
class ScriptedClient:
    """A replica whose answers a scripted engine gives, each after a while of its own."""

    scripted: ScriptedEngine
    rng: random.Random
    engine: Engine = Engine.VLLM
    url: str = _URL

    async def complete(self, request: CompletionRequest) -> Completion:
        for _ in range(self.rng.randrange(_MAX_TICKS)):
            await asyncio.sleep(0)
        asked = round((request.sampling.temperature or 0.0) / calls._REASK_TEMPERATURE_STEP)
        return self.scripted.answer(request.messages, asked).completion

    async def stream(self, request: CompletionRequest) -> AsyncGenerator[str | Completion, None]:
        yield await self.complete(request)

    async def probe(self) -> Probe:
        return Probe(readiness=Readiness.READY)

    async def prove(self) -> None: ...

    async def warm_up(self) -> None: ...

    async def release(self) -> None: ...

    async def aclose(self) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Due:
    """How a chunk has to end, and after how many answers."""

    status: Status
    attempts: int


def read(gold: Gold, engine: ScriptedEngine, cut: Cut) -> Finding:
    """The document as a worker reads it; its chunks are in flight together and end in an order of their own."""
    options = {"chunk_tokens": cut.chunk_tokens, "chunk_overlap_tokens": cut.overlap_tokens}
    settings = Settings(_env_file=None)
    with capture_logs():
        result = asyncio.run(_extract(gold, engine, inputs.extraction_plan(None, options, settings), settings))
    due = _due(gold, engine, cut)
    statuses = [Status(call["status"]) for call in result["calls"]]
    wanted = [one.status for one in due]
    seen = [(call["start"], call["end"]) for call in result["calls"] if call["status"] in ANSWERED]
    return Finding(
        score=gold_scoring.score(result["data"], gold, seen),
        statuses=Counter(statuses),
        astray=count_astray([*statuses, Status(result["status"])], [*wanted, due_status(wanted)])
        + sum(call["attempts"] != one.attempts for call, one in zip(result["calls"], due, strict=True)),
    )


def _due(gold: Gold, engine: ScriptedEngine, cut: Cut) -> list[Due]:
    chunks = chunking.split(gold.text, max_tokens=cut.chunk_tokens, overlap_tokens=cut.overlap_tokens)
    return [_due_of(engine, prompt.messages(chunk.text, DEFAULT, None)) for chunk in chunks]


def _due_of(engine: ScriptedEngine, messages: Sequence[Message]) -> Due:
    """A chunk ends with its first answer that can be read, else with the last one that it may be asked for."""
    statuses = [engine.answer(messages, asked).status for asked in range(MAX_REASKS + 1)]
    readable = next((asked for asked, status in enumerate(statuses) if status in ANSWERED), MAX_REASKS)
    return Due(status=statuses[readable], attempts=readable + 1)


async def _extract(gold: Gold, engine: ScriptedEngine, plan: ExtractionPlan, settings: Settings) -> dict[str, Any]:
    client = ScriptedClient(scripted=engine, rng=random.Random(gold.text))  # noqa: S311 - a seeded order, no secret
    async with _admitting(client) as admission:
        calls = Calls(admission, SuspectsHere(), timeout_s=_DEADLINE_S, report_lost=_ignore)
        return await Documents(calls, settings, KeptAnswers()).extract(gold.text, plan, _DEADLINE_S, Delivery(task_id=gold.text))


@asynccontextmanager
async def _admitting(client: EngineClient) -> AsyncIterator[Admission]:
    """Admission to `client`, which is always up."""
    ready = ReplicaStatus(url=client.url, state=Readiness.READY)
    up = EngineStatus(state=Readiness.READY, reason="", replicas=(ready,))
    clients: dict[Engine, Sequence[EngineClient]] = {Engine.VLLM: (client,), Engine.OLLAMA: ()}
    mode = _known(ModeReading(mode=Mode.VLLM, raw=Mode.VLLM.value))
    statuses: Cached[Statuses] = _known({Engine.VLLM: up, Engine.OLLAMA: UNKNOWN})
    limits = dict.fromkeys(Engine, Limits(limit=_IN_FLIGHT))
    fleet = Fleet(clients=clients, limits=limits, policy=Policy.DEGRADE)
    admission = Admission(fleet, mode, statuses, LocalLedger(SlotModel(mode=Mode.VLLM.value)))
    async with asyncio.TaskGroup() as group:
        pump = group.create_task(admission.run())
        try:
            yield admission
        finally:
            pump.cancel()


def _known(value: T) -> Cached[T]:
    async def fetch() -> T:
        return value

    return Cached(fetch, value, max_age_s=_DEADLINE_S)


async def _ignore(_client: EngineClient, _error: EngineLost) -> None:
    """Nobody else has to know."""
