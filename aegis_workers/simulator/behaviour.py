"""Faults: what a simulator does wrong on request, set through `POST /_sim/behaviour`."""

import random
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Behaviour(BaseModel):
    """The faults in force; an empty one is none. Those below `health_down` are the engine's own and know no `times`.

    `times`: only the next so many calls are treated so. `error_status`: answer with that status, with a probability of
    `error_rate`, or every `error_every`-th call; `error_message` replaces the usual words. `hang`: take a slot and never answer.
    `slow_s`: take so much longer. `drop_after_chunks`: close the connection after so many pieces of a stream (or in the middle of
    a whole answer). `end`: how a stream fails to end: `missing` (it just stops), `error` (an error object, as after the
    engine's death), `unfinished` (the end mark without a finish reason); whole answers have the corresponding flaw.
    `finish`: the finish reason said, with a cut answer. `answer`: the text answered. `malformed_json`: an answer cut in its
    middle which says that it is complete. `control_characters`: raw ones within JSON strings. `whitespace`: an answer that
    loops on whitespace to its length limit. `garbage`: a body that is no JSON at all. `truncated_prompt`: the prompt's tokens
    that were read, answered with 200. `reasoning`: thoughts that come before the answer; `reasoning_field`: vLLM's name for them.

    `health_down`: health checks answer 503. `asleep` (vLLM): healthy, and every call waits. `die`: the process exits (started
    in-process: all sockets close hard) at once, or on the next call.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    times: int | None = Field(None, ge=1)
    error_status: int | None = Field(None, ge=400, le=599)
    error_rate: float = Field(1.0, ge=0, le=1)
    error_every: int = Field(1, ge=1)
    error_message: str | None = None
    hang: bool = False
    slow_s: float = Field(0.0, ge=0)
    drop_after_chunks: int | None = Field(None, ge=0)
    end: Literal["missing", "error", "unfinished"] | None = None
    finish: str | None = None
    answer: str | None = None
    malformed_json: bool = False
    control_characters: bool = False
    whitespace: bool = False
    garbage: bool = False
    truncated_prompt: int | None = Field(None, ge=0)
    reasoning: str | None = None
    reasoning_field: Literal["reasoning", "reasoning_content"] = "reasoning"
    health_down: bool = False
    asleep: bool = False
    die: Literal["now", "on_call"] | None = None


NONE = Behaviour()


class Faults:
    """The behaviour in force, and which calls it meets."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311 - which calls fail, no secrets
        self.behaviour = NONE
        self._calls = 0

    def set(self, behaviour: Behaviour) -> None:
        """Put `behaviour` in force for the calls that come from now on."""
        self.behaviour = behaviour
        self._calls = 0

    def take(self) -> Behaviour:
        """What the call that comes now meets; its `error_status` is set only where this very call is to fail."""
        behaviour = self.behaviour
        if behaviour is NONE:
            return NONE
        self._calls += 1
        if behaviour.times is not None and self._calls > behaviour.times:
            return NONE
        if behaviour.error_status is not None and not self._fails():
            return behaviour.model_copy(update={"error_status": None})
        return behaviour

    def _fails(self) -> bool:
        if self._calls % self.behaviour.error_every:
            return False
        return self._random.random() < self.behaviour.error_rate
