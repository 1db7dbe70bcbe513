"""`submit INPUT…`."""

import math
import re
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from aegis_workers.cli.output import json_option, print_json

if TYPE_CHECKING:
    from aegis_workers.jobs.desk import Receipt

_UNITS_S = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


def _duration_s(context: click.Context, parameter: click.Parameter, value: str | None) -> float | None:
    del context, parameter
    if value is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", value)
    if found is None:
        raise click.BadParameter("write a number and a unit, such as 24h; the units are s, m, h and d")
    return float(found[1]) * _UNITS_S[found[2]]


def _pairs(context: click.Context, parameter: click.Parameter, values: Sequence[str]) -> Mapping[str, str]:
    del context, parameter
    if not all("=" in value for value in values):
        raise click.BadParameter("write KEY=VALUE")
    return {key: word for key, _, word in (value.partition("=") for value in values)}


@click.command()
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...")
@click.option("--schema", "schema_file", type=click.File("rb"), metavar="FILE", help="JSON Schema to extract by.")
@click.option("--instructions", help="What the engine is told beside the schema.")
@click.option("--key", help="The same key twice is the same job.")
@click.option("--name", help="Short for --metadata name=NAME.")
@click.option("--metadata", multiple=True, callback=_pairs, metavar="K=V", help="Noted with the job; may be repeated.")
@click.option("--policy", type=click.Choice(["per-call", "per-job"]), default="per-call", help="Engine of a call, or of all.")
@click.option("--expires", "expires_s", callback=_duration_s, metavar="TIME", help="Such as 24h; how long it may take.")
@click.option("--stop-share", type=click.FloatRange(0, 1), default=0.5, help="Share of failures that stops it.")
@click.option("--wait", is_flag=True, help="Show on stderr how it goes until it has ended, and exit as `watch` does.")
@click.option(
    "--try", "trial", type=click.IntRange(min=1), metavar="N", help="Submit N items, and reckon what the rest will take."
)
@json_option
@click.pass_context
def submit(  # noqa: PLR0913 - click's form of options
    ctx: click.Context,
    /,
    *,
    inputs: Sequence[str],
    schema_file: Any,
    instructions: str | None,
    name: str | None,
    metadata: Mapping[str, str],
    trial: int | None,
    wait: bool,
    as_json: bool,
    **terms: Any,
) -> None:
    """Submit INPUTs as one job, and print its id.

    An INPUT is a file of JSON Lines (.jsonl), each {"custom_id", "text", "metadata"?} or a request of an OpenAI batch; - for the
    same on stdin; or a text or Markdown file, whose id is its path. The job survives everything once its id is printed.

    With --try the first N items are a job of their own: what comes of it is shown, and the rest is not submitted.
    """
    from aegis_workers import settings as settings_module
    from aegis_workers.jobs import desks, sources
    from aegis_workers.jobs.manifest import EnginePolicy
    from aegis_workers.jobs.submission import Terms

    settings = settings_module.load()
    chosen = Terms(
        schema=None if schema_file is None else _schema(schema_file.read()),
        options=None if instructions is None else {"instructions": instructions},
        metadata=metadata if name is None else {**metadata, "name": name},
        policy=EnginePolicy(terms.pop("policy")),
        **terms,
    )
    source = sources.of_paths(inputs, stdin=sys.stdin.buffer, max_text_bytes=settings.max_text_bytes)
    if trial is not None:
        from aegis_workers.cli import trial as trials

        with desks.open_desk(settings) as desk:
            ctx.exit(trials.run(desk, source, chosen, trial, settings, as_json=as_json))
    receipt = desks.submit(settings, source, chosen)
    _print(receipt, as_json=as_json)
    if wait:
        from aegis_workers.cli import watch

        with desks.open_desk(settings) as desk:
            ctx.exit(watch.follow(desk, receipt.job_id, sys.stderr))


def _schema(data: bytes) -> Any:
    import json

    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise click.BadParameter("the file holds no JSON", param_hint="--schema") from None


def _print(receipt: "Receipt", *, as_json: bool) -> None:
    job = receipt.manifest
    if as_json:
        facts = ("id", "kind", "items", "chunks", "size_bytes", "created_at", "expires_at", "key", "metadata")
        dumped = job.model_dump(mode="json")
        print_json({**{fact: dumped[fact] for fact in facts}, "new": receipt.is_new})
        return
    click.echo(job.id)
    done = "Submitted" if receipt.is_new else "Submitted before with this key:"
    calls = "" if job.chunks == job.items else f", {job.chunks:,} calls"
    click.echo(f"{done} {_counted(job.items, 'item')}{calls}, {_megabytes(job.size_bytes)}.", err=True)


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _megabytes(size_bytes: int) -> str:
    return f"{math.ceil(size_bytes / 1000):,} kB" if size_bytes < 10**6 else f"{size_bytes / 10**6:,.1f} MB"
