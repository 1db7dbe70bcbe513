"""Servers that end while they answer."""

import asyncio

import asking
import pytest
from asking import LONG, SHORT, connected
from serving import API_KEY, Server

from aegis_workers.errors import EngineLost, EngineUnreachable

pytestmark = pytest.mark.anyio


async def test_a_server_that_is_told_to_stop_breaks_its_answers_off_with_abort(guarded: Server) -> None:
    async with connected(guarded, api_key=API_KEY) as client:
        calls = await asking.begun(guarded, *(ask(client, LONG) for ask in asking.WAYS))
        guarded.terminate()
        for failure in await asking.failures(*calls):
            assert type(failure) is EngineLost
            # The second where its engine process ended before it had said so.
            assert str(failure).endswith(("finish reason abort)", "is going down"))
        await asyncio.to_thread(guarded.await_end)
        with pytest.raises(EngineUnreachable):
            await client.complete(SHORT)


async def test_a_server_whose_engine_process_is_killed_loses_its_calls_and_ends(server: Server) -> None:
    async with connected(server) as client:
        calls = await asking.begun(server, *(ask(client, LONG) for ask in asking.WAYS))
        server.kill_engine_core()
        for failure in await asking.failures(*calls):
            assert type(failure) is EngineLost
        with pytest.raises(EngineLost):
            await client.complete(SHORT)
        await asyncio.to_thread(server.await_end)
        assert (await client.probe()).reason == "connection refused"
