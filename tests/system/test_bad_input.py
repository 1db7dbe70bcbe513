"""What cannot be processed ends with a cause and a cure, the same through the package and through a bare producer."""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import malformed
import pytest
from celery.result import AsyncResult
from installation import NO_REDIS, Installation, eventually, installed
from pydantic import SecretStr

from aegis_workers.local import children, environment, process, redis_server
from aegis_workers.routing import Engine
from aegis_workers.settings import Settings

GOOD = "Ada Stone founded Riverton Glass."
HELLO = [{"role": "user", "content": "Hello."}]

# Task, arguments, and what the message of `InvalidInput` says.
REFUSED: Mapping[str, tuple[str, dict[str, Any], str]] = {
    "empty text": ("extract", {"text": ""}, "text is empty or blank: there is nothing to extract from"),
    "blank text": ("extract", {"text": " \n\t"}, "text is empty or blank"),
    "ten megabytes": ("extract", {"text": "a" * 10_000_000}, "split it, or raise the limit"),
    "ten megabytes of chat": (
        "chat",
        {"messages": [*HELLO, {"role": "user", "content": "a" * 10_000_000}]},
        "leave old turns out",
    ),
    "ten megabytes of prompt": ("generate", {"prompt": "a" * 10_000_000}, "or raise the limit"),
    "a NUL": ("extract", {"text": "Ada\0Stone"}, "NUL character at offset 3 and looks binary: extract its text first"),
    "binary": ("extract", {"text": "\x01\x02\x03" * 40}, "looks binary: extract its text"),
    "a lone surrogate": ("extract", {"text": "Ada \ud800"}, "lone surrogate at offset 4: decode the bytes as UTF-8"),
    "a number as text": ("extract", {"text": 5}, "text must be a string, not int: decode bytes first"),
    "no text": ("extract", {}, "the arguments do not fit: aegis.extract takes text, schema, options, version"),
    "an argument that is none": ("extract", {"text": GOOD, "shema": {}}, "aegis.extract takes text, schema, options, version"),
    "an option that is none": ("extract", {"text": GOOD, "options": {"temprature": 0}}, "options.temprature: not known; allowed"),
    "an option out of range": ("generate", {"prompt": "Hi", "options": {"temperature": 9}}, "options.temperature: Input"),
    "options that are text": ("chat", {"messages": HELLO, "options": "fast"}, "options must be an object, not str"),
    "a schema that is a number": ("extract", {"text": GOOD, "schema": 5}, "schema must be a JSON object, not int"),
    "a schema that is no schema": ("extract", {"text": GOOD, "schema": {"type": "thing"}}, "schema"),
    "a remote reference": ("extract", {"text": GOOD, "schema": {"$ref": "https://example.org/s.json"}}, "$ref"),
    "a root that is a list": ("extract", {"text": GOOD, "schema": {"type": "array", "items": {"type": "string"}}}, "object"),
    "no messages": ("chat", {"messages": []}, 'messages must be a list with at least one {"role": "user", "content": …}'),
    "messages that are text": ("chat", {"messages": "Hello"}, "messages must be a list with at least one"),
    "an unknown role": ("chat", {"messages": [{"role": "robot", "content": "Hi"}]}, "messages[0].role: Input should be 'system'"),
    "an empty prompt": ("generate", {"prompt": ""}, "prompt: String should have at least 1 character"),
    "a surrogate in a prompt": ("generate", {"prompt": "a\ud800"}, "prompt: holds a lone surrogate: decode the bytes as UTF-8"),
    "an unknown mode": ("set_engine_mode", {"mode": "turbo"}, "unknown engine mode 'turbo': choose vllm, ollama, auto"),
    "a mode that is a number": ("set_engine_mode", {"mode": 5}, "unknown engine mode (int): choose vllm, ollama, auto"),
    "no mode": ("set_engine_mode", {"mode": None}, "unknown engine mode (NoneType): choose vllm, ollama, auto"),
    "no version at all": ("chat", {"messages": HELLO, "version": 0}, "is not known here: this worker reads versions 1 to 1"),
    "a version that is text": ("extract", {"text": GOOD, "version": "1"}, "is not known here: this worker reads versions 1 to 1"),
    "no items": ("extract_batch", {"items": []}, "items must be a list"),
    "too many items": ("extract_batch", {"items": [{"custom_id": str(n), "text": GOOD} for n in range(33)]}, "send up to 32"),
    "an id twice": ("extract_batch", {"items": [{"custom_id": "a", "text": GOOD}] * 2}, "custom_id must be unique"),
    "an item without text": ("extract_batch", {"items": [{"custom_id": "a"}]}, "items[0].text: Field required"),
}

THROUGH_THE_PACKAGE = """
import json, sys
from aegis_workers import tasks
found = {}
for what, (task, arguments, _) in json.load(open("refused.json")).items():
    try:
        getattr(tasks, task).apply_async(kwargs=arguments)
    except Exception as error:
        found[what] = [type(error).__name__, str(error)]
print(json.dumps(found))
"""

