"""Server-sent events: from bytes to the data of each event."""

import codecs
import io


class Parser:
    """Takes a stream in pieces of any size and gives the events' data, in order.

    Follows the part of the WHATWG standard ("Interpreting an event stream") that engines use: any line ending, comments,
    several data lines in an event. An event that is not closed by an empty line is not given.
    """

    def __init__(self) -> None:
        utf8 = codecs.getincrementaldecoder("utf-8-sig")("replace")
        self._decoder = io.IncrementalNewlineDecoder(utf8, translate=True)
        self._line = ""
        self._data: list[str] = []

    def feed(self, piece: bytes) -> list[str]:
        """The data of the events that `piece` completes."""
        *lines, self._line = (self._line + self._decoder.decode(piece)).split("\n")
        return [data for line in lines if (data := self._take(line)) is not None]

    def _take(self, line: str) -> str | None:
        if not line:
            data, self._data = self._data, []
            return "\n".join(data) if data else None
        name, _, value = line.partition(":")
        if name == "data":
            self._data.append(value.removeprefix(" "))
        return None
