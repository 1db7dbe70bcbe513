"""The items of a job on their way to another host: a file of JSON Lines that is made as it is sent."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from aegis_workers.errors import InvalidInput
from aegis_workers.jobs import lines
from aegis_workers.jobs.lines import Record
from aegis_workers.jobs.sources import Source

EXTRACTIONS = "/v1/extractions"


class Upload:
    """A file to read from, as HTTP clients want one; `endpoint` says what its lines are, once the first was read.

    Raises `InvalidInput` for an input that cannot be sent as a line.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._lines = self._encoded()
        self._rest = bytearray()
        self.endpoint = EXTRACTIONS

    def read(self, size: int = -1) -> bytes:
        """The next bytes, at most `size`; all that are left where it is negative. Empty at the end."""
        while size < 0 or len(self._rest) < size:
            line = next(self._lines, None)
            if line is None:
                break
            self._rest += line
        taken = bytes(self._rest) if size < 0 else bytes(self._rest[:size])
        del self._rest[: len(taken)]
        return taken

    def _encoded(self) -> Iterator[bytes]:
        for number, record in enumerate(self._source):
            try:
                line = _line(record, number)
            except InvalidInput as error:
                raise InvalidInput(f"nothing was submitted\n{self._source.place(number)}: {error}") from None
            if number == 0 and _is_request(line):
                self.endpoint = lines.ENDPOINT
            yield line + b"\n"


def _line(record: Record, number: int) -> bytes:
    if isinstance(record, bytes):
        return record.rstrip(b"\r\n")
    if isinstance(record, InvalidInput):
        raise record
    if isinstance(record, str):
        record = {"custom_id": str(number), "text": record}
    elif isinstance(record, tuple):
        record = dict(zip(("custom_id", "text"), record, strict=True))
    return _json(record)


def _json(fields: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(dict(fields), ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError):
        raise InvalidInput("holds something that JSON cannot carry: use plain objects, lists, strings and numbers") from None


def _is_request(line: bytes) -> bool:
    """Whether a line is OpenAI's; the server says what is wrong with one that cannot be read."""
    try:
        fields = json.loads(line)
    except ValueError:
        return False
    return isinstance(fields, dict) and bool({"method", "url", "body"} & fields.keys())
