"""A job in its leader's charge: what it read of the job's folder, and what it has ready to feed."""

import time
from dataclasses import dataclass, field

from aegis_workers.jobs import batches
from aegis_workers.jobs.batches import Contents
from aegis_workers.jobs.failures import Recent
from aegis_workers.jobs.feeder import Feeder
from aegis_workers.jobs.folder import JobFolder
from aegis_workers.jobs.gathering import Gatherer
from aegis_workers.jobs.journal import Entry, Event, State
from aegis_workers.jobs.ledger import Ledger
from aegis_workers.jobs.manifest import Manifest
from aegis_workers.jobs.suspicion import Suspicion
from aegis_workers.routing import Engine
from aegis_workers.settings import Settings


@dataclass(kw_only=True)
class Charge:
    """`waits`: why nothing of it is fed, in words, or None; `collected_at`: when its last part was written, monotonic."""

    folder: JobFolder
    ledger: Ledger
    feeder: Feeder
    gatherer: Gatherer
    contents: Contents
    recent: Recent
    entries: tuple[Entry, ...]
    waits: str | None = None
    collected_at: float = float("-inf")
    suspicion: Suspicion = field(default_factory=Suspicion)

    @property
    def manifest(self) -> Manifest:
        """What the job is."""
        return self.folder.manifest

    @property
    def state(self) -> State:
        """What its journal said at the last look."""
        return self.entries[-1].state

    @property
    def pinned(self) -> Engine | None:
        """The engine that it stays on, once it has one."""
        found = next((entry.engine for entry in self.entries if entry.event is Event.PINNED), None)
        return None if found is None else Engine(found)

    @property
    def expires(self) -> bool:
        """Whether it was written down that its time is up."""
        return any(entry.event is Event.EXPIRING for entry in self.entries)

    @property
    def has_expired(self) -> bool:
        """Whether its time is up."""
        return time.time() >= self.manifest.expires_at

    @property
    def missing(self) -> int:
        """How many of its chunks have no outcome on disk."""
        return self.manifest.chunks - len(self.ledger.done)

    def look(self) -> None:
        """Read its journal anew. Raises `SpoolUnavailable`."""
        entries = self.folder.journal.entries()
        if any(entry.event is Event.RESUMED for entry in entries[len(self.entries) :]):
            self.recent.forget()
        self.entries = entries


def take(folder: JobFolder, collected: int | None, token: int, settings: Settings) -> Charge:
    """Take charge of a job: first what a leader before left half done is done, or undone. Raises `SpoolUnavailable`."""
    manifest = folder.manifest
    ledger = Ledger(folder, token)
    ledger.take_over(collected)
    return Charge(
        folder=folder,
        ledger=ledger,
        feeder=Feeder(folder, max_chunks=batches.chunks_in(settings.window_calls)),
        gatherer=Gatherer(folder, ledger.pieces_of, settings),
        contents=batches.contents(manifest),
        recent=Recent(share=manifest.stop_share, window=manifest.stop_window),
        entries=folder.journal.entries(),
    )
