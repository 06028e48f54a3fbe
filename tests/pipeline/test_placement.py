"""Who goes where: the words that are said of people, held against the faces of a first pass."""

from __future__ import annotations

import json
import shutil
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import save_file

import tiny
from consistentid.adapter.identity import Identity
from consistentid.cli import main
from consistentid.faces.face import Detection
from consistentid.faces.portrait import head
from consistentid.pipeline.pipeline import ConsistentIDPipeline
from consistentid.pipeline.placement import NEUTRAL, NO_PAIR, NO_WORDS, Placement, likeness_to_words
from consistentid.pipeline.request import Request
from consistentid.presets.loading import TEXT_PROJECTION

PROMPT = "two friends at a beach"
WOMAN, MAN = "a woman in a red dress", "a man with a hat"


def face(left: float, top: float, right: float, bottom: float) -> Detection:
    across, down = right - left, bottom - top
    landmarks = [(0.3, 0.4), (0.7, 0.4), (0.5, 0.6), (0.35, 0.8), (0.65, 0.8)]
    points = [(left + x * across, top + y * down) for x, y in landmarks]
    return Detection(np.array([left, top, right, bottom], np.float32), np.array(points, np.float32), 1.0)


class Fixed:
    """A detector that finds faces at these places, whatever the picture."""

    def __init__(self, *found: Detection) -> None:
        self.found = list(found)

    def detect(self, image: Image.Image) -> list[Detection]:
        return self.found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A preset with a CLIP pair: a projection lies beside the base's text encoder."""
    home = Path(shutil.copytree(tiny.preset(), tmp_path_factory.mktemp("pair") / "preset"))
    weight = torch.randn(32, 32, generator=torch.Generator().manual_seed(0))
    save_file({"text_projection.weight": weight}, home / "base" / "text_encoder" / TEXT_PROJECTION)
    return home


def studio_of(folder: Path) -> ConsistentIDPipeline:
    studio = ConsistentIDPipeline.from_preset(folder, device="cpu")
    width, _ = studio.sampler.native_size
    left, right = face(0.1 * width, 4, 0.35 * width, 18), face(0.6 * width, 4, 0.9 * width, 20)
    studio.analyzer.detector = Fixed(right, left)
    return studio


@pytest.fixture(scope="module")
def people(folder: Path) -> list[Identity]:
    studio = ConsistentIDPipeline.from_preset(folder, device="cpu")
    return [studio.identify(tiny.portrait()), studio.identify(tiny.portrait(9))]


def on_the_left(made: Any, picture: int = 0) -> int:
    """The number of the person who was put to the left."""
    regions = [person["region"][0] for person in made.people[picture]]
    return int(np.argmin(regions))


def test_people_go_where_their_words_fit_best(folder: Path, people: list[Identity]) -> None:
    studio = studio_of(folder)
    made = studio(people, PROMPT, seed=3, person_prompts=[WOMAN, MAN])
    (placement,) = made.placements
    assert placement["by"] == "words"
    likeness = np.array(placement["likeness"])
    kept, exchanged = likeness.trace(), likeness[[0, 1], [1, 0]].sum()
    assert abs(kept - exchanged) > 1e-3, "or else the next lines prove nothing"
    assert on_the_left(made) == int(exchanged > kept)
    assert made.placement(0) == "placed by their words"
    # the words decide, not the order of the people: the same words in exchanged order, people in exchanged places
    exchanged_words = studio(people[::-1], PROMPT, seed=3, person_prompts=[MAN, WOMAN])
    assert np.allclose(np.array(exchanged_words.placements[0]["likeness"]), likeness[::-1], atol=2e-3)
    assert on_the_left(exchanged_words) == 1 - on_the_left(made)


def test_the_words_of_a_face_take_the_place_of_a_person_s_own(folder: Path, people: list[Identity]) -> None:
    def said(*people: Identity, **arguments: Any) -> tuple[str, ...]:
        return Request(people, PROMPT, **arguments).descriptions

    ada, tom = people
    told = Identity(**{**vars(ada), "face_text": "She has green eyes."})
    assert said(told, tom) == ("She has green eyes.", "")
    assert said(told, tom, person_prompts=["", MAN]) == ("She has green eyes.", MAN)
    assert said(told, tom, parts=[{"eyes": "blue eyes", "nose": "a long nose"}, None])[0] == "blue eyes, a long nose"
    assert said(told, tom, face_text=["Brown eyes.", None]) == ("Brown eyes.", "")
    assert said(told, tom, face_text=["", None]) == ("", "")
    made = studio_of(folder)([told, tom], PROMPT, seed=3)
    assert made.placements[0]["by"] == "words"


