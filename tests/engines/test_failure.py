from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import httpx
import pytest

from aegis_workers.engines import failure
from aegis_workers.errors import EngineBusy, EngineError, RequestRefused
from aegis_workers.routing import Engine

pytestmark = pytest.mark.anyio


async def told(status: int = 500, body: bytes = b"", **headers: str) -> failure.Failure:
    return await failure.read(httpx.Response(status, content=body, headers={k.replace("_", "-"): v for k, v in headers.items()}))


def explained(told: failure.Failure) -> EngineError:
    return failure.explain(told, engine=Engine.VLLM, where="vLLM at http://engine")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"error": {"message": "said", "type": "x", "code": 400}}', "said"),
        (b'{"error": "said"}', "said"),
        (b'{"detail": "said"}', "said"),
        (b'{"message": "said"}', "said"),
        (b'{"detail": [{"loc": ["body"]}]}', '[{"loc": ["body"]}]'),
        (b'{"error": {}}', ""),
        (b'["said"]', '["said"]'),
        (b"<html>502 Bad Gateway</html>", "<html>502 Bad Gateway</html>"),
        (b"", ""),
        (b"[" * 100_000, "[" * failure.WORDS_MAX_CHARS),
        (b"\xff\xfe", "\ufffd\ufffd"),
    ],
)
async def test_the_engines_words_are_found_in_any_form(body: bytes, words: str) -> None:
    assert (await told(body=body)).words == words


@pytest.mark.parametrize("body", [b"x" * 1_000_000, b'{"error": "%s"}' % (b"x" * 1_000_000)])
async def test_a_page_of_words_is_kept_short(body: bytes) -> None:
    assert (await told(body=body)).words == "x" * failure.WORDS_MAX_CHARS


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("7", 7.0), ("0.5", 0.5), ("-3", 0.0), ("soon", None), ("nan", None), ("inf", None), ("", None)],
)
async def test_a_wish_to_retry_later_is_read_in_seconds(value: str, seconds: float | None) -> None:
    assert (await told(Retry_After=value)).retry_after_s == seconds


async def test_a_wish_to_retry_at_a_date_is_read_as_seconds_from_now() -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    assert (await told(Retry_After=date)).retry_after_s == pytest.approx(60, abs=5)


@pytest.mark.parametrize("status", [408, 425, 429, 499, 500, 502, 503, 504, 529])
async def test_what_may_pass_is_busy_and_keeps_the_servers_wish(status: int) -> None:
    error = explained(await told(status, Retry_After="7"))
    assert isinstance(error, EngineBusy)
    assert error.retry_after_s == 7.0


@pytest.mark.parametrize("status", [302, 307, 400, 401, 403, 404, 405, 413, 418, 422])
async def test_what_stays_is_refused_with_its_status_and_a_cure(status: int) -> None:
    error = explained(await told(status, b'{"error": "a secret"}'))
    assert isinstance(error, RequestRefused)
    assert f"HTTP {status}" in str(error)
    assert error.words == "a secret"
    assert "secret" not in str(error)
