"""What is wrong now, in words."""

from collections.abc import Iterator, Mapping, Sequence

from aegis_workers.overview.cards import Card
from aegis_workers.overview.health import Word
from aegis_workers.overview.look import Look
from aegis_workers.routing import Engine
from aegis_workers.state.queues import Queue


def troubles(look: Look, cards: Mapping[Engine, Card], queues: Sequence[Queue]) -> Iterator[str]:
    """One sentence each, what stands in the way of most first."""
    if look.mode.problem is not None and look.mode.raw is not None:
        yield look.mode.problem
    if look.controller is None:
        yield "no controller leads: no job moves, and no engine is started or stopped; start aegis-workers controller"
    if not look.reports:
        yield "no worker runs: start one with celery -A aegis_workers worker -Q extraction"
    yield from _unserved(look, queues)
    for card in cards.values():
        if card.word is Word.FAILED:
            yield f"{card.label}: {card.reason}"


def _unserved(look: Look, queues: Sequence[Queue]) -> Iterator[str]:
    served = {report.queue for report in look.reports}
    for queue in queues:
        if queue.length and queue.name not in served:
            waiting = "1 message waits" if queue.length == 1 else f"{queue.length} messages wait"
            yield f"{waiting} in the queue {queue.name}, and no worker takes from it: start one with -Q {queue.name}"
