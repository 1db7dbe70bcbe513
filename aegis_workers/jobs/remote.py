"""The desk of a host that has not the jobs' folder: it asks the admin API of the one that has, at `AEGIS_ADMIN_URL`."""

import json
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Self

import httpx

from aegis_workers.errors import (
    AdminUnavailable,
    AegisError,
    ConfigurationError,
    InvalidInput,
    NotPossible,
    RedisUnavailable,
    SpoolFull,
    SpoolUnavailable,
    UnknownJob,
)
from aegis_workers.forms import without_password
from aegis_workers.jobs import manifest
from aegis_workers.jobs.desk import FOLLOW_EVERY_S, LAST, MAX_LISTED, Page, Receipt, ResultLine
from aegis_workers.jobs.sources import Source
from aegis_workers.jobs.submission import Terms
from aegis_workers.jobs.upload import Upload
from aegis_workers.jobs.view import View
from aegis_workers.outcome import Status
from aegis_workers.settings import Settings

_BATCHES = "/v1/batches"
_FILES = "/v1/files"
_IS_NEW = "Aegis-Is-New"
_TIMEOUT = httpx.Timeout(60, connect=10)
# The server answers once every line is checked and on its disk.
_SUBMIT_TIMEOUT_S = 3600.0
_UNAUTHORISED = frozenset({401, 403})
_ERRORS: Mapping[str, type[AegisError]] = {
    "not_found": UnknownJob,
    "not_possible": NotPossible,
    "redis_unavailable": RedisUnavailable,
    "data_folder_full": SpoolFull,
    "data_folder_unavailable": SpoolUnavailable,
}
_ID = re.compile(manifest.ID_PATTERN)
_BODY = b'"line":'
_LINE = re.compile(r"\bline (\d+)\b")


