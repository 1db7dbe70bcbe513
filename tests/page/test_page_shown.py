"""What the page shows, in a real Chromium, of a server that says what a test wants seen."""

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from chromium import opened
from page_double import Double, Overview, showing
from playwright.sync_api import Browser, Page, expect

from aegis_workers.admin import page_routes

MAX_BYTES = 150_000
READY_S = 1.0
PHONE = {"width": 360, "height": 740}
TOKEN = "ein Schlüssel"  # noqa: S105 - a test's own
MARKUP = '<img src="/x" onerror="document.title=1"><script>document.title=2</script>'

# The least contrast of a text that is shown, and the text; WCAG 2.2's formula. Muted by `disabled` is allowed to be less.
CONTRAST = """() => {
  const parse = (c) => c.match(/[\\d.]+/g).map(Number);
  const part = (v) => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
  const ground = (e) => { for (; e; e = e.parentElement) {
    const c = parse(getComputedStyle(e).backgroundColor); if (c.length < 4 || c[3] > 0) return c; } };
  let worst = [21, ""];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const text = walker.currentNode.data.trim(), e = walker.currentNode.parentElement;
    if (!text || !e.checkVisibility() || e.closest("noscript, .unseen, .skip, :disabled")) continue;
    const [a, b] = [light(parse(getComputedStyle(e).color)), light(ground(e))];
    const found = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (found < worst[0]) worst = [found, text];
  }
  return worst;
}"""


@pytest.fixture
def double() -> Iterator[Double]:
    with showing(Double()) as double:
        yield double


@pytest.fixture
def page(browser: Browser, double: Double) -> Iterator[Page]:
    with opened(browser, double.url) as page:
        yield page


def card(page: Page, mode: str) -> Any:
    return page.locator(f"#card-{mode}")


def radio(page: Page, mode: str) -> Any:
    return card(page, mode).get_by_role("radio")


def words(*told: str) -> re.Pattern[str]:
    """These words in this order, with anything between them."""
    return re.compile(".*".join(map(re.escape, told)), re.DOTALL)


def fail_ollama(seen: Overview) -> None:
    told = {"word": "Failed", "reason": "the model did not load within 20 s", "phase": "failed", "phase_since": time.time()}
    seen["engines"]["ollama"] |= told | {"phase_reason": told["reason"]}
    seen["errors"] = ["Ollama failed: the model did not load within 20 s"]


def test_mode_profile_and_engines_are_plain_to_see_with_their_origins(page: Page) -> None:
    facts = page.locator("#facts")
    expect(facts).to_contain_text("Active modevLLMCLI, 63 min ago")
    expect(facts).to_contain_text("Profileenterprise_ingestionDEPLOYMENT_PROFILE")
    expect(facts).to_contain_text("Mode to start withvllmPROFILE=enterprise_ingestion")
    expect(facts).to_contain_text("Fallbackdegradedefault")

    expect(card(page, "vllm")).to_contain_text(words("Active", "EXTRACTION", "4,812 tok/s", "extraction, chat", "187 / 256"))
    expect(card(page, "ollama")).to_contain_text(words("Disabled", "CHAT", "not measured", "0 / 4", "not used in mode vllm"))
    expect(card(page, "auto")).to_contain_text(words("Inactive", "Dual-Engine", "187 / 260", "no room for vLLM"))
    assert [radio(page, mode).get_attribute("aria-checked") for mode in ("vllm", "ollama", "auto")] == ["true", "false", "false"]


def test_jobs_queues_switches_and_workers_are_listed(page: Page) -> None:
    job = page.locator("#jobs tbody tr").first
    expect(job).to_contain_text(words("contracts 2026-11", "in progress", "1,240 / 2,000", "3 failed", "38 items/s, 19 min left"))
    expect(job.get_by_role("progressbar")).to_have_attribute("value", "1240")
    expect(page.locator("#queues tbody tr").first).to_have_text("extraction4128.2 sa slot on vLLM: 64")
    expect(page.locator("#switches")).to_contain_text(
        "Ollama: draining 3.4 s, stopping 1.1 s · vLLM: starting 53 s, warming 2.2 s"
    )
    expect(page.locator("#switches")).to_contain_text("raw write")
    expect(page.locator("#workers tbody tr")).to_have_count(3)
    expect(page.locator("#errors")).to_contain_text("Nothing is wrong.")


