"""The engine clients of a process, made from the settings."""

from collections.abc import Mapping
from typing import Final

from aegis_workers.engines import transport
from aegis_workers.engines.base import EngineClient
from aegis_workers.engines.ollama import OllamaClient
from aegis_workers.engines.vllm import VllmClient
from aegis_workers.routing import Engine
from aegis_workers.settings import Settings

# Ollama takes any negative duration so.
_FOR_EVER: Final = "-1s"


def build(settings: Settings) -> Mapping[Engine, tuple[EngineClient, ...]]:
    """One client for each replica of each engine, all on one pool of connections; none for an engine without a model.

    They belong to the event loop that first uses them. Closing the last one closes the pool.
    """
    pool = transport.Pool()
    return {Engine.VLLM: _vllm(settings, pool), Engine.OLLAMA: _ollama(settings, pool)}


def _vllm(settings: Settings, pool: transport.Pool) -> tuple[EngineClient, ...]:
    model = settings.vllm_model
    if model is None:
        return ()
    api_key = settings.vllm_api_key.get_secret_value() if settings.vllm_api_key else None
    return tuple(
        VllmClient(
            place=transport.address(url, api_key=api_key),
            model=model,
            probe_timeout_s=settings.probe_timeout_s,
            pool=pool,
        )
        for url in settings.vllm_url
    )


def _ollama(settings: Settings, pool: transport.Pool) -> tuple[EngineClient, ...]:
    """Where a controller has it load and unload, each call asks for the model to stay: the last one's wish is in force."""
    model = settings.ollama_model
    if model is None:
        return ()
    keep_alive = _FOR_EVER if settings.ollama_driver == "ollama" else settings.ollama_keep_alive
    return tuple(
        OllamaClient(
            place=transport.address(url),
            model=model,
            num_ctx=settings.ollama_num_ctx,
            keep_alive=keep_alive,
            probe_timeout_s=settings.probe_timeout_s,
            pool=pool,
        )
        for url in settings.ollama_url
    )
