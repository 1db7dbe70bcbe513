"""The environment that child processes run in: exactly the settings in force here."""

import os
from typing import Any

from pydantic import SecretStr

from aegis_workers.settings import Settings


def of(settings: Settings) -> dict[str, str]:
    """This process's environment with `settings` in it and no other setting.

    Children run in a folder without a `.env`, so what this says is all they know.
    """
    values = {str(field.alias): getattr(settings, name) for name, field in Settings.model_fields.items()}
    inherited = {name: value for name, value in os.environ.items() if name.upper() not in values}
    return inherited | {alias: _written(value) for alias, value in values.items() if value is not None}


def _written(value: Any) -> str:
    match value:
        case SecretStr():
            return value.get_secret_value()
        case tuple():
            return ",".join(value)
        case _:
            return str(value)
