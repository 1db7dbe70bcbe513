"""Texts without their white space's own form: a name that a line's end breaks is the same name."""

import re
from bisect import bisect_right

_RUN = re.compile(r"\s{2,}")


def single(text: str) -> str:
    """`text` with one space for each run of white space, and none at its ends."""
    return " ".join(text.split())


class SingleSpaced:
    """A text with single spaces (`text`), and where each place of it is in the original."""

    def __init__(self, original: str) -> None:
        self.text = single(original)
        # From each of these places on, this much of the original is not there.
        self._places, self._missing = [0], [len(original) - len(original.lstrip())]
        if len(self.text) + self._missing[0] < len(original):
            self._note_runs(original)

    def original(self, index: int) -> int:
        """The place in the original of the visible character at `index`."""
        return index + self._missing[bisect_right(self._places, index) - 1]

    def _note_runs(self, original: str) -> None:
        for run in _RUN.finditer(original, self._missing[0]):
            missing = self._missing[-1] + len(run[0]) - 1
            self._places.append(run.end() - missing)
            self._missing.append(missing)
