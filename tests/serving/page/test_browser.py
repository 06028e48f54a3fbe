"""The page in a real browser: everything that a person does there, and nothing that they should not meet."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageChops
from served import ADA

from consistentid.adapter.identity import Identity
from consistentid.files.images import load_image
from consistentid.files.output import read_record
from consistentid.pipeline.pipeline import ConsistentIDPipeline
from consistentid.serving.page.mount import available

TOM = ADA.with_name("tom.png")
PATIENCE = 300_000
"""Milliseconds until a condition is given up: a busy machine is slow, and not broken."""

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not available(), reason="needs gradio, of the extra app")]


@pytest.fixture(scope="module")
def address(chromium: Any) -> Iterator[str]:
    """Of a service that runs as its users run it."""
    line = [sys.executable, "-m", "consistentid", "serve", "--port", "0", "--device", "cpu"]
    environment = {name: value for name, value in os.environ.items() if name != "CONSISTENTID_TOKEN"}
    process = subprocess.Popen(line, stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stderr
    lines = [process.stderr.readline()]
    reader = threading.Thread(target=lambda: lines.extend(process.stderr or ()))
    reader.start()
    try:
        yield json.loads(lines[0])["url"]
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        reader.join(10)
    assert not [line for line in lines if "unexpected" in line], lines


@pytest.fixture
def visit(chromium: Any, address: str) -> Iterator[Any]:
    """A tab in which nothing may go wrong unseen, and from which nothing may be asked of anybody else."""
    context = chromium.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True)
    context.set_default_timeout(PATIENCE)
    tab = context.new_page()
    wrong: list[str] = []
    tab.on("console", lambda told: told.type in ("error", "warning") and wrong.append(told.text))
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.on("response", lambda got: got.status >= 400 and wrong.append(f"{got.status} {got.url}"))
    tab.on("request", lambda asked: asked.url.startswith((address, "data:", "blob:")) or wrong.append(asked.url))
    tab.goto(address)
    tab.get_by_role("button", name="Generate").wait_for()
    yield tab
    context.close()
    assert not wrong


def add(tab: Any, *files: Path) -> Any:
    """Someone's photos; returns their card once they were looked at."""
    before = tab.locator(".cid-card").count()
    tab.locator("#cid-people .cid-drop input").set_input_files(files)
    card = tab.locator(".cid-card").nth(before)
    card.locator(".cid-parts").wait_for()
    return card


def ask(tab: Any, prompt: str, seed: int, number: int = 1, steps: int = 4) -> None:
    tab.get_by_label("Prompt", exact=True).fill(prompt)
    tab.locator("#cid-seed input").fill(str(seed))
    tab.get_by_role("spinbutton", name="Pictures").fill(str(number))
    if not tab.get_by_label("What to avoid").is_visible():
        tab.get_by_role("button", name="More settings").click()
    tab.get_by_role("spinbutton", name="Steps").fill(str(steps))
    tab.keyboard.press("Tab")
    tab.get_by_role("button", name="Generate").click()


def made(tab: Any, seed: int) -> bytes:
    """The picture of a seed as it is downloaded."""
    card = tab.locator(".cid-made", has=tab.get_by_text(f"seed {seed}", exact=True))
    with tab.expect_download() as waiting:
        card.get_by_role("link", name="Download").click()
    assert waiting.value.suggested_filename == f"portrait-{seed}.png"
    return Path(waiting.value.path()).read_bytes()


PLACE = """async (card) => {
  const picture = card.querySelector('.cid-photo img');
  await picture.decode();
  const [box, photo] = [card.querySelector('.cid-box'), picture].map((x) => x.getBoundingClientRect());
  return [(box.x - photo.x) / photo.width, (box.y - photo.y) / photo.height];
}"""
"""Left and top of the box in the photo, both of one moment: the page moves while it fills."""


