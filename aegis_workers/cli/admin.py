"""`admin`: the system over HTTP."""

import click


@click.command()
@click.option("--host", metavar="ADDRESS", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    metavar="PORT",
    type=click.IntRange(0, 65535),
    default=8080,
    show_default=True,
    help="Port to listen on; 0 takes a free one.",
)
def admin(host: str, port: int) -> None:
    """Serve the page for operators, the admin API, and jobs in the form of OpenAI's batches.

    It needs AEGIS_DATA_DIR, so it runs on the controller's host. Callers bring AEGIS_ADMIN_TOKEN as a bearer token; where none is
    set it serves this host only.
    """
    from aegis_workers import settings as settings_module
    from aegis_workers.admin import serving

    serving.run(settings_module.load(), host, port)
