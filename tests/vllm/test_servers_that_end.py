"""Servers that end while they answer."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import asking
import pytest
from asking import LONG, SHORT, connected
from serving import API_KEY, Server

from aegis_workers.completion import Completion
from aegis_workers.errors import EngineDying, EngineLost, EngineUnreachable, EngineWithdrew

pytestmark = pytest.mark.anyio


async def within(seconds: float, call: Coroutine[Any, Any, Completion]) -> Completion:
    async with asyncio.timeout(seconds):
        return await call


async def test_an_engine_that_is_told_to_stop_breaks_its_answers_off_with_abort(guarded: Server) -> None:
    async with connected(guarded, api_key=API_KEY) as client:
        calls = await asking.begun(guarded, *(ask(client, LONG) for ask in asking.WAYS))
        guarded.terminate_engine_core()
        for failure in await asking.failures(*calls):
            assert type(failure) is EngineWithdrew
            assert str(failure).endswith("finish reason abort)")
    guarded.kill()  # it answers for a moment yet, and the next test shall not meet it


async def test_no_call_of_a_server_that_is_told_to_stop_passes_for_answered(guarded: Server) -> None:
    async with connected(guarded, api_key=API_KEY) as client:
        calls = await asking.begun(guarded, *(within(5.0, ask(client, LONG)) for ask in asking.WAYS))
        guarded.terminate()
        # It kills its engine process at once: a call learns of that, or, where it was killed before it said so, waits for its
        # own deadline (both seen with vLLM 0.32).
        assert {type(failure) for failure in await asking.failures(*calls)} <= {
            EngineDying,
            EngineWithdrew,
            EngineLost,
            TimeoutError,
        }
        await asyncio.to_thread(guarded.await_end)
        with pytest.raises(EngineUnreachable):
            await client.complete(SHORT)


async def test_a_server_whose_engine_process_is_killed_loses_its_calls_and_ends(server: Server) -> None:
    async with connected(server) as client:
        calls = await asking.begun(server, *(ask(client, LONG) for ask in asking.WAYS))
        server.kill_engine_core()
        for failure in await asking.failures(*calls):
            assert type(failure) is EngineDying
        with pytest.raises(EngineLost):
            await client.complete(SHORT)
        await asyncio.to_thread(server.await_end)
        assert (await client.probe()).reason == "connection refused"
