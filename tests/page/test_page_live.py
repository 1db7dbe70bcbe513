"""The page of the real admin API, in a real Chromium, on an installation of real processes."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from chromium import opened
from installation import eventually
from job_place import texts
from memory_host import WITHIN_S, EngineHost, engine_host
from playwright.sync_api import Browser, Locator, Page, expect

from aegis_workers.local import children, process
from aegis_workers.routing import Engine
from aegis_workers.state import keys

pytestmark = pytest.mark.timeout(180)
WITHIN_MS = WITHIN_S * 1000
TOKEN = "a token of the test"  # noqa: S105


@pytest.fixture
def host(tmp_path: Path) -> Iterator[EngineHost]:
    with engine_host(tmp_path, admin_token=TOKEN, start_timeout_s=60.0) as host:
        yield host


@pytest.fixture
def page(browser: Browser, host: EngineHost, tmp_path: Path) -> Iterator[Page]:
    """The page, let in; it began before a controller led."""
    folder = tmp_path / "admin"
    folder.mkdir()
    child = children.start_admin(0, host.place.settings, folder)
    try:
        with opened(browser, children.address(child)) as page:
            page.get_by_label("AEGIS_ADMIN_TOKEN").fill(f"{TOKEN}!")
            page.keyboard.press("Enter")
            expect(page.locator("#token-problem")).to_have_text("That token is wrong: the server refused it.")
            page.get_by_label("AEGIS_ADMIN_TOKEN").fill(TOKEN)
            page.keyboard.press("Enter")
            expect(page.locator("#connection")).to_have_text("Live")
            yield page
    finally:
        process.stop([child], 10)


def state_of(page: Page, mode: str) -> Locator:
    return page.locator(f"#card-{mode} .word")


def switch(page: Page, mode: str, label: str) -> None:
    page.locator(f"#card-{mode}").get_by_role("radio").click()
    page.get_by_role("button", name=f"Switch to {label}").click()
    expect(page.get_by_role("dialog")).to_be_hidden()


def test_the_page_reads_switches_and_watches_the_switch_and_a_job_finish(host: EngineHost, page: Page) -> None:
    expect(page.locator("#errors")).to_contain_text("controller")
    expect(page.locator("#workers tbody tr")).to_have_count(2)
    host.lead()
    host.await_settled(Engine.OLLAMA)
    expect(state_of(page, "ollama")).to_have_text("Active", timeout=WITHIN_MS)
    expect(page.locator("#card-ollama").get_by_role("radio")).to_be_checked()

    page.locator("#card-vllm").get_by_role("radio").click()
    expect(page.get_by_role("dialog")).to_contain_text("needs 60 GB of memory")
    page.get_by_role("button", name="Switch to vLLM").click()
    expect(page.locator("#live")).to_contain_text("Switching to vLLM…")
    expect(page.locator("#live")).to_contain_text("vLLM: the engines have followed", timeout=WITHIN_MS)
    expect(page.locator("#live [data-key=vllm] li").last).to_have_text("ready")
    expect(page.locator("#live [data-key=ollama] li").last).to_have_text("stopped")
    expect(state_of(page, "vllm")).to_have_text("Active")
    assert host.place.redis.get(keys.MODE) == "vllm"
    expect(page.locator("#switches tbody tr").first).to_contain_text(re.compile("vllm from ollama.*API", re.DOTALL))

    job = host.submit(texts(40), metadata={"name": "<b>towns</b>"})
    row = page.locator(f"#jobs tr[data-key={job.id}]")
    expect(row).to_contain_text(re.compile(r"<b>towns</b>.*completed.*40 / 40", re.DOTALL), timeout=WITHIN_MS)

    host.write_mode("ollama")
    expect(page.locator("#switches tbody tr").first).to_contain_text("raw write")
    expect(state_of(page, "ollama")).to_have_text("Active", timeout=WITHIN_MS)


def test_an_engine_that_fails_is_told_with_its_reason(host: EngineHost, page: Page) -> None:
    host.lead()
    host.await_settled(Engine.OLLAMA)
    occupied = host.occupy(45.0)
    switch(page, "vllm", "vLLM")
    expect(state_of(page, "vllm")).to_have_text("Failed", timeout=WITHIN_MS)
    expect(page.locator("#card-vllm .reason")).to_contain_text("GB")
    expect(page.locator("#errors li").first).to_contain_text("vLLM")
    host.free(occupied)


def test_redis_that_goes_and_comes_back_is_shown_as_that(host: EngineHost, page: Page) -> None:
    was = state_of(page, "ollama").inner_text()
    server = host.place.server.process
    assert server is not None
    server.popen.kill()
    expect(page.locator("#banner")).to_contain_text("Disconnected since")
    expect(page.locator("#banner")).to_contain_text("Redis")
    expect(state_of(page, "ollama")).to_have_text(f"was {was}")
    expect(page.locator("#card-vllm").get_by_role("radio")).to_have_attribute("aria-disabled", "true")
    host.place.restart_redis()
    expect(page.locator("#connection")).to_have_text("Live", timeout=WITHIN_MS)
    expect(page.locator("#banner")).to_be_empty()
    eventually(lambda: page.locator("#workers tbody tr").count() == 2, within_s=WITHIN_S)


def test_a_job_is_cancelled_from_the_page(host: EngineHost, page: Page) -> None:
    host.lead()
    job = host.submit(texts(4_000), metadata={"name": "long"})
    row = page.locator(f"#jobs tr[data-key={job.id}]")
    row.get_by_role("button", name="cancel long").click(timeout=WITHIN_MS)
    page.get_by_role("button", name="Cancel the job").click()
    expect(row).to_contain_text("cancelled", timeout=WITHIN_MS)
    expect(row.get_by_role("button", name="retry long")).to_be_visible()
