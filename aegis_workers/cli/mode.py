"""`mode get` and `mode set`."""

import click

from aegis_workers.cli.output import json_option, print_json
from aegis_workers.routing import Mode


@click.group()
def mode() -> None:
    """Read or switch the engine mode: vllm, ollama or auto.

    The mode is the Redis key aegis:llm_engine_mode; any write of it counts. Calls in flight finish where they are, new ones
    follow the new mode.
    """


@mode.command()
@json_option
def get(*, as_json: bool) -> None:
    """Print the engine mode in force."""
    from aegis_workers import settings as settings_module
    from aegis_workers.state import connection
    from aegis_workers.state import mode as modes

    settings = settings_module.load()
    with connection.explained(settings), connection.open_sync(settings) as client:
        reading = modes.read(client, settings.llm_engine_mode)
    if as_json:
        print_json({"mode": reading.mode.value, "problem": reading.problem})
        return
    click.echo(reading.mode.value)
    if reading.problem:
        click.echo(f"Note: {reading.problem}", err=True)


@mode.command("set")
@click.argument("mode", metavar="MODE", type=click.Choice(list(Mode), case_sensitive=False))
@json_option
def set_mode(mode: Mode, *, as_json: bool) -> None:
    """Switch to MODE: vllm, ollama or auto."""
    from aegis_workers import settings as settings_module
    from aegis_workers.state import connection
    from aegis_workers.state import mode as modes

    settings = settings_module.load()
    with connection.explained(settings), connection.open_sync(settings) as client:
        previous = modes.write(client, mode)
    if as_json:
        print_json({"mode": mode.value, "previous": previous})
    elif previous == mode.value:
        click.echo(f"Mode is {mode.value}, as it was.")
    else:
        click.echo(f"Mode is {mode.value} (was {previous or 'not set'}).")
