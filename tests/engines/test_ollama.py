"""What the Ollama client sends, and makes of bytes that a simulator does not send."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from aegis_workers.completion import Completion, CompletionRequest, Finish, Message
from aegis_workers.engines import transport
from aegis_workers.engines.base import Readiness
from aegis_workers.engines.ollama import OllamaClient
from aegis_workers.errors import EngineBusy, EngineError, EngineLost, RequestRefused

pytestmark = pytest.mark.anyio

Serve = Callable[..., Awaitable[str]]
Connect = Callable[[str], OllamaClient]

NUM_CTX = 512
ASK = CompletionRequest(messages=(Message(role="user", content="Hi"),), schema={"type": "object"}, request_id="call-1")
STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nConnection: close\r\n\r\n"


@pytest.fixture
async def connect(anyio_backend: str) -> AsyncIterator[Connect]:
    del anyio_backend
    made: list[OllamaClient] = []

    def make(url: str) -> OllamaClient:
        place, pool = transport.address(url), transport.Pool()
        made.append(OllamaClient(place=place, model="m", num_ctx=NUM_CTX, keep_alive="30m", probe_timeout_s=5.0, pool=pool))
        return made[-1]

    yield make
    for client in made:
        await client.aclose()


def reply(status: int, body: bytes, *headers: str) -> bytes:
    lines = (f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", "Connection: close", *headers)
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def line(content: str, **more: Any) -> bytes:
    said = {"model": "m", "message": {"role": "assistant", "content": content}, "done": False, **more}
    return json.dumps(said, ensure_ascii=False).encode() + b"\n"


def last(content: str = "", **more: Any) -> bytes:
    return line(content, **{"done": True, "done_reason": "stop", **more})


async def streamed(client: OllamaClient) -> tuple[list[str], Completion]:
    *pieces, whole = [part async for part in client.stream(ASK)]
    assert isinstance(whole, Completion)
    return [str(piece) for piece in pieces], whole


def sent(request: bytes) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(request.partition(b"\r\n\r\n")[2])
    return body


async def test_every_request_carries_the_same_runner_options(serve: Serve, connect: Connect) -> None:
    requests: list[bytes] = []
    client = connect(await serve(reply(200, last("x")), requests=requests))
    await client.warm_up()
    await client.prove()
    await client.complete(ASK)
    await client.release()
    warm_up, prove, complete, release = map(sent, requests)
    assert {body["options"]["num_ctx"] for body in (warm_up, prove, complete, release)} == {NUM_CTX}
    assert warm_up["messages"] == release["messages"] == []
    assert [body["keep_alive"] for body in (warm_up, prove, complete, release)] == ["30m", "30m", "30m", 0]
    assert complete["think"] is complete["truncate"] is False
    assert complete["format"] == {"type": "object"}
    assert complete["options"]["num_predict"] == ASK.sampling.max_tokens
    assert prove["options"]["num_predict"] == 1


async def test_the_official_clients_own_environment_has_no_say(
    serve: Serve, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLLAMA_HOST", "http://127.0.0.1:9")
    monkeypatch.setenv("OLLAMA_API_KEY", "a-secret")
    requests: list[bytes] = []
    await connect(await serve(reply(200, last("x")), requests=requests)).complete(ASK)
    assert b"secret" not in requests[0]
    assert b"authorization" not in requests[0].lower()


async def test_counts_that_are_absent_are_unknown(serve: Serve, connect: Connect) -> None:
    client = connect(await serve(reply(200, last("x"))))
    assert await client.complete(ASK) == Completion(text="x", finish=Finish.STOP)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (reply(200, line("cut")), EngineLost),
        (reply(200, last("cut", done_reason=None)), EngineLost),
        (reply(200, last("cut", done_reason="load")), EngineLost),
        (reply(200, b"<html>a secret</html>"), EngineBusy),
        (reply(200, b'["a secret"]'), EngineBusy),
        (reply(200, b'"a secret"'), EngineBusy),
        (reply(200, b'{"message": {"content": "a secret"}}'), EngineBusy),
        (reply(200, b"null"), EngineBusy),
        (reply(500, b'["a secret"]'), EngineBusy),
        (reply(500, b'"a secret"'), EngineBusy),
        (reply(500, b'{"error": {"message": "a secret"}}'), EngineBusy),
        (reply(500, b'{"error": "llama-server process has terminated: signal: killed"}'), EngineLost),
        (reply(500, b'{"error": "model runner has unexpectedly stopped, this may be due to resource limitations"}'), EngineLost),
        (reply(503, b'{"error": "server busy, please try again.  maximum pending requests exceeded"}'), EngineBusy),
        (
            reply(500, b'{"error": "invalid format: \\"xml\\"; expected \\"json\\" or a valid JSON Schema object"}'),
            RequestRefused,
        ),
        (reply(307, b"", "Location: /login"), RequestRefused),
        (reply(403, b""), RequestRefused),
    ],
)
async def test_an_odd_answer_is_an_error_without_its_text(
    serve: Serve, connect: Connect, body: bytes, expected: type[EngineError]
) -> None:
    client = connect(await serve(body))
    with pytest.raises(expected) as caught:
        await client.complete(ASK)
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("status", "said", "cure"),
    [
        (404, "model 'm' not found", "ollama pull m"),
        (404, "404 page not found", "AEGIS_OLLAMA_URL"),
        (400, "the prompt is longer than the context length currently available to the model", "AEGIS_OLLAMA_NUM_CTX"),
        (400, '{"error":{"code":400,"message":"the request exceeds the available context size"}}', "AEGIS_OLLAMA_NUM_CTX"),
        (400, "failed to parse grammar", "schema"),
        (405, "405 method not allowed", "AEGIS_OLLAMA_URL"),
    ],
)
async def test_a_refusal_names_its_cure(serve: Serve, connect: Connect, status: int, said: str, cure: str) -> None:
    client = connect(await serve(reply(status, json.dumps({"error": said}).encode())))
    with pytest.raises(RequestRefused, match=cure) as caught:
        await client.complete(ASK)
    assert caught.value.words == said
    with pytest.raises(RequestRefused, match=cure):
        await streamed(client)


async def test_the_servers_wish_to_wait_is_kept(serve: Serve, connect: Connect) -> None:
    with pytest.raises(EngineBusy) as caught:
        await connect(await serve(reply(503, b"", "Retry-After: 7"))).complete(ASK)
    assert caught.value.retry_after_s == 7.0


async def test_a_stream_is_read_whatever_its_pieces(serve: Serve, connect: Connect) -> None:
    thought = {"message": {"role": "assistant", "content": "", "thinking": "hmm"}}
    stream = line("", **thought) + line("caf\u00e9\x85\u2028") + line("") + last("!", prompt_eval_count=3, eval_count=5)
    client = connect(await serve(STREAM, *(stream[i : i + 1] for i in range(len(stream)))))
    whole = Completion(text="café\x85\u2028!", finish=Finish.STOP, reasoning="hmm", prompt_tokens=3, completion_tokens=5)
    assert await streamed(client) == (["café\x85\u2028", "!"], whole)


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (line("x"), EngineLost),
        (b"", EngineLost),
        (line("x") + b'{"error": "an error was encountered while running the model: unexpected EOF"}\n', EngineLost),
        (line("x") + line("a secret")[:-20], EngineLost),
        (line("x") + line("caf\u00e9").partition(b"\xa9")[0], EngineLost),
        (b"<html>a secret</html>\n", EngineBusy),
        (b'["a secret"]\n', EngineBusy),
    ],
)
async def test_a_stream_without_its_end_is_an_error(
    serve: Serve, connect: Connect, stream: bytes, expected: type[EngineError]
) -> None:
    with pytest.raises(expected) as caught:
        await streamed(connect(await serve(STREAM + stream)))
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("prompt_eval_count", [NUM_CTX, NUM_CTX // 2])
async def test_a_prompt_that_was_cut_is_refused(serve: Serve, connect: Connect, prompt_eval_count: int) -> None:
    asked = CompletionRequest(messages=(Message(role="user", content="word " * 600),))
    body = last("x", prompt_eval_count=prompt_eval_count)
    with pytest.raises(RequestRefused, match=r"cut the prompt.*AEGIS_CHUNK_TOKENS.*AEGIS_OLLAMA_NUM_CTX"):
        await connect(await serve(reply(200, body))).complete(asked)
    with pytest.raises(RequestRefused, match="cut the prompt"):
        _ = [part async for part in connect(await serve(STREAM + body)).stream(asked)]


async def test_a_load_that_did_not_end_is_an_error(serve: Serve, connect: Connect) -> None:
    with pytest.raises(EngineLost):
        await connect(await serve(reply(200, line("")))).warm_up()


TAGS = b'{"models": [{"name": "m:latest", "model": "m:latest"}, {"name": "reg:5000/n:q4", "model": "reg:5000/n:q4"}]}'


@pytest.mark.parametrize(
    ("pages", "readiness", "reason", "loaded"),
    [
        ({}, Readiness.READY, "", False),
        ({"/api/ps": reply(200, TAGS)}, Readiness.READY, "", True),
        ({"/api/ps": reply(200, b'{"models": null}')}, Readiness.READY, "", False),
        ({"/api/tags": reply(200, b'{"models": [{"name": "m:q4"}]}')}, Readiness.UNAVAILABLE, "ollama pull m", False),
        ({"/api/tags": reply(200, b'{"models": []}')}, Readiness.UNAVAILABLE, "ollama pull m", False),
        ({"/api/version": reply(404, b"")}, Readiness.UNAVAILABLE, "AEGIS_OLLAMA_URL", False),
        ({"/api/version": reply(503, b"")}, Readiness.UNAVAILABLE, "HTTP 503", False),
        ({"/api/tags": reply(500, b"")}, Readiness.UNAVAILABLE, "HTTP 500 from /api/tags", False),
        ({"/api/version": reply(200, b"<html>")}, Readiness.UNAVAILABLE, "not this engine", False),
        ({"/api/tags": reply(200, b"[]")}, Readiness.UNAVAILABLE, "not this engine", False),
    ],
)
async def test_a_probe_says_what_it_found(
    serve_pages: Serve, connect: Connect, pages: dict[str, bytes], readiness: Readiness, reason: str, *, loaded: bool
) -> None:
    healthy = {
        "/api/version": reply(200, b'{"version": "0.33.0"}'),
        "/api/tags": reply(200, TAGS),
        "/api/ps": reply(200, b'{"models": []}'),
    }
    found = await connect(await serve_pages({**healthy, **pages})).probe()
    assert (found.readiness, found.loaded) == (readiness, loaded)
    assert reason in found.reason


@pytest.mark.parametrize("model", ["m", "m:latest", "reg:5000/n:q4"])
async def test_a_model_is_found_by_the_tag_that_its_name_implies(serve_pages: Serve, model: str) -> None:
    pages = {"/api/version": reply(200, b"{}"), "/api/tags": reply(200, TAGS), "/api/ps": reply(200, TAGS)}
    place, pool = transport.address(await serve_pages(pages)), transport.Pool()
    client = OllamaClient(place=place, model=model, num_ctx=NUM_CTX, keep_alive="30m", probe_timeout_s=5.0, pool=pool)
    assert (await client.probe()).loaded
    await client.aclose()
