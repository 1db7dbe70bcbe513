"""`flower`: tasks, workers and queues on a page."""

import click

from aegis_workers.errors import ConfigurationError


@click.command()
@click.option("--host", metavar="ADDRESS", help="Address to listen on.  [default: 127.0.0.1, or FLOWER_ADDRESS]")
@click.option(
    "--port",
    metavar="PORT",
    type=click.IntRange(0, 65535),
    help="Port to listen on; 0 takes a free one.  [default: 5555, or FLOWER_PORT]",
)
@click.pass_context
def flower(ctx: click.Context, host: str | None, port: int | None) -> None:
    """Watch tasks, workers and queues on a page.

    Who looks brings the login of AEGIS_FLOWER_AUTH, or the user aegis with AEGIS_ADMIN_TOKEN; where neither is set Flower serves
    this host only. It changes nothing unless AEGIS_FLOWER_CONTROL is true. Its other options are variables whose names begin with
    FLOWER_, such as FLOWER_MAX_TASKS; celery -A aegis_workers flower takes them on the command line.
    """
    from aegis_workers import settings as settings_module
    from aegis_workers.celery import app

    settings_module.load()  # so that a bad one is said in our words
    try:
        chosen = {"address": host, "port": port}
        ctx.exit(app.start(["flower", *(f"--{name}={value}" for name, value in chosen.items() if value is not None)]) or 0)
    except OSError as error:
        raise ConfigurationError(
            f"Flower cannot listen there: {error.strerror or error}; choose another --host or --port"
        ) from None
