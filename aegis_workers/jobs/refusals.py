"""Why an input is refused: the first lines that are at fault, and how many more there are."""

from aegis_workers.errors import InvalidInput

_SHOWN = 20
# An input that is wrong in so many places is not read any further.
_MOST = 1000


class Refusals:
    """Collects what is wrong. Nothing in it is the caller's text."""

    def __init__(self) -> None:
        self._shown: list[str] = []
        self._count = 0

    @property
    def are_enough(self) -> bool:
        """Whether looking for more would tell the caller nothing."""
        return self._count >= _MOST

    def add(self, place: str, reason: str) -> None:
        """Note what is wrong at a place."""
        self._count += 1
        if len(self._shown) < _SHOWN:
            self._shown.append(f"{place}: {reason}")

    def raise_any(self) -> None:
        """Raises `InvalidInput` where anything was noted."""
        if not self._count:
            return
        lines = ["nothing was submitted", *self._shown]
        if self._count > _SHOWN:
            lines.append(f"and {'at least ' if self.are_enough else ''}{self._count - _SHOWN:,} more")
        raise InvalidInput("\n".join(lines))