# What is no task but does as one does: the same words.
THROUGH_FUNCTIONS = """
import json
from aegis_workers import chat_stream, set_mode
found = {}
for what, (task, arguments, _) in json.load(open("refused.json")).items():
    call = {"chat": lambda **sent: next(chat_stream(**sent)), "set_engine_mode": set_mode}.get(task)
    if call is None or "version" in arguments:
        continue
    try:
        call(**arguments)
    except Exception as error:
        found[what] = [type(error).__name__, str(error)]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    queues = ("extraction", "chat", "control")
    with installed(tmp_path_factory.mktemp("bad_input"), *queues, llm_engine_mode="ollama", ollama_num_ctx=512) as place:
        yield place


@pytest.fixture(scope="module")
def wrong(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """Engines that do not have the configured model, and a vLLM that wants another key."""
    wrongly: dict[str, Any] = {"vllm_model": "nope", "ollama_model": "nope", "vllm_api_key": SecretStr("wrong")}
    folder = tmp_path_factory.mktemp("wrong")
    with installed(folder, "extraction", await_engines=False, vllm=("--api-key", "right"), **wrongly) as place:
        yield place


def error_of(result: AsyncResult) -> tuple[str, str]:
    error = result.get(timeout=20, propagate=False)
    assert isinstance(error, Exception), error
    return type(error).__name__, str(error)


def test_through_the_package_it_fails_before_it_is_enqueued_and_nothing_is_sent(tmp_path: Path) -> None:
    functions = {
        what for what, (task, sent, _) in REFUSED.items() if task in {"chat", "set_engine_mode"} and "version" not in sent
    }
    with installed(tmp_path) as idle:
        (tmp_path / "refused.json").write_text(json.dumps(REFUSED))
        for script, expected in ((THROUGH_THE_PACKAGE, set(REFUSED)), (THROUGH_FUNCTIONS, functions)):
            told = idle.python(script)
            assert told.returncode == 0, told.stderr
            found = json.loads(told.stdout)
            assert {what: class_name for what, (class_name, _) in found.items()} == dict.fromkeys(expected, "InvalidInput")
            assert {what: message for what, (_, message) in found.items() if REFUSED[what][2] not in message} == {}
        assert idle.redis.dbsize() == 0


def test_a_number_written_as_text_is_a_number_to_a_stream_too(place: Installation) -> None:
    told = place.python("""
from aegis_workers import chat_stream
print("".join(chat_stream([{"role": "user", "content": "Hello."}], {"deadline_s": "5"})))
""")
    assert "You said: Hello." in told.stdout


@pytest.mark.parametrize("what", REFUSED)
def test_through_a_bare_producer_it_fails_in_the_worker_with_the_same_words(place: Installation, what: str) -> None:
    task, arguments, words = REFUSED[what]
    queue = {"extract": "extraction", "extract_batch": "extraction", "set_engine_mode": "control"}.get(task, "chat")
    result = place.producer.send_task(f"aegis.{task}", kwargs={"version": 1, **arguments}, queue=queue)
    class_name, message = error_of(result)
    assert class_name == "InvalidInput"
    assert words in message


def test_in_a_batch_only_the_bad_items_fail(place: Installation) -> None:
    texts = [GOOD, "", "a\0b", 5, None, "a\ud800", GOOD]
    items = [{"custom_id": str(number), "text": text} for number, text in enumerate(texts)]
    lines = place.send("aegis.extract_batch", items=items).get(timeout=20)["results"]
    assert [line["custom_id"] for line in lines] == [item["custom_id"] for item in items]
    assert [line["status"] for line in lines] == ["ok", "failed", "failed", "failed", "failed", "failed", "ok"]
    assert {line["error"]["class"] for line in lines[1:-1]} == {"item-fatal"}
    assert lines[1]["error"]["message"].startswith("text is empty or blank")


def test_bytes_and_what_json_cannot_carry_are_refused_by_the_package(place: Installation) -> None:
    told = place.python("""
from aegis_workers import extract, extract_batch
for enqueue in (lambda: extract.delay(b"Ada"), lambda: extract_batch.delay([{"custom_id": "a", "text": object()}])):
    try:
        enqueue()
    except Exception as error:
        print(type(error).__name__, error)
