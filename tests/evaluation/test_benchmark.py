"""The whole ruler, through the shipped networks, held to pictures of which the right score is known."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from consistentid.errors import InputError
from consistentid.evaluation.benchmark import Benchmark, score
from consistentid.evaluation.encoders import Encoders
from consistentid.evaluation.manifest import Row
from consistentid.evaluation.people import Person
from consistentid.evaluation.protocol import Prompt


def rows(
    method: str, people: Sequence[Person], prompts: Sequence[Prompt], picture: Callable[[int, int], Path | None]
) -> list[Row]:
    return [
        Row(
            method=method,
            identity=person.name,
            prompt=prompt.text,
            group=prompt.group,
            seed=0,
            picture=picture(who, index),
            reference=person.reference,
            others=(person.real[index],),
            real=person.real[index],
        )
        for who, person in enumerate(people)
        for index, prompt in enumerate(prompts)
    ]


@pytest.fixture(scope="module")
def scored(
    people: list[Person], prompts: tuple[Prompt, ...], encoders: Encoders, tmp_path_factory: pytest.TempPathFactory
) -> Benchmark:
    folder = tmp_path_factory.mktemp("made")
    blank = folder / "blank.png"
    Image.new("RGB", (64, 64), "grey").save(blank)
    methods: dict[str, Callable[[int, int], Path | None]] = {
        "copied": lambda who, _: people[who].reference,
        "true": lambda who, prompt: people[who].real[prompt],
        "permuted": lambda who, prompt: people[who - 1].real[prompt],
        "other prompt": lambda who, prompt: people[who].real[1 - prompt],
        "blank": lambda *_: blank,
        "never made": lambda *_: None,
    }
    every = [row for name, picture in methods.items() for row in rows(name, people, prompts, picture)]
    return score(every, encoders, {prompt.text: prompt for prompt in prompts})


def value(benchmark: Benchmark, method: str, key: str) -> float:
    return benchmark.methods[method].scores[key].value


def test_the_copied_reference_is_perfectly_alike_and_known_as_a_copy(scored: Benchmark) -> None:
    for key in ("face_sim", "clip_i", "fgis", "copy_paste", "accepted_1", "face_found"):
        assert value(scored, "copied", key) == pytest.approx(1, abs=1e-4), key


def test_the_true_picture_is_the_opposite_of_a_copy(scored: Benchmark) -> None:
    assert value(scored, "true", "copy_paste") == pytest.approx(-1, abs=1e-4)
    assert value(scored, "true", "sim_gt") == pytest.approx(1, abs=1e-4)
    assert value(scored, "true", "face_sim") < 1
    assert value(scored, "true", "fid") == pytest.approx(0, abs=1e-4)


def test_permuted_people_are_not_alike(scored: Benchmark) -> None:
    for key in ("face_sim", "sim_gt", "fgis"):
        assert value(scored, "permuted", key) < value(scored, "true", key)
    assert value(scored, "permuted", "accepted_1") < value(scored, "true", "accepted_1")
    # the same set of pictures, only dealt out wrongly
    assert value(scored, "permuted", "fid") == pytest.approx(value(scored, "true", "fid"), abs=1e-6)


def test_a_picture_of_another_prompt_adheres_less(scored: Benchmark) -> None:
    for key in ("clip_t", "adherence"):
        assert value(scored, "other prompt", key) < value(scored, "true", key)
    assert value(scored, "other prompt", "sim_gt") > value(scored, "permuted", "sim_gt")


@pytest.mark.parametrize("method", ["blank", "never made"])
def test_blanked_faces_fail_and_stay_in_the_denominator(scored: Benchmark, method: str) -> None:
    for key in ("face_sim", "sim_gt", "fgis", "accepted_1", "face_found"):
        found = scored.methods[method].scores[key]
        assert found.value == 0, key
        assert found.pictures == 16, key
    assert scored.methods[method].scores["copy_paste"].pictures == 0


def test_a_picture_that_was_never_made_fails_everything(scored: Benchmark) -> None:
    assert value(scored, "never made", "clip_t") == 0
    assert value(scored, "never made", "adherence") == 0
    assert scored.methods["never made"].scores["fid"].pictures == 0


def test_a_refused_reference_counts_even_where_it_shows_no_face(
    people: list[Person], prompts: tuple[Prompt, ...], encoders: Encoders, tmp_path: Path
) -> None:
    Image.new("RGB", (64, 64), "grey").save(tmp_path / "nobody.png")
    made = rows("m", people[:2], prompts[:1], lambda who, prompt: people[who].real[prompt])
    scores = score([made[0], replace(made[1], reference=tmp_path / "nobody.png", picture=None)], encoders)
    for key in ("face_sim", "sim_gt", "fgis"):
        assert scores.methods["m"].each[key].tolist()[1] == 0, key
        assert scores.methods["m"].scores[key].pictures == 2


def test_a_reference_without_a_face_counts_and_is_told(
    people: list[Person], prompts: tuple[Prompt, ...], encoders: Encoders, tmp_path: Path
) -> None:
    """Though pictures were made: no measure of likeness loses a row by it, nor vanishes where it is so for all."""
    Image.new("RGB", (64, 64), "grey").save(tmp_path / "nobody.png")
    made = rows("m", people[:3], prompts[:1], lambda who, prompt: people[who].real[prompt])
    nobody = tmp_path / "nobody.png"
    for faceless in ([1], [0, 1, 2]):
        listed = [replace(row, reference=nobody) if i in faceless else row for i, row in enumerate(made)]
        scores = score(listed, encoders)
        for key in ("face_sim", "fgis", "fgis_nose", "fgis_mouth"):
            assert scores.methods["m"].scores[key].pictures == 3, key
            assert [x == 0 for x in scores.methods["m"].each[key]] == [i in faceless for i in range(3)], key
        assert scores.methods["m"].scores["sim_gt"].value == pytest.approx(1, abs=1e-4), "the others show the person"
        names = ", ".join(people[i].name for i in faceless)
        assert f"no face is found in the reference of {names}: all likeness to it counts 0" in scores.marks
    unknown = [replace(row, others=(nobody,), real=None) for row in made]
    scores = score(unknown, encoders)
    assert scores.methods["m"].each["sim_gt"].tolist() == [0, 0, 0]
    assert any(mark.startswith("no face is found in any other picture of ") for mark in scores.marks)


@pytest.mark.slow
def test_copies_of_the_real_pictures_change_nothing(
    people: list[Person], prompts: tuple[Prompt, ...], encoders: Encoders, tmp_path: Path
) -> None:
    """Several runs each have their own copies of the same people."""

    def copied(path: Path) -> Path:
        return Path(shutil.copy(path, tmp_path / f"{path.parent.name}-{path.name}"))

    ours = rows("ours", people, prompts, lambda who, prompt: people[who].real[1 - prompt])
    theirs = [
        replace(
            row,
            method="theirs",
            reference=copied(row.reference),
            others=tuple(map(copied, row.others)),
            real=copied(row.real) if row.real else None,
        )
        for row in ours
    ]
    alone, together = score(ours, encoders), score([*ours, *theirs], encoders)
    assert together.real.scores == alone.real.scores
    assert together.thresholds == pytest.approx(alone.thresholds, nan_ok=True)
    for key in ("kid", "fid", "face_sim"):
        for method in ("ours", "theirs"):
            assert together.methods[method].scores[key] == alone.methods["ours"].scores[key]


def test_differences_are_paired(scored: Benchmark) -> None:
    """Their interval is over what the same person gains, not over two lots of people."""
    gain = scored.difference("copied", "true", "face_sim")
    each = [1 - x for x in scored.methods["true"].each["face_sim"]]
    assert gain.value == pytest.approx(np.mean(each), abs=1e-4)
    assert (gain.pictures, gain.people) == (16, 8)
    nothing = scored.difference("true", "true", "fgis")
    assert (nothing.value, nothing.low, nothing.high) == (0, 0, 0)
    assert np.isnan(scored.difference("true", "copied", "fid").value)  # not a score of single pictures


def test_the_bounds_are_scored_with_the_same_ruler(scored: Benchmark) -> None:
    true = scored.methods["true"].scores
    for key in ("clip_t", "clip_i", "face_sim", "fgis", "adherence"):
        assert scored.real.scores[key].value == pytest.approx(true[key].value, abs=1e-6), key
    assert scored.position("true", "face_sim") == pytest.approx(1)
    assert scored.random.scores["face_sim"].value < scored.real.scores["face_sim"].value
    assert scored.separation["face_sim"] > 0.8


def test_a_real_picture_is_not_compared_with_itself(
    people: list[Person], prompts: tuple[Prompt, ...], encoders: Encoders
) -> None:
    several = [
        replace(row, others=people[number // 2].others)
        for number, row in enumerate(rows("true", people, prompts, lambda who, prompt: people[who].real[prompt]))
    ]
    assert score(several, encoders).real.scores["sim_gt"].value < 0.999


def test_parts_that_the_reference_hides_are_left_out(scored: Benchmark) -> None:
    parts = scored.methods["copied"].scores
    assert parts["fgis_face"].pictures == 16
    hidden = np.isnan(scored.methods["copied"].each["fgis_ears"])
    assert 0 < parts["fgis_ears"].pictures == 16 - hidden.sum() < 16
    assert (hidden == np.isnan(scored.methods["permuted"].each["fgis_ears"])).all()


def test_seeds_are_told_apart_by_diversity(
    people: list[Person], prompts: tuple[Prompt, ...], encoders: Encoders
) -> None:
    first, second = (
        rows("m", people[:2], prompts[:1], lambda who, _, n=n: people[who].others[n])  # type: ignore[misc]
        for n in (0, 1)
    )
    varied = score([*first, *(replace(row, seed=1) for row in second)], encoders)
    alike = score([*first, *(replace(row, seed=1) for row in first)], encoders)
    assert varied.methods["m"].scores["diversity"].value > 0.01
    assert alike.methods["m"].scores["diversity"].value == pytest.approx(0, abs=1e-6)
    assert varied.methods["m"].scores["diversity"].pictures == 2


def test_without_pictures_there_is_nothing_to_score(
    people: list[Person], prompts: tuple[Prompt, ...], encoders: Encoders
) -> None:
    with pytest.raises(InputError, match="none of the pictures exists"):
        score(rows("m", people, prompts, lambda *_: None), encoders)
