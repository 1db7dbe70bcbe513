"""Where each value in force came from, ready to show: what `aegis-workers doctor` prints."""

import os
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from dotenv import dotenv_values
from pydantic import SecretStr

from aegis_workers.settings import ENV_FILE, Settings, without_password


class Origin(StrEnum):
    """Where a value in force came from."""

    DEFAULT = "default"
    PROFILE = "profile"
    ENVIRONMENT = "environment"
    FILE = "file"


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One value in force, ready to show: secrets are masked, so are passwords in addresses."""

    name: str
    value: str
    origin: Origin


def explain(settings: Settings) -> list[Setting]:
    """Every value in force with its origin, in the order of the model."""
    environment = {name.upper(): value for name, value in os.environ.items() if value}
    file = {name.upper(): value for name, value in dotenv_values(ENV_FILE).items() if value}

    def origin(alias: str) -> Origin:
        if alias in environment:
            return Origin.ENVIRONMENT
        if alias in file:
            return Origin.FILE
        if alias == "LLM_ENGINE_MODE" and settings.deployment_profile is not None:
            return Origin.PROFILE
        return Origin.DEFAULT

    return [
        Setting(name=str(field.alias), value=_shown(getattr(settings, attribute)), origin=origin(str(field.alias)))
        for attribute, field in Settings.model_fields.items()
    ]


def _shown(value: Any) -> str:
    match value:
        case None:
            return "(not set)"
        case SecretStr():
            return "********"
        case tuple():
            return ", ".join(without_password(part) for part in value)
        case str():
            return without_password(str(value))
        case _:
            return str(value)