def test_nothing_comes_from_elsewhere_and_all_of_it_is_small_and_soon_there(browser: Browser, double: Double) -> None:
    tried_s: list[float] = []
    while len(tried_s) < 10 and min(tried_s, default=READY_S) >= READY_S:  # others may be at work on this machine
        with opened(browser, "about:blank") as page:
            asked: list[str] = []
            page.on("request", lambda request: asked.append(request.url))  # noqa: B023 - of this page
            page.goto(double.url)
            expect(card(page, "auto")).to_be_visible()
            tried_s.append(page.evaluate("performance.getEntriesByName('ready')[0].startTime") / 1000)
            assert {url.startswith(f"{double.url}/") for url in asked} == {True}
    with urlopen(double.url) as answer:  # noqa: S310 - loopback
        assert answer.headers["Content-Security-Policy"].startswith("default-src 'self';")
    assert sum(len(part.body) for part in page_routes._parts().values()) < MAX_BYTES
    assert min(tried_s) < READY_S, tried_s


def test_words_of_users_stay_words(page: Page, double: Double) -> None:
    def plant(seen: Overview) -> None:
        seen["jobs"][0]["name"] = seen["jobs"][0]["waits"] = MARKUP
        seen["errors"] = [MARKUP]
        seen["engines"]["vllm"]["reason"] = MARKUP

    double.change(plant)

    expect(page.locator("#errors li")).to_have_text(MARKUP)
    expect(page.locator("#jobs .title").first).to_have_text(MARKUP)
    assert page.locator("img, body script").count() == 0
    with pytest.raises(Exception, match="TrustedHTML"):
        page.evaluate("text => { document.body.innerHTML = text }", MARKUP)


def test_a_card_says_what_would_happen_and_writes_nothing_before_it_is_confirmed(page: Page, double: Double) -> None:
    card(page, "ollama").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("drains 187 calls in flight first: up to 2 min, then they are closed and wait again")
    expect(dialog).to_contain_text("needs 24 GB of memory")
    expect(dialog).to_contain_text("38.2 GB free of 100.0 GB")
    page.get_by_role("button", name="Not now").click()
    expect(dialog).to_be_hidden()

    radio(page, "ollama").click()
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    assert double.asked == []

    radio(page, "ollama").click()
    page.get_by_role("button", name="Switch to Ollama").click()
    expect(dialog).to_be_hidden()
    expect(radio(page, "ollama")).to_be_checked()
    expect(page.locator("#said")).to_contain_text("Mode is ollama")
    assert double.asked == [("PUT", "/llm/engine", {"mode": "ollama"})]


def test_how_long_a_start_takes_is_said_from_the_last_one(page: Page) -> None:
    prospect = {"configured": True, "act": "start", "reason": "mode auto", "needs_gb": 60.0, "in_flight": 0}
    told = {"previous": "ollama", "engines": {"vllm": prospect}, "memory": None, "controller": None}
    page.route("**/prospect?mode=auto", lambda route: route.fulfill(json=told))
    radio(page, "auto").click()
    expect(page.get_by_role("dialog")).to_contain_text("its last start took 55 s")
    expect(page.get_by_role("dialog")).to_contain_text("No controller leads")


def test_a_switch_that_is_refused_says_why_and_can_be_tried_again(page: Page, double: Double) -> None:
    double.refusal = "Redis does not answer"
    radio(page, "auto").click()
    confirm = page.get_by_role("button", name="Switch to Auto")
    confirm.click()
    expect(page.locator("#ask-problem")).to_have_text("Redis does not answer")
    double.refusal = None
    confirm.click()
    expect(radio(page, "auto")).to_be_checked()


def test_a_keyboard_is_enough(page: Page, double: Double) -> None:
    expect(radio(page, "vllm")).to_be_visible()
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the engines")).to_be_focused()
    page.keyboard.press("Tab")
    expect(radio(page, "vllm")).to_be_focused()
    page.keyboard.press("ArrowRight")
    expect(radio(page, "ollama")).to_be_focused()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    expect(radio(page, "auto")).to_be_focused()
    expect(page.get_by_role("dialog")).to_be_hidden()
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Not now")).to_be_focused()
    expect(page.get_by_role("button", name="Switch to Auto")).to_be_enabled()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(radio(page, "auto")).to_be_checked()
    expect(radio(page, "auto")).to_be_focused()
    assert double.asked == [("PUT", "/llm/engine", {"mode": "auto"})]


