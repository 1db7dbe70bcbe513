"""What an installation is for, and the defaults that follow from it."""

from collections.abc import Mapping
from enum import StrEnum

from aegis_workers.routing import Mode


class Profile(StrEnum):
    """What an installation is for; chooses defaults."""

    CHAT_ONLY = "chat_only"
    PHARMA = "pharma"
    LAW_FIRM = "law_firm"
    ENGINEERING = "engineering"
    ENTERPRISE_INGESTION = "enterprise_ingestion"


# The settings that each profile chooses, under the names that the environment has for them; a value that is set anywhere wins.
# None chooses a driver: it cannot know who runs the engines, and on which hosts.
CHOSEN: Mapping[Profile, Mapping[str, Mode | bool]] = {
    Profile.CHAT_ONLY: {"LLM_ENGINE_MODE": Mode.OLLAMA},
    Profile.PHARMA: {"LLM_ENGINE_MODE": Mode.OLLAMA},
    Profile.LAW_FIRM: {"LLM_ENGINE_MODE": Mode.OLLAMA},
    Profile.ENGINEERING: {"LLM_ENGINE_MODE": Mode.AUTO, "AEGIS_VLLM_ON_DEMAND": True},
    Profile.ENTERPRISE_INGESTION: {"LLM_ENGINE_MODE": Mode.VLLM, "AEGIS_VLLM_ON_DEMAND": False},
}
