import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from installation import eventually
from simulated import CHAT, simulated, until

from aegis_workers.simulator.pool import Pool, PoolUnusable, TooLittleFree
from aegis_workers.simulator.server import StartFailed

LOAD = {"model": "sim", "messages": []}
UNLOAD = LOAD | {"keep_alive": 0}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "pool.json"


def read(path: Path) -> Any:
    return json.loads(path.read_bytes())


def free_gb(path: Path) -> float:
    return float(read(path)["free_gb"])


class Hands:
    """A time that a test moves."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def test_what_is_taken_is_not_free_until_it_is_given_back(path: Path) -> None:
    pool = Pool(path)
    pool.open(100)
    held = pool.take(60)
    assert (read(path)["total_gb"], free_gb(path)) == (100, 40)
    with pytest.raises(TooLittleFree) as caught:
        pool.take(40.5)
    assert (caught.value.asked_gb, caught.value.free_gb, caught.value.total_gb) == (40.5, 40, 100)
    pool.give_back(held)
    assert free_gb(path) == 100


def test_memory_comes_back_little_by_little(path: Path) -> None:
    hands = Hands()
    pool = Pool(path, now=hands)
    pool.open(100)
    pool.give_back(pool.take(60, return_s=6))
    assert pool.settle() == 40
    hands.now += 3
    assert pool.settle() == free_gb(path) == 70
    hands.now += 3
    assert pool.settle() == 100
    assert read(path)["holders"] == []


def test_what_is_on_its_way_back_can_be_kept_after_all(path: Path) -> None:
    pool = Pool(path, now=Hands())
    pool.open(100)
    leaving = pool.take(60, return_s=10)
    pool.give_back(leaving)
    with pytest.raises(TooLittleFree):
        pool.take(60)
    pool.take(60, undo=leaving)
    assert free_gb(path) == 40


def test_the_memory_of_a_process_that_was_killed_comes_back_as_slowly(path: Path) -> None:
    Pool(path).open(100)
    take = (
        f"from aegis_workers.simulator.pool import *; Pool(Path({str(path)!r})).take(60, return_s=5); print('held', flush=True)"
    )
    with subprocess.Popen([sys.executable, "-c", f"{take}; input()"], stdin=-1, stdout=-1, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "held\n"
        hands = Hands()
        pool = Pool(path, now=hands)
        assert pool.settle() == 40
        child.kill()
    assert pool.settle() == 40
    hands.now += 2.5
    assert pool.settle() == 70


def test_those_who_take_at_the_same_time_do_not_undo_each_other(path: Path) -> None:
    pool = Pool(path)
    pool.open(100)

    def take_and_give_back(_: int) -> str:
        pool.give_back(pool.take(5))
        return pool.take(2)

    with ThreadPoolExecutor(8) as threads:
        held = set(threads.map(take_and_give_back, range(40)))
    assert {holder["id"] for holder in read(path)["holders"]} == held
    assert free_gb(path) == 20


def test_a_pid_that_another_process_has_by_now_holds_nothing(path: Path) -> None:
    pool = Pool(path)
    pool.open(100)
    pool.take(60)
    contents = read(path)
    contents["holders"][0]["started"] = "1"
    path.write_text(json.dumps(contents))
    assert pool.settle() == 100


def test_a_pool_says_why_it_cannot_be_used(path: Path) -> None:
    with pytest.raises(PoolUnusable, match="say how much memory there is"):
        Pool(path).open(None)
    path.write_text("[]")
    with pytest.raises(PoolUnusable, match="take another file"):
        Pool(path).open(100)
    with pytest.raises(PoolUnusable, match="No such file"):
        Pool(path.parent / "nowhere" / "pool.json").open(100)


@given(st.lists(st.tuples(st.integers(0, 4), st.sampled_from([10.0, 25.0, 60.0]), st.floats(0, 8)), max_size=30))
def test_never_more_is_held_than_there_is(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, float, float]]
) -> None:
    hands, held = Hands(), dict[int, str]()
    pool = Pool(tmp_path_factory.mktemp("pool") / "pool.json", now=hands)
    pool.open(100)
    for name, gb, passing_s in steps:
        hands.now += passing_s
        if name in held:
            pool.give_back(held.pop(name))
        else:
            before = pool.settle()
            try:
                held[name] = pool.take(gb, return_s=4)
            except TooLittleFree:
                assert before < gb
            else:
                assert before >= gb
                assert pool.settle() == pytest.approx(before - gb, abs=0.01)
    for one in held.values():
        pool.give_back(one)
    hands.now += 4
    assert pool.settle() == 100


@pytest.mark.anyio
async def test_vllm_takes_its_memory_before_it_listens_and_gives_it_back_at_its_end(path: Path) -> None:
    async with simulated("vllm", memory_pool=path, memory_total_gb=100, memory_gb=60, start_seconds=60):
        assert free_gb(path) == 40
    assert free_gb(path) == 100


@pytest.mark.anyio
async def test_vllm_does_not_start_where_too_little_is_free(path: Path) -> None:
    pool = Pool(path)
    pool.open(100)
    pool.take(50)
    with pytest.raises(StartFailed, match=r"\(50.00/100.00 GiB\) on startup is less than desired .* \(0.60, 60.00 GiB\)"):
        async with simulated("vllm", memory_pool=path, memory_gb=60):
            pass
    assert free_gb(path) == 50


@pytest.mark.anyio
async def test_ollama_takes_memory_for_a_load_and_gives_it_back_after_the_model_is_gone(path: Path) -> None:
    async with simulated("ollama", memory_pool=path, memory_total_gb=100, memory_gb=30, memory_return_s=0.5) as sim:
        assert free_gb(path) == 100
        assert (await sim.chat()).status == 200
        assert free_gb(path) == 70
        await sim.request("POST", CHAT["ollama"], json=UNLOAD)
        assert (await sim.request("GET", "/api/ps")).json == {"models": []}
        assert free_gb(path) < 100
        await until(lambda: free_gb(path) == 100)


@pytest.mark.anyio
async def test_a_load_with_too_little_free_is_refused_in_ollamas_words(path: Path) -> None:
    pool = Pool(path)
    pool.open(100)
    pool.take(80)
    async with simulated("ollama", memory_pool=path, memory_gb=30) as sim:
        for asked in (sim.chat(), sim.request("POST", CHAT["ollama"], json=LOAD)):
            reply = await asked
            assert reply.status == 500
            assert reply.json == {"error": "model requires more system memory (30.0 GiB) than is available (20.0 GiB)"}
        assert (sim.running.stats.rejected, sim.running.stats.loads) == (1, 0)
        assert free_gb(path) == 20


@pytest.mark.anyio
async def test_a_request_to_a_model_that_is_being_unloaded_undoes_it(path: Path) -> None:
    async with simulated(
        "ollama", memory_pool=path, memory_total_gb=40, memory_gb=30, memory_return_s=60, tokens_per_s=100
    ) as sim:
        serving = asyncio.create_task(sim.chat())
        await until(lambda: sim.running.stats.running == 1)
        await sim.request("POST", CHAT["ollama"], json=UNLOAD)
        await sim.chat(keep_alive="5m")  # while it serves: the unloading waits for that
        await serving
        assert (await sim.request("GET", "/api/ps")).json["models"]
        await sim.request("POST", CHAT["ollama"], json=UNLOAD)
        assert (await sim.chat(keep_alive="5m")).status == 200  # when it is gone, and its memory on the way
        assert free_gb(path) == 10
        assert sim.running.stats.loads == 2


@pytest.mark.anyio
async def test_a_load_that_nobody_waits_for_gives_its_memory_back(path: Path) -> None:
    async with simulated("ollama", memory_pool=path, memory_total_gb=40, memory_gb=30, start_seconds=60) as sim:
        call = asyncio.create_task(sim.chat())
        await until(lambda: free_gb(path) == 10)
        call.cancel()
        await until(lambda: free_gb(path) == 40)


@pytest.mark.anyio
async def test_a_sleep_frees_memory_where_it_is_told_to(path: Path) -> None:
    options: dict[str, Any] = {"memory_pool": path, "memory_gb": 60, "dev_mode": True}
    async with simulated("vllm", **options, memory_total_gb=100) as sim:
        await sim.request("POST", "/sleep?level=1")
        assert free_gb(path) == 40
    async with simulated("vllm", **options, sleep_frees_memory=True) as sim:
        await sim.request("POST", "/pause")
        assert free_gb(path) == 40
        await sim.request("POST", "/sleep?level=2")
        assert free_gb(path) == 100
        assert (await sim.request("GET", "/health")).status == 200
        foreign = Pool(path).take(50)
        assert (await sim.request("POST", "/wake_up")).status == 500
        assert (await sim.request("GET", "/is_sleeping")).json == {"is_sleeping": True}
        Pool(path).give_back(foreign)
        assert (await sim.request("POST", "/wake_up")).status == 200
        assert free_gb(path) == 40


@pytest.mark.anyio
async def test_a_crash_at_the_start_happens_once_or_always(path: Path) -> None:
    pool: dict[str, Any] = {"memory_pool": path, "memory_total_gb": 100, "memory_gb": 60}
    for crash, failing in (("always", [True, True]), ("once", [True, False])):
        found = []
        for _ in failing:
            try:
                async with simulated("vllm", crash_at_start=crash, **pool) as sim:
                    found.append((await sim.request("GET", "/health")).status != 200)
            except StartFailed:
                found.append(True)
        assert found == failing


@pytest.fixture
def start(path: Path) -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """Starts a simulator on the pool, with options of the command line, in a process of its own that has begun."""
    with ExitStack() as stack:

        def begin(engine: str, *options: str) -> "subprocess.Popen[str]":
            memory = ("--memory-pool", str(path), "--memory-total-gb", "100", "--memory-gb", "60")
            command = [sys.executable, "-m", "aegis_workers.cli", "simulate", engine, "--port", "0", *memory, *options]
            child = stack.enter_context(subprocess.Popen(command, stdout=-1, stderr=-1, text=True))
            stack.callback(child.kill)
            assert child.stdout is not None
            child.stdout.readline()
            return child

        yield begin


Start = Callable[..., "subprocess.Popen[str]"]


def test_a_vllm_without_room_ends_with_status_1_and_vllms_words(path: Path, start: Start) -> None:
    first = start("vllm", "--memory-return-s", "0.5")
    second = start("vllm")
    assert second.wait(20) == 1
    assert second.stderr is not None
    said = second.stderr.read()
    assert "Decrease GPU memory utilization or reduce GPU memory used by other processes.\n" in said
    assert "Traceback" not in said
    start("ollama")  # keeps the pool's figures true
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    eventually(lambda: free_gb(path) == 100)


def test_a_vllm_that_crashes_at_its_start_ends_with_status_1(path: Path, start: Start) -> None:
    child = start("vllm", "--crash-at-start", "once", "--start-seconds", "0.2")
    assert child.wait(20) == 1
    assert child.stderr is not None
    assert child.stderr.read().endswith("Failed core proc(s): {}\n")
    child = start("vllm", "--crash-at-start", "once")
    child.send_signal(signal.SIGTERM)
    assert child.wait(20) == 0
    assert free_gb(path) == 100


def test_a_vllm_that_is_told_to_end_while_it_starts_ends_cleanly(path: Path, start: Start) -> None:
    child = start("vllm", "--start-seconds", "60")
    child.send_signal(signal.SIGTERM)
    assert child.wait(20) == 0
    assert free_gb(path) == 100
