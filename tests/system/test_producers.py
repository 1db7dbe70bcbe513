"""How pipelines and applications enqueue, with this package and without it."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from installation import Installation, eventually, installed

from aegis_workers.routing import Engine

QUEUES = ("extraction", "chat", "control")
TEXT = "Ada Stone founded Riverton Glass in Dover."

BARE = """
import json, sys
from celery import Celery

app = Celery(broker=sys.argv[1], backend=sys.argv[1])

def send(name, queue, **arguments):
    return app.send_task(name, kwargs={**arguments, "version": 1}, queue=queue)

found = send("aegis.extract", "extraction", text="Ada Stone founded Riverton Glass in Dover.").get(timeout=15)
error = send("aegis.extract", "extraction", text=" ").get(timeout=15, propagate=False)
mode = send("aegis.get_engine_mode", "control").get(timeout=15)
assert not [name for name in sys.modules if name.startswith("aegis_workers")]
print(json.dumps({"found": found, "error": [type(error).__name__, str(error)], "mode": mode}))
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    with installed(tmp_path_factory.mktemp("producers"), *QUEUES, llm_engine_mode="ollama") as place:
        yield place


@pytest.fixture
def idle(tmp_path: Path) -> Iterator[Installation]:
    """An installation without workers: what is enqueued stays where it was put."""
    with installed(tmp_path) as place:
        yield place


def printed(program: subprocess.CompletedProcess[str]) -> Any:
    assert program.returncode == 0, program.stderr
    assert program.stderr == ""
    return json.loads(program.stdout)


def test_each_task_of_the_package_gives_its_result(place: Installation) -> None:
    results = printed(
        place.python(f"""
import json
from aegis_workers import chat, extract, extract_batch, generate
waiting = {{
    "extract": extract.delay({TEXT!r}),
    "extract_batch": extract_batch.delay([{{"custom_id": "a", "text": {TEXT!r}, "metadata": {{"page": 3}}}}]),
    "chat": chat.delay([{{"role": "user", "content": "Hello there."}}]),
    "generate": generate.delay("Once upon a time"),
}}
print(json.dumps({{name: result.get(timeout=15) for name, result in waiting.items()}}))
""")
    )
    assert {entity["name"] for entity in results["extract"]["data"]["entities"]} >= {"Ada Stone", "Riverton Glass"}
    [line] = results["extract_batch"]["results"]
    assert (line["custom_id"], line["status"], line["metadata"]) == ("a", "ok", {"page": 3})
    assert line["data"] == results["extract"]["data"]
    assert {results[name]["status"] for name in ("extract", "chat", "generate")} == {"ok"}
    assert {results[name]["engine"] for name in ("extract", "chat", "generate")} == {"ollama"}
    assert results["chat"]["text"]
    assert results["generate"]["text"]


def test_the_admin_tasks_read_and_switch_the_mode(place: Installation) -> None:
    told = printed(
        place.python("""
import json
from aegis_workers import get_mode, set_mode
from aegis_workers.tasks import get_engine_mode, set_engine_mode
told = [get_engine_mode.delay().get(timeout=15), set_engine_mode.delay("AUTO ").get(timeout=15), get_mode(), set_mode("ollama")]
print(json.dumps(told))
""")
    )
    assert told == [{"mode": "ollama", "problem": None}, {"mode": "auto", "previous": "ollama"}, "auto", "auto"]


def test_a_pydantic_model_and_a_json_schema_of_the_callers_decide_the_form_of_the_data(place: Installation) -> None:
    modelled, plain = printed(
        place.python(f"""
import json
from pydantic import BaseModel
from aegis_workers import extract

class Founding(BaseModel):
    founder: str
    company: str

schema = {{"type": "object", "properties": {{"year": {{"type": "integer"}}}}, "required": ["year"]}}
waiting = [extract.delay({TEXT!r}, Founding), extract.delay({TEXT!r}, schema=schema)]
print(json.dumps([result.get(timeout=15) for result in waiting]))
""")
    )
    assert set(modelled["data"]) == {"founder", "company"}
    assert set(plain["data"]) == {"year"}
    assert isinstance(plain["data"]["year"], int)


def test_options_reach_the_engine(place: Installation) -> None:
    result = place.send("aegis.generate", prompt="Tell me a long story.", options={"max_tokens": 2}).get(timeout=15)
    assert (result["status"], result["finish"], result["usage"]["completion_tokens"]) == ("truncated", "length", 2)