class RemoteDesk:
    """Satisfies `Desk` over HTTP."""

    def __init__(self, settings: Settings, *, transport: httpx.BaseTransport | None = None) -> None:
        self._url = settings.admin_url or ""
        token = settings.admin_token
        headers = {} if token is None else {"Authorization": f"Bearer {token.get_secret_value()}"}
        self._http = httpx.Client(base_url=self._url, headers=headers, timeout=_TIMEOUT, transport=transport)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._http.close()

    def submit(self, source: Source, terms: Terms) -> Receipt:
        """See `Desk`. The lines are checked over there, once all of them have arrived."""
        upload = Upload(source)
        # The words of the form go before the file, which is read as it is sent.
        sent = self._ask(
            "POST", _FILES, data={"purpose": "batch"}, files={"file": (source.name, upload)}, timeout=_SUBMIT_TIMEOUT_S
        )
        file_id = sent.json()["id"]
        try:
            asked = _asked(file_id, upload, source, terms)
            answer = self._ask("POST", _BATCHES, json=asked, timeout=_SUBMIT_TIMEOUT_S)
        except InvalidInput as error:
            raise InvalidInput(_LINE.sub(lambda line: source.place(int(line[1]) - 1), str(error))) from None
        finally:
            with suppress(AegisError):  # the batch has its own copy
                self._ask("DELETE", f"{_FILES}/{file_id}")
        return Receipt(manifest=_view(answer.json()).manifest, is_new=answer.headers.get(_IS_NEW) != "false")

    def resolve(self, word: str) -> str:
        """See `Desk`."""
        if _ID.fullmatch(word):
            return word
        if word == LAST:
            found = [view.id for view in self.list(1).jobs]
        else:
            found = [each for each in self._ids() if word and each.startswith((word, f"job_{word}"))]
        if not found:
            raise UnknownJob(f"there is no such job at {self._place}: `aegis-workers jobs` lists those there are")
        if len(found) > 1:
            raise UnknownJob(f"{len(found)} jobs begin like that: give more of the id")
        return found[0]

    def list(self, limit: int = 20, after: str | None = None) -> Page:
        """See `Desk`."""
        found = self._ask("GET", _BATCHES, params={"limit": limit, **({"after": after} if after else {})}).json()
        return Page(jobs=[_view(batch) for batch in found["data"]], has_more=found["has_more"])

    def find(self, job_id: str) -> View:
        """See `Desk`."""
        return _view(self._ask("GET", f"{_BATCHES}/{job_id}").json())

    def cancel(self, job_id: str) -> View:
        """See `Desk`."""
        return _view(self._ask("POST", f"{_BATCHES}/{job_id}/cancel").json())

    def resume(self, job_id: str) -> View:
        """See `Desk`."""
        return _view(self._ask("POST", f"{_BATCHES}/{job_id}/resume").json())

    def retry(self, job_id: str, *, key: str | None = None) -> str:
        """See `Desk`."""
        answer = self._ask("POST", f"{_BATCHES}/{job_id}/retry", json={"key": key}, timeout=_SUBMIT_TIMEOUT_S)
        return str(answer.json()["id"])

    def delete(self, job_id: str) -> None:
        """See `Desk`."""
        self._ask("DELETE", f"{_BATCHES}/{job_id}")

    def lines(
        self, job_id: str, *, ordered: bool = False, follow: bool = False, offset: str | None = None
    ) -> Iterator[ResultLine]:
        """See `Desk`."""
        while True:
            may_be_more = follow and not self.find(job_id).is_at_rest
            for line in self._lines(job_id, {"ordered": ordered, **({"offset": offset} if offset else {})}):
                offset = line.offset
                yield line
            if not may_be_more:
                return
            time.sleep(FOLLOW_EVERY_S)

    @property
    def _place(self) -> str:
        return without_password(self._url)

    def _ids(self) -> Iterator[str]:
        after = None
        while True:
            page = self.list(MAX_LISTED, after)
            yield from (view.id for view in page.jobs)
            if not page.has_more:
                return
            after = page.jobs[-1].id

    def _lines(self, job_id: str, params: Mapping[str, Any]) -> Iterator[ResultLine]:
        with self._explained(), self._http.stream("GET", f"{_BATCHES}/{job_id}/results", params=params) as answer:
            if answer.is_error:
                answer.read()
                self._refuse(answer)
            for line in _split(answer.iter_bytes()):
                yield _result(line)

    def _ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        with self._explained():
            answer = self._http.request(method, path, **more)
        if answer.is_error:
            self._refuse(answer)
        return answer

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except httpx.HTTPError as error:
            raise AdminUnavailable(
                f"the admin API at {self._place} does not answer ({str(error) or repr(error)}): start `aegis-workers admin` "
                "there, or set AEGIS_ADMIN_URL"
            ) from None

    def _refuse(self, answer: httpx.Response) -> None:
        """Raises what the server's answer tells of."""
        try:
            error = answer.json()["error"]
            message, code = str(error["message"]), error.get("code")
        except (ValueError, KeyError, TypeError):
            raise AdminUnavailable(f"{self._place} answers HTTP {answer.status_code}, and not as the admin API does") from None
        if answer.status_code in _UNAUTHORISED:
            raise ConfigurationError(f"the admin API at {self._place} refuses: {message}")
        if code in _ERRORS:
            raise _ERRORS[code](message)
        if answer.is_client_error:
            raise InvalidInput(message)
        raise AdminUnavailable(f"the admin API at {self._place} failed: {message}")


def _asked(file_id: str, upload: Upload, source: Source, terms: Terms) -> Mapping[str, Any]:
    window = terms.completion_window or (None if terms.expires_s is None else f"{terms.expires_s:.3f}s")
    extras = {
        "schema": terms.schema,
        "options": terms.options,
        "key": terms.key,
        "policy": terms.policy.value,
        "stop_share": terms.stop_share,
        "stop_window": terms.stop_window,
        "name": source.name,
    }
    return {
        "input_file_id": file_id,
        "endpoint": upload.endpoint,
        **({} if window is None else {"completion_window": window}),
        "metadata": dict(terms.metadata) or None,
        "aegis": {name: value for name, value in extras.items() if value is not None},
    }


def _view(batch: Mapping[str, Any]) -> View:
    return View.model_validate(batch["aegis"])


def _split(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Lines that end with a line feed, and with nothing else that may stand in a text."""
    rest = b""
    for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        yield from lines


def _result(line: bytes) -> ResultLine:
    """The result in `{"offset": …, "status": …, "line": …}`, byte for byte as it is over there."""
    head, _, body = line.partition(_BODY)
    told = json.loads(head + _BODY + b"null}")
    return ResultLine(body=body.removesuffix(b"}"), status=Status(told["status"]), offset=told["offset"])
