"""A real Prometheus on loopback, with the configuration and the rules of `compose/`, and what it answers."""

import json
import math
import os
import re
import shutil
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import monitoring

from aegis_workers.local import process

BINARY = shutil.which("prometheus")
# Instead of the 15 s of the configuration.
SCRAPED_EVERY_S = 1
# What Grafana puts in: at least four scrapes.
RATE_INTERVAL = f"{4 * SCRAPED_EVERY_S}s"


@dataclass(frozen=True, kw_only=True)
class Prometheus:
    """A running one. `began_at`: epoch seconds."""

    url: str
    began_at: float

    def targets_up(self) -> int:
        """How many targets answered their last scrape."""
        return sum(target["health"] == "up" for target in self._get("targets")["activeTargets"])

    def values(self, expr: str) -> Mapping[str, Sequence[float]]:
        """The values of each series of an expression since the beginning; its labels as JSON. Fails where it is none."""
        query = expr.replace("$__rate_interval", RATE_INTERVAL)
        found = self._get("query_range", query=query, start=self.began_at, end=time.time(), step=SCRAPED_EVERY_S)
        return {json.dumps(one["metric"]): [float(value) for _, value in one["values"]] for one in found["result"]}

    def highest(self, expr: str) -> float:
        """The highest value of any of its series; 0 where there is none. What is divided by nothing has no value."""
        found = (value for values in self.values(expr).values() for value in values)
        return max(filter(math.isfinite, found), default=0.0)

    def rules(self) -> Mapping[str, Mapping[str, Any]]:
        """Each alert rule as it stands."""
        return {rule["name"]: rule for group in self._get("rules")["groups"] for rule in group["rules"]}

    def _get(self, what: str, **asked: Any) -> Any:
        url = f"{self.url}/api/v1/{what}?{urllib.parse.urlencode(asked)}"
        with urllib.request.urlopen(url, timeout=10) as response:  # noqa: S310 - on loopback
            return json.load(response)["data"]


@contextmanager
def scraping(folder: Path, processes: Sequence[str], admin: str, token: str) -> Iterator[Prometheus]:
    """One that scrapes these addresses (`host:port`) of workers and controllers, and of the admin API."""
    assert BINARY is not None
    (folder / "token").write_text(token)
    shutil.copy(monitoring.ALERTS, folder)
    (folder / "prometheus.yml").write_text(_configuration(processes, admin, folder / "token"))
    address = f"127.0.0.1:{process.free_port()}"
    options = [f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data", f"--web.listen-address={address}"]
    began_at = time.time()
    child = process.start("prometheus", [BINARY, *options], log=folder / "prometheus.log", env=os.environ)
    try:
        child.wait_ready(lambda: "Server is ready" in child.log_text(), 30)
        yield Prometheus(url=f"http://{address}", began_at=began_at)
    finally:
        process.stop([child], 10)


def _configuration(processes: Sequence[str], admin: str, token: Path) -> str:
    """That of the containers, for processes of this host."""
    text = monitoring.SCRAPES.read_text()
    targets = f"    static_configs:\n      - targets: {json.dumps(list(processes))}\n"
    for pattern, instead in (
        (r"_interval: 15s", f"_interval: {SCRAPED_EVERY_S}s"),
        (r"    dns_sd_configs:\n(?:      .*\n)+", targets),
        (r"/run/aegis/admin_token", str(token)),
        (r"admin:8080", admin),
    ):
        text, count = re.subn(pattern, instead, text)
        assert count, pattern
    return text
