"""One chunk of a document, from its text to what its answer says."""

from dataclasses import dataclass

from aegis_workers.completion import Completion, CompletionRequest
from aegis_workers.dispatch.calls import CallOutcome
from aegis_workers.dispatch.inputs import ExtractionPlan
from aegis_workers.extraction import document, prompt
from aegis_workers.extraction.chunking import Chunk
from aegis_workers.extraction.merging import ChunkResult
from aegis_workers.outcome import Problem, Status
from aegis_workers.routing import Engine, Mode


@dataclass(frozen=True, kw_only=True)
class ChunkRead:
    """How one chunk was read, and where its call ran last: nowhere, where it ended before an engine had it.

    Tokens are those of the answer that was taken, by the engine's own count.
    """

    result: ChunkResult
    engine: Engine | None = None
    mode: Mode | None = None
    reason: str = ""
    attempts: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    engine_s: float = 0.0


class Reading:
    """A chunk whose answer is judged as it comes; the last judgement is what it says."""

    def __init__(self, chunk: Chunk, plan: ExtractionPlan) -> None:
        self._chunk = chunk
        self._plan = plan
        self._judged: ChunkResult | None = None

    def request(self) -> CompletionRequest:
        """What the engine is asked."""
        messages = prompt.messages(self._chunk.text, self._plan.schema, self._plan.instructions)
        return CompletionRequest(messages=messages, schema=self._plan.schema.source, sampling=self._plan.sampling)

    def judge(self, completion: Completion) -> Status:
        """What an answer is worth."""
        self._judged = document.read(completion, self._chunk, self._plan.schema)
        return self._judged.status

    def read(self, outcome: CallOutcome) -> ChunkRead:
        """How the chunk was read, by the outcome of the call whose answers were judged here."""
        answer, judged = outcome.completion, self._judged
        if answer is None or judged is None:
            judged = ChunkResult(chunk=self._chunk, status=outcome.status, problem=outcome.problem)
        return ChunkRead(
            result=judged,
            engine=outcome.engine,
            mode=outcome.mode,
            reason=outcome.reason,
            attempts=outcome.attempts,
            prompt_tokens=(answer and answer.prompt_tokens) or 0,
            completion_tokens=(answer and answer.completion_tokens) or 0,
            engine_s=outcome.engine_s,
        )


def unread(chunk: Chunk, status: Status, problem: Problem) -> ChunkRead:
    """A chunk that no engine had."""
    return ChunkRead(result=ChunkResult(chunk=chunk, status=status, problem=problem))
