"""`up` and `demo`: the whole system on this machine."""

from pathlib import Path

import click

from aegis_workers.routing import Engine


@click.command()
@click.option("--simulate", is_flag=True, help="Put simulators in place of both engines. They are not language models.")
@click.pass_context
def up(ctx: click.Context, *, simulate: bool) -> None:
    """Run the whole system on this machine, in the foreground.

    Starts a Redis if none answers at AEGIS_REDIS_URL, a worker for each queue, the controller of jobs, Flower and the admin API,
    and stops them all at Ctrl-C. If a part dies, the rest is stopped and its last words are shown (exit status 1).
    """
    from aegis_workers import settings as settings_module
    from aegis_workers.local import up as local

    ctx.exit(local.up(settings_module.load(), simulate=simulate))


@click.command()
@click.argument("files", nargs=-1, type=click.Path(path_type=Path), metavar="[FILE]...")
@click.option(
    "--engine",
    type=click.Choice(list(Engine), case_sensitive=False),
    help="Use this engine if it answers, instead of simulators.",
)
@click.option("--output", type=click.Path(path_type=Path), help="Where to write the JSON result.  [default: a temporary file]")
@click.pass_context
def demo(ctx: click.Context, files: tuple[Path, ...], engine: Engine | None, output: Path | None) -> None:
    """Extract entities and relations from FILEs, or from bundled samples.

    Starts the whole system, submits them as one job, shows what was found in each, and stops everything. Without --engine both
    engines are simulators, which are not language models: they show how the system works, not how well a model reads.
    """
    from aegis_workers import settings as settings_module
    from aegis_workers.cli import watch
    from aegis_workers.local import demo as local

    ctx.exit(local.demo(settings_module.load(), files, engine, output, watch.shown))
