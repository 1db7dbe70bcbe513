"""The process driver with real commands: what forks, what does not listen, what outlives its controller, what crashes."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import pytest

from aegis_workers.controller.driver import NotNow, Observation, Presence
from aegis_workers.controller.drivers import keeper
from aegis_workers.controller.drivers.process import ProcessDriver
from aegis_workers.controller.drivers.sight import Files, Sight
from aegis_workers.engines.base import EngineClient, Probe, Readiness
from aegis_workers.errors import DriverFailed
from aegis_workers.routing import Engine

pytestmark = pytest.mark.anyio

WAIT_S = 40.0
# Writes its process id to its first argument when it is ready for signals.
SLEEPS = """
import os, sys, time, pathlib
print("up", flush=True)
pathlib.Path(sys.argv[1]).write_text(str(os.getpid()))
time.sleep(600)
"""
STUBBORN = """
import os, signal, sys, time, pathlib
signal.signal(signal.SIGTERM, signal.SIG_IGN)
for kind in ("child", "far"):
    if os.fork() == 0:
        if kind == "far":  # as a daemon leaves: a session of its own, and no parent
            os.setsid()
            if os.fork():
                os._exit(0)
        pathlib.Path(sys.argv[1] + "." + kind).write_text(str(os.getpid()))
        time.sleep(600)
pathlib.Path(sys.argv[1]).write_text(str(os.getpid()))
time.sleep(600)
"""
TALKS = """
import pathlib, sys, time
for _ in range(100):
    print("x" * 999, flush=True)
pathlib.Path(sys.argv[1]).write_text("1")
time.sleep(600)
"""
# A server that answers is not what these tests are about.
READY = Probe(readiness=Readiness.READY)
SILENT = Probe(readiness=Readiness.UNAVAILABLE, reason="connection refused")


class Replica:
    """A client that finds what the test says."""

    engine, url = Engine.VLLM, "http://127.0.0.1:1"

    def __init__(self) -> None:
        self.found = SILENT

    async def probe(self) -> Probe:
        return self.found


def command(code: str, *arguments: object) -> str:
    return " ".join(f"'{part}'" for part in (sys.executable, "-c", code.replace("'", '"'), *arguments))


class Place:
    """A data folder and the drivers of controllers on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.replica: Any = Replica()
        self.drivers: list[ProcessDriver] = []

    @property
    def ready(self) -> Path:
        return self.folder / "ready"

    def driver(self, command: str, *, grace_s: float = 20.0, log_bytes: int = 10_000_000) -> ProcessDriver:
        replicas: list[EngineClient] = [self.replica]
        driver = ProcessDriver(Engine.VLLM, replicas, command=command, data_dir=self.folder, secrets={"VLLM_API_KEY": "key"})
        driver.grace_s, driver.log_bytes = grace_s, log_bytes
        self.drivers.append(driver)
        return driver

    def pid(self, suffix: str = "") -> int:
        return int(Path(f"{self.ready}{suffix}").read_text())

    def record(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.folder / "engines" / "vllm.json").read_text())
        return content


@pytest.fixture
async def place(tmp_path: Path, anyio_backend: str) -> AsyncIterator[Place]:
    del anyio_backend
    place = Place(tmp_path)
    yield place
    for driver in place.drivers:
        driver.grace_s = 0.0
        await until_absent(driver)


async def eventually(holds: Callable[[], Awaitable[Any]]) -> Any:
    async with asyncio.timeout(WAIT_S):
        while not (found := await holds()):  # noqa: ASYNC110 - processes have no event for it
            await asyncio.sleep(0.02)
        return found


async def observed(driver: ProcessDriver, presence: Presence) -> Observation:
    async def sees() -> Observation | None:
        seen = await driver.observe()
        return seen if seen.presence is presence else None

    found: Observation = await eventually(sees)
    return found


async def written(path: Path) -> None:
    async def is_there() -> bool:
        return size(path) > 0

    await eventually(is_there)


def size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


async def until_absent(driver: ProcessDriver) -> None:
    async def gone() -> bool:
        if (await driver.observe()).presence is Presence.ABSENT:
            return True
        await driver.release()
        return False

    await eventually(gone)


def lives(pid: int) -> bool:
    return any(keeper.read(pid))


