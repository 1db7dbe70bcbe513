"""Bulk jobs from Python: any number of items in, a job that survives this process out."""

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from aegis_workers import settings as settings_module
from aegis_workers.errors import DeadlineExceeded, InvalidInput
from aegis_workers.extraction import schema as schemas
from aegis_workers.jobs import desks
from aegis_workers.jobs.desk import Desk
from aegis_workers.jobs.manifest import EnginePolicy
from aegis_workers.jobs.sources import Items
from aegis_workers.jobs.submission import Terms
from aegis_workers.jobs.view import View

# How often a job that is waited for is looked at.
_LOOK_EVERY_S = 0.5


@dataclass(frozen=True, kw_only=True)
class Job:
    """A job by its id: in the data folder of this host, or of the one at `AEGIS_ADMIN_URL`.

    Every method raises `UnknownJob` where there is none, `SpoolUnavailable` or `AdminUnavailable` where it cannot be asked for.
    """

    id: str

    def status(self) -> View:
        """How it stands: `state`, `items` by status, `waits`, `totals` and more."""
        with _desk() as desk:
            return desk.find(self.id)

    def wait(self, timeout_s: float | None = None) -> View:
        """How it stands once it has ended, or has stopped because too many items failed: see `state`.

        It waits for as long as that takes, or raises `DeadlineExceeded` after `timeout_s`; the job goes on. Where nothing moves,
        `status().waits` says why: no controller may be running.
        """
        give_up_at = None if timeout_s is None else time.monotonic() + timeout_s
        with _desk() as desk:
            while not (view := desk.find(self.id)).is_at_rest:
                left_s = _LOOK_EVERY_S if give_up_at is None else give_up_at - time.monotonic()
                if left_s <= 0:
                    why = f": {view.waits}" if view.waits else ""
                    raise DeadlineExceeded(f"job {self.id} has not ended within {timeout_s:g} s{why}")
                time.sleep(min(_LOOK_EVERY_S, left_s))
            return view

    def results(self, *, ordered: bool = False) -> Iterator[dict[str, Any]]:
        """The result lines that are there, as they were written, or `ordered` as the inputs were."""
        with _desk() as desk:
            for line in desk.lines(self.id, ordered=ordered):
                yield json.loads(line.body)

    def cancel(self) -> View:
        """Have it cancelled: calls in flight are closed, lines that are there stay. One that has ended stays as it is."""
        with _desk() as desk:
            return desk.cancel(self.id)

    def resume(self) -> View:
        """Go on with it where it stopped because too many items failed. Raises `NotPossible` where it did not."""
        with _desk() as desk:
            return desk.resume(self.id)

    def retry(self) -> "Job":
        """A new job of the items that did not end `ok` or `empty`; `results` has its lines in the place of theirs.

        Raises `NotPossible` where the job runs, or nothing is to be retried.
        """
        with _desk() as desk:
            return Job(id=desk.retry(self.id))


def submit(  # noqa: PLR0913 - what a caller may say, each by its name
    items: Iterable[str | tuple[str, str] | Mapping[str, Any]],
    schema: Mapping[str, Any] | type[BaseModel] | None = None,
    options: Mapping[str, Any] | None = None,
    *,
    key: str | None = None,
    metadata: Mapping[str, str] | None = None,
    policy: EnginePolicy | str = EnginePolicy.PER_CALL,
    expires_s: float | None = None,
) -> Job:
    """Submit items as one job. It survives everything once this returns.

    An item is a text, whose id is its number from 0; `(id, text)`; `{"custom_id", "text", "metadata"?}`; or a line of an OpenAI
    batch. They are read once, one at a time, and written to the data folder, so that a generator of any length is welcome. The
    same `key` twice is the same job, and the second time nothing is read. `expires_s` is counted from now.

    Raises `InvalidInput`, which names each item at fault by its index, `SpoolFull`, `SpoolUnavailable` or `AdminUnavailable`, and
    whatever `items` raises; there is no job then.
    """
    terms = Terms(
        schema=schemas.to_json_schema(schema),
        options=options,
        key=key,
        metadata=metadata or {},
        policy=_policy(policy),
        expires_s=expires_s,
    )
    return Job(id=desks.submit(settings_module.load(), Items(items=items), terms).job_id)


def _desk() -> Desk:
    return desks.open_desk(settings_module.load())


def _policy(word: str) -> EnginePolicy:
    try:
        return EnginePolicy(word)
    except ValueError:
        raise InvalidInput(f"unknown policy: choose {', '.join(EnginePolicy)}") from None
