"""The command line. Each command is imported when it is run, so that `--help` answers at once."""

import sys
from importlib import import_module
from typing import Any

import click

from aegis_workers.errors import AegisError

# Name: module, and the line that `--help` shows.
_COMMANDS = {
    "up": ("running", "Run the whole system on this machine, in the foreground."),
    "demo": ("running", "Extract from files, or from samples, and show what was found."),
    "mode": ("mode", "Read or switch the engine mode."),
    "engines": ("engines", "Show the mode, the engines and what waits for them."),
    "submit": ("submit", "Submit files or JSON Lines as one bulk job."),
    "aside": ("aside", "List, or enqueue again, what was set aside because it kills what runs it."),
    "health": ("health", "Say whether the workers of this host are well."),
    "jobs": ("jobs", "List the jobs."),
    "status": ("jobs", "Say how a job stands, and why it waits."),
    "watch": ("watch", "Show how a job goes until it has ended."),
    "results": ("results", "Print the results of a job, also while it runs."),
    "retry": ("steering", "Submit what failed in a job as a new one."),
    "resume": ("steering", "Go on with a job that was stopped because too many items failed."),
    "cancel": ("steering", "Cancel a job."),
    "delete": ("steering", "Delete a job that has ended."),
    "controller": ("controller", "Feed jobs, collect results, and run the engines of the mode."),
    "admin": ("admin", "Serve the page for operators and the admin API."),
    "flower": ("flower", "Watch tasks, workers and queues on a page."),
    "chat": ("chat", "Ask one question and stream the answer."),
    "simulate": ("simulate", "Run a double of an engine that needs no GPU."),
    "doctor": ("doctor", "Show every setting with its origin, and what is missing."),
}


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = getattr(import_module(f"aegis_workers.cli.{_COMMANDS[cmd_name][0]}"), cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in _COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except AegisError as error:
            raise click.ClickException(str(error)) from None


@click.command(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="aegis-workers")
def main() -> None:
    """Extraction and chat on engines of your own: vLLM or Ollama, switched at run time.

    Exit status: 0 done, 1 failed, 2 wrong usage. Settings come from the environment or .env; see `aegis-workers doctor`.
    """


def fail(message: str) -> None:
    """Say on stderr what failed, and end with status 1."""
    click.echo(f"Error: {message}", err=True)
    sys.exit(1)
