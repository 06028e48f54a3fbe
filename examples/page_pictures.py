"""The pictures of docs/page.md: the page in a browser, light with one person, dark with two in boxes, and on a phone.

python examples/page_pictures.py --out docs/images        # needs the extras app and dev, and apt-get install chromium
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

PORTRAITS = Path(__file__).parent / "portraits"
PATIENCE = 300_000  # milliseconds
BOXES = ((8, 12, 48, 100), (52, 8, 92, 100))  # left, top, right, bottom; percent


@contextmanager
def served() -> Iterator[str]:
    """The address of a page of its own."""
    line = [sys.executable, "-m", "consistentid", "serve", "--port", "0", "--device", "cpu"]
    process = subprocess.Popen(line, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        yield json.loads(process.stderr.readline())["url"]
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate()


def add(tab: Any, name: str) -> None:
    """Drop a portrait, and wait until it has been looked at."""
    before = tab.locator(".cid-card").count()
    tab.locator("#cid-people .cid-drop input").set_input_files(PORTRAITS / f"{name}.png")
    tab.locator(".cid-card").nth(before).locator(".cid-parts").wait_for()


def generate(tab: Any, prompt: str, seed: int, number: int = 4) -> None:
    """Have pictures made, and wait for them."""
    tab.get_by_role("spinbutton", name="Pictures").fill(str(number))
    tab.get_by_label("Prompt", exact=True).fill(prompt)
    tab.locator("#cid-seed input").fill(str(seed))
    tab.keyboard.press("Tab")
    tab.get_by_role("button", name="Generate").click()
    tab.locator(".cid-made", has_text=f"seed {seed}").wait_for()
    tab.locator(".cid-made img").evaluate_all("(all) => Promise.all(all.map((image) => image.decode()))")
    tab.mouse.move(0, 0)
    tab.evaluate("window.scrollTo(0, 0)")


def keep(tab: Any, file: Path, *, whole: bool) -> None:
    """What is seen, or all that can be scrolled to, in few colours."""
    seen = Image.open(io.BytesIO(tab.screenshot(full_page=whole))).convert("RGB")
    seen.quantize(256, dither=Image.Dither.NONE).save(file, optimize=True)


def main() -> None:
    """Visit the page three times, and keep what is seen."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    browser_path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with served() as address, sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])

        def visit(width: int, height: int, scheme: str) -> Any:
            context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
            context.set_default_timeout(PATIENCE)
            tab = context.new_page()
            tab.goto(address)
            tab.get_by_role("button", name="Generate").wait_for()
            return tab

        tab = visit(1280, 860, "light")
        add(tab, "ada")
        generate(tab, "a woman in a red hat on a beach", 7)
        keep(tab, out / "page-light.png", whole=False)

        tab = visit(960, 900, "dark")
        add(tab, "ada")
        add(tab, "tom")
        tab.get_by_role("button", name="Change a picture, or say where people are").click()
        for number, box in enumerate(BOXES, start=1):
            typed = tab.get_by_role("group", name=f"Box of Person {number}")
            for side, value in zip(("left", "top", "right", "bottom"), box, strict=True):
                typed.get_by_label(side).fill(str(value))
        generate(tab, "two people on a beach", 5, number=3)
        keep(tab, out / "page-dark.png", whole=True)

        tab = visit(390, 844, "dark")
        add(tab, "tom")
        generate(tab, "a man with round glasses in a forest, smiling", 3)
        keep(tab, out / "page-phone.png", whole=True)
        browser.close()


if __name__ == "__main__":
    main()
