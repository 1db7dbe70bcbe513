"""A store of answers that remembers what it is told, for as long as the test runs."""

from collections import defaultdict
from collections.abc import Mapping


class KeptAnswers:
    """`kept` is what a later delivery would find."""

    def __init__(self) -> None:
        self.kept: dict[str, dict[str, str]] = defaultdict(dict)

    async def earlier(self, task_id: str) -> Mapping[str, str]:
        return dict(self.kept.get(task_id, {}))

    def keep(self, task_id: str, number: str, answer: str) -> None:
        self.kept[task_id].setdefault(number, answer)

    def forget(self, task_id: str) -> None:
        self.kept.pop(task_id, None)
