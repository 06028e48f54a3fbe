"""Several people in one picture: who is where, in pixels and in words."""

from __future__ import annotations

import re
from dataclasses import fields

import numpy as np
import pytest
import torch

from consistentid.drawn.portraits import (
    Groups,
    describe_group,
    draw,
    draw_groups,
    locate_groups,
    sample_groups,
    sample_people,
    with_company,
)
from consistentid.drawn.portraits.people import HAIR, HAIRSTYLES
from consistentid.drawn.portraits.scenes import CLOTHES, COLORS, HATS
from consistentid.errors import InputError

FORMATS = [(2, (96, 64)), (2, (64, 64)), (3, (128, 64)), (3, (96, 64))]
COLOR = "|".join(COLORS)


def some(count: int, size: tuple[int, int] = (96, 64), pictures: int = 24) -> Groups:
    keys = with_company([(i, 0) for i in range(pictures)], range(60), count, split="test")
    return sample_groups(keys, split="test", aspect=size[0] / size[1])


@pytest.fixture(scope="module", params=FORMATS, ids=lambda x: f"{x[0]} in {x[1][0]}x{x[1][1]}")
def drawn(request):
    count, size = request.param
    groups = some(count, size)
    return groups, size, draw_groups(groups, size)


def test_shapes(drawn) -> None:
    groups, (width, height), found = drawn
    assert len(groups) == 24
    assert found.images.shape == (24, 3, height, width)
    assert found.labels.shape == found.owners.shape == (24, height, width)
    assert found.landmarks.shape == (24, groups.count, 5, 2)
    assert found.boxes.shape == (24, groups.count, 4)
    assert found.pixels().shape == (24, height, width, 3)


def test_every_labelled_pixel_belongs_to_somebody_and_no_other(drawn) -> None:
    groups, _, found = drawn
    assert torch.equal(found.owners > 0, found.labels > 0)
    assert found.owners.max() == groups.count


def test_everybody_is_seen_from_left_to_right_with_a_face(drawn) -> None:
    groups, (width, height), found = drawn
    columns = torch.arange(width).expand(height, width).float()
    for i in range(len(groups)):
        centers = []
        for k in range(groups.count):
            own = found.owners[i] == k + 1
            assert own.float().mean() > 0.01
            centers.append(float(columns[own].mean()))
            face = own & torch.isin(found.labels[i], torch.tensor([1, 4, 5, 6, 10, 11, 12, 13], dtype=torch.uint8))
            left, top, right, bottom = (round(x) for x in found.boxes[i, k].tolist())
            box = torch.zeros_like(own)
            box[max(top, 0) : bottom, max(left, 0) : right] = True
            assert (face & box).sum() / face.sum().clamp(min=1) > 0.6
            assert (face & box).sum() / box.sum() > 0.25
        assert centers == sorted(centers)
        assert found.landmarks[i, :, 2, 0].tolist() == sorted(found.landmarks[i, :, 2, 0].tolist())


def test_boxes_contain_landmarks_and_lie_in_the_picture(drawn) -> None:
    groups, (width, height), found = drawn
    assert (found.landmarks >= found.boxes[:, :, None, :2]).all()
    assert (found.landmarks <= found.boxes[:, :, None, 2:]).all()
    assert (found.landmarks >= 0).all()
    assert (found.landmarks <= torch.tensor([width, height])).all()
    marks, boxes = locate_groups(groups, (width, height))
    assert torch.equal(marks, found.landmarks)
    assert torch.equal(boxes, found.boxes)


def test_landmarks_lie_on_the_nose_of_their_own_person(drawn) -> None:
    groups, _, found = drawn
    hits = []
    for i in range(len(groups)):
        for k in range(groups.count):
            x, y = found.landmarks[i, k, 2].floor().long().tolist()
            around = (slice(max(y - 1, 0), y + 2), slice(max(x - 1, 0), x + 2))
            assert (found.owners[i][around] == k + 1).any() or groups.scenes.scale[i * groups.count + k] < 0.4
            hits.append(bool(((found.labels[i] == 10) & (found.owners[i] == k + 1))[around].any()))
    assert np.mean(hits) > 0.97


def test_nearer_people_cover_others_and_nobody_s_face() -> None:
    """Where the bodies of two would be, the pixels are those of the one of the larger scale."""
    groups = some(3, (96, 64))
    together = draw_groups(groups, (96, 64))
    alone = draw(groups.people, groups.scenes, (96, 64)).labels.view(24, 3, 64, 96) > 0
    scale = torch.from_numpy(groups.scenes.scale).view(24, 3)
    nearest = (alone * scale[:, :, None, None]).argmax(1) + 1
    assert torch.equal(together.owners.long(), nearest * alone.any(1))
    assert (alone.sum(1) > 1).float().mean() > 0.005  # they do overlap


