"""Which JSON Schemas both engines can follow: what is refused before it is sent, each with the cure.

One bad schema makes Ollama answer 500 to every call, and vLLM 400, so that it is cheaper to say so once.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from jsonschema_rs import ReferencingError, RegexOptions, ValidationError, Validator, validator_for

from aegis_workers.errors import InvalidInput

# The schema also stands in the prompt: 32 kB are about 8,000 tokens, the whole context of a default Ollama.
MAX_SCHEMA_BYTES = 32_768
MAX_SCHEMA_DEPTH = 64

# Keywords that vLLM's grammars refuse ("Unimplemented keys", tried with llguidance 1.9.1).
_REFUSED = frozenset(
    {
        "$dynamicRef", "$recursiveRef", "contains", "dependencies", "dependentRequired", "dependentSchemas", "else", "if",
        "maxContains", "minContains", "not", "propertyNames", "then", "unevaluatedItems", "unevaluatedProperties", "uniqueItems",
    }
)  # fmt: skip
# Under these, keys are the caller's own names, not keywords.
_NAMED = frozenset({"$defs", "definitions", "patternProperties", "properties"})
# Under these stand values, not schemas.
_VALUES = frozenset({"const", "default", "enum", "example", "examples", "required"})

Place = tuple[str, ...]


def check(source: Mapping[str, Any]) -> None:
    """Raises `InvalidInput` where `source` is a schema that an engine would refuse, or one that points outside itself."""
    for place, node in _nodes(source, ()):
        _check_keywords(place, node)
        _check_reference(place, node, source)
    _check_root(source)


def validator(source: Mapping[str, Any]) -> Validator:
    """What checks answers: it fetches nothing, its patterns take linear time, and its messages hold no values.

    Raises `InvalidInput` where `source` is no JSON Schema.
    """
    # A name for the whole schema would turn its own references into addresses.
    schema = {key: value for key, value in source.items() if key != "$id"}
    try:
        return validator_for(schema, offline=True, mask="the value", pattern_options=RegexOptions())
    except ValidationError as error:
        place = tuple(str(part) for part in error.instance_path)
        raise InvalidInput(f"schema{_pointer(place)} {_cure(place, error.kind.name)}") from None
    except (ReferencingError, ValueError):
        raise InvalidInput("schema cannot be compiled: its references or its nesting never end") from None


def depth(value: Any) -> int:
    """How many levels of objects and arrays `value` has; 0 for a scalar. Uses no recursion, so that it can judge anything."""
    level = 0
    layer = [value]
    while layer := [node for node in layer if isinstance(node, dict | list)]:
        level += 1
        layer = [child for node in layer for child in (node.values() if isinstance(node, dict) else node)]
    return level


def _nodes(node: Any, place: Place) -> Iterator[tuple[Place, Mapping[str, Any]]]:
    """Every schema object below `node`, with its place."""
    if isinstance(node, list):
        for index, child in enumerate(node):
            yield from _nodes(child, (*place, str(index)))
    elif isinstance(node, dict):
        yield place, node
        for key, child in node.items():
            if key in _NAMED and isinstance(child, dict):
                for name, named in child.items():
                    yield from _nodes(named, (*place, key, name))
            elif key not in _VALUES:
                yield from _nodes(child, (*place, key))


def _check_keywords(place: Place, node: Mapping[str, Any]) -> None:
    refused = sorted(_REFUSED & node.keys())
    if refused:
        raise InvalidInput(
            f"schema{_pointer(place)} uses {', '.join(refused)}, which vLLM refuses: take it out, and check it on the results"
        )
    if node.get("enum") == []:
        raise InvalidInput(
            f"schema{_pointer(place)} has an empty enum, which nothing can satisfy: list values, or leave enum out"
        )
    if place and "$id" in node:
        raise InvalidInput(f"schema{_pointer(place)} has an $id of its own: only the whole schema may have one")


def _check_reference(place: Place, node: Mapping[str, Any], root: Mapping[str, Any]) -> None:
    target = node.get("$ref")
    if target is None:
        return
    if not isinstance(target, str) or not (target == "#" or target.startswith("#/")):
        raise InvalidInput(
            f"schema{_pointer(place)} has a $ref that leaves the schema, and nothing is fetched: "
            "copy the part into $defs and write #/$defs/NAME"
        )
    if _resolve(target, root) is None:
        raise InvalidInput(f"schema{_pointer(place)} has a $ref to a part that is not there: define it under $defs")


def _resolve(target: str, root: Mapping[str, Any]) -> Mapping[str, Any] | None:
    node: Any = root
    for part in target.split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        if isinstance(node, list) and key.isdecimal() and int(key) < len(node):
            node = node[int(key)]
        elif isinstance(node, dict) and key in node:
            node = node[key]
        else:
            return None
    return node if isinstance(node, dict) else None


def _check_root(source: Mapping[str, Any]) -> None:
    node: Mapping[str, Any] | None = source
    seen: set[str] = set()
    while node is not None and "$ref" in node and "type" not in node and node["$ref"] not in seen:
        seen.add(node["$ref"])
        node = _resolve(node["$ref"], source)
    if node is None or node.get("type") != "object":
        raise InvalidInput(
            'schema must describe an object at its root: write {"type": "object", "properties": …}, '
            "and put a list or a choice under a property of it"
        )


def _cure(place: Place, keyword: str) -> str:
    if place and place[-1] == "pattern":
        return "is no pattern that engines know: write a regular expression without look-around and back-references"
    if keyword == "$ref":
        return "cannot be resolved: use a $schema of draft 4 to 2020-12, or none"
    return f"is not valid JSON Schema: it breaks the rule {json.dumps(keyword)} of its meta-schema"


def _pointer(place: Place) -> str:
    return "".join(f"/{part}" for part in place)
