"""`doctor`: every value in force with its origin, and what is missing."""

from dataclasses import asdict

import click

from aegis_workers.cli.output import json_option, print_json, print_table


@click.command()
@json_option
@click.pass_context
def doctor(ctx: click.Context, *, as_json: bool) -> None:
    """Show every setting in force with its origin (secrets masked), and look whether Redis and the engines answer.

    Exit status 1 if something is missing without which no work can be done.
    """
    from aegis_workers import origins
    from aegis_workers import settings as settings_module
    from aegis_workers.cli import checkup
    from aegis_workers.state.server import Level

    settings = settings_module.load()
    shown = origins.explain(settings)
    findings = checkup.findings(settings)
    if as_json:
        print_json({"settings": [asdict(setting) for setting in shown], "findings": [asdict(finding) for finding in findings]})
    else:
        print_table(("SETTING", "ORIGIN", "VALUE"), [(setting.name, setting.origin, setting.value) for setting in shown])
        click.echo()
        print_table(("CHECK", "RESULT", "FOUND"), [(finding.what, finding.level, finding.detail) for finding in findings])
    ctx.exit(1 if any(finding.level is Level.MISSING for finding in findings) else 0)
