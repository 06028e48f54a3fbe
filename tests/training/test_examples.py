"""What a sample is: a pure function of its place, framed alike in picture and labels, and what inference would feed."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import micro
import numpy as np
import pytest
import torch

from consistentid.adapter.identity import Identity
from consistentid.data.records import read_records, write_records
from consistentid.data.shards import pack_dataset
from consistentid.drawn.dataset import Drawing, draw_dataset
from consistentid.drawn.pools import PoolSpec, open_pool
from consistentid.drawn.portraits import Caption
from consistentid.errors import InputError
from consistentid.faces.parts import PARTS, part_masks
from consistentid.training.config import TrainConfig
from consistentid.training.examples import Places, framed, learns_base, target_masks
from consistentid.training.schedule import Schedule
from consistentid.training.sources import DatasetSource, DrawnSource, Picture
from consistentid.training.trainer import Trainer, open_source


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    folder = tmp_path_factory.mktemp("examples")
    return micro.trainer(folder / "run", folder / "cache", condition_dropout=0.5, fixed_sentence=0.0, text_only=0.0)


def test_a_sample_depends_on_its_place_alone(trainer: Trainer) -> None:
    first, again = trainer.examples[7, 2, 5], trainer.examples[7, 2, 5]
    assert (first.prompt, first.faces, first.dropped, first.time) == (
        again.prompt,
        again.faces,
        again.dropped,
        again.time,
    )
    assert torch.equal(first.noise, again.noise)
    for other in (trainer.examples[7, 3, 5], trainer.examples[8, 2, 5]):
        assert not torch.equal(first.noise, other.noise)
        assert first.time != other.time


def test_the_steps_of_all_processes_and_parts_are_the_same_samples(trainer: Trainer) -> None:
    config = TrainConfig(Schedule(steps=3, batch=8, lr=1.0), 32, accumulate=2)
    alone = [place for part in Places(TrainConfig(config.schedule, 32), trainer.source, 1) for place in part]
    shared = [place for rank in range(2) for part in Places(config, trainer.source, 1, rank, 2) for place in part]
    assert sorted(alone) == sorted(shared)
    assert {len(part) for part in Places(config, trainer.source, 0, 1, 2)} == {2}


def test_what_a_sample_sees_is_what_inference_feeds(trainer: Trainer) -> None:
    told = Caption("a woman on a beach", "She has green eyes, a small nose and a wide mouth.")  # short enough for both
    examples = [replace(trainer.examples[0, index, index], prompt=told.image, faces=(told.face,)) for index in range(6)]
    batch = trainer.examples.batch(examples)
    cid, frozen = trainer.module.cid, trainer.frozen
    assert {x.dropped for x in examples} == {True, False}
    text = cid.fuse(batch.text[:, 0], batch.parts, batch.token_mask, batch.part_mask)
    tokens = cid.id_tokens(batch.embedding[:, 0], batch.face[:, 0])
    for row, example in enumerate(examples):
        [reference] = example.references
        whole, *seen = reference["output"].float()
        parts = frozen.blank.float().expand(len(PARTS), -1, -1).clone()
        parts[reference["seen"]] = torch.stack(seen)
        blank = frozen.blank.float()
        who = Identity(reference["embedding"], whole, parts, reference["seen"], blank, frozen.provenance)
        fed = cid.inputs(who, told.image, face_text=told.face, merge_at=0.0)
        words, [[unconditional, conditional]] = "prompt_embeds", fed["ip_adapter_image_embeds"]
        if example.dropped:
            words, conditional = "negative_prompt_embeds", unconditional
        torch.testing.assert_close(text[row], fed[words][0], rtol=0, atol=5e-3)  # features are kept in half precision
        torch.testing.assert_close(tokens[row], conditional[0], rtol=0, atol=5e-3)


def test_picture_and_labels_are_framed_alike() -> None:
    labels = np.zeros((60, 100), np.uint8)
    labels[20:40, 70:90] = 1
    pixels = np.repeat(labels[..., None] * 200, 3, axis=2).astype(np.uint8)
    marks = np.array([(70, 20), (90, 20), (80, 30), (70, 40), (90, 40)], np.float32)
    found = framed(Picture(pixels, labels, None, marks), 30)
    image, cut = found.pixels, found.labels
    assert image.shape[:2] == cut.shape == (30, 30)
    assert cut.mean() == pytest.approx(100 / 900, abs=0.02)  # nothing squashed: 20 of 60 pixels in either direction
    assert ((image[..., 0] > 100) == (cut == 1)).mean() > 0.95
    rows, columns = np.flatnonzero(cut.any(1)), np.flatnonzero(cut.any(0))
    assert found.landmarks is not None
    np.testing.assert_allclose(found.landmarks[0], (columns[0], rows[0]), atol=0.5)
    np.testing.assert_allclose(found.landmarks[-1], (columns[-1] + 1, rows[-1] + 1), atol=0.5)


def test_masks_at_the_latents_resolution(trainer: Trainer) -> None:
    labels = trainer.source[0].labels
    masks = target_masks(labels, (8, 8))
    shown = part_masks(labels)
    for part, mask in zip(PARTS, masks["masks"], strict=True):
        assert mask.float().mean().item() == pytest.approx(shown[part].mean() if part in shown else 0, abs=1e-3)
    assert set(masks["person"].unique().tolist()) == {0.0, 1.0}
    person = torch.from_numpy(labels > 0).float()[None, None]
    share = torch.nn.functional.avg_pool2d(person, 4)[0]
    assert torch.equal(masks["person"] == 1, share > 0.25)


def test_base_steps_come_in_their_share() -> None:
    config = TrainConfig(Schedule(1, 1, 1.0), 32, trained=("unet",), base_share=0.25)
    assert np.mean([learns_base(config, step) for step in range(2000)]) == pytest.approx(0.25, abs=0.03)


@pytest.mark.slow
def test_where_the_base_learns_alone_it_sees_pictures_of_several_people_too(tmp_path: Path) -> None:
    """Else it would unlearn them while the adapter learns on portraits."""
    pairs = {"people": 4, "scenes": 1, "together": 2, "width": 48}
    trio = {"people": 5, "scenes": 1, "together": 3, "width": 64}
    trained, schedule = ["image_projection", "unet"], {"steps": 40}
    trainer = micro.trainer(
        tmp_path / "run", tmp_path / "cache", trained=trained, base_share=0.75, schedule=schedule, groups=[pairs, trio]
    )
    source = trainer.source
    assert [list(rows) for rows in source.groups()] == [[9, 10, 11, 12], [13, 14, 15, 16, 17]]
    assert len({source.version(row) for row in range(18)}) > 16  # a few may be in the same company
    assert (source.key(9), source.key(17)) == ("person 0 with 1 more in scene 0", "person 4 with 2 more in scene 0")
    assert " on the left" in source.caption(9, 0).image
    assert not source.caption(9, 0).face
    shapes: dict[bool, list[tuple[int, ...]]] = {True: [], False: []}
    for step in range(40):
        examples = [trainer.examples[step, index, index] for index in range(4)]
        batch = trainer.examples.batch(examples)
        assert batch.latents.shape == batch.noise.shape
        assert batch.latents.shape[-2:] == batch.masks.shape[-2:] == batch.weight.shape[-2:]
        assert batch.base or all(example.row < 9 for example in examples)
        shapes[batch.base].append(tuple(batch.latents.shape[-2:]))
    side = shapes[False][0][0]
    assert set(shapes[False]) == {(side, side)}
    shares = [shapes[True].count((side, side * width // 2)) / len(shapes[True]) for width in (2, 3, 4)]
    assert shares == pytest.approx([1 / 3] * 3, abs=0.2)


@pytest.mark.slow
def test_an_exchanged_part_is_told_in_words_or_shown_or_both(tmp_path: Path) -> None:
    """And nothing of the other person but that part: identity and whole face stay the person's own."""
    options = {"condition_dropout": 0.0, "exchange_share": 0.5, "exchanges": {"scenes": 3}, "exchange_weight": 7.0}
    options |= {"fixed_sentence": 1.0, "text_only": 0.0, "pictures": {"people": 6, "scenes": 3}, "views": 1}
    trainer = micro.trainer(tmp_path / "run", tmp_path / "cache", **options)
    examples, source = trainer.examples, trainer.source
    assert list(source.exchanges()) == list(range(18, 36))
    ways: set[tuple[bool, bool]] = set()
    exchanged = 0
    for step in range(60):
        example = examples[step, 0, step % 18]
        batch = examples.batch([example])
        plain = examples.batch([replace(example, exchange=None, other=None, worded=False)])
        if (exchange := example.exchange) is None:
            assert example.row < 18
            assert batch.wanted.any()
            continue
        exchanged += 1
        assert example.row in source.exchanges()
        assert example.reference_rows == (exchange.own,)
        assert exchange.own // 3 != exchange.other // 3
        assert f"another's {exchange.part}" in example.key
        assert torch.equal(batch.embedding, plain.embedding)
        assert torch.equal(batch.face, plain.face)
        assert not batch.wanted.any()  # no recogniser was asked whose face that is
        number = PARTS.index(exchange.part)
        [text] = examples._texts(example, base=False)
        assert (exchange.words in text.full) == example.worded
        if example.other:
            [theirs] = examples._outputs([example.other], [exchange.other], examples._kept[1], trainer.frozen.features)
            place = int(example.other["seen"][:number].sum()) + 1
            slot = text.words.index(exchange.part)
            assert torch.equal(batch.parts[0, slot], theirs[place].float())
        heavier = (batch.weight / plain.weight.clamp(min=1e-6))[0, 0]
        mask = example.target["masks"][number].float()
        covered = plain.weight[0, 0] > 0
        torch.testing.assert_close(heavier[covered], (1 + 7 * mask)[covered], rtol=1e-3, atol=1e-3)
        ways.add((example.other is not None, example.worded))
    assert 15 < exchanged < 45
    assert ways == {(True, False), (True, True), (False, True)}


