"""Files over HTTP: stored whole or not at all, however large they are."""

import re
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import admin_place
import httpx
import openai
import pytest
from admin_place import TOKEN, AdminPlace
from installation import eventually

MEGABYTE = 2**20
BOUNDARY = "-------------a-test"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AdminPlace]:
    settings = admin_place.chosen(tmp_path_factory.mktemp("admin"), max_file_bytes=3 * MEGABYTE)
    with admin_place.serving(settings) as place:
        yield place


def part(name: str, content: bytes, filename: str | None = None) -> bytes:
    """A part of a form, as it travels."""
    more = "" if filename is None else f'; filename="{filename}"'
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n'
    return head.encode() + content + b"\r\n"


END = f"--{BOUNDARY}--\r\n".encode()
PURPOSE = part("purpose", b"batch")


def post(place: AdminPlace, body: bytes | Iterator[bytes]) -> httpx.Response:
    """A form that no client library would write."""
    with place.http() as http:
        return http.post("/v1/files", content=body, headers={"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"})


def test_a_file_comes_back_as_it_was_uploaded_and_is_gone_once_it_is_deleted(place: AdminPlace) -> None:
    content = bytes(range(256)) * 9000  # every byte, line ends among them
    with place.openai() as client:
        file = client.files.create(file=("some lines.jsonl", content), purpose="batch")
        assert (file.bytes, file.filename, file.purpose, file.status) == (len(content), "some lines.jsonl", "batch", "processed")
        assert client.files.retrieve(file.id) == file
        assert client.files.content(file.id).read() == content
        assert client.files.delete(file.id).deleted
        for gone in (client.files.retrieve, client.files.content, client.files.delete):
            with pytest.raises(openai.NotFoundError):
                gone(file.id)


def test_files_are_listed_in_pages_the_newest_first(tmp_path: Path) -> None:
    with admin_place.serving(admin_place.chosen(tmp_path)) as place, place.openai() as client:
        assert not list(client.files.list())
        made = [client.files.create(file=(f"{number}", b"x"), purpose="batch").id for number in range(5)]
        assert [file.id for file in client.files.list(limit=2)] == made[::-1]
        assert client.files.list(limit=2).has_more
        assert not client.files.list(limit=5).has_more
        assert [file.id for file in client.files.list(order="asc", limit=1)] == made
        assert not list(client.files.list(purpose="batch_output"))
        with pytest.raises(openai.NotFoundError, match="last_id"):
            client.files.list(after="file-0")


def test_a_file_is_gone_when_its_time_is_over(place: AdminPlace) -> None:
    with place.openai() as client:
        file = client.files.create(file=b"x", purpose="batch", expires_after={"anchor": "created_at", "seconds": 3600})
        assert file.expires_at == file.created_at + 3600
        about = place.files / file.id / "file.json"
        about.write_text(about.read_text().replace(f'"expires_at":{file.expires_at}', '"expires_at":1'))
        with pytest.raises(openai.NotFoundError):
            client.files.retrieve(file.id)
        with pytest.raises(openai.BadRequestError, match=r"expires_after\.seconds must be from 3600"):
            client.files.create(file=b"x", purpose="batch", expires_after={"anchor": "created_at", "seconds": 10})


def test_a_file_is_kept_no_longer_than_an_ended_job_where_nothing_else_is_said(tmp_path: Path) -> None:
    with admin_place.serving(admin_place.chosen(tmp_path, job_retention_days=2.0)) as place, place.openai() as client:
        file = client.files.create(file=b"x", purpose="batch")
        assert file.expires_at == file.created_at + 2 * 86_400


def test_what_is_for_another_purpose_is_refused(place: AdminPlace) -> None:
    with place.openai() as client, pytest.raises(openai.BadRequestError, match="purpose must be batch") as caught:
        client.files.create(file=b"x", purpose="fine-tune")
    assert caught.value.param == "purpose"
    assert not place.left()


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "not complete"),
        (b"nothing of the kind", "no form"),
        (PURPOSE + END, "not complete"),
        (part("file", b"x", "a") + END, "purpose must be batch"),
        (PURPOSE + part("file", b"x", "a"), "not complete"),
        (PURPOSE + part("other", b"x", "a") + END, "one file, called file"),
        (PURPOSE + part("file", b"x", "a") + part("file", b"x", "b") + END, "one file, called file"),
        (PURPOSE + part("file", b"x") + END, "not complete"),
        (PURPOSE + part("note", b"x" * 5000) + END, "more than 4096 bytes"),
        (b"".join(part(f"note{number}", b"x") for number in range(17)) + END, "more than 16 fields"),
    ],
)
def test_a_form_that_is_wrong_is_refused_with_the_reason_and_leaves_nothing(place: AdminPlace, body: bytes, words: str) -> None:
    before = set(place.files.iterdir()) if place.files.exists() else set()
    answer = post(place, body)
    assert answer.status_code == 400
    assert words in answer.json()["error"]["message"]
    assert set(place.files.iterdir()) == before


