"""The pictures of the page in the README. With AEGIS_TEST_PICTURES set they are written anew where the README shows them."""

import base64
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from chromium import opened
from page_double import Double, Overview, showing
from playwright.sync_api import Browser, Page, expect

MAX_BYTES = 60_000
FOLDER = Path(__file__).parent / "screens"


@pytest.fixture
def double() -> Iterator[Double]:
    with showing(Double()) as double:
        yield double


def keep(name: str, page: Page) -> None:
    """What is seen now, as WebP: Playwright's own PNGs are three times as large."""
    session = page.context.new_cdp_session(page)
    taken = session.send("Page.captureScreenshot", {"format": "webp", "quality": 80})
    picture = base64.b64decode(taken["data"])
    assert len(picture) <= MAX_BYTES
    if os.environ.get("AEGIS_TEST_PICTURES"):
        (FOLDER / name).write_bytes(picture)
    assert (FOLDER / name).exists()


def drain(seen: Overview) -> None:
    now = time.time()
    seen["mode"] = "auto"
    switch = {"at": now - 4, "mode": "auto", "previous": "vllm", "source": "api", "phases": []}
    seen["switches"].insert(0, switch)
    fenced = {"word": "Draining…", "phase": "draining", "phase_since": now - 4, "in_flight": 41, "serves": []}
    reason = "gets no more calls: mode auto, and no room for both engines; 41 calls in flight end there first"
    seen["engines"]["vllm"] |= fenced | {"reason": reason, "phase_reason": reason}
    reason = "waits until vLLM has given its memory back: 38.2 of 50.0 GB are free"
    coming = {"word": "Starting…", "phase": "starting", "phase_since": now - 4, "reason": reason, "phase_reason": reason}
    seen["engines"]["ollama"] |= coming
    seen["auto"]["reason"] = "no room for vLLM: only Ollama will run"


def test_a_switch_on_a_desk(browser: Browser, double: Double) -> None:
    with opened(browser, double.url, width=1000, height=720, color_scheme="light") as page:
        expect(page.locator("#card-vllm")).to_contain_text("Active")
        double.change(drain)
        expect(page.locator("#live")).to_contain_text("Switching to Auto…")
        keep("switch.webp", page)


def test_a_question_on_a_phone(browser: Browser, double: Double) -> None:
    with opened(browser, double.url, width=360, height=640, color_scheme="dark") as page:
        page.locator("#card-ollama").get_by_role("radio").click()
        expect(page.get_by_role("button", name="Switch to Ollama")).to_be_enabled()
        keep("question.webp", page)