def test_without_words_that_differ_people_stand_in_order(folder: Path, people: list[Identity]) -> None:
    studio = studio_of(folder)
    for words in (None, [WOMAN, WOMAN]):
        made = studio(people, PROMPT, seed=3, num_images_per_prompt=2, person_prompts=words)
        assert made.placements == [{"by": "order", "reason": NO_WORDS}] * 2
        assert [on_the_left(made, picture) for picture in range(2)] == [0, 0]
    assert "clip_pair" not in vars(studio), "nothing is loaded that is not needed"


def test_without_a_text_encoder_that_fits_people_stand_in_order(people: list[Identity]) -> None:
    made = studio_of(tiny.preset())(people, PROMPT, seed=3, person_prompts=[WOMAN, MAN])
    assert made.placements == [{"by": "order", "reason": NO_PAIR}]
    assert on_the_left(made) == 0
    assert made.placement(0) == f"placed from left to right: {NO_PAIR}"


def test_given_places_are_not_placed(folder: Path, people: list[Identity]) -> None:
    made = studio_of(folder)(people, PROMPT, seed=3, regions=[(0, 0, 0.5, 1), (0.5, 0, 1, 1)])
    assert made.placements == []
    assert made.placement(0) == ""


def test_the_placement_is_written_down_and_told(
    folder: Path, people: list[Identity], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    studio = studio_of(folder)
    monkeypatch.setattr(import_module("consistentid.cli.generate"), "load_pipeline", lambda *_args, **_more: studio)
    files = []
    for number, person in enumerate(people):
        person.save(tmp_path / f"{number}.safetensors")
        files += ["--person", str(tmp_path / f"{number}.safetensors")]
    words = ["--person-prompt", WOMAN, "--person-prompt", MAN]
    call = ["generate", *files, *words, "--prompt", PROMPT, "--num", "1", "--seed", "3", "--out", str(tmp_path / "out")]
    told = CliRunner().invoke(main, [*call, "--preset", str(folder)])
    assert told.exit_code == 0, told.output
    assert "placed by their words" in told.stdout
    (picture,) = json.loads((tmp_path / "out" / "results.json").read_text())["pictures"]
    assert picture["placement"]["by"] == "words"
    assert {len(row) for row in picture["placement"]["likeness"]} == {2}


def test_a_tie_is_from_left_to_right() -> None:
    assert Placement.by_words(np.zeros((3, 3), np.float32)).faces == (0, 1, 2)
    assert Placement.by_words(np.array([[0.1, 0.2], [0.2, 0.3]], np.float32)).faces == (0, 1)
    assert Placement.by_words(np.array([[0.1, 0.2], [0.2, 0.1]], np.float32)).faces == (1, 0)


class Pair:
    """Pictures by their mean colour, texts by the colour they name."""

    name = "colours"
    colours = {"red": (1, 0, 0), "green": (0, 1, 0), "blue": (0, 0, 1)}  # noqa: RUF012

    def embed(self, pictures: list[Image.Image]) -> np.ndarray:
        return np.stack([np.asarray(picture, np.float32).mean(axis=(0, 1)) + 1 for picture in pictures])

    def embed_texts(self, texts: list[str]) -> np.ndarray:
        return np.array([self.colours.get(text, (1, 1, 1)) for text in texts], np.float32)


def test_three_people_by_their_words_of_whom_one_has_none() -> None:
    picture = Image.new("RGB", (300, 60))
    for number, colour in enumerate(((0, 0, 255), (255, 0, 0), (0, 255, 0))):
        picture.paste(colour, (100 * number, 0, 100 * number + 100, 60))
    faces = [face(40 + 100 * number, 20, 60 + 100 * number, 40) for number in range(3)]
    for words, expected in (
        (["red", "green", "blue"], (1, 2, 0)),
        (["", "green", "blue"], (1, 2, 0)),
        (["", "", "red"], (0, 2, 1)),
        ([NEUTRAL, "red", ""], (0, 1, 2)),
    ):
        pair: Any = Pair()
        likeness = likeness_to_words(pair, picture, faces, words)
        assert np.allclose(likeness[[not word for word in words]], 0)
        found = Placement.by_words(likeness).faces
        named = [i for i, word in enumerate(words) if word and word != NEUTRAL]
        assert [found[i] for i in named] == [expected[i] for i in named]
        assert sorted(found) == [0, 1, 2]


def test_a_head_is_square_and_alone() -> None:
    picture = Image.new("RGB", (100, 80), (90, 120, 150))
    one, other = face(40, 20, 60, 40), face(64, 20, 84, 40)
    alone = np.asarray(head(picture, one))
    assert alone.shape == (46, 46, 3)
    assert (alone == (90, 120, 150)).all()
    beside = np.asarray(head(picture, one, [other]))
    assert (beside[23, 44] == 0).all(), "the other's head is black"
    assert (beside[23, 13:33] == (90, 120, 150)).all(), "the face itself is not"
    over_the_edge = np.asarray(head(picture, face(0, 0, 20, 20)))
    assert (over_the_edge == (90, 120, 150)).all()
