"""What the bundle leaves out of what lies in Redis: the words of engines and of submitters, and every secret."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import redis
from pydantic import SecretStr

from aegis_workers.cli import bundle, checkup
from aegis_workers.routing import Engine
from aegis_workers.settings import Settings
from aegis_workers.state import aside, engine_control, engine_status, keys
from aegis_workers.state.aside import Entry
from aegis_workers.state.engine_control import Control, Phase

MARK = "Quillfeather"


@pytest.fixture
def chosen(settings: Settings, tmp_path: Path) -> Settings:
    secrets = {"admin_token": SecretStr("planted-token"), "flower_auth": SecretStr("me:planted-password")}
    secrets["redis_sentinel_password"] = SecretStr("planted-of-sentinels")
    urls = ("http://user:planted-in-an-address@127.0.0.1:1",)
    command = "serve --api-key planted-in-a-command"
    more: dict[str, Any] = {"vllm_url": urls, "vllm_model": "m", "vllm_command": command, "data_dir": tmp_path}
    return settings.model_copy(update={**secrets, **more, "probe_timeout_s": 0.5})


def test_neither_words_of_engines_nor_texts_that_were_set_aside_are_in_it(chosen: Settings, client: redis.Redis) -> None:
    control = Control(phase=Phase.FAILED, since=1.0, reason="its command ended", said=f"{MARK}Said", fenced=True)
    client.hset(keys.engine(Engine.VLLM), keys.CONTROL_FIELD, engine_control.encode(control))
    kwargs = {"text": f"{MARK}Text"}
    history = [{"what": f"{MARK}Words", "at": 1.0}]
    entry = Entry(
        entry_id="t:0", task="aegis.extract", queue="extraction", kwargs=kwargs, history=history, at=1.0, custom_id=MARK
    )
    aside.put(client, entry)
    assert engine_status.read(client, Engine.VLLM).control == control
    found = bundle.collect(chosen)
    assert MARK not in json.dumps(found)
    assert found["system"]["engines"]["vllm"]["phase_reason"] == "its command ended"
    assert found["set_aside"] == [{"id": "t:0", "task": "aegis.extract", "queue": "extraction", "job": None, "at": 1.0}]


def test_a_secret_is_left_out_wherever_it_stands(chosen: Settings, client: redis.Redis) -> None:
    """A reason, or an address that a worker wrote down, may hold what the settings mask."""
    known = "planted-token, planted-password, planted-in-an-address, planted-of-sentinels"
    refused = f"refused: {known}, http://me:planted-by-another@host, --key planted"
    control = Control(phase=Phase.FAILED, since=1.0, reason=refused)
    client.hset(keys.engine(Engine.VLLM), keys.CONTROL_FIELD, engine_control.encode(control))
    found = bundle.collect(chosen)
    assert "planted" not in json.dumps(found)
    assert found["system"]["engines"]["vllm"]["phase_reason"] == "refused: ***, ***, ***, ***, http://me:***@host, --key ***"


def test_the_password_of_redis_is_left_out_however_its_address_has_it() -> None:
    for url in (
        "redis://host?password=planted%2F1",
        "sentinel://one;sentinel://:planted%2F1@two",
        "unix://u:planted%2F1@/socket",
    ):
        assert "planted/1" in bundle._secrets(Settings(_env_file=None, redis_url=url))


def test_a_secret_is_left_out_also_where_it_names_something() -> None:
    assert bundle._scrubbed({"of planted": [("planted",)]}, frozenset({"planted"})) == {"of ***": [["***"]]}


def test_of_a_secret_that_holds_another_nothing_is_left() -> None:
    assert bundle._scrubbed("planted-and-more", frozenset({"planted", "planted-and-more", "and-more"})) == "***"


def test_a_part_that_fails_says_no_more_than_its_class_and_the_others_are_there(
    chosen: Settings, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Settings) -> None:
        raise ValueError(MARK)

    client.set(keys.MODE, "vllm")
    monkeypatch.setattr(checkup, "findings", fail)
    found = bundle.collect(chosen)
    assert found["findings"] == {"missing": "ValueError"}
    assert found["system"]["mode"] == "vllm"
    assert MARK not in json.dumps(found)


def test_it_is_its_owners_alone_from_its_first_moment_also_where_there_was_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "bundle.json"
    with monkeypatch.context() as patch:
        patch.setattr(os, "fchmod", lambda *_: None)
        assert bundle.write(target, {"at": 1.0, "more": "than comes next"}) == target.stat().st_size
    assert target.stat().st_mode & 0o077 == 0
    target.chmod(0o644)
    bundle.write(target, {"at": 2.0})
    assert target.stat().st_mode & 0o077 == 0
    assert json.loads(target.read_text()) == {"at": 2.0}
