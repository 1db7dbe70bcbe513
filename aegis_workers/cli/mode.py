"""`mode get`, `mode set` and `mode history`."""

from typing import TYPE_CHECKING

import click

from aegis_workers.cli.output import ago, json_option, print_json, print_table
from aegis_workers.routing import Mode

if TYPE_CHECKING:
    from aegis_workers.state.switches import Switch


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
@click.option(
    "--wait", "wait_s", metavar="SECONDS", type=click.FloatRange(min=0), help="Show how the engines follow, so long at most."
)
@click.option("--dry-run", is_flag=True, help="Say what would happen, and write nothing.")
@json_option
@click.pass_context
def set_mode(ctx: click.Context, mode: Mode, *, wait_s: float | None, dry_run: bool, as_json: bool) -> None:
    """Switch to MODE: vllm, ollama or auto.

    With --wait: exit status 0 when what should run is ready and what should not is stopped, 1 when an engine failed or the
    time is over.
    """
    from aegis_workers import settings as settings_module
    from aegis_workers.cli import prospect, switch
    from aegis_workers.state import connection
    from aegis_workers.state import mode as modes
    from aegis_workers.state.switches import Source

    if dry_run and wait_s is not None:
        raise click.UsageError("--dry-run writes nothing that --wait could wait for: give one of them")
    settings = settings_module.load()
    if dry_run:
        prospect.show(settings, mode, as_json=as_json)
        return
    with connection.explained(settings), connection.open_sync(settings) as client:
        previous = modes.write(client, mode, Source.CLI)
        if not as_json:
            click.echo(_written(mode, previous))
        if wait_s is None:
            following = None
        else:
            following = switch.follow(client, settings, mode, within_s=wait_s, say=_nothing if as_json else click.echo)
    if as_json:
        print_json({"mode": mode.value, "previous": previous} | switch.values(following))
        ctx.exit(0 if following is None or following.problem is None else 1)
    if following is not None:
        switch.end(following, mode)


@mode.command()
@click.option("--limit", type=click.IntRange(1, 200), default=20, show_default=True, help="How many, the newest first.")
@json_option
def history(limit: int, *, as_json: bool) -> None:
    """List the last switches of the mode, the newest first.

    BY says who made one: api, cli, task, python, raw where somebody wrote the key by hand, or default where a process that
    started found no mode. PHASES says how long the engines took to follow.
    """
    from dataclasses import asdict

    from aegis_workers import settings as settings_module
    from aegis_workers.state import connection, switches

    settings = settings_module.load()
    with connection.explained(settings), connection.open_sync(settings) as client:
        found = switches.read(client, limit)
    if as_json:
        print_json({"switches": [asdict(switch) for switch in found]})
    elif found:
        print_table(("SWITCHED", "MODE", "WAS", "BY", "PHASES"), [_row(switch) for switch in found])
    else:
        click.echo("The mode was never switched.")


def _row(switch: "Switch") -> tuple[str, ...]:
    phases = ", ".join(f"{lasted.engine.label} {lasted.phase} {lasted.seconds:.1f} s" for lasted in switch.phases)
    return ago(switch.at), switch.mode.value, switch.previous or "not set", switch.source.value, phases or "-"


def _written(mode: Mode, previous: str | None) -> str:
    if previous == mode.value:
        return f"Mode is {mode.value}, as it was."
    return f"Mode is {mode.value} (was {previous or 'not set'})."


def _nothing(_line: str) -> None:
    """JSON is one document, at the end."""
