"""Submits a job: every input checked and on the disk, or nothing left behind."""

import os
import struct
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

from aegis_workers.dispatch import inputs
from aegis_workers.dispatch.inputs import ExtractionOptions, ExtractionPlan
from aegis_workers.errors import InvalidInput
from aegis_workers.jobs import disk, folder, ids, manifest
from aegis_workers.jobs.folder import JobFolder
from aegis_workers.jobs.ids import Ids
from aegis_workers.jobs.index import IndexWriter
from aegis_workers.jobs.journal import Entry, Event, Journal, State
from aegis_workers.jobs.lines import ENDPOINT, LineReader
from aegis_workers.jobs.manifest import EnginePolicy, Kind, Manifest
from aegis_workers.jobs.refusals import Refusals
from aegis_workers.jobs.sources import Source
from aegis_workers.jobs.spool import NewJob, Spool
from aegis_workers.jobs.writing import ItemsWriter
from aegis_workers.settings import Settings

MAX_KEY_CHARS = 512
# A slip of the pen, such as milliseconds.
MAX_EXPIRES_S = 366 * 86_400
_KIND_WORDS = {Kind.EXTRACTION: "texts", Kind.COMPLETIONS: "chat completions"}


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What a job is submitted with beside its items. `expires_s` counts from the submission; None leaves it to the settings.

    `schema` is a JSON Schema, None for the default one; `options` are those of an extraction but for `deadline_s`: the calls of a
    job have until it expires. Neither is for chat completions, which say all that themselves. `kind` is what the items must be;
    None leaves it to them. `input_file_id` is the upload that they come from.
    """

    schema: Mapping[str, Any] | None = None
    options: Mapping[str, Any] | None = None
    key: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    policy: EnginePolicy = EnginePolicy.PER_CALL
    expires_s: float | None = None
    stop_share: float = 0.5
    stop_window: int = 100
    completion_window: str | None = None
    kind: Kind | None = None
    input_file_id: str | None = None


@dataclass(frozen=True, kw_only=True)
class Submitted:
    """The job, and whether this submission made it: a key that was used before stands for its first job."""

    job: JobFolder
    is_new: bool


def write(spool: Spool, source: Source, terms: Terms, settings: Settings) -> Submitted:
    """Submit what `source` gives; the job survives everything once this returns.

    Two submissions with one key are one job: the second waits for the first, and reads nothing of its own source. Raises
    `InvalidInput`, which names each place at fault, `SpoolFull` and `SpoolUnavailable`, and whatever `source` raises; nothing is
    left behind then.
    """
    terms = replace(terms, expires_s=settings.job_expires_s if terms.expires_s is None else terms.expires_s)
    plan = _plan(terms, settings)

    def fill(new: NewJob) -> Manifest:
        reader = LineReader(settings, chunk_tokens=plan.chunk_tokens, chunk_overlap_tokens=plan.chunk_overlap_tokens)
        with ItemsWriter(new.path) as writer:
            _take(source, reader, writer)
            writer.end()
        return _manifest(new.job_id, source, terms, plan, _kind(reader, terms), writer.count)

    return _submit(spool, terms.key, fill)


def retry(spool: Spool, parent: JobFolder, numbers: Iterable[int], *, key: str | None = None) -> Submitted:
    """A child of `parent` with those of its items that have these numbers, in rising order, and otherwise alike.

    It has as long to live as its parent had. Raises `InvalidInput` where there is no number, `SpoolFull` and `SpoolUnavailable`.
    """
    _check_key(key)

    def fill(new: NewJob) -> Manifest:
        with ItemsWriter(new.path) as writer, disk.explained(new.path), (new.path / folder.PARENTS).open("xb") as parents:
            for number in numbers:
                writer.add(parent.line(number))
                parents.write(struct.pack("<Q", number))
            writer.end()
            parents.flush()
            os.fsync(parents.fileno())
        if not writer.count.items:
            raise InvalidInput(f"job {parent.id} has nothing to retry: every item of it is complete, or is not done yet")
        parent.add_child(new.job_id)  # before the child is there, so that no reader of the parent misses it
        return _child(new.job_id, parent.manifest, writer.count, key)

    return _submit(spool, key, fill)


def _submit(spool: Spool, key: str | None, fill: Callable[[NewJob], Manifest]) -> Submitted:
    with nullcontext() if key is None else spool.key(key) as held:
        known = held and held.read()
        if known and known in spool:
            return Submitted(job=spool.open(known), is_new=False)
        with spool.new() as new:
            _seal(new, fill(new))
            if held:
                # Before the job is there: a death between the two leaves a key of no job, not a job that its key does not know.
                held.write(new.job_id)
            return Submitted(job=spool.keep(new), is_new=True)


def _seal(new: NewJob, described: Manifest) -> None:
    """Write what is left of the folder; all of it is on the disk when this returns."""
    with disk.explained(new.path):
        for name in (folder.JOURNAL, folder.INCOMING, folder.RESULTS):
            (new.path / name).mkdir(mode=disk.FOLDER_MODE)
        Journal(new.path / folder.JOURNAL).append(
            1, Entry(at=described.created_at, event=Event.SUBMITTED, state=State.IN_PROGRESS)
        )
        disk.write_new(new.path / folder.MANIFEST, described.to_json())
        disk.sync_folder(new.path)


def _take(source: Source, reader: LineReader, writer: ItemsWriter) -> None:
    """Check and write every record. Raises `InvalidInput` once all are read, or enough of them are wrong."""
    refusals, seen = Refusals(), Ids()
    for number, record in enumerate(source):
        try:
            line = reader.read(record, number)
        except InvalidInput as error:
            refusals.add(source.place(number), str(error))
            if refusals.are_enough:
                break
            writer.skip()
        else:
            writer.add(line)
            seen.add(line.custom_id)
    if suspects := seen.suspects():
        for first, again in ids.doubled(suspects, writer.ids()):
            refusals.add(source.place(again), f"custom_id is that of {source.place(first)} too: each must be unique")
    refusals.raise_any()
    if not writer.count.items:
        raise InvalidInput("nothing was submitted: the input has no items")


def _plan(terms: Terms, settings: Settings) -> ExtractionPlan:
    """How texts are read. Raises `InvalidInput` for any term that cannot be."""
    if terms.options is not None and terms.options.get("deadline_s") is not None:
        raise InvalidInput("options.deadline_s: not for jobs, whose calls have until the job expires")
    _check_key(terms.key)
    _check_metadata(terms.metadata)
    if not 0 <= terms.stop_share <= 1 or terms.stop_window < 1:
        raise InvalidInput("the share of failures that stops a job is from 0 to 1, of a window of 1 item or more")
    if terms.expires_s is not None and not 0 < terms.expires_s <= MAX_EXPIRES_S:
        raise InvalidInput(f"a job expires after more than 0 and at most {MAX_EXPIRES_S:,} seconds")
    return inputs.extraction_plan(terms.schema, terms.options, settings)


def _check_key(key: str | None) -> None:
    if key is not None and not 1 <= len(key) <= MAX_KEY_CHARS:
        raise InvalidInput(f"a key has 1 to {MAX_KEY_CHARS} characters")


def _check_metadata(metadata: Mapping[str, str]) -> None:
    words = [*metadata, *metadata.values()]
    if not all(isinstance(word, str) for word in words):
        raise InvalidInput("metadata of a job: keys and values must be strings")
    if len(metadata) > manifest.MAX_METADATA:
        raise InvalidInput(f"metadata of a job: at most {manifest.MAX_METADATA} keys")
    keys_fit = all(1 <= len(key) <= manifest.MAX_METADATA_KEY_CHARS for key in metadata)
    if not keys_fit or any(len(value) > manifest.MAX_METADATA_VALUE_CHARS for value in metadata.values()):
        raise InvalidInput(
            f"metadata of a job: a key has 1 to {manifest.MAX_METADATA_KEY_CHARS} characters, "
            f"a value up to {manifest.MAX_METADATA_VALUE_CHARS}"
        )


def _kind(reader: LineReader, terms: Terms) -> Kind:
    kind = reader.kind or Kind.EXTRACTION
    if terms.kind not in {None, kind}:
        expected, found = (_KIND_WORDS[one] for one in (terms.kind, kind))
        raise InvalidInput(f"the lines are {found}, and {expected} were announced: choose the endpoint that serves them")
    if kind is Kind.COMPLETIONS and (terms.schema is not None or terms.options):
        raise InvalidInput("schema and options are for texts: a chat completion has its own response_format and parameters")
    return kind


def _manifest(job_id: str, source: Source, terms: Terms, plan: ExtractionPlan, kind: Kind, count: IndexWriter) -> Manifest:
    now_s = time.time()
    extracts = kind is Kind.EXTRACTION
    return Manifest(
        id=job_id,
        kind=kind,
        created_at=now_s,
        expires_at=now_s + (terms.expires_s or 0),
        key=terms.key,
        metadata=dict(terms.metadata),
        json_schema=None if terms.schema is None else dict(terms.schema),
        options=ExtractionOptions.model_validate(dict(terms.options or {})) if extracts else None,
        chunk_tokens=plan.chunk_tokens,
        chunk_overlap_tokens=plan.chunk_overlap_tokens,
        policy=terms.policy,
        stop_share=terms.stop_share,
        stop_window=terms.stop_window,
        items=count.items,
        chunks=count.chunks,
        size_bytes=count.bytes,
        source=source.origin,
        input_name=source.name,
        endpoint=None if extracts else ENDPOINT,
        completion_window=terms.completion_window,
        input_file_id=terms.input_file_id,
    )


def _child(job_id: str, parent: Manifest, count: IndexWriter, key: str | None) -> Manifest:
    now_s = time.time()
    changed = {
        "id": job_id,
        "created_at": now_s,
        "expires_at": now_s + parent.expires_at - parent.created_at,
        "key": key,
        "items": count.items,
        "chunks": count.chunks,
        "size_bytes": count.bytes,
        "retry_of": parent.id,
    }
    return parent.model_copy(update=changed)
