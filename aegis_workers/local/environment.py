"""The environment that child processes run in: exactly the settings in force here."""

import os
from typing import Any

from pydantic import SecretStr

from aegis_workers import profiles
from aegis_workers.settings import Settings


def of(settings: Settings) -> dict[str, str]:
    """This process's environment with `settings` in it and no other setting.

    Children run in a folder without a `.env`, so what this says is all they know. What the profile chooses, and what is a
    default, is left unsaid: it holds there as well, and they can say where it came from.
    """
    values = {str(field.alias): getattr(settings, name) for name, field in Settings.model_fields.items()}
    inherited = {name: value for name, value in os.environ.items() if name.upper() not in values}
    unsaid = {str(field.alias): field.default for field in Settings.model_fields.values()}
    if settings.deployment_profile is not None:
        unsaid |= profiles.CHOSEN[settings.deployment_profile]
    said = {alias: value for alias, value in values.items() if value is not None and value != unsaid[alias]}
    return inherited | {alias: _written(value) for alias, value in said.items()}


def _written(value: Any) -> str:
    match value:
        case SecretStr():
            return value.get_secret_value()
        case tuple():
            return ",".join(value)
        case _:
            return str(value)