def test_from_a_photo_to_a_picture_on_the_disk_and_back(
    visit: Any, studio: ConsistentIDPipeline, tmp_path: Path
) -> None:
    card = add(visit, ADA)
    assert "quality good" in card.inner_text()
    face = studio.look(ADA)[0].face.box
    assert card.evaluate(PLACE) == pytest.approx([float(face[0]) / 256, float(face[1]) / 256], abs=0.02)

    ask(visit, "a woman in a red hat", seed=7, number=2, steps=10)
    visit.locator(".cid-previews img").nth(1).wait_for()
    assert "left" in visit.locator(".cid-say").inner_text()
    visit.locator(".cid-made").nth(1).wait_for()
    assert visit.locator(".cid-made").count() == 2
    who = Identity.from_bytes(studio.identify(ADA).to_bytes())
    python = studio(who, "a woman in a red hat", seed=7, num_images_per_prompt=2, num_inference_steps=10)
    files = [made(visit, seed) for seed in (7, 8)]
    assert files == [python.to_png(number) for number in range(2)], "not recoded, with record and mark"
    (tmp_path / "made.png").write_bytes(files[0])
    assert read_record(tmp_path / "made.png")["seed"] == 7
    assert f"likeness {python.scores[0]:.2f}" in visit.locator(".cid-made").first.inner_text()

    with visit.expect_download() as waiting:
        card.get_by_role("button", name="Save identity").click()
    saved = tmp_path / waiting.value.suggested_filename
    waiting.value.save_as(saved)
    assert saved.name == "Person 1.safetensors"
    assert Identity.load(saved).part_features.equal(who.part_features)

    # the identity alone makes the same picture, with the settings of the second one; alone, so up to a batch's rounding
    card.get_by_role("button", name="Remove").click()
    visit.locator(".cid-card").wait_for(state="detached")
    assert "no photo" in add(visit, saved).inner_text()
    second = visit.locator(".cid-made").nth(1)
    second.get_by_text("Make it again").click()
    assert "--seed 8" in second.locator(".cid-command").inner_text()
    second.get_by_role("button", name="Use these settings").click()
    visit.wait_for_function("document.querySelector('#cid-seed input').value === '8'")
    visit.get_by_role("button", name="Generate").click()
    visit.locator(".cid-thumb").nth(1).wait_for()
    (tmp_path / "again.png").write_bytes(made(visit, 8))
    (tmp_path / "second.png").write_bytes(files[1])
    again, before = (read_record(tmp_path / name) for name in ("again.png", "second.png"))
    assert again == before | {"likeness": pytest.approx(before["likeness"], abs=1e-3)}
    pixels = [np.asarray(load_image(tmp_path / name), np.int16) for name in ("again.png", "second.png")]
    assert np.abs(pixels[0] - pixels[1]).max() <= 1
    visit.locator(".cid-made").get_by_role("button", name="Compare").wait_for(state="detached")

    visit.locator(".cid-thumb").last.click()
    assert visit.locator(".cid-made").count() == 2, "the earlier pictures of this visit"
    visit.get_by_role("button", name="Compare").first.click()
    visit.get_by_role("slider", name="Before or after").fill("100")
    assert visit.get_by_alt_text("Before").evaluate("(image) => image.style.clipPath") == "inset(0px 0% 0px 0px)"


def test_what_is_wrong_is_one_line_and_loses_nothing(visit: Any, tmp_path: Path) -> None:
    ask(visit, "a man", seed=1)
    alert = visit.locator("#cid-results .cid-error")
    alert.filter(has_text="nobody to be drawn").wait_for()
    broken = tmp_path / "broken.png"
    broken.write_bytes(ADA.read_bytes()[:300])
    visit.locator("#cid-people .cid-drop input").set_input_files(broken)
    visit.locator(".cid-card .cid-error").wait_for()
    visit.get_by_role("button", name="Remove").click()
    Image.new("RGB", (200, 200), "white").save(tmp_path / "white.png")
    visit.locator("#cid-people .cid-drop input").set_input_files(tmp_path / "white.png")
    visit.locator(".cid-card .cid-error", has_text="face").wait_for()
    visit.get_by_role("button", name="Remove").click()
    (tmp_path / "who.safetensors").write_bytes(b"x" * 100)
    visit.locator("#cid-people .cid-drop input").set_input_files(tmp_path / "who.safetensors")
    visit.locator("#cid-people > * .cid-error, #cid-people .cid-error", has_text="safetensors").first.wait_for()
    visit.get_by_role("button", name="Draw me somebody").click()
    visit.locator(".cid-card .cid-parts").wait_for()
    visit.get_by_label("Prompt", exact=True).fill("")
    visit.get_by_role("button", name="Generate").click()
    alert.filter(has_text="Prompt").wait_for()


def test_a_long_work_is_cancelled(visit: Any) -> None:
    add(visit, ADA)
    ask(visit, "a woman in the snow", seed=1, number=8, steps=100)
    visit.locator(".cid-say", has_text="step").wait_for()
    visit.route("**/gradio_api/cancel", lambda _: None)  # what the server still says of the run comes after the press
    visit.get_by_role("button", name="Cancel").click()
    visit.wait_for_timeout(1500)
    assert visit.locator(".cid-say").inner_text() == "Cancelled."
    visit.unroute("**/gradio_api/cancel")
    visit.get_by_role("button", name="Cancel").click()
    ask(visit, "a woman in the snow", seed=2)  # whose turn only comes once the other has ended
    visit.locator(".cid-made", has_text="seed 2").wait_for()


