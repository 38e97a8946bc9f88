"""Screenshots of the page in light and dark, wide and narrow: python tests/serve/take_screenshots.py FOLDER [MODEL]"""

import sys
import tempfile
from pathlib import Path

import soundfile
from page_server import bending, chromium, flags, page_server
from playwright.sync_api import sync_playwright

import sewkit
from sewkit.audio import load_audio

EXAMPLES = Path(__file__).parents[2] / "examples"
SIZES = {"wide": (1180, 760), "narrow": (390, 844)}


def main(folder: Path, model: str | None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    wav = Path(tempfile.mkdtemp()) / "microphone.wav"
    soundfile.write(wav, load_audio(EXAMPLES / "commands.flac"), 16_000)
    asr = bending() if model is None else sewkit.load(model)
    with page_server(asr) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=flags(wav))
        for scheme in ("light", "dark"):
            for name, (width, height) in SIZES.items():
                page = browser.new_page(
                    viewport={"width": width, "height": height},
                    color_scheme=scheme,
                    device_scale_factor=1 if name == "wide" else 2,
                )
                page.goto(address)
                page.wait_for_selector("#pulse[data-state=idle]")
                page.screenshot(path=folder / f"{scheme}-{name}-empty.png", timeout=120_000)
                page.set_input_files("#file", EXAMPLES / "digits.flac")
                page.wait_for_selector("text=of sound heard")
                page.click("#record")
                page.wait_for_selector(".line .partial", timeout=90_000)
                page.wait_for_timeout(3000)
                page.screenshot(path=folder / f"{scheme}-{name}-live.png", timeout=120_000)
                page.click("#record")
                page.wait_for_selector("text=ended at", timeout=90_000)
                page.focus("#compute")
                page.keyboard.press("ArrowLeft")
                page.wait_for_timeout(1500)
                page.screenshot(path=folder / f"{scheme}-{name}.png", full_page=name == "narrow", timeout=120_000)
                page.close()
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else None)
