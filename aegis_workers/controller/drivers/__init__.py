"""The drivers of an installation, made from the settings."""

from collections.abc import Mapping, Sequence

from aegis_workers.controller.driver import Driver
from aegis_workers.controller.drivers.docker import DockerDriver
from aegis_workers.controller.drivers.external import ExternalDriver
from aegis_workers.controller.drivers.ollama import OllamaDriver
from aegis_workers.controller.drivers.process import ProcessDriver
from aegis_workers.engines.base import EngineClient
from aegis_workers.routing import Engine
from aegis_workers.settings import Settings

Replicas = Mapping[Engine, Sequence[EngineClient]]


def build(settings: Settings, replicas: Replicas) -> Mapping[Engine, Driver]:
    """A driver for each engine, also for one without a model: what was started before must be seen, and be ended.

    `replicas` are the clients of `engines.clients.build`, which stay the caller's to close.
    """
    return {Engine.VLLM: _vllm(settings, replicas[Engine.VLLM]), Engine.OLLAMA: _ollama(settings, replicas[Engine.OLLAMA])}


def _vllm(settings: Settings, replicas: Sequence[EngineClient]) -> Driver:
    if settings.vllm_driver == "docker" and settings.vllm_container is not None:
        return DockerDriver(Engine.VLLM, replicas, container=settings.vllm_container)
    if settings.vllm_driver == "process" and settings.vllm_command is not None:
        # vLLM reads its key there: so it need not stand in the command, where every user of the host sees it.
        key = settings.vllm_api_key
        secrets = {} if key is None else {"VLLM_API_KEY": key.get_secret_value()}
        command, data_dir = settings.vllm_command, settings.data_dir
        return ProcessDriver(Engine.VLLM, replicas, command=command, data_dir=data_dir, secrets=secrets)
    return ExternalDriver(Engine.VLLM, replicas)


def _ollama(settings: Settings, replicas: Sequence[EngineClient]) -> Driver:
    if settings.ollama_driver == "ollama" and replicas:
        return OllamaDriver(replicas)
    return ExternalDriver(Engine.OLLAMA, replicas)
