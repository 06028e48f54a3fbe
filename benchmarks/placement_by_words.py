"""How often words put people where they belong: held-out drawings side by side, words for each, the preset's CLIP pair.

    python benchmarks/placement_by_words.py --preset drawn --pairs 400

Each picture shows two people, whose faces are found by the preset's detector. Words are said of both, or of one alone,
and the people are assigned to the faces as `ConsistentIDPipeline.generate` does it without regions. Prints JSON: for
each kind of words how many pairs differ in them, and the share of these that are assigned rightly; by chance one half.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator

import click
import numpy as np
from PIL import Image
from tqdm import tqdm

from consistentid import ConsistentIDPipeline
from consistentid.drawn.portraits import People, Scenes, draw, sample_people, sample_scenes
from consistentid.drawn.portraits.captions import article, facial_sentence, hair_words, noun
from consistentid.drawn.portraits.scenes import CLOTHES, COLORS, GLASSES, HATS
from consistentid.faces.face import Detection
from consistentid.pipeline.placement import Placement, likeness_to_words

SIZE = 128


def words(people: People, scenes: Scenes, row: int) -> dict[str, str]:
    """What may be said of one person, by kind."""
    hat, glasses = HATS[scenes.hat[row]], GLASSES[scenes.glasses[row]]
    hair = hair_words(people, row)
    clothes = article(f"{list(COLORS)[scenes.clothes_color[row]]} {CLOTHES[scenes.clothes[row]]}")
    worn = [name for name, number in ((article(hat), scenes.hat[row]), (glasses, scenes.glasses[row])) if number]
    return {
        "woman or man": "a woman" if people.woman[row] else "a man",
        "hair": f"a person with {hair}",
        "glasses": f"a person with {glasses}" if scenes.glasses[row] else "a person without glasses",
        "hat": f"a person with {article(hat)}" if scenes.hat[row] else "a person without a hat",
        "clothes": f"a person in {clothes}",
        "all of these": f"{article(noun(people, row))} with {hair} in {', '.join([clothes, *worn])}",
        "facial sentence": facial_sentence(people, scenes, row, np.random.default_rng(row)),
    }


def pictures(studio: ConsistentIDPipeline, pairs: int) -> Iterator[tuple[Image.Image, list[Detection], People, Scenes]]:
    """Pairs side by side with their two faces from left to right; without those of which not two faces are found."""
    for pair in range(pairs):
        numbers = [2 * pair, 2 * pair + 1]
        people = sample_people(numbers, split="test")
        scenes = sample_scenes([(number, 0) for number in numbers], split="test")
        both = Image.fromarray(np.concatenate(list(draw(people, scenes, SIZE).pixels()), axis=1))
        faces = sorted(studio.analyzer.detector.detect(both), key=lambda face: face.centre[0])
        if len(faces) == 2 and faces[0].centre[0] < SIZE < faces[1].centre[0]:
            yield both, faces, people, scenes


@click.command()
@click.option("--preset", default="drawn", show_default=True)
@click.option("--pairs", default=400, show_default=True)
def main(preset: str, pairs: int) -> None:
    """Print the shares."""
    studio = ConsistentIDPipeline.from_preset(preset)
    pair = studio.clip_pair
    if pair is None:
        raise click.UsageError(f"{preset} has no text encoder that goes with its image encoder")
    right: dict[str, list[bool]] = defaultdict(list)
    for both, faces, people, scenes in tqdm(pictures(studio, pairs), total=pairs):
        each = [words(people, scenes, row) for row in range(2)]
        for kind in each[0]:
            said = [told[kind] for told in each]
            if said[0] == said[1]:
                continue
            # named in exchanged order, so that what words do not decide is wrong, not right
            for name, told in ((kind, said[::-1]), (f"{kind}, of one alone", ["", said[0]])):
                found = Placement.by_words(likeness_to_words(pair, both, faces, told))
                right[name].append(found.faces == (1, 0))
    report = {name: {"pairs": len(all_), "right": round(float(np.mean(all_)), 3)} for name, all_ in right.items()}
    click.echo(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
