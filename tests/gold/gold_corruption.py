"""What engines do to answers, and how the chunk of each must end."""

import json
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from gold_documents import Gold

from aegis_workers.completion import Completion, Finish
from aegis_workers.outcome import Status

Data = dict[str, Any]

_CONFIDENCE = re.compile(r'"confidence": [^,]+')

# What an invented relation says, and no document does.
INVENTED_VERB = "secretly owns"
# The same between entities that the document names, and a type of such an entity: no mark speaks of verbs and types.
UNSAID_VERB = "is a rival of"
UNSAID_TYPE = "spaceship"


class Corruption(StrEnum):
    """What happened to an answer."""

    FENCED = "code fence"
    REASONED = "reasoning before it"
    CONTROLS = "raw control characters"
    DUPLICATED = "all said twice"
    MISSING = "values missing"
    INVENTED = "values invented"
    VERBS_INVENTED = "verbs invented"
    TYPES_INVENTED = "types invented"
    WRONG_JSON = "wrong JSON"
    WRONG_TYPES = "wrong types"
    KEY_TWICE = "a key said twice"
    PROSE = "prose around it"
    CUT = "cut"
    CUT_AT_LIMIT = "cut at its limit"
    NO_ANSWER = "no answer"


# After these the answer says the same as before, and nothing of it may be lost.
HARMLESS = frozenset({Corruption.FENCED, Corruption.REASONED, Corruption.CONTROLS, Corruption.DUPLICATED})
_READABLE = HARMLESS | {Corruption.MISSING, Corruption.INVENTED, Corruption.VERBS_INVENTED, Corruption.TYPES_INVENTED}
# After these the chunk has no answer, and says so.
UNREADABLE = tuple(corruption for corruption in Corruption if corruption not in _READABLE)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the engine says, what was done to it, and the status that its chunk must end with.

    `invented`: the forms in it that the document nowhere says.
    """

    completion: Completion
    corruption: Corruption | None
    status: Status
    invented: frozenset[str] = frozenset()


def spoil(corruption: Corruption | None, data: Data, gold: Gold, rng: random.Random) -> Answer:
    """`data` as the text of an answer, with `corruption` done to it."""
    invented = frozenset[str]()
    if corruption is Corruption.MISSING:
        data = _thinned(data, rng)
    elif corruption is Corruption.INVENTED:
        data, invented = _with_inventions(data, gold, rng)
    elif corruption is Corruption.VERBS_INVENTED:
        named = [one["name"] for one in data["entities"]]
        data = data | {"relations": data["relations"] + [_said(name, rng.choice(named), UNSAID_VERB) for name in named]}
    elif corruption is Corruption.TYPES_INVENTED:
        data = data | {"entities": data["entities"] + [one | {"type": UNSAID_TYPE} for one in data["entities"]]}
    elif corruption is Corruption.DUPLICATED:
        data = {part: values + [value | {"description": "Again."} for value in values] for part, values in data.items()}
    text = json.dumps(data, ensure_ascii=rng.random() < 0.5)
    if corruption is not None and corruption in _SPOILS:
        text = _SPOILS[corruption](text, data, rng)
    finish = Finish.LENGTH if corruption is Corruption.CUT_AT_LIMIT else Finish.STOP
    return Answer(
        completion=Completion(text=text, finish=finish),
        corruption=corruption,
        status=_status(corruption, data),
        invented=invented,
    )


def _status(corruption: Corruption | None, data: Data) -> Status:
    if corruption is Corruption.CUT_AT_LIMIT:
        return Status.TRUNCATED
    if corruption is None or corruption in _READABLE:
        return Status.OK if any(data.values()) else Status.EMPTY
    return Status.INVALID


def _thinned(data: Data, rng: random.Random) -> Data:
    """Some of `data`: entities, forms of them and relations are left out."""
    entities = [one | {"mentions": _some(one["mentions"], rng)} for one in _some(data["entities"], rng)]
    return {"entities": entities, "relations": _some(data["relations"], rng)}


def _some(values: Sequence[Any], rng: random.Random) -> list[Any]:
    return [value for value in values if rng.random() < 0.6]


def _with_inventions(data: Data, gold: Gold, rng: random.Random) -> tuple[Data, frozenset[str]]:
    """`data` with an entity, forms of entities and ends of relations that the document nowhere says; and those values."""
    made_up, form, end = (invent(gold, rng) for _ in range(3))
    entities = [one | {"mentions": [*one["mentions"], form]} for one in data["entities"]]
    relations = [*data["relations"], _said(made_up, end)]
    for one in data["entities"]:
        # Real words under a name of the engine's own: the words may be taken for the text's, the name may not.
        renamed = f"{invent(gold, rng)} {rng.getrandbits(32)}"
        entities.append(_imagined(renamed, one["mentions"][0]))
        relations += [_said(made_up, one["name"]), _said(one["name"], end), _said(end, renamed)]
    invented = {made_up, form} if data["entities"] else {made_up}
    return {"entities": [*entities, _imagined(made_up, made_up)], "relations": relations}, frozenset(invented)


def _imagined(name: str, *mentions: str) -> Data:
    return {"name": name, "type": "person", "description": "", "confidence": 1, "mentions": list(mentions)}


def _said(source: str, target: str, verb: str = INVENTED_VERB) -> Data:
    return {"source": source, "relation": verb, "target": target, "description": "", "strength": 10}


def invent(gold: Gold, rng: random.Random) -> str:
    """A name that the document nowhere says, most often one that is close to one that it does."""
    while True:
        name = rng.choice(_INVENTIONS)(gold, rng)
        if name.strip() and not gold.says(name):
            return name


def _far(_gold: Gold, rng: random.Random) -> str:
    return " ".join(rng.choice(("Zorvath", "Quillon", "魑魅", "Ψύχω", "זזז")) for _ in range(rng.randint(1, 2)))


def _near(gold: Gold, rng: random.Random) -> str:
    """A name of the document with a letter taken out, put in or changed; its words glued together, or one of them changed."""
    if not gold.mentions:
        return _far(gold, rng)
    words = gold.words(rng.choice(gold.mentions).span)
    index = rng.randrange(len(words))
    before, after = words[:index], words[index + 1 :]
    return rng.choice((before + after, f"{before}q{after}", f"{words}q", "".join(words.split()), f"Zorvath {words.split()[-1]}"))


_INVENTIONS = (_far, _near, _near, _near)


def _wrong_json(text: str, _data: Data, rng: random.Random) -> str:
    wrong = [text.replace('"', "'"), text[:-1] + ",}", text + text, text.replace(":", "=", 1), text[1:]]
    if '"confidence"' in text:
        wrong += [_CONFIDENCE.sub(f'"confidence": {number}', text, count=1) for number in ("NaN", "Infinity", ".5", "1e999")]
    return rng.choice(wrong)


def _wrong_types(_text: str, data: Data, rng: random.Random) -> str:
    sure = _imagined("Ada") | {"confidence": "high"}
    wrong: Sequence[Any] = (
        [data],
        data["entities"],
        data | {"entities": {}},
        data | {"relations": None},
        data | {"note": "done"},
        {"entities": data["entities"]},
        data | {"entities": [*data["entities"], "Ada"]},
        data | {"entities": [*data["entities"], sure]},
        data | {"entities": [*data["entities"], _imagined("Ada") | {"name": 5}]},
        data | {"relations": [*data["relations"], _said("Ada", "Bob") | {"strength": 11}]},
    )
    return json.dumps(rng.choice(wrong), ensure_ascii=False)


def _with_controls(_text: str, data: Data, _rng: random.Random) -> str:
    """Raw control characters where JSON wants them escaped: in descriptions, and in place of every space of every value."""
    entities = [one | {"description": "§"} for one in data["entities"]]
    return json.dumps(data | {"entities": entities}, ensure_ascii=False).replace("§", "a\x01b\x00c\n\td").replace(" ", "\n")


_SPOILS: Mapping[Corruption, Callable[[str, Data, random.Random], str]] = {
    Corruption.FENCED: lambda text, _, rng: rng.choice((f"```json\n{text}\n```", f"\n```\n{text}```\n")),
    Corruption.REASONED: lambda text, _, rng: rng.choice(("<think>", "")) + f'They say "{{" and </text>.</think>\n{text}',
    Corruption.CONTROLS: _with_controls,
    Corruption.WRONG_JSON: _wrong_json,
    Corruption.WRONG_TYPES: _wrong_types,
    Corruption.KEY_TWICE: lambda text, *_: text[:-1] + ', "relations": []}',
    Corruption.PROSE: lambda text, _, rng: rng.choice((f"Here it is: {text}", f"{text}\n\nShall I go on?")),
    Corruption.CUT: lambda text, _, rng: text[: rng.randrange(1, len(text))],
    Corruption.CUT_AT_LIMIT: lambda text, _, rng: text[: rng.randrange(1, len(text) + 1)],
    Corruption.NO_ANSWER: lambda _, __, rng: rng.choice(("", " \n", "<think>hm</think>", "```\n\n```", "null", "I cannot.")),
}
