"""How an engine of one's own is named for the contract suite."""

import pytest
from engine_targets import Simulate, real

from aegis_workers.completion import CompletionRequest, Message
from aegis_workers.routing import Engine

pytestmark = pytest.mark.anyio

ASK = CompletionRequest(messages=(Message(role="user", content="Hello."),))


@pytest.mark.parametrize("engine", Engine)
async def test_an_address_is_enough(simulate: Simulate, engine: Engine) -> None:
    target = await simulate(engine.value)
    async with real(engine, {f"AEGIS_TEST_{engine.upper()}_URL": f"{target.url}/"}) as found:
        assert (await found.client.complete(ASK)).text
        assert found.url == target.url


async def test_a_key_is_sent_and_the_engines_own_count_is_read(simulate: Simulate) -> None:
    target = await simulate("vllm", api_key="the-key")
    async with real(Engine.VLLM, {"AEGIS_TEST_VLLM_URL": target.url, "AEGIS_TEST_VLLM_API_KEY": "the-key"}) as found:
        assert (await found.client.complete(ASK)).text
        await found.in_flight(0)


async def test_a_server_that_lists_no_model_is_named_with_the_cure(simulate: Simulate) -> None:
    target = await simulate("vllm", api_key="the-key")
    with pytest.raises(pytest.fail.Exception, match=r"AEGIS_VLLM_API_KEY.*set AEGIS_TEST_VLLM_MODEL"):
        async with real(Engine.VLLM, {"AEGIS_TEST_VLLM_URL": target.url}):
            pass


async def test_what_a_real_ollama_does_not_tell_is_said_to_be_untested(simulate: Simulate) -> None:
    target = await simulate("ollama")
    async with real(Engine.OLLAMA, {"AEGIS_TEST_OLLAMA_URL": target.url}) as found:
        with pytest.raises(pytest.skip.Exception, match="AT THE ENGINE"):
            await found.in_flight(0)
