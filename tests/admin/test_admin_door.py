"""Who may come in, and in which form everybody else is told no."""

import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import admin_place
import openai
import pytest
from admin_place import TOKEN, AdminPlace, texts
from click.testing import CliRunner
from installation import eventually

from aegis_workers import settings as settings_module
from aegis_workers.admin.door import MAX_BODY_BYTES, is_loopback
from aegis_workers.cli import main
from aegis_workers.errors import AegisError, RedisFull, SpoolFull, SpoolUnavailable
from aegis_workers.jobs.local import LocalDesk
from aegis_workers.local import environment
from aegis_workers.settings import Settings

SECRET = "what a caller wrote"  # noqa: S105 - planted, and no secret


class BrokenDesk(LocalDesk):
    """One whose answers are errors."""

    error: Exception = RuntimeError(SECRET)

    def find(self, job_id: str) -> Any:
        """Raises what the test chose."""
        del job_id
        raise self.error


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AdminPlace]:
    with admin_place.serving(admin_place.chosen(tmp_path_factory.mktemp("guarded"))) as place:
        yield place


@pytest.fixture(scope="module")
def open_place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AdminPlace]:
    with admin_place.serving(admin_place.chosen(tmp_path_factory.mktemp("open"), token=None)) as place:
        yield place


@pytest.mark.parametrize("token", ["", "wrong", TOKEN[:-1], TOKEN + "x", TOKEN.upper()])
def test_a_wrong_token_is_refused(guarded: AdminPlace, token: str) -> None:
    with guarded.openai(token or "x") as client:
        for ask in (client.batches.list, client.files.list):
            with pytest.raises(openai.AuthenticationError, match="AEGIS_ADMIN_TOKEN") as caught:
                ask()
            assert caught.value.code == "invalid_api_key"


@pytest.mark.parametrize("header", [None, "", "Bearer", f"Basic {TOKEN}", TOKEN, f"Bearer {TOKEN} more"])
def test_a_request_without_a_bearer_token_is_refused(guarded: AdminPlace, header: str | None) -> None:
    with guarded.http(None) as http:
        answer = http.get("/v1/batches", headers={} if header is None else {"Authorization": header})
    assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Bearer")


def test_every_path_but_health_asks_for_the_token(guarded: AdminPlace) -> None:
    with guarded.http(None) as http:
        assert http.get("/healthz").json() == {"status": "ok"}
        for method, path in (
            ("GET", "/openapi.json"),
            ("GET", "/nothing"),
            ("POST", "/v1/files"),
            ("DELETE", "/healthz/../v1/files/x"),
        ):
            assert http.request(method, path).status_code == 401
    with guarded.http() as http:
        assert http.get("/openapi.json").is_success
        assert http.get("/healthz").is_success


def test_an_upload_without_the_token_is_not_taken_in(guarded: AdminPlace) -> None:
    with guarded.openai("wrong") as client, pytest.raises(openai.AuthenticationError):
        client.files.create(file=b"x" * 3_000_000, purpose="batch")
    assert not guarded.files.exists()


def test_a_token_of_any_characters_opens(tmp_path: Path) -> None:
    token = "schlüssel ✓"  # noqa: S105 - a test's own
    with admin_place.serving(admin_place.chosen(tmp_path, token=token)) as place, place.http(None) as http:
        assert http.get("/v1/batches", headers={b"Authorization": f"Bearer {token}".encode()}).is_success
        assert http.get("/v1/batches", headers={b"Authorization": "Bearer schlüssel".encode()}).status_code == 401


def test_without_a_token_no_token_is_asked_for(open_place: AdminPlace) -> None:
    with open_place.openai("whatever") as client:
        assert client.batches.list().data == []


@pytest.mark.parametrize("host", ["localhost", "localhost:99", "127.0.0.1", "127.1.2.3:80", "[::1]", "[::1]:80"])
def test_without_a_token_any_name_of_loopback_is_served(open_place: AdminPlace, host: str) -> None:
    with open_place.http(None) as http:
        assert http.get("/v1/batches", headers={"Host": host}).is_success
        assert http.get("/v1/batches", headers={"Origin": f"http://{host}"}).is_success


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "10.0.0.1",
        "[::2]",
        "[::1",
        "0.0.0.0",  # noqa: S104 - it is refused
        "localhost@evil.example",
    ],
)
def test_without_a_token_a_page_of_another_site_is_refused(open_place: AdminPlace, host: str) -> None:
    with open_place.http(None) as http:
        by_name = http.get("/v1/batches", headers={"Host": host})
        by_page = http.post("/v1/batches/job_0/cancel", headers={"Origin": f"http://{host}"})
        for answer in (by_name, by_page):
            assert (answer.status_code, answer.json()["error"]["code"]) == (403, "not_loopback")
        assert http.post("/v1/files", headers={"Origin": "null"}).status_code == 403


def test_with_a_token_the_server_may_have_any_name(guarded: AdminPlace) -> None:
    with guarded.http() as http:
        assert http.get("/v1/batches", headers={"Host": "jobs.example", "Origin": "http://evil.example"}).is_success


@pytest.mark.parametrize(
    ("host", "judged"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("::", False), ("10.0.0.1", False), ("host", False)],
)
def test_what_is_loopback(host: str, judged: bool) -> None:  # noqa: FBT001 - a parameter of the table
    assert is_loopback(host) is judged


