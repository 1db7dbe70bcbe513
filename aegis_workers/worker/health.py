"""What a worker process says of its health in a file, for container and service managers on its host."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from urllib.parse import quote

from aegis_workers.worker.signs import Signs

WRITE_EVERY_S = 1.0
# A file that is older was left by a process that has gone, or by one that cannot run.
STALE_S = 10.0
# A main loop that is busy for as long takes nothing in; for how long it counts as alive is another matter.
_UNREADY_S = 5.0


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """`live`: leave it running. `ready`: it takes messages. `reason` says in words why it is not both."""

    live: bool
    ready: bool
    reason: str | None = None


@dataclass(frozen=True, kw_only=True)
class Health:
    """The content of a file. `at` is when it was written, in epoch seconds; `in_flight` and `waiting` count calls."""

    node: str
    at: float
    live: bool
    ready: bool
    reason: str | None
    stopping: bool
    queue: str
    worker_id: str
    pid: int
    in_flight: Mapping[str, int] = field(default_factory=dict)
    waiting: Mapping[str, int] = field(default_factory=dict)

    def is_named(self, name: str) -> bool:
        """Whether `name` means this worker: its whole node name, or the part before the host."""
        return name in {self.node, self.node.partition("@")[0]}

    def verdict(self, now: float) -> Verdict:
        """What the file means at `now`, in epoch seconds: one that is no longer written means that nothing is well."""
        age_s = now - self.at
        if age_s > STALE_S:
            return Verdict(live=False, ready=False, reason=f"it has said nothing for {age_s:.0f} s: it was killed, or it hangs")
        return Verdict(live=self.live, ready=self.ready, reason=self.reason)


def judge(signs: Signs, *, limit_s: float) -> Verdict:
    """What a process's signs of life mean; it is dead once its main loop has stood still for `limit_s` while Redis answered."""
    dead = signs.failed or signs.hangs(limit_s)
    stalled = f"its main loop has not turned for {signs.stalled_s:.0f} s although Redis answers"
    obstacles = (
        (signs.hangs(limit_s), stalled),
        (signs.failed, "it ends itself, and its log says why"),
        (signs.stopping, "it is stopping"),
        (signs.queued is None, "Redis does not answer"),
        (signs.refused, "Redis gives no messages: it is full, or cannot write its log"),
        (not signs.connected, "its consumer is connecting to Redis"),
        (signs.stalled_s >= _UNREADY_S, stalled),
        (not signs.queues, "it consumes from no queue"),
    )
    reason = next((words for holds, words in obstacles if holds), None)
    return Verdict(live=not dead, ready=reason is None, reason=reason)


def refused(folder: Path | None) -> str | None:
    """Why the folder of the settings cannot be used, in words; None where it can, and where none is set. Makes it."""
    if folder is None:
        return None
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return f"AEGIS_HEALTH_DIR={folder}: no folder can be there ({error.strerror or error})"
    return None if os.access(folder, os.W_OK) else f"AEGIS_HEALTH_DIR={folder}: this user may not write there"


def write(folder: Path, health: Health) -> None:
    """Replace the file of `health.node`: a reader sees the whole of the old one or of the new one. Raises `OSError`."""
    path = _path(folder, health.node)
    unfinished = path.with_suffix(f".{health.pid}.tmp")
    unfinished.write_text(json.dumps(asdict(health)))
    unfinished.replace(path)


def remove(folder: Path, node: str) -> None:
    """Say that the worker has ended in order. Raises `OSError`."""
    _path(folder, node).unlink(missing_ok=True)


def read_all(folder: Path) -> Iterator[Health]:
    """What every worker of this folder said last, in the order of their names. Raises `OSError` where it cannot be read."""
    for path in sorted(folder.glob("*.json")):
        # One that ended in this moment has removed its file; what is no health file is somebody else's.
        with suppress(FileNotFoundError, ValueError, TypeError):
            yield _decode(path.read_text())


def _decode(text: str) -> Health:
    # What a newer version adds is passed over.
    known = Health.__dataclass_fields__
    return Health(**{name: value for name, value in dict(json.loads(text)).items() if name in known})


def _path(folder: Path, node: str) -> Path:
    """`<node>.json`; what a file's name cannot hold is percent-encoded."""
    return folder / f"{quote(node, safe='@')}.json"