def test_one_person_is_a_group_of_one() -> None:
    groups = some(1, (64, 64), 4)
    single, group = draw(groups.people, groups.scenes, 64), draw_groups(groups, (64, 64))
    assert torch.equal(single.images, group.images)
    assert torch.equal(single.landmarks, group.landmarks[:, 0])


def test_the_same_key_is_the_same_picture_whatever_stands_around_it() -> None:
    keys = with_company([(i, 1) for i in range(6)], range(20), 2, split="validation", seed=3)
    all_of_them = sample_groups(keys, split="validation", seed=3)
    one = sample_groups([keys[4]], split="validation", seed=3)
    for ours, theirs in ((one.people, all_of_them[[4]].people), (one.scenes, all_of_them[[4]].scenes)):
        for f in fields(ours):
            np.testing.assert_array_equal(getattr(ours, f.name), getattr(theirs, f.name), f.name)
    assert torch.equal(draw_groups(one).images[0], draw_groups(all_of_them).images[4])


def test_members_are_the_people_of_their_split() -> None:
    for split, other in (("train", "test"), ("validation", "train"), ("test", "validation")):
        keys = with_company([(i, 0) for i in range(5)], range(30), 3, split=split)
        groups = sample_groups(keys, split=split)
        numbers = [number for members, _ in keys for number in members]
        alone, elsewhere = sample_people(numbers, split=split), sample_people(numbers, split=other)
        np.testing.assert_array_equal(groups.people.skin, alone.skin)
        assert not (groups.people.skin == elsewhere.skin).all(1).any()


def test_company() -> None:
    keys = [(person, scene) for person in range(4, 10) for scene in range(5)]
    groups = with_company(keys, range(4, 10), 3)
    assert [scene for _, scene in groups] == [scene for _, scene in keys]
    for (members, _), (person, _) in zip(groups, keys, strict=True):
        assert person in members
        assert len(set(members)) == 3
        assert set(members) <= set(range(4, 10))
    assert len({members.index(person) for (members, _), (person, _) in zip(groups, keys, strict=True)}) == 3
    assert with_company([keys[7]], range(4, 10), 3) == [groups[7]]
    with pytest.raises(InputError, match="7 people in a picture: there are only 6"):
        with_company(keys, range(4, 10), 7)


def test_groups_that_cannot_be_are_refused() -> None:
    with pytest.raises(InputError, match="holds somebody twice"):
        sample_groups([((3, 3), 0)])
    with pytest.raises(InputError, match="as many people"):
        sample_groups([((3, 4), 0), ((5,), 0)])
    with pytest.raises(InputError, match="as many people"):
        sample_groups([((), 0)])


def test_a_picture_has_one_background_light_and_style() -> None:
    groups = some(3)
    for name in ("background", "background_color", "background_phase", "style", "light", "light_strength"):
        values = getattr(groups.scenes, name).reshape(-1, 3)
        assert (values == values[:, :1]).all()
    clothes = groups.scenes.clothes_color.reshape(-1, 3)
    assert (clothes != clothes[:, :1]).any()


@pytest.mark.parametrize("count", [2, 3])
def test_captions_tell_truly_who_stands_where(count: int) -> None:
    groups = some(count, (96, 64), 200)
    told_hats = 0
    for i in range(200):
        told = describe_group(groups, i, np.random.default_rng(i))
        assert told.places == (
            ("on the left", "on the right") if count == 2 else ("on the left", "in the middle", "on the right")
        )
        assert told.scene in told.image
        for k, (person, place) in enumerate(zip(told.people, told.places, strict=True)):
            row = i * count + k
            assert f"{person.image} {place}" in told.image or f"{place} {person.image}" in told.image
            hat = HATS[groups.scenes.hat[row]]
            assert (re.search(r"\b(hat|cap|beanie|crown|headband)\b", person.image) is not None) == (hat != "none")
            if hat not in ("none", "crown"):
                assert f"{list(COLORS)[groups.scenes.hat_color[row]]} {hat}" in person.image
                told_hats += 1
            named = re.findall(rf"\b({COLOR}) ({'|'.join(CLOTHES)})\b", person.image)
            truth = (list(COLORS)[groups.scenes.clothes_color[row]], CLOTHES[groups.scenes.clothes[row]])
            assert named in ([], [truth])
            gender = "man" if groups.people.woman[row] else "woman"
            assert not re.search(rf"\b{gender}\b", person.image)
            style, color = HAIRSTYLES[groups.people.hairstyle[row]], list(HAIR)[groups.people.hair_color[row]]
            for found in re.findall(r"\b([a-z-]+) ((?:dark )?\w+) hair\b", person.image):
                assert found == (style, color)
            assert person.face.endswith(".")
        assert not re.search(r"  | ,|,,|\ba [aeio]|\ban [^aeiou]", told.image), told.image
    assert told_hats > 100
