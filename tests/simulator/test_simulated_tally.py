import asyncio
from pathlib import Path

import pytest
from simulated import Engine, simulated, until

from aegis_workers.simulator.tally import digest

TEXT = "Ada met Bo."
ASK = [{"role": "user", "content": f"Read this.\n<text>\n{TEXT}\n</text>"}]


@pytest.mark.anyio
@pytest.mark.parametrize("engine", ["vllm", "ollama"])
async def test_a_tally_has_a_line_for_each_answer_and_none_for_a_call_that_was_given_up(engine: Engine, tmp_path: Path) -> None:
    tally = tmp_path / "tally"
    async with simulated(engine, tally=tally) as sim:
        await sim.chat(messages=ASK)
        await sim.chat(messages=ASK, stream=True)
        await sim.fault(hang=True)
        call = asyncio.create_task(sim.chat())
        await until(lambda: sim.running.stats.in_flight == 1)
        call.cancel()
        await until(lambda: sim.running.stats.aborted == 1)
    assert tally.read_text() == f"{digest(TEXT)}\n" * 2
