"""A form with one file in it, read as it arrives: nothing of the file stays in memory but what was not taken yet."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header

from aegis_workers.admin.failures import Refused

FILE = "file"
# Fields are words; the file is what is large.
_MAX_FIELDS = 16
_MAX_FIELD_BYTES = 4096


@dataclass
class _Part:
    name: str = ""
    filename: str | None = None
    data: bytearray = field(default_factory=bytearray)


class Form:
    """Reads `multipart/form-data`. `fields` are those that are complete; `filename` is that of the file, once it has begun.

    Everything here raises `Refused` where the form is none, has two files, or more than any form that is meant.
    """

    def __init__(self, content_type: str) -> None:
        self.fields: dict[str, str] = {}
        self.filename: str | None = None
        self.is_complete = False
        self._pending = bytearray()
        self._part = _Part()
        self._header_name, self._header_value = bytearray(), bytearray()
        try:
            self._parser = MultipartParser(
                _boundary(content_type),
                {
                    "on_part_begin": self._begin,
                    "on_header_field": self._read_header_name,
                    "on_header_value": self._read_header_value,
                    "on_header_end": self._end_header,
                    "on_headers_finished": self._end_headers,
                    "on_part_data": self._read,
                    "on_part_end": self._end,
                    "on_end": self._complete,
                },
            )
        except FormParserError:
            raise _malformed() from None

    @property
    def pending_bytes(self) -> int:
        """How much of the file can be taken."""
        return len(self._pending)

    def feed(self, data: bytes) -> None:
        """Read what has arrived."""
        try:
            self._parser.write(data)
        except FormParserError:
            raise _malformed() from None

    def take(self) -> bytes:
        """The part of the file that arrived since the last time."""
        taken, self._pending = self._pending, bytearray()
        return bytes(taken)

    def _begin(self) -> None:
        self._part = _Part()

    def _read_header_name(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _read_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _end_header(self) -> None:
        if self._header_name.lower() == b"content-disposition":
            _, options = parse_options_header(bytes(self._header_value))
            self._part.name = _text(options.get(b"name", b""))
            self._part.filename = _text(options[b"filename"]) if b"filename" in options else None
        self._header_name, self._header_value = bytearray(), bytearray()

    def _end_headers(self) -> None:
        if self._part.filename is None:
            if len(self.fields) >= _MAX_FIELDS:
                raise Refused(400, f"the form has more than {_MAX_FIELDS} fields", code="invalid_request")
        elif self._part.name != FILE or self.filename is not None:
            raise Refused(400, f"the form must have one file, called {FILE}", param=FILE, code="invalid_request")
        else:
            self.filename = self._part.filename

    def _read(self, data: bytes, start: int, end: int) -> None:
        if self._part.filename is not None:
            self._pending += data[start:end]
            return
        self._part.data += data[start:end]
        if len(self._part.data) > _MAX_FIELD_BYTES:
            raise Refused(400, f"a field of the form has more than {_MAX_FIELD_BYTES} bytes", code="invalid_request")

    def _end(self) -> None:
        if self._part.filename is None:
            self.fields[self._part.name] = _text(bytes(self._part.data))

    def _complete(self) -> None:
        self.is_complete = True


def _boundary(content_type: str) -> bytes:
    kind, options = parse_options_header(content_type)
    boundary: Mapping[bytes, bytes] = options
    if kind != b"multipart/form-data" or not boundary.get(b"boundary"):
        raise _malformed()
    return boundary[b"boundary"]


def _malformed() -> Refused:
    return Refused(400, "the body is no form of the type multipart/form-data", code="invalid_request")


def _text(data: bytes) -> str:
    return data.decode(errors="replace")
