"""`doctor`: every value in force with its origin, and what is missing."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from aegis_workers.cli.output import json_option, print_json, print_table

if TYPE_CHECKING:
    from aegis_workers.settings import Settings


@click.command()
@click.option(
    "--bundle",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write what whoever helps you needs to FILE instead: JSON without texts or secrets, compressed if it ends in .gz.",
)
@json_option
@click.pass_context
def doctor(ctx: click.Context, bundle: Path | None, *, as_json: bool) -> None:
    """Show every setting in force with its origin (secrets masked), and look whether Redis and the engines answer.

    Also whether the controller of this host could start the engines and measure their memory. Exit status 1 if something is
    missing without which no work can be done.
    """
    from aegis_workers import origins
    from aegis_workers import settings as settings_module
    from aegis_workers.cli import checkup
    from aegis_workers.state.server import Level

    settings = settings_module.load()
    if bundle is not None:
        _write(bundle, settings)
        return
    shown = origins.explain(settings)
    findings = checkup.findings(settings)
    if as_json:
        print_json({"settings": [asdict(setting) for setting in shown], "findings": [asdict(finding) for finding in findings]})
    else:
        print_table(("SETTING", "ORIGIN", "VALUE"), [(setting.name, setting.origin, setting.value) for setting in shown])
        click.echo()
        print_table(("CHECK", "RESULT", "FOUND"), [(finding.what, finding.level, finding.detail) for finding in findings])
    ctx.exit(1 if any(finding.level is Level.MISSING for finding in findings) else 0)


def _write(path: Path, settings: "Settings") -> None:
    from aegis_workers.cli import bundle

    try:
        size_bytes = bundle.write(path, bundle.collect(settings))
    except OSError as error:
        raise click.ClickException(f"{path} cannot be written: {error.strerror or error}") from None
    click.echo(f"{path}: {size_bytes / 1000:.0f} kB. It holds states, counts, settings and versions; no texts and no secrets.")
