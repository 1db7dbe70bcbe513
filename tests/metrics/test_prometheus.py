"""A real Prometheus that watches a real system, well and in trouble: panels show what happens, and alerts see what is wrong."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlparse

import job_place
import memory_host
import monitoring
import prometheus_server
import pytest
from installation import eventually
from memory_host import EngineHost
from prometheus_server import Prometheus
from test_scraped import get, port_of

from aegis_workers.jobs.journal import State
from aegis_workers.local import children, process
from aegis_workers.local.process import Process
from aegis_workers.routing import Engine

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(300),
    pytest.mark.skipif(prometheus_server.BINARY is None, reason="Prometheus is not installed"),
]
TOKEN = "a token of the test"  # noqa: S105
QUEUES = ("extraction", "extraction", "chat", "chat", "chat", "control")
# What is due after a minute or more is looked at as if it were due after a second.
SOONER = (("> 3600", "> 1"), ("> 60", "> 1"))


@dataclass(frozen=True, kw_only=True)
class Watched:
    """A host with engines that a controller switches, and who watches it. `admin` is the admin API."""

    host: EngineHost
    admin: Process
    prometheus: Prometheus

    def await_alert(self, name: str) -> None:
        """Returns once the expression of this alert has found something."""
        eventually(lambda: self.prometheus.values(due(name)), within_s=30)

    def latest(self, expr: str) -> float:
        """The last value of an expression of one series; 0 where it has found nothing yet."""
        return next((values[-1] for values in self.prometheus.values(expr).values()), 0.0)


def due(name: str) -> str:
    """The expression of an alert."""
    [expr] = [alert.expr for alert in monitoring.alerts() if alert.name == name]
    for late, soon in SOONER:
        expr = expr.replace(late, soon)
    return expr


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    logs = tmp_path_factory.mktemp("watched")
    with ExitStack() as stack:
        more: dict[str, Any] = {"metrics_port": "0", "admin_token": TOKEN, "memory_gate_s": 3.0}
        host = stack.enter_context(memory_host.engine_host(logs, queues=QUEUES, **more))
        [controller] = host.lead()
        folder = logs / "watching"
        folder.mkdir()
        admin = children.start_admin(0, host.place.settings, folder)
        stack.callback(process.stop, [admin], 10)
        shown = [shown_at(one) for one in (*host.place.workers, controller)]
        at = urlparse(children.address(admin)).netloc
        prometheus = stack.enter_context(prometheus_server.scraping(folder, shown, at, TOKEN))
        eventually(lambda: prometheus.targets_up() == len(shown) + 1)
        found = Watched(host=host, admin=admin, prometheus=prometheus)
        work(found)
        get_into_trouble(found)
        yield found


def shown_at(child: Process) -> str:
    """Where a process shows its metrics, once it does."""
    eventually(lambda: '"metrics.served"' in child.log.read_text())
    return f"127.0.0.1:{port_of(child.log.read_text())}"


def work(watched: Watched) -> None:
    """A job, chats, and a switch there and back."""
    host, place = watched.host, watched.host.place
    job = host.submit(job_place.texts(400))
    host.await_lines(job, 20)
    host.write_mode("vllm")
    watched.await_alert("AegisSwitchHangs")
    host.await_settled(Engine.VLLM)
    host.await_state(job, State.COMPLETED, within_s=90)
    place.chat().get(timeout=60)
    host.write_mode("auto")
    host.await_settled(Engine.OLLAMA)
    place.chat().get(timeout=60)
    place.send("aegis.extract", text="Ada met Bo.").get(timeout=60)  # falls back


def get_into_trouble(watched: Watched) -> None:
    """One after the other, whatever somebody is to be told of."""
    host, place, redis = watched.host, watched.host.place, watched.host.place.redis
    assert place.server.process is not None
    place.behave(Engine.OLLAMA, error_status=400)
    host.submit(job_place.texts(200), stop_window=20)
    watched.await_alert("AegisJobStopped")
    place.behave(Engine.OLLAMA, error_status=500)
    for _ in range(20):
        place.chat().forget()
    watched.await_alert("AegisBreakerOpen")
    place.behave(Engine.OLLAMA)

    occupied = host.occupy(45)
    host.write_mode("vllm")
    watched.await_alert("AegisEngineFailed")
    host.free(occupied)
    host.write_mode("none of them")
    watched.await_alert("AegisModeProblem")
    host.write_mode("ollama")
    host.await_settled(Engine.OLLAMA)

    redis.config_set("maxmemory", int(redis.info("memory")["used_memory"] / 0.95))
    watched.await_alert("AegisRedisNearlyFull")
    redis.config_set("maxmemory", 0)
    with host.frozen(place.server.process):
        eventually(lambda: watched.latest("sum(aegis_mode_cache_stale)") > 0, within_s=60)

    kill_with_one_chat(watched)
    place.chat().forget()
    for name in ("AegisPoisonSetAside", "AegisTargetAway", "AegisQueueWithoutWorker", "AegisOldestWaitsTooLong"):
        watched.await_alert(name)

    place.kill_engine(Engine.OLLAMA)
    place.send("aegis.extract", text="Ada met Bo.").forget()
    watched.await_alert("AegisCallsWaitForEngine")
    host.submit(job_place.texts(1))
    host.kill(host.controllers[0])
    watched.await_alert("AegisNoController")
    for worker in place.workers:
        worker.popen.kill()
    watched.await_alert("AegisEngineUnwatched")
    host.spool.root.rename(host.spool.root.with_name("elsewhere"))
    host.spool.root.touch()
    watched.await_alert("AegisDataFolderAway")
    place.server.process.popen.kill()
    watched.await_alert("AegisRedisAway")


def kill_with_one_chat(watched: Watched) -> None:
    """A chat that no worker survives, until it is set aside."""
    place = watched.host.place
    eventually(lambda: place.in_flight(Engine.OLLAMA) == 0, within_s=60)
    place.behave(Engine.OLLAMA, hang=True)
    place.chat().forget()
    chats = [worker for worker in place.workers if worker.name == "worker-chat"]
    for deaths in range(1, len(chats) + 1):
        eventually(lambda: place.in_flight(Engine.OLLAMA) == 1, within_s=60)
        [holder] = eventually(lambda: [one for one in chats if one.is_alive() and holds_a_call(one)])
        eventually(lambda: watched.latest("sum(aegis_worker_calls_in_flight)") == 1)
        holder.popen.kill()
        holder.popen.wait()
        eventually(lambda: watched.latest("sum(aegis_worker_deaths_total)") == deaths, within_s=60)  # noqa: B023 - called at once
    watched.await_alert("AegisWorkersDie")
    place.behave(Engine.OLLAMA)


def holds_a_call(worker: Process) -> bool:
    return 'aegis_worker_calls_in_flight{engine="ollama"} 1.0' in get(worker.log.read_text())


def test_prometheus_evaluates_every_rule(watched: Watched) -> None:
    found = watched.prometheus.rules()
    assert found.keys() == {alert.name for alert in monitoring.alerts()}
    assert {name: rule.get("lastError") for name, rule in found.items()} == dict.fromkeys(found)


def test_every_alert_is_due_once_its_trouble_is_there(watched: Watched) -> None:
    assert [alert.name for alert in monitoring.alerts() if not watched.prometheus.values(due(alert.name))] == []


def test_every_panel_shows_what_has_happened(watched: Watched) -> None:
    assert [(title, expr) for title, expr in monitoring.asked() if not watched.prometheus.highest(expr) > 0] == []
