"""`simulate vllm` and `simulate ollama`."""

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
        server.run(server.Options(engine=engine, **options))
    except OSError as error:
        raise click.ClickException(f"cannot listen on {options['host']}:{options['port']}: {error.strerror or error}") from None