async def test_a_command_is_started_once_seen_and_ended_without_a_trace(place: Place) -> None:
    driver = place.driver(command(SLEEPS, place.ready))
    assert (await driver.observe()) == Observation(presence=Presence.ABSENT, reason="not running")
    await driver.start()
    assert (await driver.observe()).presence is Presence.COMING  # from the first moment
    await written(place.ready)
    pid = place.pid()
    await driver.start()
    assert (await driver.observe()) == Observation(presence=Presence.COMING, reason="connection refused")
    place.replica.found = READY
    assert (await driver.observe()).presence is Presence.PRESENT
    place.replica.found = SILENT

    await driver.release()
    seen = await observed(driver, Presence.ABSENT)
    assert (seen.ended, seen.reason) == (False, "not running")
    assert not lives(pid)
    assert not lives(place.record()["pid"])
    assert driver.files.log.read_text() == "up\n"


async def test_what_forks_and_ignores_sigterm_is_killed_with_all_that_it_left_behind(place: Place) -> None:
    driver = place.driver(command(STUBBORN, place.ready), grace_s=0.3)
    await driver.start()
    for suffix in ("", ".child", ".far"):
        await written(Path(f"{place.ready}{suffix}"))
    pids = [place.pid(suffix) for suffix in ("", ".child", ".far")]
    await driver.release()
    seen = await driver.observe()
    assert seen.presence in {Presence.GOING, Presence.ABSENT}
    await observed(driver, Presence.ABSENT)
    assert [pid for pid in pids if lives(pid)] == []


async def test_an_order_to_end_is_carried_out_although_the_controller_that_gave_it_is_gone(place: Place) -> None:
    driver = place.driver(command(STUBBORN, place.ready), grace_s=0.3)
    await driver.start()
    await written(Path(f"{place.ready}.far"))
    await driver.release()
    heir = place.driver(command(STUBBORN, place.ready))
    await observed(heir, Presence.ABSENT)  # which releases nothing
    assert not lives(place.pid(".far"))


async def test_a_command_whose_first_process_died_is_going_until_its_children_are_ended(place: Place) -> None:
    driver = place.driver(command(STUBBORN, place.ready), grace_s=0.3)
    await driver.start()
    for suffix in ("", ".child", ".far"):
        await written(Path(f"{place.ready}{suffix}"))
    os.kill(place.pid(), signal.SIGKILL)
    seen = await observed(driver, Presence.GOING)
    assert (seen.ended, seen.reason) == (True, "its command ended (killed by SIGKILL); 2 processes left")
    await driver.release()
    await observed(driver, Presence.ABSENT)
    assert not lives(place.pid(".child")) | lives(place.pid(".far"))


async def test_an_order_that_is_taken_back_at_the_last_moment_starts_and_ends_no_command(place: Place) -> None:
    driver = place.driver(command(SLEEPS, place.ready))

    async def refuse() -> None:
        raise NotNow("another leads")

    with pytest.raises(NotNow):
        await driver.start(refuse)
    assert (await driver.observe()) == Observation(presence=Presence.ABSENT, reason="not running")
    await driver.start()
    with pytest.raises(NotNow):
        await driver.release(refuse)
    assert (await driver.observe()).presence is Presence.COMING
    await until_absent(driver)


async def test_children_whose_keeper_was_killed_too_are_found_and_ended(place: Place) -> None:
    driver = place.driver(command(STUBBORN, place.ready), grace_s=0.3)
    await driver.start()
    for kind in ("", ".child", ".far"):
        await written(Path(f"{place.ready}{kind}"))
    pids = [place.pid(kind) for kind in ("", ".child", ".far")]
    os.kill(place.record()["pid"], signal.SIGKILL)

    async def is_seen() -> bool:
        return not lives(place.record()["pid"])

    await eventually(is_seen)
    heir = place.driver(command(SLEEPS, place.ready), grace_s=0.3)
    assert (await heir.observe()).presence is Presence.COMING
    with pytest.raises(DriverFailed, match="must end first"):
        await heir.start()
    await until_absent(heir)
    assert [pid for pid in pids if lives(pid)] == []


