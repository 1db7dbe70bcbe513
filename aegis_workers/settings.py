"""Every setting, read once: the only reader of the environment and of `.env`."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from aegis_workers import address, profiles
from aegis_workers.address import Address
from aegis_workers.errors import ConfigurationError
from aegis_workers.forms import (
    BaseUrl,
    BaseUrls,
    Certificate,
    Command,
    Duration,
    Folder,
    Login,
    MemorySource,
    Ports,
    RedisUrl,
    Stripped,
    Word,
    lowered,
    without_secrets,
)
from aegis_workers.profiles import Profile
from aegis_workers.routing import Engine, Mode, Policy

ENV_FILE = Path(".env")
# Where a user's programs keep their data, by the XDG base directory specification.
_DATA_DIR = Path("~/.local/share/aegis-workers")


# Of a large limit a few slots are enough to keep a chat from waiting.
_MOST_KEPT = 8
# A thread that waits costs about 40 kB.
_MOST_THREADS = 1024
# With fewer, what an engine of few slots could do next would lie in the queue while the worker looks elsewhere.
_SMALLEST_CAPACITY = 16


class Settings(BaseSettings):
    """The values in force. Times in seconds (`_s`), sizes in bytes or GB as their names say."""

    model_config = SettingsConfigDict(
        env_file=ENV_FILE, extra="ignore", frozen=True, env_ignore_empty=True, populate_by_name=True, allow_inf_nan=False
    )

    deployment_profile: Annotated[Profile | None, Word] = Field(None, alias="DEPLOYMENT_PROFILE")
    llm_engine_mode: Annotated[Mode, Word] = Field(Mode.AUTO, alias="LLM_ENGINE_MODE")

    redis_url: RedisUrl = Field("redis://localhost:6379/0", repr=False, alias="AEGIS_REDIS_URL")
    redis_ca: Certificate | None = Field(None, alias="AEGIS_REDIS_CA")
    redis_master: Annotated[str, Stripped] = Field("mymaster", min_length=1, alias="AEGIS_REDIS_MASTER")
    redis_sentinel_password: SecretStr | None = Field(None, alias="AEGIS_REDIS_SENTINEL_PASSWORD")
    fallback: Annotated[Policy, Word] = Field(Policy.DEGRADE, alias="AEGIS_FALLBACK")

    vllm_url: BaseUrls = Field(("http://localhost:8000",), repr=False, alias="AEGIS_VLLM_URL")
    vllm_model: Annotated[str | None, Stripped] = Field(None, alias="AEGIS_VLLM_MODEL")
    vllm_api_key: Annotated[SecretStr | None, Stripped] = Field(None, alias="AEGIS_VLLM_API_KEY")
    vllm_limit: int = Field(256, ge=1, alias="AEGIS_VLLM_LIMIT")
    vllm_interactive_slots: int | None = Field(None, ge=0, alias="AEGIS_VLLM_INTERACTIVE_SLOTS")
    vllm_memory_gb: float = Field(40.7, gt=0, alias="AEGIS_VLLM_MEMORY_GB")
    vllm_driver: Annotated[Literal["external", "process", "docker"], Word] = Field("external", alias="AEGIS_VLLM_DRIVER")
    vllm_command: Annotated[Command | None, Stripped] = Field(None, repr=False, alias="AEGIS_VLLM_COMMAND")
    vllm_container: Annotated[str | None, Stripped] = Field(None, alias="AEGIS_VLLM_CONTAINER")
    vllm_on_demand: bool = Field(False, alias="AEGIS_VLLM_ON_DEMAND")  # noqa: FBT003 - a default
    vllm_idle_s: float = Field(600.0, ge=0, alias="AEGIS_VLLM_IDLE_S")

    ollama_url: BaseUrls = Field(("http://localhost:11434",), repr=False, alias="AEGIS_OLLAMA_URL")
    ollama_model: Annotated[str | None, Stripped] = Field(None, alias="AEGIS_OLLAMA_MODEL")
    ollama_limit: int = Field(4, ge=1, alias="AEGIS_OLLAMA_LIMIT")
    ollama_interactive_slots: int | None = Field(None, ge=0, alias="AEGIS_OLLAMA_INTERACTIVE_SLOTS")
    ollama_memory_gb: float = Field(24.0, gt=0, alias="AEGIS_OLLAMA_MEMORY_GB")
    ollama_driver: Annotated[Literal["external", "ollama"], Word] = Field("external", alias="AEGIS_OLLAMA_DRIVER")
    ollama_num_ctx: int = Field(8192, ge=512, alias="AEGIS_OLLAMA_NUM_CTX")
    ollama_keep_alive: Duration = Field("30m", alias="AEGIS_OLLAMA_KEEP_ALIVE")
    memory_budget_gb: float | None = Field(None, gt=0, alias="AEGIS_MEMORY_BUDGET_GB")
    memory_source: MemorySource = Field("auto", alias="AEGIS_MEMORY_SOURCE")
    memory_gate_s: float = Field(120.0, ge=0, alias="AEGIS_MEMORY_GATE_S")
    drain_s: float = Field(120.0, ge=0, alias="AEGIS_DRAIN_S")
    drain_then: Annotated[Literal["close", "wait"], Word] = Field("close", alias="AEGIS_DRAIN_THEN")
    start_timeout_s: float = Field(900.0, gt=0, alias="AEGIS_START_TIMEOUT_S")
    min_dwell_s: float = Field(10.0, ge=0, alias="AEGIS_MIN_DWELL_S")

    call_timeout_s: float = Field(120.0, gt=0, alias="AEGIS_CALL_TIMEOUT_S")
    chat_deadline_s: float = Field(300.0, gt=0, alias="AEGIS_CHAT_DEADLINE_S")
    extraction_deadline_s: float = Field(3600.0, gt=0, alias="AEGIS_EXTRACTION_DEADLINE_S")
    shutdown_grace_s: float = Field(30.0, ge=0, alias="AEGIS_SHUTDOWN_GRACE_S")
    probe_interval_s: float = Field(2.0, gt=0, alias="AEGIS_PROBE_INTERVAL_S")
    probe_timeout_s: float = Field(5.0, gt=0, alias="AEGIS_PROBE_TIMEOUT_S")

    requeue_after_s: float = Field(60.0, gt=0, alias="AEGIS_REQUEUE_AFTER_S")
    worker_threads: int | None = Field(None, ge=1, alias="AEGIS_WORKER_THREADS")
    watchdog_s: float = Field(60.0, ge=1, alias="AEGIS_WATCHDOG_S")
    health_dir: Folder | None = Field(None, alias="AEGIS_HEALTH_DIR")

    chunk_tokens: int = Field(1500, ge=50, alias="AEGIS_CHUNK_TOKENS")
    chunk_overlap_tokens: int = Field(100, ge=0, alias="AEGIS_CHUNK_OVERLAP_TOKENS")
    answer_tokens: int = Field(4096, ge=16, alias="AEGIS_ANSWER_TOKENS")
    max_text_bytes: int = Field(2_000_000, ge=1, alias="AEGIS_MAX_TEXT_BYTES")

    data_dir: Folder = Field(_DATA_DIR, validate_default=True, alias="AEGIS_DATA_DIR")
    window_calls: int = Field(4096, ge=1, alias="AEGIS_WINDOW_CALLS")
    window_bytes: int = Field(32_000_000, ge=1_000_000, alias="AEGIS_WINDOW_BYTES")
    job_expires_s: float = Field(7 * 86_400.0, gt=0, alias="AEGIS_JOB_EXPIRES_S")
    job_retention_days: float | None = Field(30.0, gt=0, alias="AEGIS_JOB_RETENTION_DAYS")
    admin_url: BaseUrl | None = Field(None, alias="AEGIS_ADMIN_URL")
    max_file_bytes: int = Field(8_000_000_000, ge=1, alias="AEGIS_MAX_FILE_BYTES")
    admin_token: Annotated[SecretStr | None, Stripped] = Field(None, alias="AEGIS_ADMIN_TOKEN")

    metrics_port: Annotated[Ports | None, Stripped] = Field(None, alias="AEGIS_METRICS_PORT")
    metrics_host: str = Field("127.0.0.1", alias="AEGIS_METRICS_HOST")

    log_format: Annotated[Literal["auto", "json", "console"], Word] = Field("auto", alias="AEGIS_LOG_FORMAT")
    flower_auth: Annotated[Login | None, Stripped] = Field(None, alias="AEGIS_FLOWER_AUTH")
    flower_control: bool = Field(False, alias="AEGIS_FLOWER_CONTROL")  # noqa: FBT003 - a default

    @model_validator(mode="before")
    @classmethod
    def _profile_chooses_defaults(cls, values: Any) -> Any:
        named = {str(field.alias): attribute for attribute, field in cls.model_fields.items()}
        profile = lowered(values.get("DEPLOYMENT_PROFILE", values.get("deployment_profile")))
        for alias, value in profiles.CHOSEN[Profile(profile)].items() if profile in set(Profile) else ():
            if named[alias] not in values:
                values.setdefault(alias, value)
        return values

    @model_validator(mode="after")
    def _certificates_are_for_tls(self) -> Self:
        if self.redis_ca is not None and self.redis_address.tls is None:
            raise ValueError(
                f"AEGIS_REDIS_CA={self.redis_ca} is for TLS, which AEGIS_REDIS_URL does not ask for: write rediss:// there"
            )
        return self

    @model_validator(mode="after")
    def _overlap_is_smaller_than_chunk(self) -> Self:
        if self.chunk_overlap_tokens * 2 > self.chunk_tokens:
            raise ValueError(
                f"AEGIS_CHUNK_OVERLAP_TOKENS={self.chunk_overlap_tokens} is more than half of "
                f"AEGIS_CHUNK_TOKENS={self.chunk_tokens}"
            )
        return self

    @model_validator(mode="after")
    def _lanes_are_smaller_than_limits(self) -> Self:
        for engine in Engine:
            kept, limit = self._interactive_slots(engine), self.limit(engine)
            if kept is not None and kept >= limit:
                name = f"AEGIS_{engine.upper()}"
                raise ValueError(
                    f"{name}_INTERACTIVE_SLOTS={kept} leaves no slot for extraction: it must be less than {name}_LIMIT={limit}"
                )
        return self

    @model_validator(mode="after")
    def _drivers_have_what_they_need(self) -> Self:
        if self.vllm_driver == "process" and self.vllm_command is None:
            raise ValueError("AEGIS_VLLM_DRIVER=process needs AEGIS_VLLM_COMMAND, such as vllm serve MODEL --port 8000")
        if self.vllm_driver == "docker" and self.vllm_container is None:
            raise ValueError("AEGIS_VLLM_DRIVER=docker needs AEGIS_VLLM_CONTAINER: the name of a container that was created")
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - the names are pydantic-settings' own
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Environment over `.env` over profile and defaults; no secrets folder."""
        return init_settings, env_settings, dotenv_settings

    @property
    def redis_address(self) -> Address:
        """What `redis_url` says, and `redis_ca` adds to it."""
        return address.parse(self.redis_url, None if self.redis_ca is None else str(self.redis_ca))

    def urls(self, engine: Engine) -> tuple[str, ...]:
        """Base URLs of the engine's replicas."""
        return self.vllm_url if engine is Engine.VLLM else self.ollama_url

    def model(self, engine: Engine) -> str | None:
        """The model to ask of the engine; None where the engine is not configured."""
        return self.vllm_model if engine is Engine.VLLM else self.ollama_model

    def driver(self, engine: Engine) -> str:
        """Who starts the engine and has it give its memory back: `external`, `ollama`, `process` or `docker`."""
        return self.vllm_driver if engine is Engine.VLLM else self.ollama_driver

    def memory_gb(self, engine: Engine) -> float:
        """What the engine takes, in GB of 10^9 bytes."""
        return self.vllm_memory_gb if engine is Engine.VLLM else self.ollama_memory_gb

    def limit(self, engine: Engine) -> int:
        """Calls in flight that the engine may have."""
        return self.vllm_limit if engine is Engine.VLLM else self.ollama_limit

    def kept(self, engine: Engine) -> int:
        """How many slots of each replica extraction leaves to chat and generation."""
        chosen = self._interactive_slots(engine)
        return min(_MOST_KEPT, self.limit(engine) // 4) if chosen is None else chosen

    def _interactive_slots(self, engine: Engine) -> int | None:
        return self.vllm_interactive_slots if engine is Engine.VLLM else self.ollama_interactive_slots

    def capacity(self) -> int:
        """Calls that a worker process takes on, waiting or in flight: twice what an engine may have, so that no slot waits."""
        limits = [self.limit(engine) * len(self.urls(engine)) for engine in Engine if self.model(engine) is not None]
        return max(_SMALLEST_CAPACITY, 2 * max(limits, default=1))

    def threads(self) -> int:
        """Messages that a worker process works on at once: enough for its capacity if each holds a single call."""
        return self.worker_threads or min(_MOST_THREADS, self.capacity())

    def has_room_for_both(self) -> bool:
        """Whether the memory settings say that both engines fit at once; without a budget they do not say so."""
        return self.memory_budget_gb is not None and self.vllm_memory_gb + self.ollama_memory_gb <= self.memory_budget_gb


@cache
def load() -> Settings:
    """The settings of this process, read at the first call.

    Raises `ConfigurationError`, which names each bad variable, its value and what is allowed.
    """
    try:
        return Settings()
    except ValidationError as error:
        raise ConfigurationError("\n".join(_explain(problem) for problem in error.errors())) from None


def _explain(problem: Mapping[str, Any]) -> str:
    names = [str(part) for part in problem["loc"] if isinstance(part, str)]
    reason = str(problem["msg"]).removeprefix("Value error, ")
    if not names:
        return reason
    name, value = names[0], str(problem["input"])
    secret = name in _secret_names() or ("@" in value and "://" not in value)
    shown = "" if secret else f"={without_secrets(value)}"
    return f"{name}{shown}: {reason}"


def _secret_names() -> set[str]:
    return {alias for alias, field in _fields().items() if "SecretStr" in str(field.annotation)}


def _fields() -> Mapping[str, Any]:
    return {str(field.alias): field for field in Settings.model_fields.values()}
