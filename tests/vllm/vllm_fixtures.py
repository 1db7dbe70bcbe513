"""The servers and settings of the tests in this folder: a plugin of `run.py`, without which they are not collected."""

from collections.abc import Iterator
from typing import Any

import pytest
import serving
from real_vllm import RealVllm
from serving import MODEL, SLOTS, Server


@pytest.fixture(scope="session")
def suite(pytestconfig: pytest.Config) -> RealVllm:
    (found,) = (plugin for plugin in pytestconfig.pluginmanager.get_plugins() if isinstance(plugin, RealVllm))
    return found


@pytest.fixture
def server(suite: RealVllm) -> Server:
    """In developer mode, with priorities and without a key; started again where a test has ended it."""
    return suite.server.start()


@pytest.fixture(scope="session")
def _guarded(suite: RealVllm) -> Iterator[Server]:
    with serving.running(suite.logs, *serving.GUARDED) as server:
        yield server


@pytest.fixture
def guarded(_guarded: Server) -> Server:
    """With a key, a bounded queue and the default policy; started again where a test has ended it."""
    return _guarded.start()


@pytest.fixture(scope="session")
def real(suite: RealVllm) -> dict[str, Any]:
    """The settings of an installation whose only engine is the server that most tests share."""
    urls = (suite.server.url,)
    return {"llm_engine_mode": "vllm", "vllm_url": urls, "vllm_model": MODEL, "vllm_limit": SLOTS, "ollama_model": None}