def test_without_id_tokens_the_parts_are_seen(tmp_path: Path) -> None:
    options = {"id_dropout": 0.5, "condition_dropout": 0.2, "fixed_sentence": 1.0, "text_only": 0.0}
    trainer = micro.trainer(tmp_path / "run", tmp_path / "cache", **options)
    examples, seen = trainer.examples, set()
    for step in range(30):
        example = examples[step, 0, step % 9]
        batch = examples.batch([example])
        known = examples.batch([replace(example, nameless=False)])
        assert torch.equal(batch.text, known.text)
        assert torch.equal(batch.parts, known.parts)
        assert torch.equal(batch.part_mask, known.part_mask)
        assert bool(batch.embedding.any()) == bool(batch.wanted.any()) == (not (example.dropped or example.nameless))
        assert torch.equal(batch.face[0, 0], trainer.frozen.blank.float()) == (example.dropped or example.nameless)
        seen.add((example.dropped, example.nameless))
    assert seen == {(False, False), (False, True), (True, False), (True, True)}


def test_what_a_reference_tells_is_left_out_of_anonymous_captions_but_not_of_the_bases(tmp_path: Path) -> None:
    options = {"anonymous_caption": 0.7, "base_share": 0.5, "trained": ["unet"]}
    trainer = micro.trainer(tmp_path / "run", tmp_path / "cache", **options)
    unnamed = {True: 0, False: 0}
    for step in range(200):
        example = trainer.examples[step, 0, step % 9]
        unnamed[learns_base(trainer.config, step)] += "a person" in example.prompt
    assert unnamed[False] > 60
    assert unnamed[True] < 25, "one caption in ten calls anybody a person"


