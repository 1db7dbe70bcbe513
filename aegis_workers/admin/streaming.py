"""Lines on their way out, in pieces: what is sent costs a way into a thread and back, and a line is small beside that."""

from collections.abc import Iterable, Iterator
from itertools import chain

_PIECE_BYTES = 256_000


def pieces(lines: Iterable[bytes]) -> Iterator[bytes]:
    """The lines in pieces of about 256 kB; one is held at a time."""
    piece = bytearray()
    for line in lines:
        piece += line
        if len(piece) >= _PIECE_BYTES:
            yield bytes(piece)
            piece.clear()
    yield bytes(piece)


def begun(parts: Iterator[bytes]) -> Iterator[bytes]:
    """The same, once the first is there: what cannot be read at all is refused before the answer begins."""
    return chain([next(parts, b"")], parts)
