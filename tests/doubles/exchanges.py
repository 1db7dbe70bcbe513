"""What a real engine was asked and how it answered, kept in files; and how alike another answer is.

Two answers are alike where a client cannot tell them apart: the same status and headers, the same keys with values of the same
types, the same words for errors, the same sequence of events. What a model wrote, counts and times may differ.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx

RECORDED = Path(__file__).parents[1] / "engines" / "recorded"
# Calls that a fault met: their files are told apart by this, because each needs its fault while it is under way.
_FAULTS = "-faults.json"

# Values that say what something is, rather than being it.
_NAMES = frozenset(
    {
        "code",
        "detail",
        "error",
        "finish_reason",
        "is_paused",
        "is_sleeping",
        "level",
        "object",
        "owned_by",
        "param",
        "role",
        "status",
    }
    | {"tags", "type"}
)
_HEADERS = ("allow", "content-type", "retry-after", "www-authenticate", "x-request-id")
_DONE = "[DONE]"
_SAMPLE = re.compile(r"^(\w+:\w+)(?:\{([^}]*)\})? ", re.MULTILINE)
_FAMILY = re.compile(r"^# TYPE (\S+) (\S+)", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """One request and its answer, as JSON. `changed` says what the simulator did before it was held against this answer.

    `fault`: what befell the engine while it had the request in hand.
    """

    name: str
    request: Mapping[str, Any]
    answer: Mapping[str, Any] | None = None
    changed: str | None = None
    fault: str | None = None


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """Exchanges in their order with one server, `server` says which; in the file `path`."""

    path: Path
    engine: str
    server: str
    exchanges: tuple[Exchange, ...]

    def save(self) -> None:
        """Write the file anew."""
        exchanges = [{name: value for name, value in vars(one).items() if value is not None} for one in self.exchanges]
        written = {"engine": self.engine, "server": self.server, "exchanges": exchanges}
        self.path.write_text(json.dumps(written, indent=1, ensure_ascii=False) + "\n")

    def with_answer(self, engine: str, name: str, answer: Mapping[str, Any]) -> "Conversation":
        """The same with this answer in the exchange of that name."""
        exchanges = (replace(one, answer=answer) if one.name == name else one for one in self.exchanges)
        return replace(self, engine=engine, exchanges=tuple(exchanges))

    def answered(self, engine: str, answers: Sequence[Mapping[str, Any]]) -> "Conversation":
        """The same requests with these answers."""
        exchanges = (replace(one, answer=answer) for one, answer in zip(self.exchanges, answers, strict=True))
        return replace(self, engine=engine, exchanges=tuple(exchanges))


def load(path: Path) -> Conversation:
    """The conversation in a file."""
    read = json.loads(path.read_text())
    exchanges = tuple(Exchange(**one) for one in read["exchanges"])
    return Conversation(path=path, engine=read["engine"], server=read["server"], exchanges=exchanges)


def load_all() -> list[Conversation]:
    """Every conversation that is kept, but for those of faults."""
    return [load(path) for path in sorted(RECORDED.glob("*.json")) if not path.name.endswith(_FAULTS)]


def load_faults(engine: str) -> Conversation:
    """What an engine answered to calls that a fault met."""
    return load(RECORDED / f"{engine}{_FAULTS}")


async def ask(http: httpx.AsyncClient, request: Mapping[str, Any]) -> dict[str, Any]:
    """The answer to `request`, in the form in which answers are kept: without ids, times and paths."""
    content = request["raw"].encode() if "raw" in request else None
    response = await http.request(
        request["method"], request["path"], content=content, json=request.get("body"), headers=request.get("headers", {})
    )
    headers = {name: response.headers[name] for name in _HEADERS if name in response.headers}
    return {"status": response.status_code, "headers": headers, **_content(response)}


def _content(response: httpx.Response) -> dict[str, Any]:
    kind = response.headers.get("content-type", "").partition(";")[0]
    if kind == "text/event-stream":
        return {"events": [_anonymous(_event(part)) for part in response.text.split("\n\n")[:-1]]}
    if kind == "application/json" and response.content:
        return {"body": _anonymous(response.json())}
    if response.text.startswith(("# HELP", "# TYPE")):
        return {"metrics": _metrics(response.text)}
    return {"text": response.text}


def _event(part: str) -> Any:
    assert part.startswith("data: "), part
    data = part.removeprefix("data: ")
    return data if data == _DONE else json.loads(data)


def _anonymous(value: Any, key: str = "") -> Any:
    match value:
        case dict():
            return {name: _anonymous(part, name) for name, part in value.items()}
        case list():
            return [_anonymous(part) for part in value]
        case str() if key in {"id", "system_fingerprint"}:
            return re.sub(r"-[0-9a-f]{8,}$", "-0", value)
        case str() if key == "root":
            return "MODEL"
        case int() if key == "created":
            return 0
    return value


def _metrics(text: str) -> dict[str, Any]:
    """The engine's own metrics by name: the type of their family, and their labels."""
    types = dict(_FAMILY.findall(text))
    found = {}
    for name, labels in _SAMPLE.findall(text):
        family = name if name in types else re.sub(r"_(bucket|sum|count|created)$", "", name)
        found[name] = [types.get(family, "untyped"), *sorted(re.findall(r'(\w+)="', labels))]
    return dict(sorted(found.items()))


def shortened(answer: Mapping[str, Any]) -> dict[str, Any]:
    """The same without the events of a stream that are like the one before."""
    events = answer.get("events", ())
    kept = [event for index, event in enumerate(events) if index == 0 or _form(event) != _form(events[index - 1])]
    return {**answer, "events": kept} if events else dict(answer)


def differences(answer: Mapping[str, Any], recorded: Mapping[str, Any]) -> list[str]:
    """The parts in which an answer is not like the recorded one. Of metrics it need have no more than some."""
    one, other = form(answer), form(recorded)
    if "metrics" in one and "metrics" in other:
        other["metrics"] = {name: what for name, what in other["metrics"].items() if name in one["metrics"]}
    return [
        f"{name}: {one.get(name)} is not {other.get(name)}" for name in sorted({*one, *other}) if one.get(name) != other.get(name)
    ]


def form(answer: Mapping[str, Any]) -> dict[str, Any]:
    """What of an answer another one must repeat to be alike."""
    kept = {name: part for name, part in answer.items() if name not in {"body", "events"}}
    if "body" in answer:
        kept["body"] = _form(answer["body"])
    if "events" in answer:
        kept["events"] = _sequence([_form(event) for event in answer["events"]])
    return kept


def _sequence(forms: Sequence[Any]) -> list[Any]:
    """Without repeats of the one before: how many pieces an answer comes in says nothing."""
    return [one for index, one in enumerate(forms) if index == 0 or one != forms[index - 1]]


def _form(value: Any, key: str = "") -> Any:
    match value:
        case dict():
            return {name: _form(part, name) for name, part in value.items()}
        case list():
            return _sequence([_form(part) for part in value])
        case _ if key in _NAMES:
            return value
        case str() if key == "message":
            return _words(value)
        case _:
            return str(type(value))


def _words(message: str) -> str:
    """How an error's message begins, without its numbers: of several validation errors the first."""
    first, *more = re.sub(r"\d+", "#", message).split("\n")
    return first.replace("errors:", "error:") + more[0] if first.startswith("# validation error") else first
