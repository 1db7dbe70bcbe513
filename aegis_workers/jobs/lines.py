"""One input of a job: checked, and turned into the line that the job's folder has for it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aegis_workers.dispatch import inputs
from aegis_workers.errors import InvalidInput
from aegis_workers.extraction import chunking
from aegis_workers.jobs import bodies
from aegis_workers.jobs.bodies import key_name
from aegis_workers.jobs.manifest import Kind
from aegis_workers.settings import Settings

# A line of a file; a text without an id; `(custom_id, text)`; the fields of a line; or why there is nothing to read.
Record = bytes | str | tuple[str, str] | Mapping[str, Any] | InvalidInput

ENDPOINT = "/v1/chat/completions"
MAX_ID_CHARS = 512
# It travels with every chunk of the item.
MAX_METADATA_BYTES = 16_384

_EXTRACTION_KEYS = frozenset({"custom_id", "text", "metadata"})
_COMPLETION_KEYS = frozenset({"custom_id", "method", "url", "body"})
_TELLING_KEYS = _COMPLETION_KEYS - _EXTRACTION_KEYS


def _refuse_constant(name: str) -> Any:
    raise InvalidInput(f"not JSON ({name} is no number there)")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)
_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class Line:
    """An item as it is written: its `data` ends with the only line feed in it."""

    custom_id: str
    data: bytes
    chunks: int


class LineReader:
    """Reads the inputs of one job: all of them texts, or all of them requests, as the first good one is."""

    def __init__(self, settings: Settings, *, chunk_tokens: int, chunk_overlap_tokens: int) -> None:
        self.kind: Kind | None = None
        self._settings = settings
        self._chunk_tokens = chunk_tokens
        self._overlap_tokens = chunk_overlap_tokens

    def read(self, record: Record, number: int) -> Line:
        """The line of the record of this number. Raises `InvalidInput`, which says what is wrong and holds no value."""
        fields = _fields(record, number)
        kind = Kind.EXTRACTION if _TELLING_KEYS.isdisjoint(fields) else Kind.COMPLETIONS
        if self.kind not in {None, kind}:
            raise InvalidInput("texts and chat completions cannot be in one job: submit them apart")
        line = self._text(fields) if kind is Kind.EXTRACTION else self._request(fields)
        self.kind = kind
        return line

    def _text(self, fields: Mapping[str, Any]) -> Line:
        _check_keys(fields, _EXTRACTION_KEYS)
        custom_id = _custom_id(fields)
        if "text" not in fields:
            raise InvalidInput("text is missing")
        text = inputs.text(fields["text"], self._settings)
        kept: dict[str, Any] = {"custom_id": custom_id, "text": text}
        if fields.get("metadata") is not None:
            kept["metadata"] = _metadata(fields["metadata"])
        chunks = chunking.count(text, max_tokens=self._chunk_tokens, overlap_tokens=self._overlap_tokens)
        return Line(custom_id, _encoded(kept), chunks)

    def _request(self, fields: Mapping[str, Any]) -> Line:
        _check_keys(fields, _COMPLETION_KEYS)
        custom_id = _custom_id(fields)
        if fields.get("method", "POST") != "POST":
            raise InvalidInput("method must be POST")
        if fields.get("url") != ENDPOINT:
            raise InvalidInput(f"url must be {ENDPOINT}: nothing else is served, and a job has one url")
        body = bodies.normalised(fields.get("body"), max_bytes=self._settings.max_text_bytes)
        return Line(custom_id, _encoded({"custom_id": custom_id, "body": body}), 1)


def _fields(record: Record, number: int) -> Mapping[str, Any]:
    match record:
        case bytes():
            return _decoded(record)
        case Mapping():
            return record
        case str():
            return {"custom_id": str(number), "text": record}
        case (custom_id, text):
            return {"custom_id": custom_id, "text": text}
        case InvalidInput():
            raise record
        case _:
            raise InvalidInput(f"an item must be a string, (id, text) or an object, not {type(record).__name__}")


def _decoded(line: bytes) -> Mapping[str, Any]:
    if not line.strip():
        raise InvalidInput("the line is blank: remove it")
    try:
        fields = _DECODER.decode(line.decode())
    except UnicodeDecodeError as error:
        raise InvalidInput(f"not UTF-8 (byte {error.start}): convert the file, for instance with iconv") from None
    except json.JSONDecodeError as error:
        raise InvalidInput(f"not JSON ({error.msg.strip(': ')}, column {error.colno}): each line is one object") from None
    except (ValueError, RecursionError):
        raise InvalidInput("not JSON that can be read: a number is too long, or it is nested too deeply") from None
    if not isinstance(fields, dict):
        raise InvalidInput(f"the line must be a JSON object, not {_json_type(fields)}")
    return fields


def _json_type(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "true or false"
        case int() | float():
            return "a number"
        case str():
            return "a string"
        case _:
            return "a list"


def _check_keys(fields: Mapping[str, Any], allowed: frozenset[str]) -> None:
    if fields.keys() <= allowed:
        return
    names = sorted({key_name(key) for key in fields.keys() - allowed})
    raise InvalidInput(f"{', '.join(names[:5])}: not known; allowed: {', '.join(sorted(allowed))}")


def _custom_id(fields: Mapping[str, Any]) -> str:
    custom_id = fields.get("custom_id")
    if custom_id is None or custom_id == "":
        raise InvalidInput("custom_id is missing: each item needs one of its own")
    if not isinstance(custom_id, str):
        raise InvalidInput(f"custom_id must be a string, not {type(custom_id).__name__}")
    if len(custom_id) > MAX_ID_CHARS:
        raise InvalidInput(f"custom_id has {len(custom_id):,} characters, more than {MAX_ID_CHARS}")
    return custom_id


def _metadata(metadata: Any) -> Mapping[str, Any]:
    if not isinstance(metadata, Mapping):
        raise InvalidInput(f"metadata must be an object, not {type(metadata).__name__}")
    size_bytes = len(_encoded(metadata))
    if size_bytes > MAX_METADATA_BYTES:
        raise InvalidInput(f"metadata has {size_bytes:,} bytes of JSON, more than {MAX_METADATA_BYTES:,}")
    return dict(metadata)


def _encoded(fields: Mapping[str, Any]) -> bytes:
    try:
        return _ENCODER.encode(fields).encode() + b"\n"
    except UnicodeEncodeError:
        raise InvalidInput("holds a lone surrogate: decode the bytes as UTF-8 first") from None
    except (TypeError, ValueError, RecursionError):
        raise InvalidInput("holds something that JSON cannot carry: use plain objects, lists, strings and numbers") from None