def test_two_people_in_boxes_and_one_painted_into_a_picture(
    visit: Any, studio: ConsistentIDPipeline, tmp_path: Path
) -> None:
    add(visit, ADA)
    card = add(visit, TOM)
    card.get_by_text("Words, strength and parts").click()
    card.get_by_label("Words about this person alone").fill("a man in a blue suit")
    card.get_by_label("Words for the mouth").fill("a wide mouth")
    card.get_by_label("Strength of the nose").fill("0.5")
    card.get_by_label("Whose eyes").select_option(label="of Person 1")
    visit.get_by_role("button", name="Change a picture, or say where people are").click()
    drawn = visit.locator("canvas.cid-canvas")

    def drag(*points: tuple[float, float]) -> None:
        drawn.hover(trial=True)  # waits until it stands still
        area = drawn.bounding_box()
        places = [(area["x"] + x * area["width"], area["y"] + y * area["height"]) for x, y in points]
        visit.mouse.move(*places[0])
        visit.mouse.down()
        for place in places[1:]:
            visit.mouse.move(*place, steps=5)
        visit.mouse.up()

    visit.get_by_role("radio", name="Box of Person 1").click()
    drag((0.1, 0.1), (0.5, 0.9))
    typed = visit.get_by_role("group", name="Box of Person 2")
    for side, value in {"left": 55, "top": 10, "right": 95, "bottom": 90}.items():
        typed.get_by_label(side).fill(str(value))
    ask(visit, "two people on a beach", seed=5)
    visit.locator(".cid-made").wait_for()
    (tmp_path / "two.png").write_bytes(made(visit, 5))
    record = read_record(tmp_path / "two.png")
    assert [person["region"] for person in record["people"]] == [
        pytest.approx([0.1, 0.1, 0.5, 0.9], abs=0.02), pytest.approx([0.55, 0.1, 0.95, 0.9], abs=0.01)
    ]  # fmt: skip
    assert record["person_prompts"] == ["", "a man in a blue suit"]
    assert record["parts"] == [{}, {"mouth": "a wide mouth"}]
    assert record["part_scales"] == [{}, {"nose": 0.5}]

    visit.get_by_role("button", name="Clear boxes").click()
    card.get_by_role("button", name="Remove").click()
    visit.locator("#cid-picture .cid-drop input").set_input_files(TOM)
    visit.get_by_role("radio", name="Brush").wait_for()
    drag((0.4, 0.4), (0.6, 0.6))
    ask(visit, "a woman", seed=6)
    visit.locator(".cid-made", has_text="seed 6").wait_for()
    now, was = Image.open(io.BytesIO(made(visit, 6))), Image.open(TOM).convert("RGB")
    changed = ImageChops.difference(now, was).getbbox()
    assert changed, "the painted area"
    assert min(changed[:2]) > 60
    assert max(changed[2:]) < 200
    visit.get_by_role("button", name="Compare").first.click()
    visit.get_by_alt_text("Before").wait_for()
    visit.get_by_label("Repair small faces").check()
    visit.get_by_label("Repair below likeness").fill("1")
    ask(visit, "a woman", seed=8)
    visit.locator(".cid-made", has_text="seed 8").wait_for()
    (tmp_path / "repaired.png").write_bytes(made(visit, 8))
    assert len(read_record(tmp_path / "repaired.png")["repairs"]) == 1


def test_dark_on_a_phone_and_by_keyboard(chromium: Any, address: str) -> None:
    context = chromium.new_context(viewport={"width": 390, "height": 844}, color_scheme="dark", has_touch=True)
    context.set_default_timeout(PATIENCE)
    tab = context.new_page()
    tab.goto(address)
    tab.get_by_role("button", name="Generate").wait_for()
    tab.wait_for_function("document.body.classList.contains('dark')")
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390, "nothing is cut off at the side"
    tab.get_by_role("button", name="Light or dark").press("Enter")
    tab.wait_for_function("!document.body.classList.contains('dark')")
    tab.get_by_role("button", name="Draw me somebody").press("Enter")
    tab.locator(".cid-card .cid-parts").wait_for()
    tab.get_by_text("Words this preset knows").press("Enter")
    tab.get_by_role("button", name="on a beach", exact=True).press("Enter")
    tab.wait_for_function("document.querySelector('#cid-prompt textarea').value.includes('on a beach')")
    tab.locator("#cid-seed input").fill("3")
    tab.get_by_role("spinbutton", name="Pictures").fill("1")
    tab.get_by_role("button", name="Generate").press("Enter")
    tab.locator(".cid-made").wait_for()
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    context.close()
