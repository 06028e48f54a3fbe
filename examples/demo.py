"""One photo in, the same person in eight scenes out: `make demo`, or `python examples/demo.py`.

Writes out/demo.png: the reference on the left, its portraits on the right.
"""

from __future__ import annotations

import time
from pathlib import Path

from consistentid import ConsistentIDPipeline
from consistentid.files.images import contact_sheet, load_image
from consistentid.files.output import encode_png
from consistentid.files.writing import save_new

REFERENCE = Path(__file__).parent / "portraits" / "ada.png"
PROMPTS = (
    "a woman in a red hat on a beach",
    "a woman smiling in a forest",
    "a woman wearing round glasses and a blue suit in a city at night",
    "a woman with a golden crown, under a starry night sky",
    "a woman laughing, in the snow",
    "a woman looking surprised, in a green hoodie, at sunset",
    "an ink drawing of a woman in the mountains",
    "a woman in a yellow sweater on a purple background",
)


def main() -> None:
    """Identify the reference, make one portrait a prompt, and put all on one sheet."""
    studio = ConsistentIDPipeline.from_preset("drawn")
    who = studio.identify(REFERENCE)
    pictures, captions = [], []
    began = time.perf_counter()
    for prompt in PROMPTS:
        made = studio(who, prompt, seed=7)
        pictures += made.images
        captions.append(f"likeness {made.scores[0]:.2f}")
        print(f"{captions[-1]}  {prompt}")
    print(f"{len(PROMPTS)} pictures in {time.perf_counter() - began:.1f} s")
    sheet = contact_sheet([load_image(REFERENCE)], pictures, captions)
    print(save_new(Path("out") / "demo.png", encode_png(sheet, {"prompts": PROMPTS, "seed": 7})))


if __name__ == "__main__":
    main()