""")
    assert told.stdout.splitlines() == [
        "InvalidInput text must be a string, not bytes: decode bytes first",
        "InvalidInput the arguments hold something that JSON cannot carry: send plain values",
    ]


@pytest.mark.parametrize("engine", Engine)
def test_a_prompt_that_does_not_fit_the_engine_fails_with_the_cure(tmp_path: Path, engine: Engine) -> None:
    small = ("--context-tokens", "512")
    with installed(tmp_path, "chat", vllm=small, llm_engine_mode=engine, fallback="hold", ollama_num_ctx=512) as place:
        class_name, message = error_of(place.chat("Once upon a time there was a long story. " * 400, options={"max_tokens": 100}))
        assert class_name == "CallFailed"
        assert "AEGIS_CHUNK_TOKENS" in message
        assert place.stats(engine)["requests"] <= 2  # it, and the proof of a vLLM


@pytest.mark.parametrize("kind", malformed.KINDS)
def test_a_malformed_message_fails_and_the_worker_goes_on(place: Installation, kind: str) -> None:
    result = AsyncResult(malformed.send(place, malformed.KINDS[kind], "mark"), app=place.producer)
    assert error_of(result)[0] == "InvalidInput"
    assert place.send("aegis.extract", text=GOOD).get(timeout=10)["status"] == "ok"


@pytest.mark.parametrize("kind", malformed.UNANSWERED)
def test_a_message_that_nobody_could_be_told_of_is_dropped_and_the_worker_goes_on(place: Installation, kind: str) -> None:
    malformed.send(place, malformed.UNANSWERED[kind], "mark")
    assert place.send("aegis.extract", text=GOOD).get(timeout=10)["status"] == "ok"
    eventually(lambda: list(place.redis.scan_iter("aegis:held:*", _type="list")) == [])


def test_without_an_engine_calls_fail_at_once_and_name_the_settings(tmp_path: Path) -> None:
    with installed(tmp_path, "extraction", vllm_model=None, ollama_model=None) as place:
        cure = "vLLM or Ollama, which is not configured: set AEGIS_VLLM_MODEL or AEGIS_OLLAMA_MODEL, or choose another mode"
        for result in (place.send("aegis.extract", text=GOOD), place.send("aegis.extract", text=GOOD * 1000)):
            class_name, message = error_of(result)
            assert class_name == "ConfigurationError"
            assert cure in message
        [line] = place.send("aegis.extract_batch", items=[{"custom_id": "a", "text": GOOD}]).get(timeout=20)["results"]
        assert (line["status"], line["error"]["class"]) == ("failed", "item-fatal")
        assert cure in line["error"]["message"]


def test_a_model_that_the_engines_do_not_have_is_named_with_the_cure_where_calls_wait(wrong: Installation) -> None:
    class_name, message = error_of(wrong.send("aegis.extract", text=GOOD, options={"deadline_s": 2}))
    assert class_name == "DeadlineExceeded"
    assert "waits for Ollama: the model nope is not on this server; run `ollama pull nope` there" in message


def test_a_wrong_api_key_is_named_with_the_cure(wrong: Installation) -> None:
    def reason() -> str:
        found = json.loads(wrong.cli("engines", "--json").stdout)["engines"]["vllm"]["reason"]
        return str(found)

    eventually(lambda: "AEGIS_VLLM_API_KEY" in reason(), within_s=10)


def test_a_worker_started_without_redis_says_so_and_works_once_it_is_there(tmp_path: Path) -> None:
    with installed(tmp_path) as simulators:
        port = process.free_port()
        settings = simulators.settings.model_copy(update={"redis_url": f"redis://127.0.0.1:{port}/0"})
        worker = children.start_worker("chat", settings, tmp_path)
        started = [worker]
        try:
            says = f"Redis at redis://127.0.0.1:{port}/0 does not answer"
            eventually(lambda: says in worker.log_text() and "start it, or set AEGIS_REDIS_URL" in worker.log_text())
            command = ["redis-server", "--port", str(port), "--save", ""]
            started.append(process.start("Redis", command, log=tmp_path / "redis.log", env=environment.of(settings)))
            started[-1].wait_ready(lambda: redis_server.unanswered(settings.redis_url) is None, 10)
            answer = replace(simulators, settings=settings).cli("chat", "Hello there.")
            assert answer.returncode == 0, answer.stderr
            assert answer.stdout.strip()
            assert "Traceback" not in worker.log_text()
        finally:
            process.stop(started, 10)


def test_enqueuing_without_redis_fails_at_once_with_its_address(tmp_path: Path) -> None:
    script = """
import time
from aegis_workers import extract
from aegis_workers.errors import RedisUnavailable
began = time.monotonic()
try:
    extract.delay("Ada Stone founded Riverton Glass.")
except RedisUnavailable as error:
    print(error)
assert time.monotonic() - began < 5
"""
    env = environment.of(Settings(_env_file=None, redis_url=NO_REDIS))
    told = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert told.stderr == ""
    assert told.stdout.startswith(f"Redis at {NO_REDIS} does not answer")


def test_a_bad_setting_stops_a_worker_with_one_line_that_names_it(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "celery", "-A", "aegis_workers", "worker", "--queues", "chat"]
    env = environment.of(Settings(_env_file=None)) | {"AEGIS_VLLM_LIMIT": "0"}
    told = subprocess.run(command, env=env, capture_output=True, text=True, check=False, cwd=tmp_path, timeout=20)
    assert told.returncode == 1
    said = [line for line in (told.stdout + told.stderr).splitlines() if line.strip()]
    assert said == ["Error: AEGIS_VLLM_LIMIT=0: Input should be greater than or equal to 1"]
