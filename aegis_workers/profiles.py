"""What an installation is for, and the defaults that follow from it."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from aegis_workers.routing import Mode, Policy


class Profile(StrEnum):
    """What an installation is for; chooses defaults."""

    CHAT_ONLY = "chat_only"
    PHARMA = "pharma"
    LAW_FIRM = "law_firm"
    ENGINEERING = "engineering"
    ENTERPRISE_INGESTION = "enterprise_ingestion"


Choices = Mapping[str, Mode | Policy | bool | str]

# What no profile has reason to choose otherwise. Both engines are the operator's own, so that no text leaves by a fallback. Who
# starts the engines, and on which hosts, a profile cannot know: nothing is started or stopped until somebody says so.
_EVERYWHERE: Final[Choices] = {
    "AEGIS_FALLBACK": Policy.DEGRADE,
    "AEGIS_VLLM_DRIVER": "external",
    "AEGIS_OLLAMA_DRIVER": "external",
    "AEGIS_VLLM_ON_DEMAND": False,
}
# Somebody reads the answers as they come: one that has begun is not cut off. Bulk work that is put back loses only time.
_READ: Final[Choices] = {**_EVERYWHERE, "LLM_ENGINE_MODE": Mode.OLLAMA, "AEGIS_DRAIN_THEN": "wait"}
_BULK: Final[Choices] = {**_EVERYWHERE, "AEGIS_DRAIN_THEN": "close"}

# The settings that each profile chooses, under the names that the environment has for them; a value that is set anywhere wins.
CHOSEN: Final[Mapping[Profile, Choices]] = {
    Profile.CHAT_ONLY: _READ,
    Profile.PHARMA: _READ,
    Profile.LAW_FIRM: _READ,
    Profile.ENGINEERING: {**_BULK, "LLM_ENGINE_MODE": Mode.AUTO, "AEGIS_VLLM_ON_DEMAND": True},
    Profile.ENTERPRISE_INGESTION: {**_BULK, "LLM_ENGINE_MODE": Mode.VLLM},
}
