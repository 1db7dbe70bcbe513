"""The schemas that an engine's constrained decoding cannot compile."""

from collections.abc import Iterator, Mapping
from typing import Any

_TYPES = {"object", "array", "string", "number", "integer", "boolean", "null"}
_MAPS = ("properties", "patternProperties", "$defs", "definitions")
_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
_SINGLE = ("items", "additionalProperties", "not", "contains")


def find_problem(schema: Mapping[str, Any], unimplemented: tuple[str, ...] = ()) -> str | None:
    """Why `schema` cannot be compiled, in vLLM's words; None where it can.

    `unimplemented`: keywords that the engine knows and cannot do.
    """
    for part in _parts(schema):
        problem = _problem_of(part, schema)
        if problem is not None:
            return problem
        # False asks for nothing, so there is nothing that would have to be implemented.
        missing = next((key for key in unimplemented if part.get(key)), None)
        if missing is not None:
            return f'Unimplemented keys: ["{missing}"]'
    return None


def resolve(pointer: str, root: Any) -> Any:
    """What a local reference such as `#/$defs/name` points to. Raises `LookupError` where it points to nothing."""
    found = root
    for step in pointer.lstrip("#").split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        found = found[int(name)] if isinstance(found, list) else found[name]
    return found


def _parts(schema: Any) -> Iterator[Mapping[str, Any]]:
    if not isinstance(schema, Mapping):
        return
    yield schema
    for key in _MAPS:
        children = schema.get(key)
        if isinstance(children, Mapping):
            for child in children.values():
                yield from _parts(child)
    for key in _LISTS:
        children = schema.get(key)
        if isinstance(children, list):
            for child in children:
                yield from _parts(child)
    for key in _SINGLE:
        yield from _parts(schema.get(key))


def _problem_of(part: Mapping[str, Any], root: Mapping[str, Any]) -> str | None:
    types = part.get("type", [])
    unknown = [name for name in (types if isinstance(types, list) else [types]) if name not in _TYPES]
    if unknown:
        return f"Invalid type: {unknown[0]}"
    if "$ref" in part and not _exists(part["$ref"], root):
        return f"Pointer '{str(part['$ref']).removeprefix('#')}' does not exist"
    return "Unsatisfiable schema: anyOf is empty" if part.get("enum") == [] else None


def _exists(pointer: Any, root: Mapping[str, Any]) -> bool:
    try:
        resolve(pointer, root)
    except (LookupError, TypeError, ValueError, AttributeError):
        return False
    return True
