"""The outcome of a call as text, on its way to a later delivery of its task."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Protocol

from aegis_workers.completion import Completion, Finish
from aegis_workers.dispatch.calls import CallOutcome
from aegis_workers.outcome import Problem, Status
from aegis_workers.routing import Engine, Mode


class AnswerStore(Protocol):
    """Where answers are kept; `state.answers.Answers` in a worker."""

    async def earlier(self, task_id: str) -> Mapping[str, str]: ...

    def keep(self, task_id: str, number: str, answer: str) -> None: ...

    def forget(self, task_id: str) -> None: ...


def encode(outcome: CallOutcome) -> str:
    """The outcome as JSON."""
    return json.dumps(asdict(outcome))


def decode(text: str) -> CallOutcome:
    """The outcome that `encode` was given."""
    facts: dict[str, Any] = json.loads(text)
    completion, problem = facts.pop("completion"), facts.pop("problem")
    return CallOutcome(
        **facts | {"status": Status(facts["status"]), "engine": Engine(facts["engine"]), "mode": Mode(facts["mode"])},
        completion=completion and Completion(**completion | {"finish": Finish(completion["finish"])}),
        problem=problem and Problem(**problem),
    )
