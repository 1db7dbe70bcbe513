"""Which names of different answers mean one entity: a chunk that has both says whose short name the other chunks use.

"Ada Lovelace (Lovelace)" gets an answer in which Lovelace is a form of Ada Lovelace; a chunk that says Lovelace only gets an
answer about an entity of that name.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

# The folded name and type of an entity.
Key = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class Called:
    """An entity in one chunk's answer: `forms` are the folded forms of it that stand in the text, and not inside longer words."""

    chunk: int
    key: Key
    forms: Collection[str]


def resolve(calls: Sequence[Called]) -> dict[Key, Key]:
    """For each key that is but a shorter name of another one, that other one.

    Such a name is a form of exactly one entity of its type that is no shorter name itself, and no answer has the two as
    different entities. Takes n log n.
    """
    fuller = _fuller(calls)
    whole: dict[Key, Key] = {}
    for key in sorted(fuller, key=_fullness, reverse=True):
        meant = {whole.get(other, other) for other in fuller[key]}
        if len(meant) == 1:
            whole[key] = meant.pop()
    return whole


def _fuller(calls: Sequence[Called]) -> dict[Key, set[Key]]:
    """For each key, those whose forms include its name, where no answer has both."""
    chunks: dict[Key, set[int]] = {}
    for call in calls:
        chunks.setdefault(call.key, set()).add(call.chunk)
    fuller: dict[Key, set[Key]] = {}
    for call in calls:
        for form in call.forms:
            key = (form, call.key[1])
            if key in chunks and _fullness(key) < _fullness(call.key) and chunks[key].isdisjoint(chunks[call.key]):
                fuller.setdefault(key, set()).add(call.key)
    return fuller


def _fullness(key: Key) -> tuple[int, Key]:
    return len(key[0]), key
