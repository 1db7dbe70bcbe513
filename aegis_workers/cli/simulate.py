"""`simulate vllm` and `simulate ollama`."""

import sys
from pathlib import Path
from typing import Any, Literal

import click

_SHARED = [
    click.option("--host", metavar="ADDRESS", default="127.0.0.1", show_default=True, help="Address to listen on."),
    click.option(
        "--port", metavar="PORT", type=click.IntRange(0, 65535), required=True, help="Port to listen on; 0 takes a free one."
    ),
    click.option("--model", "models", metavar="NAME", multiple=True, help="A model name to serve beside `sim`; may be repeated."),
    click.option("--call-seconds", metavar="SECONDS", type=click.FloatRange(min=0), help="How long each call takes."),
    click.option(
        "--call-seconds-cv", metavar="CV", type=click.FloatRange(min=0), default=0.0, help="Spread it log-normally, by this CV."
    ),
    click.option(
        "--tokens-per-s", metavar="RATE", type=click.FloatRange(min=0, min_open=True), help="Speed of all running calls together."
    ),
    click.option(
        "--prefill-tokens-per-s", metavar="RATE", type=click.FloatRange(min=0, min_open=True), help="How fast prompts are read."
    ),
    click.option(
        "--start-seconds",
        metavar="SECONDS",
        type=click.FloatRange(min=0),
        default=0.0,
        help="Time to start, or to load the model.",
    ),
    click.option(
        "--context-tokens",
        metavar="TOKENS",
        type=click.IntRange(min=1),
        default=8192,
        show_default=True,
        help="Size of the context.",
    ),
    click.option(
        "--memory-pool",
        metavar="FILE",
        type=click.Path(dir_okay=False, path_type=Path),
        help="Draw on the memory in this file, shared with other simulators. AEGIS_MEMORY_SOURCE may name it.",
    ),
    click.option(
        "--memory-gb", metavar="GB", type=click.FloatRange(min=0, min_open=True), help="What the engine, or a model, takes."
    ),
    click.option(
        "--memory-total-gb",
        metavar="GB",
        type=click.FloatRange(min=0, min_open=True),
        help="How much there is; the file keeps it.",
    ),
    click.option(
        "--memory-return-s",
        metavar="SECONDS",
        type=click.FloatRange(min=0),
        default=0.0,
        help="How long memory takes to be free again, also after a kill.",
    ),
    click.option(
        "--tally",
        metavar="FILE",
        type=click.Path(dir_okay=False, path_type=Path),
        help="Add a line for each answer to this file: a digest of the text.",
    ),
    click.option("--seed", metavar="SEED", type=int, default=0, show_default=True, help="What random draws begin from."),
]


def _with_shared_options(command: Any) -> Any:
    for option in reversed(_SHARED):
        command = option(command)
    return command


@click.group()
def simulate() -> None:
    """Run a double of an engine: its wire protocol, with a clock, slots and faults of its own. Not a language model.

    POST /_sim/behaviour sets faults, GET /_sim/stats counts calls.
    """


@simulate.command()
@click.option(
    "--slots", metavar="CALLS", type=click.IntRange(min=1), default=256, show_default=True, help="Calls that generate at once."
)
@_with_shared_options
@click.option(
    "--queue-bound", metavar="CALLS", type=click.IntRange(min=0), help="Calls that may run and wait before more get 503."
)
@click.option("--api-key", metavar="KEY", help="The bearer token that calls must bring.")
@click.option("--dev-mode", is_flag=True, help="Serve /sleep, /pause and their like.")
@click.option("--sleep-frees-memory", is_flag=True, help="Give the memory back at /sleep, as on a GPU.")
@click.option("--crash-at-start", type=click.Choice(["once", "always"]), help="End with an error instead of listening.")
@click.option(
    "--crash-marker",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The file that says that the one crash was.  [default: beside the pool]",
)
def vllm(**options: Any) -> None:
    """A double of a vLLM server."""
    _run("vllm", options)


@simulate.command()
@click.option(
    "--slots", metavar="CALLS", type=click.IntRange(min=1), default=4, show_default=True, help="Calls that generate at once."
)
@_with_shared_options
@click.option(
    "--keep-alive-s", metavar="SECONDS", type=float, default=300.0, show_default=True, help="How long an idle model stays loaded."
)
@click.option(
    "--max-queue",
    metavar="CALLS",
    type=click.IntRange(min=0),
    default=512,
    show_default=True,
    help="Calls that may wait for a load.",
)
def ollama(**options: Any) -> None:
    """A double of an Ollama server."""
    _run("ollama", options)


def _run(engine: Literal["vllm", "ollama"], options: dict[str, Any]) -> None:
    from aegis_workers.simulator import server

    if options["call_seconds"] is not None and options["tokens_per_s"] is not None:
        raise click.UsageError("give --call-seconds or --tokens-per-s, not both: each alone decides how long a call takes")
    try:
        chosen = server.Options(engine=engine, **options)
    except ValueError as error:
        raise click.UsageError(str(error).replace("_", "-")) from None
    try:
        server.run(chosen)
    except server.StartFailed as failure:  # in the engine's own words, and nothing else
        click.echo(failure, err=True)
        sys.exit(1)
    except server.PoolUnusable as error:
        raise click.ClickException(str(error)) from None
    except OSError as error:
        raise click.ClickException(f"cannot listen on {options['host']}:{options['port']}: {error.strerror or error}") from None