def test_every_error_has_openais_form(guarded: AdminPlace) -> None:
    with guarded.http() as http:
        answers = {
            404: http.get("/v1/nothing"),
            405: http.put("/v1/files"),
            400: http.post("/v1/batches", content=b"{", headers={"Content-Type": "application/json"}),
            413: http.post("/v1/batches", content=b" " * (MAX_BODY_BYTES + 1), headers={"Content-Type": "application/json"}),
        }
        more = [
            http.post("/v1/batches", content=content, headers={"Content-Type": "application/json"})
            for content in (b"", b"[]", b"\xff", b"[" * 100_000, b'{"metadata": NaN}', b"1" * 10_000)
        ]
    for status, answer in [*answers.items(), *((400, answer) for answer in more)]:
        assert answer.status_code == status
        assert answer.json()["error"].keys() == {"message", "type", "param", "code"}
        assert answer.json()["error"]["type"] == "invalid_request_error"
        assert answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (SpoolFull("no room"), 507, "data_folder_full"),
        (SpoolUnavailable("cannot be read"), 503, "data_folder_unavailable"),
        (RedisFull("full"), 503, "redis_unavailable"),
        (AegisError("something else"), 500, None),
        (RuntimeError(SECRET), 500, None),
    ],
)
def test_what_fails_in_the_server_is_told_without_a_traceback(
    tmp_path: Path, error: Exception, status: int, code: str | None
) -> None:
    settings = admin_place.chosen(tmp_path)
    with BrokenDesk(settings) as desk, admin_place.serving(settings, desk) as place, place.http() as http:
        desk.error = error
        answer = http.get("/v1/batches/job_0")
    assert (answer.status_code, answer.json()["error"]["code"], answer.json()["error"]["type"]) == (status, code, "server_error")
    assert SECRET not in answer.text
    if code:
        assert answer.json()["error"]["message"] == str(error)


def test_a_full_disk_is_not_tried_again_by_the_client(tmp_path: Path) -> None:
    settings, asked = admin_place.chosen(tmp_path), 0

    class Full(BrokenDesk):
        def find(self, job_id: str) -> Any:
            nonlocal asked
            del job_id
            asked += 1
            raise SpoolFull("no room")

    with (
        Full(settings) as desk,
        admin_place.serving(settings, desk) as place,
        place.openai(max_retries=2) as client,
        pytest.raises(openai.InternalServerError, match="no room"),
    ):
        client.batches.retrieve("job_0")
    assert asked == 1


def admin(*arguments: str, settings: Settings) -> tuple[int, str]:
    """What `aegis-workers admin` says where it does not start, and its exit status."""
    settings_module.load.cache_clear()
    try:
        result = CliRunner().invoke(main, ["admin", *arguments], env=environment.of(settings))
    finally:
        settings_module.load.cache_clear()
    return result.exit_code, result.output


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])  # noqa: S104 - it is refused
def test_without_a_token_no_other_address_is_listened_on(tmp_path: Path, host: str) -> None:
    status, said = admin("--host", host, "--port", "0", settings=admin_place.chosen(tmp_path, token=None))
    assert status == 1
    assert said.startswith(f"Error: without a token the admin API listens on loopback only, not on {host}: set AEGIS_ADMIN_TOKEN")


def test_an_address_that_cannot_be_had_is_said_in_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        status, said = admin("--port", str(port), settings=admin_place.chosen(tmp_path))
    assert (status, said) == (1, f"Error: cannot listen on 127.0.0.1:{port}: Address already in use\n")
    status, said = admin("--host", "no.such.host.invalid", settings=admin_place.chosen(tmp_path))
    assert status == 1
    assert said.startswith("Error: cannot listen on no.such.host.invalid: ")


def test_sigterm_lets_a_request_end_and_no_text_is_logged(tmp_path: Path) -> None:
    settings = admin_place.chosen(tmp_path, token=None)
    with admin_place.process_serving(settings, tmp_path) as place, place.openai() as client, place.http(None) as http:
        file = client.files.create(file=(SECRET, texts(20_000)), purpose="batch")
        bad = client.files.create(file=(SECRET, b'{"custom_id": "' + SECRET.encode() + b'"}\n'), purpose="batch")
        with pytest.raises(openai.BadRequestError):
            client.batches.create(input_file_id=bad.id, endpoint="/v1/extractions", completion_window="24h")  # type: ignore[arg-type]
        assert http.post("/v1/batches", json={SECRET: SECRET}).status_code == 400
        assert http.get(f"/v1/files/{SECRET}").status_code == 404
        made: list[str] = []

        def create() -> None:
            extras = {"aegis": {"name": SECRET, "options": {"instructions": SECRET}}, "metadata": {"a": SECRET}}
            made.append(
                client.batches.create(
                    input_file_id=file.id,
                    endpoint="/v1/extractions",  # type: ignore[arg-type]
                    completion_window="24h",
                    extra_body=extras,
                ).id
            )

        thread = threading.Thread(target=create)
        thread.start()
        eventually(lambda: list((settings.data_dir / "jobs").glob(".new-*")))
        place.child.popen.send_signal(signal.SIGTERM)
        thread.join()
        assert place.child.popen.wait(20) == 0
        assert (settings.data_dir / "jobs" / made[0]).is_dir()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((str(urlsplit(place.url).hostname), urlsplit(place.url).port or 0))
    log = place.child.log.read_text()
    assert "batch.created" in log
    assert SECRET not in log
    assert "Traceback" not in log


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/v1/files", "GET, POST"),
        ("DELETE", "/api/v1/admin/llm/engine", "GET, PUT"),
        ("POST", "/metrics", "GET"),
        ("POST", "/readyz", "GET"),
    ],
)
def test_a_method_that_a_path_does_not_have_is_answered_with_those_that_it_has(
    guarded: AdminPlace, method: str, path: str, allowed: str
) -> None:
    with guarded.http() as http:
        refused = http.request(method, path)
    assert (refused.status_code, refused.headers["allow"]) == (405, allowed)