def test_the_focus_stays_where_it_is_while_values_change(page: Page, double: Double) -> None:
    button = page.get_by_role("button", name="retry archive, part 7")
    button.focus()
    double.change(lambda seen: seen["jobs"].insert(0, seen["jobs"][0] | {"id": "job_0009", "name": "new"}))
    expect(page.locator("#jobs tbody tr")).to_have_count(5)
    expect(button).to_be_focused()


@pytest.mark.parametrize(
    ("verb", "job", "name"),
    [("cancel", "job_0004", "contracts"), ("resume", "job_0003", "lab"), ("retry", "job_0002", "archive")],
)
def test_a_step_with_a_job_is_confirmed(page: Page, double: Double, verb: str, job: str, name: str) -> None:
    button = page.get_by_role("button", name=f"{verb} {name}")
    button.click()
    page.get_by_role("button", name="Not now").click()
    assert double.asked == []
    button.click()
    page.get_by_role("button", name=f"{verb.capitalize()} the job").click()
    expect(page.get_by_role("dialog")).to_be_hidden()
    assert double.asked == [("POST", f"/jobs/{job}/{verb}", None)]


def test_the_phases_of_a_switch_run_live_and_a_failed_engine_is_told(page: Page, double: Double) -> None:
    def phases(vllm: str, ollama: str, **more: Any) -> None:
        def turn(seen: Overview) -> None:
            seen |= {"mode": "ollama"}
            for name, phase in {"vllm": vllm, "ollama": ollama}.items():
                known = seen["engines"][name]
                seen["engines"][name] = known | ({} if known["phase"] == phase else {"phase": phase, "phase_since": time.time()})
            seen["engines"]["ollama"] |= more

        double.change(turn)

    live = page.locator("#live")
    expect(card(page, "vllm")).to_be_visible()
    expect(live).to_be_hidden()
    phases("draining", "stopped", phase_reason="waits for memory: 12.1 of 50.0 GB free")
    expect(live).to_contain_text("Switching to Ollama…")
    expect(live.locator("li.now")).to_have_text([re.compile("draining"), re.compile("stopped")])
    expect(live).to_contain_text("waits for memory: 12.1 of 50.0 GB free")
    phases("stopped", "stopped", phase_reason="waits for memory: 38.0 of 50.0 GB free")
    expect(live).to_contain_text("waits for memory: 38.0 of 50.0 GB free")
    expect(live).to_contain_text("Switching to Ollama…")
    phases("stopped", "starting", phase_reason="")
    expect(live.locator("[data-key=ollama] li.now")).to_have_text(re.compile("starting"))
    phases("stopped", "ready", word="Active")
    expect(live).to_contain_text("Ollama: the engines have followed")
    expect(live.locator("[data-key=vllm] li")).to_have_text([re.compile("draining"), "stopped"])

    double.change(fail_ollama)
    expect(card(page, "ollama")).to_contain_text(words("Failed", "the model did not load within 20 s"))
    expect(page.locator("#errors li")).to_have_text("Ollama failed: the model did not load within 20 s")
    expect(page.locator("#said")).to_contain_text("Ollama: Failed, the model did not load within 20 s.")


def test_a_token_is_asked_for_and_a_wrong_one_is_called_wrong(browser: Browser, double: Double) -> None:
    double.token = TOKEN
    with opened(browser, double.url) as page:
        field, problem = page.get_by_label("AEGIS_ADMIN_TOKEN"), page.locator("#token-problem")
        expect(field).to_be_focused()
        expect(problem).to_be_empty()
        expect(page.locator("#main")).to_be_hidden()
        page.keyboard.type("wrong")
        page.keyboard.press("Enter")
        expect(problem).to_have_text("That token is wrong: the server refused it.")
        field.fill(TOKEN)
        page.keyboard.press("Enter")
        expect(radio(page, "vllm")).to_be_checked()
        page.reload()
        expect(radio(page, "vllm")).to_be_checked()
        assert page.evaluate("localStorage.length") == 0
        page.get_by_role("button", name="Forget the token").click()
        expect(field).to_be_focused()
        assert page.evaluate("sessionStorage.length") == 0


