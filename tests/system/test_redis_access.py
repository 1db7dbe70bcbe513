"""Redis behind TLS, a password, a user of its own, Sentinels, at a socket: all of the system works there, and says no secret."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import guarded_redis
import pytest
from guarded_redis import PASSWORD, USER_IN_URL, Certificates
from installation import Installation, eventually, installed
from job_place import ids, lines, served, texts

from aegis_workers.jobs.journal import State
from aegis_workers.local import environment
from aegis_workers.settings import Settings
from aegis_workers.state import connection, keys

pytestmark = pytest.mark.timeout(180)  # each starts many processes

WORKER = (sys.executable, "-m", "celery", "-A", "aegis_workers", "worker", "-Q", "chat")
DOCTOR = (sys.executable, "-m", "aegis_workers.cli", "doctor")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return guarded_redis.certificates(tmp_path_factory.mktemp("tls") / "certificates")


@pytest.fixture(params=["tls by address", "user", "socket", "sentinels with tls"])
def access(request: pytest.FixtureRequest, tmp_path: Path, certificates: Certificates) -> Iterator[dict[str, Any]]:
    """The settings of a Redis that wants a user and a password, each in its way."""
    match request.param:
        case "tls by address":
            with guarded_redis.with_tls(tmp_path / "redis", certificates) as url:
                yield {"redis_url": f"{url}?ssl_cert_reqs=CERT_REQUIRED&ssl_ca_certs={certificates.authority}"}
        case "user":
            with guarded_redis.with_users(tmp_path / "redis") as url:
                yield {"redis_url": url}
        case "socket":
            with guarded_redis.at_socket(tmp_path / "redis") as url:
                yield {"redis_url": url}
        case _:
            with guarded_redis.watched(tmp_path / "redis", certified=certificates) as found:
                watched = {"redis_url": found.url, "redis_master": "aegis", "redis_ca": certificates.authority}
                yield {**watched, "redis_sentinel_password": guarded_redis.SENTINEL_PASSWORD}


def switches_by_push(place: Installation) -> None:
    """A raw write reaches the next call: the memory of the mode lives for 30 s, and is dropped by the push."""
    place.redis.set(keys.MODE, "ollama")
    eventually(lambda: place.chat().get(timeout=20)["mode"] == "ollama", within_s=5)
    place.redis.set(keys.MODE, "vllm")
    eventually(lambda: place.chat().get(timeout=20)["mode"] == "vllm", within_s=5)


def is_silent_of_secrets(said: str) -> None:
    """Nothing of what processes here said holds a password, or is a trace."""
    for words in (PASSWORD, "planted", "Traceback"):
        assert words not in said


def test_calls_switches_and_commands_work_there(access: dict[str, Any], tmp_path: Path) -> None:
    with installed(tmp_path, "chat", access=access, llm_engine_mode="vllm") as place:
        switches_by_push(place)
        told = [place.cli("mode", "get"), place.cli("doctor")]
        assert [(one.returncode, one.stderr) for one in told if one.returncode] == []
        is_silent_of_secrets("".join(one.stdout + one.stderr for one in told) + place.worker_logs())


@pytest.mark.timeout(300)
def test_all_of_the_system_works_with_tls_and_a_user_and_the_secret_is_said_nowhere(
    tmp_path: Path, certificates: Certificates
) -> None:
    with (
        guarded_redis.with_tls(tmp_path / "redis", certificates) as url,
        served(tmp_path, access={"redis_url": url, "redis_ca": certificates.authority}) as jobs,
    ):
        place = jobs.place
        place.start_workers("chat", "control")
        jobs.start_controller()

        found = place.send("aegis.extract", text="Ada Stone met Bo Hill.").get(timeout=30)
        assert found["status"] in {"ok", "empty", "partial"}
        switches_by_push(place)

        job = jobs.submit(texts(40))
        jobs.await_state(job, State.COMPLETED)
        assert ids(lines(job)) == {f"doc-{number}": 1 for number in range(40)}

        told = [
            place.cli("mode", "set", "auto"),
            place.cli("engines", "--json"),
            place.cli("jobs", "--json"),
            place.cli("chat", "Hello there."),
            place.cli("doctor"),
            place.python("from aegis_workers import chat, get_mode, set_mode; set_mode('vllm'); print(get_mode().value)"),
            place.run([sys.executable, "-m", "celery", "-A", "aegis_workers", "inspect", "conf"]),
            place.run([sys.executable, "-m", "celery", "-A", "aegis_workers", "report"]),
        ]
        assert [(one.returncode, one.stderr) for one in told if one.returncode] == []
        assert json.loads(told[1].stdout)["mode"] == "auto"
        assert told[5].stdout == "vllm\n"
        said = "".join(one.stdout + one.stderr for one in told) + place.worker_logs() + jobs.logs()
    is_silent_of_secrets(said)


def ended(command: tuple[str, ...], folder: Path, **settings: Any) -> subprocess.CompletedProcess[str]:
    """How a command that ends by itself has ended."""
    env = environment.of(Settings(_env_file=None, vllm_model="sim", **settings)) | {"TMPDIR": str(folder)}
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, cwd=folder, check=False)


def refuses(folder: Path, meaning: str, **settings: Any) -> None:
    """The worker ends, and `doctor` and the CLI say why, each in one line with the cause and the cure, and no secret."""
    worker, doctor, cli = (ended(command, folder, **settings) for command in (WORKER, DOCTOR, (*DOCTOR[:3], "mode", "get")))
    assert (worker.returncode, doctor.returncode, cli.returncode) == (1, 1, 1)
    said = worker.stderr.splitlines()[-1]
    assert said.startswith("Error: Redis at ")
    assert meaning in said
    assert meaning in doctor.stdout
    [line] = cli.stderr.splitlines()
    assert meaning in line
    for each in (worker, doctor, cli):
        is_silent_of_secrets(each.stdout + each.stderr)


def test_a_certificate_of_another_authority_is_refused_in_one_line(tmp_path: Path, certificates: Certificates) -> None:
    with guarded_redis.with_tls(tmp_path / "redis", certificates) as url:
        meaning = "has a certificate that is not trusted: set AEGIS_REDIS_CA to the PEM file of the authority that signed it"
        refuses(tmp_path, meaning, redis_url=url)
        refuses(tmp_path, meaning, redis_url=url, redis_ca=certificates.stranger)


def test_a_name_that_is_not_in_the_certificate_is_refused_in_one_line(tmp_path: Path, certificates: Certificates) -> None:
    with guarded_redis.with_tls(tmp_path / "redis", certificates) as url:
        bound = url.replace("127.0.0.1", "127.1")
        refuses(tmp_path, "has a certificate of another name", redis_url=bound, redis_ca=certificates.authority)


def test_a_certificate_that_has_expired_is_refused_in_one_line(tmp_path: Path) -> None:
    old = guarded_redis.certificates(tmp_path / "old", days=0)
    with guarded_redis.with_tls(tmp_path / "redis", old) as url:
        settings = Settings(_env_file=None, redis_url=url, redis_ca=old.authority)
        eventually(lambda: "expired" in str(connection.unanswered(settings, within_s=5)))
        refuses(tmp_path, "has a certificate that has expired: renew it", redis_url=url, redis_ca=old.authority)


def test_a_client_without_the_certificate_that_is_wanted_is_told_how_to_name_it(
    tmp_path: Path, certificates: Certificates
) -> None:
    with guarded_redis.with_tls(tmp_path / "redis", certificates, knows_clients=True) as url:
        settings = Settings(_env_file=None, redis_url=url, redis_ca=certificates.authority)
        told = ended((*DOCTOR[:3], "mode", "get"), tmp_path, redis_url=url, redis_ca=certificates.authority)
        assert told.returncode == 1
        for line in (*told.stderr.splitlines(), *(str(connection.unanswered(settings, within_s=5)) for _ in range(8))):
            assert "wants a certificate of its clients" in line
            assert "add ?ssl_certfile=" in line
            is_silent_of_secrets(line)
        named = Settings(_env_file=None, redis_url=f"{url}?{certificates.of_a_client}", redis_ca=certificates.authority)
        assert connection.unanswered(named, within_s=5) is None


def test_a_file_of_certificates_that_is_not_there_is_said_to_be_missing(tmp_path: Path, certificates: Certificates) -> None:
    with guarded_redis.with_tls(tmp_path / "redis", certificates) as url:
        refuses(tmp_path, "a file that AEGIS_REDIS_URL or AEGIS_REDIS_CA names is not", redis_url=f"{url}?ssl_ca_certs=/none.pem")


def test_a_wrong_password_is_refused_in_one_line(tmp_path: Path) -> None:
    with guarded_redis.with_users(tmp_path / "redis") as url:
        meaning = "refuses the password, or its user: correct it in AEGIS_REDIS_URL"
        refuses(tmp_path, meaning, redis_url=url.replace("planted", "wrong-planted"))
        refuses(tmp_path, meaning, redis_url=url.replace("aegis:", "bela:"))


def test_a_missing_password_is_refused_in_one_line(tmp_path: Path) -> None:
    with guarded_redis.with_users(tmp_path / "redis") as url:
        refuses(tmp_path, "wants a password: write it into AEGIS_REDIS_URL", redis_url=url.replace(f"{USER_IN_URL}@", ""))


def test_a_user_without_the_rights_is_told_which_it_lacks(tmp_path: Path) -> None:
    with guarded_redis.with_users(tmp_path / "redis", rights=("~other:*", "+@all")) as url:
        told = ended((*DOCTOR[:3], "mode", "get"), tmp_path, redis_url=url)
    [line] = told.stderr.splitlines()
    assert "does not let its user do what is needed" in line
    assert "ACL SETUSER" in line


def test_a_redis_that_is_spoken_to_without_tls_is_said_to_hang_up(tmp_path: Path, certificates: Certificates) -> None:
    meaning = "if it speaks TLS at this port, write rediss:// there"
    with guarded_redis.with_tls(tmp_path / "redis", certificates) as url:
        settings = Settings(_env_file=None, redis_url=url.replace("rediss", "redis"))
        assert meaning in str(connection.unanswered(settings, within_s=2))
        told = ended((*DOCTOR[:3], "mode", "get"), tmp_path, redis_url=settings.redis_url)
    [line] = told.stderr.splitlines()
    assert meaning in line
    assert told.returncode == 1


def test_a_redis_that_speaks_no_tls_is_said_to_answer_in_none(tmp_path: Path) -> None:
    with guarded_redis.with_users(tmp_path / "redis") as url:
        told = ended((*DOCTOR[:3], "mode", "get"), tmp_path, redis_url=url.replace("redis://", "rediss://"))
    [line] = told.stderr.splitlines()
    assert "write redis:// in AEGIS_REDIS_URL if it speaks none at this port" in line
    assert told.returncode == 1
