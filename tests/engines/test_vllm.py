"""What the vLLM client makes of bytes that a simulator does not send."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from aegis_workers.completion import Completion, CompletionRequest, Finish, Message
from aegis_workers.engines import transport
from aegis_workers.engines.base import Readiness
from aegis_workers.engines.vllm import VllmClient
from aegis_workers.errors import EngineBusy, EngineDying, EngineError, EngineLost, EngineWithdrew, RequestRefused

pytestmark = pytest.mark.anyio

Serve = Callable[..., Awaitable[str]]
Connect = Callable[[str], VllmClient]

ASK = CompletionRequest(messages=(Message(role="user", content="Hi"),), request_id="call-1")
STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"


@pytest.fixture
async def connect(anyio_backend: str) -> AsyncIterator[Connect]:
    del anyio_backend
    made: list[VllmClient] = []

    def make(url: str) -> VllmClient:
        place = transport.address(url, api_key="the-key")
        made.append(VllmClient(place=place, model="m", probe_timeout_s=5.0, pool=transport.Pool()))
        return made[-1]

    yield make
    for client in made:
        await client.aclose()


def reply(status: int, body: bytes, *headers: str) -> bytes:
    lines = (f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", "Connection: close", *headers)
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def answer(message: dict[str, Any], finish: str | None = "stop", **more: Any) -> bytes:
    return reply(200, json.dumps({"choices": [{"message": message, "finish_reason": finish}], **more}).encode())


def event(delta: dict[str, Any], finish: str | None = None) -> bytes:
    return f"data: {json.dumps({'choices': [{'delta': delta, 'finish_reason': finish}]}, ensure_ascii=False)}\n\n".encode()


async def streamed(client: VllmClient) -> tuple[list[str], Completion]:
    *pieces, last = [part async for part in client.stream(ASK)]
    assert isinstance(last, Completion)
    return [str(piece) for piece in pieces], last


async def test_a_request_carries_its_id_its_key_and_its_limit(serve: Serve, connect: Connect) -> None:
    requests: list[bytes] = []
    await connect(await serve(answer({"content": "x"}), requests=requests)).complete(ASK)
    head, _, body = requests[0].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /v1/chat/completions ")
    assert b"x-request-id: call-1" in head.lower()
    assert b"Bearer the-key" in head
    assert json.loads(body)["max_tokens"] == ASK.sampling.max_tokens


async def test_a_url_with_a_path_keeps_it(serve: Serve, connect: Connect) -> None:
    requests: list[bytes] = []
    await connect(await serve(answer({"content": "x"}), requests=requests) + "/engines/a").complete(ASK)
    assert requests[0].startswith(b"POST /engines/a/v1/chat/completions ")


async def test_no_content_is_an_empty_text_and_no_usage_is_unknown(serve: Serve, connect: Connect) -> None:
    client = connect(await serve(answer({"content": None})))
    assert await client.complete(ASK) == Completion(text="", finish=Finish.STOP)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (answer({"content": "cut"}, None), EngineLost),
        (answer({"content": "cut"}, "error"), EngineLost),
        (answer({"content": "x"}, "repetition"), EngineBusy),
        (reply(200, b'{"choices": []}'), EngineBusy),
        (reply(200, b"{}"), EngineBusy),
        (reply(200, b"null"), EngineBusy),
        (reply(200, b"<html>a secret</html>"), EngineBusy),
        (reply(200, b'{"error": {"message": "EngineCore encountered an issue", "code": 500}}'), EngineDying),
        (reply(500, b'{"error": {"message": "EngineCore encountered an issue."}}'), EngineDying),
        (reply(500, b'{"error": {"message": "cannot schedule new futures after shutdown"}}'), EngineWithdrew),
        (answer({"content": "cut"}, "abort"), EngineWithdrew),
        (reply(502, b"<html>a secret</html>"), EngineBusy),
        (reply(503, b""), EngineBusy),
        (reply(307, b"", "Location: /login"), RequestRefused),
    ],
)
async def test_an_odd_answer_is_an_error_without_its_text(
    serve: Serve, connect: Connect, body: bytes, expected: type[EngineError]
) -> None:
    with pytest.raises(expected) as caught:
        await connect(await serve(body)).complete(ASK)
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("status", "body", "cure"),
    [
        (401, b'{"error": "Unauthorized"}', "AEGIS_VLLM_API_KEY"),
        (404, b'{"error": {"message": "The model `m` does not exist."}}', "AEGIS_VLLM_MODEL=m"),
        (404, b'{"detail": "Not Found"}', "AEGIS_VLLM_URL"),
        (400, b'{"error": {"message": "This model\'s maximum context length is 1024 tokens."}}', "AEGIS_CHUNK_TOKENS"),
        (400, b'{"error": {"message": "Grammar error: Invalid type: nonsense"}}', "simplify the schema"),
        (405, b'{"detail": "Method Not Allowed"}', "AEGIS_VLLM_URL"),
        (413, b"", "AEGIS_CHUNK_TOKENS"),
    ],
)
async def test_a_refusal_names_its_cure(serve: Serve, connect: Connect, status: int, body: bytes, cure: str) -> None:
    client = connect(await serve(reply(status, body)))
    with pytest.raises(RequestRefused, match=cure):
        await client.complete(ASK)
    with pytest.raises(RequestRefused, match=cure):
        await streamed(client)


async def test_the_servers_wish_to_wait_is_kept(serve: Serve, connect: Connect) -> None:
    with pytest.raises(EngineBusy) as caught:
        await connect(await serve(reply(503, b"", "Retry-After: 7"))).complete(ASK)
    assert caught.value.retry_after_s == 7.0


async def test_a_stream_is_read_whatever_its_pieces(serve: Serve, connect: Connect) -> None:
    stream = b"".join(
        [
            b": keep-alive\r\n\r\n",
            event({"role": "assistant", "content": ""}),
            event({"reasoning_content": "hm"}),
            event({"reasoning": "m"}),
            event({"content": "caf\u00e9 \u2028"}).replace(b"data: ", b"data:"),
            event({"content": None}),
            event({"content": "!"}, "stop").replace(b"\n", b"\r\n"),
            b'data: {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 5}}\n\n',
            b"data: [DONE]\n\n",
        ]
    )
    client = connect(await serve(STREAM, *(stream[i : i + 1] for i in range(len(stream)))))
    whole = Completion(text="café \u2028!", finish=Finish.STOP, reasoning="hmm", prompt_tokens=3, completion_tokens=5)
    assert await streamed(client) == (["café \u2028", "!"], whole)


async def test_a_stream_with_its_finish_reason_is_complete_without_the_mark(serve: Serve, connect: Connect) -> None:
    client = connect(await serve(STREAM + event({"content": "x"}, "length")))
    assert (await streamed(client))[1] == Completion(text="x", finish=Finish.LENGTH)


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (event({"content": "x"}) + b"data: [DONE]\n\n", EngineLost),
        (event({"content": "x"}), EngineLost),
        (event({"content": "caf\u00e9"}, "stop")[:-30], EngineLost),
        (event({"content": "x"}, "stop").rstrip(), EngineLost),
        (b"", EngineLost),
        (event({"content": "x"}) + event({"content": ""}, "abort") + b"data: [DONE]\n\n", EngineWithdrew),
        (
            event({"content": "x"}) + b'data: {"error": {"message": "EngineCore encountered an issue", "code": 500}}\n\n',
            EngineDying,
        ),
        (event({"content": "x"}, "stop") + b'data: {"error": {"message": "m", "code": 500}}\n\ndata: [DONE]\n\n', EngineLost),
        (b'data: {"error": "flat"}\n\ndata: [DONE]\n\n', EngineLost),
        (b'data: {"error": {"message": "no", "code": 400}}\n\ndata: [DONE]\n\n', RequestRefused),
        (b"data: a secret\n\n", EngineBusy),
        (b"<html>a secret</html>", EngineLost),
    ],
)
async def test_a_stream_without_its_end_is_an_error(
    serve: Serve, connect: Connect, stream: bytes, expected: type[EngineError]
) -> None:
    with pytest.raises(expected) as caught:
        await streamed(connect(await serve(STREAM + stream)))
    assert "secret" not in str(caught.value)


async def test_a_stream_cut_in_a_character_is_lost(serve: Serve, connect: Connect) -> None:
    head = STREAM.replace(b"Connection: close", b"Transfer-Encoding: chunked")
    with pytest.raises(EngineLost, match="in the middle of the answer"):
        await streamed(connect(await serve(head + b"ff\r\n" + event({"content": "é"}) + b"data: \xc3")))


@pytest.mark.parametrize(
    ("pages", "readiness", "reason"),
    [
        ({"/health": reply(503, b"")}, Readiness.UNAVAILABLE, "not healthy"),
        ({"/health": reply(503, b'{"message": "still loading"}')}, Readiness.STARTING, "starting"),
        ({"/health": reply(404, b"")}, Readiness.UNAVAILABLE, "AEGIS_VLLM_URL"),
        ({"/is_sleeping": reply(200, b'{"is_sleeping": true}')}, Readiness.UNAVAILABLE, "asleep"),
        ({"/v1/models": reply(401, b'{"error": "Unauthorized"}')}, Readiness.UNAVAILABLE, "AEGIS_VLLM_API_KEY"),
        ({"/v1/models": reply(200, b'{"data": [{"id": "other"}]}')}, Readiness.UNAVAILABLE, "other, not m"),
        ({"/v1/models": reply(200, b'{"data": []}')}, Readiness.UNAVAILABLE, "nothing, not m"),
        ({"/v1/models": reply(200, b"<html>")}, Readiness.UNAVAILABLE, "not this engine"),
        ({"/is_sleeping": reply(200, b"[]")}, Readiness.UNAVAILABLE, "not this engine"),
        ({"/health": b"SSH-2.0\r\n"}, Readiness.UNAVAILABLE, "not speak HTTP"),
        ({"/version": reply(404, b""), "/metrics": reply(404, b"")}, Readiness.READY, ""),
        ({}, Readiness.READY, ""),
    ],
)
async def test_a_probe_says_what_it_found(
    serve_pages: Serve, connect: Connect, pages: dict[str, bytes], readiness: Readiness, reason: str
) -> None:
    healthy = {"/health": reply(200, b""), "/v1/models": reply(200, b'{"data": [{"id": "m"}, {"id": "n"}]}')}
    found = await connect(await serve_pages({**healthy, **pages})).probe()
    assert found.readiness is readiness
    assert reason in found.reason


async def test_a_probe_reads_the_engines_own_counts_by_their_exact_names(serve_pages: Serve, connect: Connect) -> None:
    metrics = (
        b"# HELP vllm:num_requests_running Number of requests\n# TYPE vllm:num_requests_running gauge\n"
        b'vllm:num_requests_running{engine="0",model_name="m"} 3.0\nvllm:num_requests_running{engine="1"} 4.0\n'
        b'vllm:num_requests_waiting{engine="0",model_name="m"} 5.0\n'
        b'vllm:num_requests_waiting_by_reason{reason="capacity"} 900.0\nvllm:num_requests_running_created{a="b"} 1.7e9\n'
    )
    pages = {"/health": reply(200, b""), "/v1/models": reply(200, b'{"data": [{"id": "m"}]}'), "/metrics": reply(200, metrics)}
    found = await connect(await serve_pages(pages)).probe()
    assert (found.running, found.waiting) == (7, 5)


async def test_a_silent_replica_is_given_up_after_the_probes_time(serve_silence: str) -> None:
    client = VllmClient(place=transport.address(serve_silence), model="m", probe_timeout_s=0.05, pool=transport.Pool())
    assert (await client.probe()).reason == "no answer within 0.05 s"
    await client.aclose()
