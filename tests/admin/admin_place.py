"""An admin API for a test, on a real socket and a data folder of its own, and the unmodified client of OpenAI for it."""

import json
import socket
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from openai import OpenAI

from aegis_workers.admin import reach
from aegis_workers.admin import serving as serving_module
from aegis_workers.jobs.desk import Desk
from aegis_workers.jobs.local import LocalDesk
from aegis_workers.local import children, process
from aegis_workers.local.process import Process
from aegis_workers.settings import Settings

NO_REDIS = "redis://127.0.0.1:1/0"
TOKEN = "correct horse battery staple"  # noqa: S105 - a test's own


@dataclass(frozen=True, kw_only=True)
class AdminPlace:
    """A running admin API."""

    url: str
    settings: Settings

    @property
    def files(self) -> Path:
        """Where it keeps uploads."""
        return self.settings.data_dir / "files"

    def left(self) -> set[str]:
        """What is in the folder of uploads beside whole files."""
        return {path.name for path in self.files.glob(".*")} if self.files.exists() else set()

    @contextmanager
    def openai(self, token: str = TOKEN, **options: Any) -> Iterator[OpenAI]:
        """The client that anybody would use."""
        with OpenAI(base_url=f"{self.url}/v1", api_key=token, **({"max_retries": 0, "timeout": 30} | options)) as client:
            yield client

    @contextmanager
    def http(self, token: str | None = TOKEN) -> Iterator[httpx.Client]:
        """A client that sends what it is told."""
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        with httpx.Client(base_url=self.url, headers=headers, timeout=30) as client:
            yield client


@dataclass(frozen=True, kw_only=True)
class AdminProcess(AdminPlace):
    """One in a process of its own."""

    child: Process


def chosen(folder: Path, *, token: str | None = TOKEN, redis_url: str = NO_REDIS, **more: Any) -> Settings:
    """Settings with a data folder of the test's own."""
    return Settings(_env_file=None, redis_url=redis_url, data_dir=folder / "data", admin_token=token, **more)


@contextmanager
def serving(settings: Settings, desk: Desk | None = None) -> Iterator[AdminPlace]:
    """An admin API in a thread, which starts at once; it ends with the block."""
    with (
        LocalDesk(settings, redis_within_s=reach.WITHIN_S) as local,
        serving_module.listening(socket.AF_INET, "127.0.0.1", 0) as listener,
    ):
        server = serving_module.server(settings, desk or local)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield AdminPlace(url=f"http://127.0.0.1:{listener.getsockname()[1]}", settings=settings)
        finally:
            server.should_exit = True
            thread.join()


@contextmanager
def process_serving(settings: Settings, logs: Path) -> Iterator[AdminProcess]:
    """`aegis-workers admin` as a process, which can be killed and measured; it ends with the block."""
    child = children.start_admin(0, settings, Path(tempfile.mkdtemp(dir=logs)))
    try:
        yield AdminProcess(url=children.address(child), settings=settings, child=child)
    finally:
        process.stop([child], 10)


def json_lines(records: Iterable[Mapping[str, Any]]) -> bytes:
    """Records as a file has them."""
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


def texts(count: int) -> bytes:
    """An input file of so many short texts."""
    return json_lines({"custom_id": f"text-{number}", "text": f"Ada met Grace in room {number}."} for number in range(count))


def requests(count: int) -> bytes:
    """An input file of so many chat completions, as OpenAI's guide writes it."""
    return json_lines(
        {
            "custom_id": f"request-{number}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {"model": "sim", "messages": [{"role": "user", "content": f"Question {number}?"}]},
        }
        for number in range(count)
    )
