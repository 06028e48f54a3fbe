"""The sheet of the README: eight people whom no network has seen, each in six scenes asked for by prompt.

python examples/people_and_prompts.py --out docs/images/people-and-prompts.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from consistentid import ConsistentIDPipeline
from consistentid.drawn.portraits import draw, sample_people, sample_scenes
from consistentid.evaluation.protocol import load_protocol

PEOPLE = (10, 2, 16, 18, 24, 8, 26, 30)
PROMPTS = tuple(prompt.text for prompt in load_protocol("drawn").prompts[:6])
TILE, HEAD = 128, 34


def main() -> None:
    """Make every portrait with the same seed and write the sheet; references stand in the left column."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs/images/people-and-prompts.png"))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    studio = ConsistentIDPipeline.from_preset("drawn")
    sheet = Image.new("RGB", (TILE * (len(PROMPTS) + 1) + 8, HEAD + TILE * len(PEOPLE)), "white")
    text, font = ImageDraw.Draw(sheet), ImageFont.load_default(10)
    for column, prompt in enumerate(("reference", *(prompt.removeprefix("a person ") for prompt in PROMPTS))):
        words = prompt.split()
        half = (len(words) + 1) // 2 if len(prompt) > 20 else len(words)
        lines = "\n".join(" ".join(part) for part in (words[:half], words[half:]) if part)
        text.multiline_text((TILE * column + 8 * bool(column) + 4, 3), lines, fill="black", font=font)
    for row, person in enumerate(PEOPLE):
        drawn = draw(sample_people([person], split="test"), sample_scenes([(person, 0)], split="test"), TILE)
        reference = Image.fromarray(drawn.pixels()[0])
        who = studio.identify(reference)
        portraits = [studio(who, prompt, seed=options.seed).images[0] for prompt in PROMPTS]
        for column, picture in enumerate((reference, *portraits)):
            tile = picture.resize((TILE, TILE), Image.Resampling.LANCZOS)
            sheet.paste(tile, (TILE * column + 8 * bool(column), HEAD + TILE * row))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(options.out, optimize=True)


if __name__ == "__main__":
    main()