def test_references_are_the_pictures_with_the_largest_faces(tmp_path: Path) -> None:
    source = DrawnSource(open_pool(PoolSpec(people=3, scenes=4, size=32), tmp_path))
    boxes = source.pool.boxes
    for person in range(3):
        rows = list(source.of_person(4 * person + 1))
        assert sorted(rows) == [4 * person + scene for scene in range(4)]
        heights = [boxes[row][3] - boxes[row][1] for row in rows]
        assert heights == sorted(heights, reverse=True)
        assert rows == list(source.of_person(4 * person))


def test_long_captions_leave_room_for_the_face(trainer: Trainer) -> None:
    told = {"prompt": " ".join(["a very long story of a person"] * 40), "faces": ("The person has two green eyes.",)}
    example = replace(trainer.examples[0, 0, 0], dropped=False, **told)
    [text] = trainer.examples._texts(example, base=False)
    assert trainer.frozen.count(text.full) <= trainer.frozen.limit
    assert text.full.endswith("two green eyes.")
    [alone] = trainer.examples._texts(example, base=True)
    assert trainer.frozen.count(alone.full) <= 77


def test_data_sets(tmp_path: Path) -> None:
    draw_dataset(Drawing(3, 2, 32, "train", 0), tmp_path / "data")
    source = DatasetSource(tmp_path / "data", people=2)
    assert len(source) == 4
    assert list(source.of_person(3)) == [2, 3]
    assert sorted(source.order(0)(0).tolist()) == [0, 1, 2, 3]
    assert source.caption(0, 1) == source.caption(0, 2)
    assert source.caption(0, 1).image
    before = source.version(0)
    [file] = (tmp_path / "data/resize_IMG").glob(f"{source.key(0)}.*")
    file.write_bytes(file.read_bytes() + b" ")
    assert DatasetSource(tmp_path / "data").version(0) != before
    assert source[1].landmarks is not None
    with pytest.raises(InputError, match="nothing to learn from"):
        open_source(TrainConfig(Schedule(1, 1, 1.0), 32), None, tmp_path)


def test_one_more_photo_leaves_what_is_kept_of_the_others(tmp_path: Path) -> None:
    """Versions follow from the content alone: not from dates, folders, neighbours or the form of the data set."""
    draw_dataset(Drawing(3, 2, 32, "train", 0), tmp_path / "data")
    before = DatasetSource(tmp_path / "data")
    versions = {before.key(row): before.version(row) for row in range(len(before))}
    assert len(set(versions.values())) == 6
    moved = tmp_path / "moved"
    shutil.copytree(tmp_path / "data", moved, copy_function=shutil.copyfile)  # with the dates of now
    records = read_records(moved)
    new = replace(records[0], image="0-new.png", mask="0-new.png")
    for kind, file in new.files(moved).items():
        file.write_bytes(records[1].files(moved)[kind].read_bytes())
    write_records(moved, [new, *records])
    pack_dataset(moved, tmp_path / "shards")
    for folder in (moved, tmp_path / "shards"):
        source = DatasetSource(folder)
        found = {source.key(row): source.version(row) for row in range(len(source))}
        assert len(found) == 7
        assert {key: found[key] for key in versions} == versions


def test_drawings_are_known_by_their_pixels(tmp_path: Path) -> None:
    few, more = (DrawnSource(open_pool(PoolSpec(people, 2, 32), tmp_path)) for people in (2, 3))
    assert [few.version(row) for row in range(4)] == [more.version(row) for row in range(4)]
    assert len({more.version(row) for row in range(6)}) == 6
