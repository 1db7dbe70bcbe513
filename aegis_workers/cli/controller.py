"""`controller`: what moves jobs between the disk and Redis, and engines with the mode."""

import click


@click.command()
@click.pass_context
def controller(ctx: click.Context) -> None:
    """Feed jobs to the workers, collect their results, and have the engines run that the mode needs.

    Which engines it may start and stop is a setting (AEGIS_VLLM_DRIVER, AEGIS_OLLAMA_DRIVER); by default none. One controller
    leads and any number stand by, on hosts that share AEGIS_DATA_DIR. It runs until it is told to stop; if a part of it dies it
    ends with exit status 1, and is to be started again.
    """
    from aegis_workers import settings as settings_module
    from aegis_workers.controller import process
    from aegis_workers.worker import logs

    settings = settings_module.load()
    logs.set_up(settings)
    ctx.exit(process.run(settings))
