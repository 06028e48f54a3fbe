"""One picture in, the same person in eight scenes out, and with others in one: `make demo`, or examples/demo.py.

Writes out/demo.png and out/demo-together.png: references on the left, their portraits on the right. Of several people
three pictures are made for each that is shown, the one in which all are most alike.
"""

from __future__ import annotations

import time
from pathlib import Path

from PIL import Image

from consistentid import ConsistentIDPipeline, Portraits
from consistentid.files.images import contact_sheet, load_image
from consistentid.files.output import encode_png
from consistentid.files.writing import save_new

PORTRAITS = Path(__file__).parent / "portraits"
SEED = 7
ALONE = (
    "a woman in a red hat on a beach",
    "a woman smiling in a forest",
    "a woman wearing round glasses and a blue suit in a city at night",
    "a woman with a golden crown, under a starry night sky",
    "a woman laughing, in the snow",
    "a woman looking surprised, in a green hoodie, at sunset",
    "an ink drawing of a woman in the mountains",
    "a woman in a yellow sweater on a purple background",
)
TOGETHER = (
    (("ada", "tom"), "a woman on the left, a man on the right, on a beach"),
    (("ada", "tom"), "a woman on the left, a man on the right, in a city at night"),
    (("ada", "mia"), "a woman on the left, a woman on the right, in a forest"),
    (("ada", "tom", "mia"), "a woman on the left, a man in the middle, a woman on the right, at sunset"),
)


def picture(name: str) -> Path:
    """A reference that lies beside this file."""
    return PORTRAITS / f"{name}.png"


def save(name: str, references: list[str], made: dict[str, Portraits], columns: int) -> None:
    """A sheet of the pictures with their likeness, the least of several people's."""
    pictures: list[Image.Image] = []
    captions = []
    for prompt, portraits in made.items():
        pictures += portraits.images
        captions.append(f"likeness {portraits.scores[0]:.2f}")
        print(f"{captions[-1]}  {prompt}")
    sheet = contact_sheet([load_image(picture(x)) for x in references], pictures, captions, columns=columns)
    print(save_new(Path("out") / name, encode_png(sheet, {"prompts": list(made), "seed": SEED})))


def main() -> None:
    """Identify the references, make one portrait a prompt, and put them on two sheets."""
    studio = ConsistentIDPipeline.from_preset("drawn")
    began = time.perf_counter()
    names = sorted({name for people, _ in TOGETHER for name in people})
    who = {name: studio.identify(picture(name)) for name in names}
    alone = {prompt: studio(who["ada"], prompt, seed=SEED) for prompt in ALONE}
    together = {}
    for people, prompt in TOGETHER:
        places = [(i / len(people), 0.0, (i + 1) / len(people), 1.0) for i in range(len(people))]
        group = [who[name] for name in people]
        together[prompt] = studio(group, prompt, regions=places, seed=SEED, best_of=3)
    print(f"{len(ALONE) + len(TOGETHER)} pictures in {time.perf_counter() - began:.1f} s")
    save("demo.png", ["ada"], alone, columns=4)
    save("demo-together.png", names, together, columns=2)


if __name__ == "__main__":
    main()