def test_a_producer_that_has_only_celery_gets_results_and_errors_by_name(place: Installation) -> None:
    command = [sys.executable, "-c", BARE, place.settings.redis_url]
    told = printed(subprocess.run(command, capture_output=True, text=True, check=False, timeout=30, cwd=place.logs))
    assert told["found"]["status"] == "ok"
    assert told["error"] == ["InvalidInput", "text is empty or blank: there is nothing to extract from"]
    assert told["mode"] == {"mode": "ollama", "problem": None}


def test_errors_arrive_as_the_packages_own_classes(place: Installation) -> None:
    told = place.python("""
from aegis_workers import app, chat
from aegis_workers.errors import CallFailed, InvalidInput
try:
    app.send_task("aegis.chat", [[]], queue="chat").get(timeout=15)
except InvalidInput as error:
    print(error)
""")
    assert told.stdout.startswith("messages must be a list with at least one"), told.stderr


def test_groups_chords_and_chains_work_as_celery_users_expect(place: Installation) -> None:
    told = printed(
        place.python(f"""
import json
from celery import chain, chord, group
from aegis_workers import extract
from aegis_workers.tasks import get_engine_mode, set_engine_mode
texts = [extract.s({TEXT!r}), extract.s("Bo Hill met Cy Reed."), extract.s("Dee Fox met Eve Lane.")]
print(json.dumps({{
    "group": [result["status"] for result in group(texts).apply_async().get(timeout=15)],
    "chord": chord(texts)(get_engine_mode.si()).get(timeout=15),
    "chain": chain(set_engine_mode.si("ollama"), extract.si({TEXT!r})).apply_async().get(timeout=15)["status"],
    "map": [result["status"] for result in extract.map([{TEXT!r}]).apply_async().get(timeout=15)],
}}))
""")
    )
    assert told == {"group": ["ok"] * 3, "chord": {"mode": "ollama", "problem": None}, "chain": "ok", "map": ["ok"]}


def test_a_chain_whose_next_task_cannot_use_the_result_ends_with_that_tasks_error_alone(place: Installation) -> None:
    told = place.python("""
from celery import chain
from aegis_workers import extract, generate
from aegis_workers.errors import InvalidInput
result = chain(generate.s("Once upon a time"), extract.s()).apply_async()
try:
    result.get(timeout=15)
except InvalidInput as error:
    result.parent.get(timeout=15)  # Celery sends the next task before it stores this one's result
    print(f"{result.parent.state}; {error}")
""")
    assert told.stdout == "SUCCESS; text must be a string, not dict: decode bytes first\n", told.stderr


def test_celerys_own_options_do_no_harm(place: Installation) -> None:
    def enqueue(**options: Any) -> Any:
        arguments = {"messages": [{"role": "user", "content": "Hello there."}], "version": 1}
        return place.producer.send_task("aegis.chat", kwargs=arguments, queue="chat", **options)

    results = [enqueue(countdown=0.2), enqueue(expires=60), enqueue(priority=9), enqueue(priority=0), enqueue(retry=False)]
    assert {result.get(timeout=15)["status"] for result in results} == {"ok"}

    done = place.stats(Engine.OLLAMA)["completed"]
    ignored = enqueue(ignore_result=True)
    eventually(lambda: place.stats(Engine.OLLAMA)["completed"] == done + 1)
    after = enqueue()
    assert after.get(timeout=15)["status"] == "ok"
    assert not place.redis.exists(f"celery-task-meta-{ignored.id}")


def test_a_message_that_expired_is_not_asked(place: Installation) -> None:
    asked = place.stats(Engine.OLLAMA)["requests"]
    arguments = {"prompt": "Too late", "version": 1}
    late = place.producer.send_task("aegis.generate", kwargs=arguments, queue="chat", expires=-1)
    eventually(lambda: late.state == "REVOKED")
    assert place.stats(Engine.OLLAMA)["requests"] == asked


def test_results_expire_within_a_day(place: Installation) -> None:
    result = place.chat()
    result.get(timeout=15)
    assert 0 < place.redis.ttl(f"celery-task-meta-{result.id}") <= 86_400


def test_every_message_lies_in_its_own_queue_and_nowhere_else(idle: Installation) -> None:
    printed(
        idle.python(f"""
from aegis_workers import chat, extract, extract_batch, generate
from aegis_workers.tasks import get_engine_mode, set_engine_mode
extract.delay({TEXT!r}), extract_batch.delay([{{"custom_id": "a", "text": {TEXT!r}}}]), extract.map([{TEXT!r}]).delay()
chat.delay([{{"role": "user", "content": "Hello."}}]), generate.delay("Hello.")
set_engine_mode.delay("vllm")
print("true")
""")
    )
    lists = {name: idle.redis.llen(name) for name in idle.redis.scan_iter("*") if idle.redis.type(name) == "list"}
    assert lists == {"extraction": 3, "chat": 2, "control": 1}