def test_the_parts_of_a_form_may_come_in_any_order_and_in_any_pieces(place: AdminPlace) -> None:
    content = f"\r\n--{BOUNDARY[:-1]}x\r\n--\r\n".encode() * 50  # looks like the end of the part, and is not
    body = part("file", content, "späte Datei.jsonl") + PURPOSE + END
    whole, bytewise = post(place, body), post(place, (body[at : at + 1] for at in range(len(body))))
    for answer in (whole, bytewise):
        assert (answer.status_code, answer.json()["filename"]) == (200, "späte Datei.jsonl")
        with place.openai() as client:
            assert client.files.content(answer.json()["id"]).read() == content


@pytest.mark.parametrize("announced", [True, False])
def test_a_file_that_is_too_large_is_refused_and_leaves_nothing(
    place: AdminPlace,
    announced: bool,  # noqa: FBT001 - a parameter of the table
) -> None:
    whole = PURPOSE + part("file", b"x" * (4 * MEGABYTE), "large") + END
    answer = post(place, whole if announced else (whole[at : at + MEGABYTE] for at in range(0, len(whole), MEGABYTE)))
    assert answer.status_code == 413
    assert f"more than {3 * MEGABYTE:,} bytes" in answer.json()["error"]["message"]
    eventually(lambda: not place.left())


def test_a_file_as_large_as_may_be_is_taken(place: AdminPlace) -> None:
    with place.openai() as client:
        assert client.files.create(file=b"x" * (3 * MEGABYTE), purpose="batch").bytes == 3 * MEGABYTE
        with pytest.raises(openai.APIStatusError, match="more than"):
            client.files.create(file=b"x" * (3 * MEGABYTE + 1), purpose="batch")


def broken_off(place: AdminPlace) -> socket.socket:
    """An upload that has brought a part of its file, and goes on or not."""
    url = urlsplit(place.url)
    connection = socket.create_connection((str(url.hostname), url.port or 0))
    head = (
        f"POST /v1/files HTTP/1.1\r\nHost: {url.netloc}\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: 2500000\r\n"
        f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n\r\n"
    )
    connection.sendall(head.encode() + PURPOSE + part("file", b"x" * 1_500_000, "some")[:-2])
    eventually(lambda: any(path.stat().st_size for path in place.files.glob(".new-*/content")))
    return connection


def peak_bytes(pid: int) -> int:
    """The most memory that a process ever had."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1]) * 1024


def test_an_upload_that_breaks_off_leaves_nothing(place: AdminPlace) -> None:
    broken_off(place).close()
    eventually(lambda: not place.left())
    with place.http() as http:
        assert http.get("/healthz").is_success


@pytest.mark.skipif(sys.platform != "linux", reason="it looks at memory through /proc")
def test_memory_stays_flat_a_kill_leaves_nothing_and_a_file_survives_it(tmp_path: Path) -> None:
    """One story, because a process takes seconds to start."""
    settings, size = admin_place.chosen(tmp_path), 200 * MEGABYTE
    with admin_place.process_serving(settings, tmp_path) as place, place.openai() as client, place.http() as http:
        client.files.create(file=b"x" * MEGABYTE, purpose="batch")
        before = peak_bytes(place.child.pid)
        (tmp_path / "large").write_bytes(b"x" * size)
        with (tmp_path / "large").open("rb") as large:
            file = http.post("/v1/files", data={"purpose": "batch"}, files={"file": large}).json()
        assert file["bytes"] == size
        with http.stream("GET", f"/v1/files/{file['id']}/content") as answer:
            assert sum(map(len, answer.iter_raw())) == size
        assert peak_bytes(place.child.pid) - before < 30_000_000
        with broken_off(place):
            place.child.popen.kill()
            place.child.popen.wait()
        assert len(place.left()) == 1
    with admin_place.serving(settings) as another, another.openai() as client:
        eventually(lambda: not another.left())
        assert client.files.retrieve(file["id"]).bytes == size


def test_what_another_server_receives_is_left_alone(place: AdminPlace) -> None:
    with broken_off(place), admin_place.serving(place.settings) as another, another.openai() as client:
        client.files.create(file=b"x", purpose="batch")
        assert len(place.left()) == 1
    eventually(lambda: not place.left())


def test_a_name_cannot_lead_out_of_the_folder(place: AdminPlace) -> None:
    answer = post(place, PURPOSE + part("file", b"x", "../../../etc/passwd") + END)
    assert answer.is_success
    assert (place.files / answer.json()["id"] / "content").read_bytes() == b"x"
    with place.http() as http:
        for path in ("..%2f..%2fadmin.log", "%2e%2e", "file-%00", "content", answer.json()["id"] + "%0a"):
            assert http.get(f"/v1/files/{path}/content").status_code == 404


def test_a_part_of_a_file_can_be_asked_for(place: AdminPlace) -> None:
    with place.openai() as client, place.http() as http:
        file = client.files.create(file=b"0123456789", purpose="batch")
        answer = http.get(f"/v1/files/{file.id}/content", headers={"Range": "bytes=4-6"})
        assert (answer.status_code, answer.content) == (206, b"456")
