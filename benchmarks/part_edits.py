"""Words for single parts, and parts of somebody else: do they appear, what becomes of the others? Held-out drawings.

    python benchmarks/part_edits.py --preset drawn --people 24

Each person is drawn three times from the same seed: as they are, with words for one part that ask for a kind which they
do not have (`parts={"eyes": "green eyes"}`), and with that part of somebody who has that kind
(`Identity.with_parts`), also together with the words. The preset's scene reader says which kind the pictures show, its
judge how similar each part is to that of the reference, the part alone at its place (as FGIS). Prints JSON, for each
part and way: how often the asked kind is seen, in real drawings of people who have it too; the similarity of the part
to the person's own and, with a part of somebody else, to theirs; and the mean similarity of all other parts to the
person's own with its change against the unedited picture, in per cent.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import click
import numpy as np
from PIL import Image
from tqdm import tqdm

from consistentid import ConsistentIDPipeline, Identity
from consistentid.drawn.portraits import People, draw, sample_people, sample_scenes
from consistentid.drawn.portraits.captions import article, part_kinds
from consistentid.drawn.scene_reader import FACTORS
from consistentid.errors import FaceError
from consistentid.evaluation.encoders import Encoders, Features, load_encoders, see
from consistentid.evaluation.metrics import similarity
from consistentid.evaluation.people import as_asked
from consistentid.faces.parts import PARTS

EDITED = ("eyes", "nose", "mouth", "face")
PROMPT = "a portrait of a person with a calm face, on a {} background"
SIZE = 128
_DONORS = 2000  # people among whom somebody of the asked kind is looked for


@dataclass(frozen=True)
class Drawn:
    """A held-out person: what words call their parts, and a plain picture of them."""

    kinds: dict[str, str]
    picture: Image.Image


def drawn_person(number: int) -> Drawn:
    """One of the split "test", without glasses and hat, calm, coloured."""
    who = sample_people([number], split="test")
    scene = sample_scenes([(number, 0)], split="test", framing="portrait")
    scene = as_asked(scene, {"background": "plain", "style": "shaded"})
    (pixels,) = draw(who, scene, SIZE).pixels()
    return Drawn(part_kinds(who, 0), Image.fromarray(pixels))


def asked_kinds(own: dict[str, str], number: int) -> Iterator[tuple[str, str]]:
    """For each part a kind that the person does not have, in turn over people."""
    for part in EDITED:
        others = [kind for kind in FACTORS[part] if kind != own[part]]
        yield part, others[number % len(others)]


def words(part: str, kind: str) -> str:
    """As captions say it."""
    return f"{kind} {part}" if part == "eyes" else article(f"{kind} {part}")


class Donors:
    """Identities of people of each kind."""

    def __init__(self, studio: ConsistentIDPipeline) -> None:
        self._studio = studio
        numbers = range(10_000, 10_000 + _DONORS)
        people: People = sample_people(list(numbers), split="test")
        self._of: dict[tuple[str, str], list[int]] = defaultdict(list)
        for row, number in enumerate(numbers):
            for part, kind in part_kinds(people, row).items():
                self._of[part, kind].append(number)

    def someone(self, part: str, kind: str, number: int) -> tuple[Identity, Image.Image]:
        """One whose part is seen, and their picture."""
        for candidate in self._of[part, kind][number:]:
            picture = drawn_person(candidate).picture
            try:
                identity = self._studio.identify(picture)
            except FaceError:
                continue
            if part in identity.visible_parts:
                return identity, picture
        raise click.ClickException(f"nobody among {_DONORS} people has {words(part, kind)}")


def measured(
    studio: ConsistentIDPipeline, encoders: Encoders, donors: Donors, number: int, steps: int | None
) -> Iterator[dict[str, Any]]:
    """Every edit of a person."""
    person = drawn_person(number)
    try:
        who = studio.identify(person.picture)
    except FaceError:
        return
    prompt = PROMPT.format(("blue", "green", "yellow", "pink")[number % 4])
    made = {"": studio(who, prompt, seed=number, num_inference_steps=steps)}
    asked, given = dict(asked_kinds(person.kinds, number)), {}
    for part, kind in asked.items():
        donor, given[part] = donors.someone(part, kind, number)
        mixed, said = who.with_parts(**{part: donor}), {part: words(part, kind)}
        for way, identity, parts in (("words", who, said), ("pictures", mixed, None), ("both", mixed, said)):
            made[f"{part} {way}"] = studio(identity, prompt, seed=number, parts=parts, num_inference_steps=steps)
    pictures = [person.picture, *given.values(), *(x.images[0] for x in made.values())]
    seen = see(pictures, encoders)
    own, theirs, rows = seen.parts[0], dict(zip(given, seen.parts[1:], strict=False)), len(given) + 1
    before = similarity(own, seen.parts[rows])
    for row, name in enumerate(list(made)[1:], rows + 1):
        part, way = name.split()
        at, after = PARTS.index(part), similarity(own, seen.parts[row])
        others = [i for i in range(len(PARTS)) if i != at and not np.isnan(before[i])]
        yield {
            "part": part,
            "way": way,
            "asked kind seen": _seen(seen, row, part, asked[part]),
            "asked kind seen unedited": _seen(seen, rows, part, asked[part]),
            "asked kind seen in a real drawing of it": _seen(seen, 1 + list(given).index(part), part, asked[part]),
            "part to own, unedited": before[at],
            "part to own": after[at],
            "part to the donor's, unedited": similarity(theirs[part][at], seen.parts[rows][at]),
            "part to the donor's": similarity(theirs[part][at], seen.parts[row][at]),
            "other parts to own, unedited": float(np.mean(before[others])),
            "other parts to own": float(np.mean(after[others])),
        }


def _seen(features: Features, row: int, part: str, kind: str) -> bool:
    return FACTORS[part][int(features.scene[row, list(FACTORS).index(part)])] == kind


@click.command()
@click.option("--preset", default="drawn", show_default=True)
@click.option("--people", default=24, show_default=True)
@click.option("--steps", type=int, help="Sampling steps.  [default: the preset's]")
def main(preset: str, people: int, steps: int | None) -> None:
    """Print shares and similarities."""
    studio = ConsistentIDPipeline.from_preset(preset)
    encoders, donors = load_encoders(studio), Donors(studio)
    rows = [
        row
        for number in tqdm(range(people), desc="people")
        for row in measured(studio, encoders, donors, number, steps)
    ]
    report: dict[str, Any] = {}
    for part in EDITED:
        for way in ("words", "pictures", "both"):
            chosen = [row for row in rows if (row["part"], row["way"]) == (part, way)]
            means = {
                name: round(float(np.nanmean([row[name] for row in chosen])), 3)
                for name in chosen[0]
                if name not in ("part", "way")
            }
            change = means["other parts to own"] / means["other parts to own, unedited"] - 1
            report[f"{part} by {way}"] = {
                "edits": len(chosen),
                **means,
                "other parts change by %": round(100 * change, 1),
            }
    click.echo(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
