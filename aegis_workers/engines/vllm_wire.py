"""What vLLM sends, as far as it is read here; and a streamed answer as it grows."""

from typing import Any

from pydantic import BaseModel, ConfigDict

from aegis_workers.completion import Completion, Finish
from aegis_workers.errors import EngineBusy, EngineLost, EngineWithdrew


class _Wire(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Text(_Wire):
    """A whole message, or a stream's next piece of one. Reasoning has two names: `reasoning` is today's."""

    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None

    @property
    def thoughts(self) -> str:
        """The reasoning under either of its names."""
        return self.reasoning or self.reasoning_content or ""


class Choice(_Wire):
    """The one choice that is asked for: its `message`, or a stream's `delta`."""

    message: Text = Text()
    delta: Text = Text()
    finish_reason: str | None = None


class Usage(_Wire):
    """The engine's own counts."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class Answer(_Wire):
    """A chat completion, or one event of a stream. `error` stands for the rest where a stream failed after its status."""

    choices: tuple[Choice, ...] = ()
    usage: Usage | None = None
    error: Any = None


class ModelCard(_Wire):
    """One model on offer."""

    id: str


class ModelList(_Wire):
    """The answer of `/v1/models`."""

    data: tuple[ModelCard, ...] = ()


class Draft:
    """An answer while it is streamed."""

    def __init__(self) -> None:
        self._text: list[str] = []
        self._thoughts: list[str] = []
        self._finish_reason: str | None = None
        self._usage: Usage | None = None

    def add(self, event: Answer) -> str:
        """Take one event; the text that it brings, often empty."""
        self._usage = event.usage or self._usage
        if not event.choices:
            return ""
        choice = event.choices[0]
        self._finish_reason = choice.finish_reason or self._finish_reason
        self._thoughts.append(choice.delta.thoughts)
        self._text.append(choice.delta.content or "")
        return self._text[-1]

    def whole(self) -> Answer:
        """The events so far as one answer, as if it had not been streamed."""
        message = Text(content="".join(self._text), reasoning="".join(self._thoughts))
        return Answer(choices=(Choice(message=message, finish_reason=self._finish_reason),), usage=self._usage)


def completion(answer: Answer, *, where: str) -> Completion:
    """The complete answer.

    Raises `EngineLost` where the engine broke it off: a server that is told to stop, to sleep or to pause ends its calls with
    status 200 and `abort`. An ending of any other unknown kind is `EngineBusy`, which spends an attempt, so that it cannot repeat
    for ever.
    """
    if not answer.choices:
        raise EngineBusy(f"{where} answered without a choice")
    choice = answer.choices[0]
    usage = answer.usage or Usage()
    return Completion(
        text=choice.message.content or "",
        finish=_finish(choice.finish_reason, where),
        reasoning=choice.message.thoughts or None,
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
    )


def _finish(reason: str | None, where: str) -> Finish:
    match reason:
        case Finish.STOP | Finish.LENGTH:
            return Finish(reason)
        case None:
            raise EngineLost(f"{where} ended the answer without a finish reason")
        case "abort" | "error":
            raise EngineWithdrew(f"{where} broke the answer off (finish reason {reason})")
        case _:
            raise EngineBusy(f"{where} ended the answer for a reason that is neither stop nor length", words=reason)