async def test_a_daemon_that_outlives_its_keeper_and_its_session_is_found_and_ended(place: Place) -> None:
    driver = place.driver(command(STUBBORN, place.ready), grace_s=0.3)
    await driver.start()
    for kind in ("", ".child", ".far"):
        await written(Path(f"{place.ready}{kind}"))
    for pid in (place.record()["pid"], place.pid(), place.pid(".child")):
        os.kill(pid, signal.SIGKILL)

    async def only_the_daemon_is_left() -> bool:
        return list(driver.files.look().alive) == [place.pid(".far")]

    await eventually(only_the_daemon_is_left)
    heir = place.driver(command(SLEEPS, place.ready), grace_s=0.3)
    with pytest.raises(DriverFailed, match="must end first"):
        await heir.start()
    await until_absent(heir)
    assert not lives(place.pid(".far"))


async def test_a_look_that_hangs_holds_up_neither_an_order_nor_the_end_of_the_process(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    goes_on, looking = threading.Event(), []

    def hang(_: Files) -> Sight:
        looking.append(threading.current_thread())
        goes_on.wait(WAIT_S)
        return Sight()

    driver = place.driver("true")
    monkeypatch.setattr(Files, "look", hang)
    for order in (driver.start, driver.release):
        with anyio.move_on_after(0.05), suppress(TimeoutError):
            await order()
    goes_on.set()
    assert [thread.daemon for thread in looking] == [True]
    looking[0].join(WAIT_S)


async def test_a_command_that_crashes_at_its_start_leaves_its_last_words(place: Place) -> None:
    driver = place.driver(command('import sys; print(*range(40), sep=chr(10), flush=True); sys.exit("no memory")'))
    await driver.start()
    seen = await observed(driver, Presence.ABSENT)
    assert (seen.ended, seen.reason) == (True, "its command ended (exit 1)")
    assert len(seen.last_words.splitlines()) == 15
    assert seen.last_words.endswith("39\nno memory")
    heir = place.driver("true")
    assert (await heir.observe()) == seen
    await heir.start()
    seen = await observed(heir, Presence.ABSENT)
    assert (seen.ended, seen.reason, seen.last_words) == (True, "its command ended (exit 0)", "")


async def test_a_command_that_is_not_there_says_so(place: Place) -> None:
    driver = place.driver("no-such-engine serve")
    await driver.start()
    seen = await observed(driver, Presence.ABSENT)
    assert seen.ended
    assert seen.last_words == "no-such-engine cannot be started: No such file or directory"


async def test_a_command_that_leaves_a_server_behind_runs_for_as_long_as_that(place: Place) -> None:
    driver = place.driver(f'sh -c \'"$0" "$@" & exit 0\' {command(SLEEPS, place.ready)}')
    await driver.start()
    await written(place.ready)

    async def first_has_ended() -> bool:
        return bool(place.record()["status"] == 0)

    await eventually(first_has_ended)
    assert (await driver.observe()) == Observation(presence=Presence.COMING, reason="connection refused")
    await until_absent(driver)
    assert not lives(place.pid())


# A controller that starts an engine and is killed: at once after the start, or by the keeper before that has done anything.
CONTROLLER = """
import asyncio, os, pathlib, signal, sys
from aegis_workers.controller.drivers import keeper
from aegis_workers.controller.drivers.process import ProcessDriver
from aegis_workers.routing import Engine
if sys.argv[3]:
    keeper.__file__ = sys.argv[3]
    os.environ["CONTROLLER"] = str(os.getpid())
asyncio.run(ProcessDriver(Engine.VLLM, [], command=sys.argv[2], data_dir=pathlib.Path(sys.argv[1]), secrets={}).start())
os.kill(os.getpid(), signal.SIGKILL)
"""
KILLS_FIRST = f"""
import os, runpy, signal, time
os.kill(int(os.environ["CONTROLLER"]), signal.SIGKILL)
while os.getppid() == int(os.environ["CONTROLLER"]):
    time.sleep(0.01)
runpy.run_path({keeper.__file__!r}, run_name="__main__")
"""


@pytest.mark.parametrize("when", ["after the start", "between fork and record"])
async def test_an_engine_outlives_its_controller_and_is_adopted(when: str, place: Place) -> None:
    kills = place.folder / "kills_first.py"
    kills.write_text(KILLS_FIRST)
    before = str(kills) if when == "between fork and record" else ""
    script = [sys.executable, "-c", CONTROLLER, str(place.folder), command(SLEEPS, place.ready), before]
    ended = await asyncio.to_thread(subprocess.run, script, check=False)
    assert ended.returncode == -signal.SIGKILL

    heir = place.driver(command(SLEEPS, place.ready))
    assert (await heir.observe()).presence is Presence.COMING  # also where nothing has been written yet
    await heir.start()
    await written(place.ready)
    pid = place.pid()
    place.replica.found = READY
    assert (await observed(heir, Presence.PRESENT)).ended is False
    assert place.pid() == pid  # there was no second start
    await heir.release()
    await observed(heir, Presence.ABSENT)
    assert not lives(pid)


async def test_two_controllers_on_a_host_cannot_start_two_engines(place: Place) -> None:
    counts = place.folder / "starts"
    code = f'import time; open({str(counts)!r}, "a").write("x"); time.sleep(600)'
    drivers = [place.driver(command(code)) for _ in range(4)]
    await asyncio.gather(*(driver.start() for driver in drivers))
    await written(counts)
    for driver in drivers:
        await driver.start()
        assert (await driver.observe()).presence is Presence.COMING
    await until_absent(drivers[0])
    assert counts.read_text() == "x"


async def test_an_engine_that_somebody_else_runs_at_the_address_is_left_alone(place: Place) -> None:
    driver = place.driver(command(SLEEPS, place.ready))
    place.replica.found = READY
    with pytest.raises(DriverFailed, match=r"not started from here answers at http://127\.0\.0\.1:1"):
        await driver.start()
    assert (await driver.observe()).presence is Presence.ABSENT
    assert not place.ready.exists()


@pytest.mark.parametrize("change", [{"boot": "another"}, {"began": 1}])
async def test_a_process_that_only_has_the_number_of_an_engine_is_not_touched(change: dict[str, Any], place: Place) -> None:
    driver = place.driver(command(SLEEPS, place.ready))
    other = await asyncio.create_subprocess_exec("sleep", "600", start_new_session=True)
    try:
        (place.folder / "engines").mkdir()
        (mine,) = keeper.read(other.pid)
        record = {"pid": mine.pid, "began": mine.began, "boot": keeper.boot(), "stopping": False, "status": None} | change
        (place.folder / "engines" / "vllm.json").write_text(json.dumps(record))
        assert (await driver.observe()).presence is Presence.ABSENT
        await driver.release()
        await driver.release()
        assert lives(other.pid)
    finally:
        other.kill()
        await other.wait()


async def test_the_log_stays_within_bounds_while_the_engine_runs_and_keeps_what_came_before(place: Place) -> None:
    driver = place.driver(command(TALKS, place.ready), log_bytes=20_000)
    await driver.start()
    await written(place.ready)

    async def is_cut() -> bool:
        return size(driver.files.log) <= 20_000

    await eventually(is_cut)
    older = [driver.files.log.with_name(f"vllm.log.{number}") for number in (1, 2, 3, 4)]
    assert size(older[0]) > 0
    await until_absent(driver)
    for _ in range(4):
        place.ready.unlink()
        await driver.start()
        await written(place.ready)
        await until_absent(driver)
    assert [size(path) > 0 for path in older] == [True, True, True, False]


async def test_the_engine_gets_the_environment_without_our_settings(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AEGIS_ADMIN_TOKEN", "planted")
    monkeypatch.setenv("LLM_ENGINE_MODE", "vllm")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    driver = place.driver("env")
    await driver.start()
    await observed(driver, Presence.ABSENT)
    said = driver.files.log.read_text().splitlines()
    assert {"CUDA_VISIBLE_DEVICES=1", "VLLM_API_KEY=key"} <= set(said)
    assert not [line for line in said if line.startswith(("AEGIS_", "LLM_"))]


async def test_a_folder_that_cannot_be_used_is_named(place: Place) -> None:
    (place.folder / "engines").write_text("a file")
    driver = place.driver("true")
    with pytest.raises(DriverFailed, match=r"could not be started in .*engines"):
        await driver.start()
    (place.folder / "engines").unlink()


async def test_a_keeper_that_cannot_say_who_it_is_starts_nothing(place: Place) -> None:
    (place.folder / "engines" / "vllm.new").mkdir(parents=True)
    driver = place.driver(command(SLEEPS, place.ready))
    with pytest.raises(DriverFailed, match=r"its keeper ended at once.*room on its disk"):
        await driver.start()
    assert (await driver.observe()).presence is Presence.ABSENT
    assert not place.ready.exists()
