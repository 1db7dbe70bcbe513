"""A real browser for tests of pages: the Chromium of the system, driven by Playwright, which downloads nothing."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

# How long a busy machine may take to show what it should.
WITHIN_MS = 30_000
_NAMES = ("chromium", "chromium-browser", "google-chrome")
_MISSING = "Chromium is not installed, so no page was tested: apt install chromium"


@contextmanager
def browser() -> Iterator[Browser]:
    """Chromium, until the block ends. Where it is missing the test is skipped, and fails where CI says that it must be there.

    Playwright keeps an event loop in this thread for so long: no other may run in it.
    """
    path = next(filter(None, map(shutil.which, _NAMES)), None)
    if path is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(_MISSING)
    # Chromium's sandbox refuses to work for root.
    options = ["--no-sandbox"] if os.geteuid() == 0 else []
    expect.set_options(timeout=WITHIN_MS)
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=path, args=options)
        try:
            yield running
        finally:
            running.close()


@contextmanager
def opened(browser: Browser, url: str, *, width: int = 1180, height: int = 900, **options: str) -> Iterator[Page]:
    """A page in a session of its own. Fails the test at its end if a script of the page did, or its policy forbade something."""
    said: list[str] = []
    with browser.new_context(viewport={"width": width, "height": height}, **options) as context:  # type: ignore[arg-type]
        context.set_default_timeout(WITHIN_MS)
        page = context.new_page()
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("console", lambda message: said.append(message.text) if "Content Security" in message.text else None)
        page.goto(url)
        yield page
    assert said == []
