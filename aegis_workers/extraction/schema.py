"""The JSON Schema that an engine is asked to follow, compiled once, with the check of what it answered."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from jsonschema_rs import ValidationError, Validator
from pydantic import BaseModel

from aegis_workers.errors import InvalidInput
from aegis_workers.extraction import dialect

_COMPILED_SCHEMAS = 128

_TEXT = {"type": "string"}


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


# What the default extraction asks for. No maxItems: an engine that follows it would leave the rest out and report success, while
# an answer that is too long ends with `length`, which is seen. No maxLength: vLLM's default grammar then lets raw control
# characters into strings.
DEFAULT: Mapping[str, Any] = _object(
    entities={
        "type": "array",
        "items": _object(
            name=_TEXT,
            type=_TEXT,
            description=_TEXT,
            confidence={"type": "number", "minimum": 0, "maximum": 1},
            mentions={"type": "array", "items": _TEXT},
        ),
    },
    relations={
        "type": "array",
        "items": _object(
            source=_TEXT,
            relation=_TEXT,
            target=_TEXT,
            description=_TEXT,
            strength={"type": "integer", "minimum": 1, "maximum": 10},
        ),
    },
)


@dataclass(frozen=True, kw_only=True)
class Schema:
    """A schema that both engines can follow. `source` is what is sent; `is_default`: entities and relations."""

    source: Mapping[str, Any]
    is_default: bool
    _validator: Validator = field(repr=False, compare=False)

    def explain(self, data: Any) -> str | None:
        """None where `data` follows the schema; else the first place that does not and the rule it breaks, without its values."""
        try:
            self._validator.validate(data)
        except ValidationError as error:
            rule = tuple(str(part) for part in error.schema_path)
            return f"breaks the schema's rule /{'/'.join(rule)} at {_place(error.instance_path, rule)}"
        except ValueError:
            return "cannot be checked against the schema: it is nested too deeply"
        return None


def compile(source: Mapping[str, Any] | None) -> Schema:  # noqa: A001 - read as schema.compile(...)
    """The schema to send and to check with; None is the default. Equal sources are compiled once.

    Raises `InvalidInput` for anything that is no JSON Schema, or that an engine would refuse.
    """
    if source is None:
        return _compiled(_canonical(DEFAULT))
    if not isinstance(source, Mapping):
        raise InvalidInput(f"schema must be a JSON object, not {type(source).__name__}")
    return _compiled(_canonical(source))


def to_json_schema(schema: Mapping[str, Any] | type[BaseModel] | None) -> Mapping[str, Any] | None:
    """What travels in a message: a pydantic model as its JSON Schema, anything else as it is."""
    if isinstance(schema, type) and issubclass(schema, BaseModel):
        return schema.model_json_schema()
    return schema


def _canonical(source: Mapping[str, Any]) -> str:
    """The schema as JSON, in its own order: engines write properties in the order of the schema."""
    try:
        canonical = json.dumps(dict(source), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        size_bytes = len(canonical.encode())
    except RecursionError:
        raise InvalidInput("schema is nested too deeply: use $defs and $ref") from None
    except (TypeError, ValueError):
        raise InvalidInput(
            "schema holds something that JSON cannot carry: send plain objects, lists, strings and numbers"
        ) from None
    if size_bytes > dialect.MAX_SCHEMA_BYTES:
        raise InvalidInput(
            f"schema has {size_bytes:,} bytes of JSON, more than {dialect.MAX_SCHEMA_BYTES:,}: ask for less at once"
        )
    return canonical


@lru_cache(_COMPILED_SCHEMAS)
def _compiled(canonical: str) -> Schema:
    source = json.loads(canonical)
    if dialect.depth(source) > dialect.MAX_SCHEMA_DEPTH:
        raise InvalidInput(f"schema is nested more than {dialect.MAX_SCHEMA_DEPTH} levels deep: use $defs and $ref")
    dialect.check(source)
    return Schema(source=source, is_default=source == DEFAULT, _validator=dialect.validator(source))


def _place(path: list[str | int], rule: tuple[str, ...]) -> str:
    """Where in the answer. A key that the schema does not name may be the text's own words, and is not shown."""
    return "/" + "/".join(str(part) if isinstance(part, int) or part in rule else "*" for part in path)
