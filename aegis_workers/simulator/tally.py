"""Which texts were answered, kept in a file beyond the engine's end. It tells them apart and does not hold them."""

import hashlib
from pathlib import Path

from aegis_workers.simulator.answer import document


def digest(text: str) -> str:
    """What stands in the file for a text."""
    return hashlib.sha256(text.encode()).hexdigest()


class Tally:
    """Adds a line for each answer: the digest of what the last user message was about. Without a `path` it keeps nothing."""

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def count(self, message: str) -> None:
        """An answer to this message was made, to its end."""
        if self._path is not None:
            with self._path.open("a", encoding="ascii") as file:
                file.write(f"{digest(document(message))}\n")
