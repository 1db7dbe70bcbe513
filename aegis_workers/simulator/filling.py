"""Values that follow a JSON Schema, filled with what is known and neutral where nothing is.

Understood: `type` (one or several), `enum`, `const`, `properties`, `required`, `additionalProperties`, `minProperties`, `items`,
`prefixItems`, bounds on numbers, lengths and counts, `multipleOf`, `format`, `pattern` (simple ones), `anyOf`, `oneOf`, `allOf`,
local `$ref`.
"""

from collections.abc import Mapping
from typing import Any

from aegis_workers.simulator import grammar, scalars
from aegis_workers.simulator.scalars import UNKNOWN

# References may lead in a circle; what lies deeper than this is filled with null.
_DEEPEST = 32

# Other names under which schemas ask for the same field.
_SYNONYMS: Mapping[str, tuple[str, ...]] = {
    "name": ("title", "label", "entity", "entity_name", "surface"),
    "type": ("kind", "category", "class", "entity_type"),
    "description": ("summary", "explanation"),
    "confidence": ("score", "certainty", "probability"),
    "source": ("subject", "head", "from"),
    "relation": ("predicate", "verb", "relationship", "relation_type"),
    "target": ("object", "tail", "to"),
    "strength": ("weight", "importance"),
    "entities": ("nodes", "items", "results"),
    "relations": ("relationships", "edges", "triples", "facts"),
    "text": ("quote", "span", "evidence", "value"),
}
_FIELD_OF = {synonym: field for field, synonyms in _SYNONYMS.items() for synonym in (field, *synonyms)}

# Keywords that say what type a schema without `type` is about.
_IMPLIED: Mapping[str, tuple[str, ...]] = {
    "object": ("properties", "required", "additionalProperties", "minProperties"),
    "array": ("items", "prefixItems", "minItems", "maxItems"),
    "string": ("minLength", "maxLength", "pattern", "format"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
}
_KINDS: Mapping[type, frozenset[str]] = {
    bool: frozenset({"boolean"}),
    int: frozenset({"integer", "number"}),
    float: frozenset({"number"}),
    str: frozenset({"string"}),
    list: frozenset({"array"}),
    dict: frozenset({"object"}),
}
_NULL = frozenset({"null"})


def fill(schema: Mapping[str, Any], known: Any = UNKNOWN) -> Any:
    """A value that is valid against `schema`, with as much of `known` as it asks for.

    `known` is JSON; its fields are found under their own names or usual synonyms of them.
    """
    return _Filler(schema, known).fill(schema, known, 0)


class _Filler:
    def __init__(self, root: Mapping[str, Any], reading: Any) -> None:
        self._root = root
        self._reading = reading

    def fill(self, schema: Any, known: Any, depth: int) -> Any:
        if not isinstance(schema, Mapping) or depth > _DEEPEST:
            return None if known is UNKNOWN else known
        schema = self._plain(schema, known)
        if "const" in schema or "enum" in schema:
            return scalars.choose([schema["const"]] if "const" in schema else schema["enum"], known)
        kind = _pick_type(schema, known)
        if kind == "object":
            return self._object(schema, known, depth)
        return self._array(schema, known, depth) if kind == "array" else scalars.fill(kind, schema, known)

    def _plain(self, schema: Mapping[str, Any], known: Any) -> Mapping[str, Any]:
        """The schema with its references followed, `allOf` merged, and one branch of `anyOf` or `oneOf` chosen."""
        for _ in range(_DEEPEST):
            rest = {key: value for key, value in schema.items() if key not in {"$ref", "allOf", "anyOf", "oneOf"}}
            if "$ref" in schema:
                schema = _merged(grammar.resolve(schema["$ref"], self._root), rest)
            elif "allOf" in schema:
                for part in schema["allOf"]:
                    rest = _merged(rest, self._plain(part, known))
                schema = {**rest, **{key: schema[key] for key in ("anyOf", "oneOf") if key in schema}}
            elif branches := schema.get("anyOf") or schema.get("oneOf"):
                schema = _merged(rest, self._branch([self._plain(branch, known) for branch in branches], known))
            else:
                break
        return schema

    def _branch(self, branches: list[Mapping[str, Any]], known: Any) -> Mapping[str, Any]:
        kinds = _kinds_of(known)
        fitting = [branch for branch in branches if kinds.intersection(_types(branch))]
        return (fitting or branches)[0]

    def _object(self, schema: Mapping[str, Any], known: Any, depth: int) -> dict[str, Any]:
        properties: Mapping[str, Any] = schema.get("properties", {})
        required = schema.get("required", [])
        filled = {}
        for name, part in properties.items():
            value = self._field(known, name, part if name in required else None)
            if value is not UNKNOWN or name in required:
                filled[name] = self.fill(part, value, depth + 1)
        others = schema.get("additionalProperties")
        spare = (f"field_{number}" for number in range(1, 1 + schema.get("minProperties", 0)))
        for name in [*required, *properties, *spare]:
            if name not in filled and (name in required or len(filled) < schema.get("minProperties", 0)):
                filled[name] = self.fill(properties.get(name, others), UNKNOWN, depth + 1)
        return filled

    def _field(self, known: Any, name: str, part: Any) -> Any:
        if not isinstance(known, Mapping):
            return known if name.lower() in {"name", "text", "quote"} and isinstance(known, str) else UNKNOWN
        if name in known:
            return known[name]
        value = known.get(_FIELD_OF.get(name.lower(), ""), UNKNOWN)
        # A required object of a name that says nothing wraps all of the answer; an optional one might hold itself.
        wraps = value is UNKNOWN and known is self._reading and isinstance(part, Mapping)
        return known if wraps and "object" in _types(self._plain(part, known)) else value

    def _array(self, schema: Mapping[str, Any], known: Any, depth: int) -> list[Any]:
        if isinstance(known, Mapping):
            known = known.get("entities", [known])
        values = list(known) if isinstance(known, list) else []
        first: list[Any] = schema.get("prefixItems", [])
        least = max(schema.get("minItems", 0), len(first))
        values += [UNKNOWN] * (least - len(values))
        parts = [*first, *[schema.get("items")] * (len(values) - len(first))]
        filled = [self.fill(part, value, depth + 1) for part, value in zip(parts, values, strict=False)]
        return filled[: schema.get("maxItems", len(filled))]


def _merged(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    properties = {**one.get("properties", {}), **other.get("properties", {})}
    required = [*one.get("required", []), *other.get("required", [])]
    both = {**one, **other}
    return both | ({"properties": properties} if properties else {}) | ({"required": required} if required else {})


def _types(schema: Mapping[str, Any]) -> list[str]:
    """The JSON types that a schema allows, as far as it says so."""
    kind = schema.get("type")
    if kind is not None:
        return [kind] if isinstance(kind, str) else list(kind)
    if "const" in schema or "enum" in schema:
        return sorted({name for value in schema.get("enum", [schema.get("const")]) for name in _kinds_of(value)})
    return [name for name, keys in _IMPLIED.items() if any(key in schema for key in keys)]


def _kinds_of(value: Any) -> frozenset[str]:
    return _KINDS.get(type(value), _NULL)


def _pick_type(schema: Mapping[str, Any], known: Any) -> str | None:
    types = _types(schema)
    kinds = _kinds_of(known)
    return next((name for name in types if name in kinds), next(iter(types), None))