def test_old_values_are_never_shown_as_current(page: Page, double: Double) -> None:
    def is_live() -> None:
        expect(page.locator("#connection")).to_have_text("Live")
        expect(page.locator("#banner")).to_be_empty()
        expect(card(page, "vllm").locator(".word")).to_have_text("Active")

    is_live()
    double.lose_redis("Redis does not answer: Connection refused")
    expect(page.locator("#connection")).to_have_text("Disconnected")
    told = r"Disconnected since \d\d:\d\d:\d\d\. Redis .* Connection refused\. What is shown is of \d\d:\d\d:\d\d"
    expect(page.locator("#banner")).to_have_text(re.compile(told))
    expect(card(page, "vllm").locator(".word")).to_have_text("was Active")
    expect(page.locator("#active-mode .value")).to_have_text("was vLLM")
    expect(page.get_by_role("button", name="cancel contracts")).to_be_disabled()
    radio(page, "auto").click(force=True)
    expect(page.get_by_role("dialog")).to_be_hidden()

    double.find_redis()
    is_live()
    expect(page.locator("#said")).to_have_text("Connected again.")


def test_a_server_that_is_gone_and_comes_back_is_noticed(browser: Browser) -> None:
    with showing(Double()) as gone, opened(browser, gone.url) as page:
        expect(page.locator("#connection")).to_have_text("Live")
        page.context.set_offline(offline=True)
        gone.is_over = True
        expect(page.locator("#banner")).to_contain_text("The server")
        expect(card(page, "vllm").locator(".word")).to_have_text("was Active")
        gone.is_over = False
        page.context.set_offline(offline=False)
        expect(page.locator("#connection")).to_have_text("Live")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_has_enough_contrast(browser: Browser, double: Double, scheme: str) -> None:
    double.change(fail_ollama)
    with opened(browser, double.url, color_scheme=scheme) as page:
        expect(card(page, "ollama")).to_contain_text("Failed")
        assert (page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(16, 21, 28)") is (scheme == "dark")
        radio(page, "auto").click()
        expect(page.get_by_role("dialog")).to_contain_text("will start")
        worst, text = page.evaluate(CONTRAST)
        assert worst >= 4.5, text
        page.keyboard.press("Escape")
        double.lose_redis("Redis does not answer")
        expect(page.locator("#connection")).to_have_text("Disconnected")
        worst, text = page.evaluate(CONTRAST)
        assert worst >= 4.5, text


def test_a_phone_shows_all_of_it_without_scrolling_sideways(browser: Browser, double: Double) -> None:
    def lengthen(seen: Overview) -> None:
        seen["jobs"][0]["name"] = "a-very-long-name-without-a-space" * 8
        seen["engines"]["vllm"]["reason"] = "http://a-host-with-a-long-name.example:8000/" * 4

    double.change(lengthen)
    with opened(browser, double.url, **PHONE) as page:  # type: ignore[arg-type]
        expect(page.locator("#workers tbody tr")).to_have_count(3)
        assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
        radio(page, "auto").click()
        expect(page.get_by_role("dialog")).to_contain_text("will start")
        box = page.get_by_role("dialog").bounding_box()
        assert box is not None
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= PHONE["width"]


def test_who_wants_no_motion_gets_none(browser: Browser, double: Double) -> None:
    double.change(lambda seen: seen["engines"]["vllm"].update(word="Starting…", phase="starting"))
    with opened(browser, double.url, reduced_motion="reduce") as page:
        expect(card(page, "vllm")).to_contain_text("Starting…")
        assert page.locator("#card-vllm .light").evaluate("one => getComputedStyle(one).animationName") == "none"


def test_files_of_the_page_are_asked_for_by_name_only(double: Double) -> None:
    assert page_routes.is_open("/static/page.js")
    assert not page_routes.is_open("/v1/batches")
    names = {path.name for path in (Path(page_routes.__file__).parent / "page").iterdir()}
    assert set(page_routes._parts()) == names
    del double
