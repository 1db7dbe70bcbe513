"""Where each value in force came from, ready to show: what `aegis-workers doctor` prints."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from dotenv import dotenv_values
from pydantic import SecretStr

from aegis_workers import profiles
from aegis_workers.forms import without_password, without_secrets
from aegis_workers.settings import ENV_FILE, Settings


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
    origins = _origins(settings)
    return [
        Setting(name=str(field.alias), value=_shown(getattr(settings, attribute)), origin=origins[str(field.alias)])
        for attribute, field in Settings.model_fields.items()
    ]


def chosen_by(settings: Settings, alias: str) -> str:
    """What chose the value of the setting `alias`, for a reason that people read: "PROFILE=chat_only", `alias`, or "default"."""
    match _origins(settings)[alias]:
        case Origin.PROFILE:
            return f"PROFILE={settings.deployment_profile}"
        case Origin.ENVIRONMENT | Origin.FILE:
            return alias
        case Origin.DEFAULT:
            return "default"


def _origins(settings: Settings) -> Mapping[str, Origin]:
    environment = {name.upper() for name, value in os.environ.items() if value}
    file = {name.upper() for name, value in dotenv_values(ENV_FILE).items() if value}
    profile = profiles.CHOSEN[settings.deployment_profile] if settings.deployment_profile else {}

    def origin(alias: str) -> Origin:
        if alias in environment:
            return Origin.ENVIRONMENT
        if alias in file:
            return Origin.FILE
        return Origin.PROFILE if alias in profile else Origin.DEFAULT

    return {str(field.alias): origin(str(field.alias)) for field in Settings.model_fields.values()}


def _shown(value: Any) -> str:
    match value:
        case None:
            return "(not set)"
        case SecretStr():
            return "********"
        case tuple():
            return ", ".join(without_password(part) for part in value)
        case str():
            return without_secrets(str(value))
        case _:
            return str(value)
