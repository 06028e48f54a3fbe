"""Several people in a picture, as the adapter learns them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import micro
import numpy as np
import pytest
import torch

from consistentid import Identity
from consistentid.errors import InputError
from consistentid.faces.parts import PARTS
from consistentid.training.examples import Example, learns_base, learns_company, learns_sampled
from consistentid.training.trainer import Trainer, open_source

PAIRS = {"people": 3, "scenes": 2, "together": 2, "width": 48}
TRIOS = {"people": 3, "scenes": 1, "together": 3, "width": 64}


def trainer(folder: Path, **options: Any) -> Trainer:
    return micro.trainer(folder / "run", folder / "cache", **{"company_share": 1.0, "groups": [PAIRS], **options})


def test_a_sample_is_a_picture_of_several_people_and_a_portrait_of_each(tmp_path: Path) -> None:
    made = trainer(tmp_path, groups=[PAIRS, TRIOS], fixed_sentence=0.0, text_only=0.0, condition_dropout=0.0, views=1)
    source, seen = made.source, set()
    for step in range(12):
        examples = [made.examples[step, index, index] for index in range(3)]
        batch = made.examples.batch(examples)
        people = len(examples[0].references)
        seen.add(people)
        assert batch.people == people
        assert batch.latents.shape[-1] == batch.latents.shape[-2] * (1 + people) // 2
        for row, example in enumerate(examples):
            members = source.members(example.row, 0)
            assert example.row in source.groups()[people - 2]
            assert [x.portraits[0] for x in members] == list(example.reference_rows)
            assert np.array_equal(np.stack([x.landmarks for x in members]), batch.landmarks[row])
            left = batch.landmarks[row, :, :, 0].mean(1)
            assert (left.diff() > 0).all(), "from left to right"
            for person, reference in enumerate(example.references):
                assert torch.equal(batch.embedding[row, person], reference["embedding"])
                assert torch.equal(batch.wanted[row, person], reference["wanted"])
            scene, *texts = made.examples._texts(example, base=False)
            assert not scene.words
            assert all(text.full[:20] == scene.full[:20] == example.prompt[:20] for text in texts)
            assert len({text.full for text in texts}) > 1 or len(set(example.faces)) == 1
    assert seen == {2, 3}


def test_what_they_see_is_what_inference_feeds(tmp_path: Path) -> None:
    made = trainer(tmp_path, condition_dropout=0.4, fixed_sentence=0.0, text_only=0.0)
    cid, frozen = made.module.cid, made.frozen
    prompt, faces = "two people on a beach", ("She has green eyes and a small nose.", "He has a wide mouth.")
    examples = [replace(made.examples[0, index, index], prompt=prompt, faces=faces) for index in range(8)]
    assert {x.dropped for x in examples} == {True, False}
    rows, tokens = made.module._read(made.examples.batch(examples))
    for row, example in enumerate(examples):
        fed = cid.inputs(
            [identity(example, person, made) for person in range(2)],
            prompt,
            regions=[(0, 0, 0.5, 1), (0.5, 0, 1, 1)],
            face_text=list(faces),
            merge_at=0.0,
        )
        words = "negative_prompt_embeds" if example.dropped else "prompt_embeds"
        ours, theirs = rows[row, :-1], fed[words][0, :-1]  # the last one tells layouts apart
        torch.testing.assert_close(ours, theirs, rtol=0, atol=5e-3)  # features are kept in half precision
    layout = made.module._layout
    assert torch.equal(layout.regions.weights(4, 6)[0], torch.tensor([[1.0, 1, 1, 0, 0, 0]]).expand(4, -1))
    torch.testing.assert_close(layout.tokens(rows)[:, : tokens.shape[2]], tokens[:, 0])
    assert frozen.limit == layout.context


def identity(example: Example, person: int, made: Trainer) -> Identity:
    reference, blank = example.references[person], made.frozen.blank.float()
    whole, *seen = reference["output"].float()
    parts = blank.expand(len(PARTS), -1, -1).clone()
    parts[reference["seen"]] = torch.stack(seen)
    return Identity(reference["embedding"], whole, parts, reference["seen"], blank, made.frozen.provenance)


@pytest.mark.slow
@pytest.mark.parametrize("company", [False, True])
def test_it_is_learnt_from(tmp_path: Path, company: bool) -> None:
    """Also where gradients are computed anew in the backward pass, which reads the layout once more."""
    states = []
    for checkpointing in (False, True):
        options: dict[str, Any] = {"identity_weight": 1.0, "gradient_checkpointing": checkpointing}
        options |= {"schedule": {"steps": 2}, "sampled_share": 0.0, "company_share": 1.0 if company else 0.0}
        run = tmp_path / str(checkpointing)
        states.append(micro.learnt(run, tmp_path / "cache", groups=[PAIRS], **options))
        lines = micro.logged(run)
        assert all(("company_noise" in line, "company_identity" in line) == (company, company) for line in lines)
        assert all(("noise" in line, "localisation" in line) == (not company, not company) for line in lines)
    first, second = states
    for name, x in first.items():
        torch.testing.assert_close(x, second[name], rtol=1e-3, atol=1e-5)


def test_each_step_learns_one_thing(tmp_path: Path) -> None:
    shares = {"base_share": 0.2, "sampled_share": 0.3, "company_share": 0.4, "identity_weight": 1.0}
    config = trainer(tmp_path, trained=["unet"], **shares).config
    kinds = [(learns_base(config, s), learns_sampled(config, s), learns_company(config, s)) for s in range(1000)]
    assert max(map(sum, kinds)) == 1
    assert [sum(x) / 1000 for x in zip(*kinds, strict=True)] == pytest.approx([0.2, 0.3, 0.4], abs=0.05)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"groups": []}, "company_share needs groups"),
        ({"groups": [PAIRS | {"people": 4}]}, "of whom 3 are learnt from"),
        ({"groups": [PAIRS | {"seed": 1}]}, "leave split, seed and first out"),
        ({"groups": [PAIRS | {"together": 1}]}, "set its together to 2 or 3"),
        ({"base_share": 0.5, "trained": ["unet"]}, "shares of the same steps"),
    ],
)
def test_groups_that_cannot_be_are_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        trainer(tmp_path, **options)


def test_a_data_set_has_nobody_in_company(tmp_path: Path) -> None:
    config = replace(trainer(tmp_path).config, pictures=None)
    with pytest.raises(InputError, match="a data set has no pictures of several people"):
        open_source(config, tmp_path, tmp_path)
