"""The page: what it is allowed to do, and that people can use it. The browser is Chromium, where one is installed."""

import re
import wave
from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path

import httpx
import numpy as np
import pytest
from page_server import bending, chromium, flags, page_server
from playwright.sync_api import Browser, Page, sync_playwright

import sewkit
from sewkit.audio import load_audio
from sewkit.serve.page import STATIC

EXAMPLES = Path(__file__).parents[2] / "examples"
SPOKEN = ["STOP", "GO", "YES", "LEFT"]
READY = "#pulse[data-state=idle]"
PATIENCE_MS = 60_000
needs_browser = pytest.mark.skipif(chromium() is None, reason="no Chromium is installed: apt install chromium")


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        with page_server(bending()) as address:
            yield address


@pytest.fixture(scope="module")
def wav(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the microphone plays, and then silence."""
    path = tmp_path_factory.mktemp("sound") / "microphone.wav"
    spoken = load_audio(EXAMPLES / "commands.flac")[: int(4.55 * 16_000)]
    samples = np.concatenate([np.zeros(8000, np.float32), spoken])
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes((samples * 32767).astype("<i2").tobytes())
    return path


@pytest.fixture(scope="module")
def browser(wav: Path) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=flags(wav))
        yield browser
        browser.close()


@contextmanager
def opened(browser: Browser, address: str) -> Iterator[Page]:
    """The page; at its end nothing may have gone wrong in scripts, nor been against the policy."""
    page = browser.new_page(viewport={"width": 1180, "height": 760})
    page.set_default_timeout(PATIENCE_MS)
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda said: problems.append(said.text) if said.type == "error" else None)
    page.goto(address)
    yield page
    page.close()
    assert [problem for problem in problems if "Failed to load resource" not in problem] == []


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    with opened(browser, address) as page:
        page.wait_for_selector(READY)
        yield page


class References(HTMLParser):
    """All that a document loads or names."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.inline: list[str] = []
        self.ids: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = dict(attributes)
        self.loaded += [value for name in ("src", "href") if (value := values.get(name)) and not value.startswith("#")]
        self.inline += [name for name in values if name == "style" or name.startswith("on")]
        self.ids += [values["id"]] if values.get("id") else []


def test_the_page_loads_nothing_from_elsewhere_and_is_told_not_to(address: str) -> None:
    document = (STATIC / "index.html").read_text()
    references = References(document)
    assert references.inline == []
    assert len(references.ids) == len(set(references.ids))
    with httpx.Client(base_url=address) as client:
        policy = client.get("/").headers["content-security-policy"]
        assert policy.startswith("default-src 'none'")
        assert "unsafe" not in policy
        for path in references.loaded:
            assert re.fullmatch(r"static/[a-z]+\.(css|js|svg)", path)
            assert client.get(f"/{path}").status_code == 200
        for path in STATIC.iterdir():
            assert not re.search(r"https?://(?!www\.w3\.org/)", path.read_text())


def test_scripts_ask_for_elements_that_the_page_has() -> None:
    asked = {name for path in STATIC.glob("*.js") for name in re.findall(r'byId\("([a-z0-9-]+)"\)', path.read_text())}
    assert asked <= set(References((STATIC / "index.html").read_text()).ids)


def test_files_are_sent_once_and_nothing_beside_them(address: str) -> None:
    with httpx.Client(base_url=address) as client:
        first = client.get("/static/page.js")
        assert first.headers["content-type"] == "text/javascript; charset=utf-8"
        again = client.get("/static/page.js", headers={"If-None-Match": first.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        for path in ("/static/", "/static/none.js", "/static/../page.py", "/static/%2e%2e/page.py"):
            assert client.get(path).status_code == 404


def record(page: Page) -> tuple[list[str], str]:
    """The words that the microphone plays, as the page shows them, and the operating point shown beside the last."""
    page.click("#record")
    final_words = page.locator(".line .words > .word")
    final_words.nth(len(SPOKEN) - 1).wait_for()
    page.click("#record")
    page.wait_for_selector("text=ended at")
    words, point = final_words.all_inner_texts(), page.locator(".line code").last.inner_text()
    page.click("#clear")
    return words, point.replace("\u200b", "")


@needs_browser
def test_people_record_see_the_words_and_choose_the_compute(page: Page) -> None:
    page.click("text=Automatic")
    page.focus("#compute")
    points = []
    for key in ("Home", "End"):
        page.keyboard.press(key)
        chosen = page.inner_text("#chosen-point").replace("\u200b", "")
        assert record(page) == (SPOKEN, chosen)
        points.append(chosen)
        page.focus("#compute")
    assert points[0] != points[1]
    assert page.is_hidden("#alert")


@needs_browser
def test_people_choose_a_file_and_see_how_sure_each_word_is(page: Page) -> None:
    page.set_input_files("#file", EXAMPLES / "commands.flac")
    page.wait_for_selector("text=of sound heard at")
    assert page.locator(".line .word").all_inner_texts() == (EXAMPLES / "commands.txt").read_text().split()
    page.focus("#transcript")
    page.keyboard.press("ArrowRight")
    assert re.fullmatch(r"STOP · \d+ % sure · \d+\.\d\d to \d+\.\d\d s", page.inner_text("#detail"))
    page.click("#clear")
    assert page.is_visible("#empty")


@needs_browser
def test_what_goes_wrong_is_said_in_plain_words(page: Page, tmp_path: Path) -> None:
    path = tmp_path / "letter.wav"
    path.write_text("Dear Sir")
    page.set_input_files("#file", path)
    page.wait_for_selector("#alert:visible")
    assert "text, not audio" in page.inner_text("#alert")
    refuse = "navigator.mediaDevices.getUserMedia = () => Promise.reject(new DOMException('', 'NotAllowedError'))"
    page.evaluate(f"() => {{ {refuse} }}")
    page.click("#alert-close")
    page.click("#record")
    page.wait_for_selector("#alert:visible")
    assert "Allow it for this page" in page.inner_text("#alert")
    assert page.inner_text("#record") == "Record"


@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_and_everything_has_a_name(page: Page, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": 360, "height": 740})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    for control in page.locator("button:visible, input:visible, meter").all():
        name = control.evaluate("e => e.ariaLabel || e.innerText || e.labels?.[0]?.innerText")
        assert name
    assert (
        page.evaluate("getComputedStyle(document.body).backgroundColor")
        == {
            "light": "rgb(245, 244, 240)",
            "dark": "rgb(18, 20, 22)",
        }[scheme]
    )


@needs_browser
def test_a_model_with_one_point_has_nothing_to_choose(browser: Browser) -> None:
    with page_server(sewkit.load(), compute="full") as address, opened(browser, address) as page:
        page.wait_for_selector(READY)
        assert page.is_disabled("#compute")
        assert "one" in page.inner_text("#compute-hint")


@needs_browser
def test_a_server_with_a_key_asks_for_it(browser: Browser) -> None:
    with page_server(sewkit.load(), api_key="secret") as address, opened(browser, address) as page:
        page.fill("#key", "secret")
        page.click("text=Use it")
        page.wait_for_selector(READY)
        assert record(page)[0] == SPOKEN
        assert page.is_hidden("#alert")
