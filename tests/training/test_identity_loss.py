"""The identity loss: faces are aligned as everywhere, and gradients lead through the recogniser to the right person."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from PIL import Image
from torch import Tensor

from consistentid.drawn.autoencoder import ConvAutoencoderKL
from consistentid.drawn.pools import pixels
from consistentid.drawn.portraits import draw, draw_groups, sample_groups, sample_people, sample_scenes
from consistentid.errors import DatasetError
from consistentid.faces.alignment import align
from consistentid.faces.differentiable import DifferentiableOnnx
from consistentid.presets.loading import load_analyzer
from consistentid.presets.read import load_preset
from consistentid.training.identity import IdentityLoss, aligned
from consistentid.training.losses import clean_latents

WEIGHTS = Path(__file__).parents[2] / "src/consistentid/weights/drawn"


@pytest.fixture(scope="module")
def recogniser() -> DifferentiableOnnx:
    return DifferentiableOnnx(WEIGHTS / "recogniser.onnx")


@pytest.fixture(scope="module")
def loss(recogniser: DifferentiableOnnx) -> IdentityLoss:
    return IdentityLoss([recogniser], ConvAutoencoderKL.from_pretrained(WEIGHTS / "base/vae").float())


def portraits(size: int, keys: list[tuple[int, int]]) -> tuple[Tensor, Tensor]:
    """Pictures (B, 3, S, S) in [-1, 1] and landmarks (B, 5, 2) of (person, scene)."""
    people = sample_people([person for person, _ in keys], split="test")
    drawn = draw(people, sample_scenes(keys, split="test"), size)
    return pixels(drawn.pixels(), torch.device("cpu")), drawn.landmarks


@pytest.mark.parametrize("size", [64, 400])
def test_faces_are_aligned_as_everywhere(size: int) -> None:
    pictures, landmarks = portraits(size, [(0, 0), (1, 1), (2, 2)])
    marks = landmarks.clone()
    marks[2] += size * 0.3  # a face that leaves the picture
    found = aligned(pictures, marks)
    for picture, mark, face in zip(pictures, marks, found, strict=True):
        image = Image.fromarray(((picture.permute(1, 2, 0) + 1) * 127.5).round().byte().numpy())
        expected = torch.from_numpy(np.array(align(image, mark.numpy()))).permute(2, 0, 1) / 127.5 - 1
        assert (face - expected).abs().mean() < 0.025  # two ways to interpolate sharp edges


def test_faces_of_wide_pictures_of_several_people_are_aligned_as_everywhere() -> None:
    groups = sample_groups([((0, 1), 0), ((2, 3), 1)], split="test")
    drawn = draw_groups(groups, (192, 128))
    pictures = pixels(drawn.pixels(), torch.device("cpu")).repeat_interleave(2, 0)
    marks = drawn.landmarks.reshape(4, 5, 2)
    for picture, mark, face in zip(pictures, marks, aligned(pictures, marks), strict=True):
        image = Image.fromarray(((picture.permute(1, 2, 0) + 1) * 127.5).round().byte().numpy())
        expected = torch.from_numpy(np.array(align(image, mark.numpy()))).permute(2, 0, 1) / 127.5 - 1
        assert (face - expected).abs().mean() < 0.025


def test_each_of_several_people_counts(loss: IdentityLoss, recogniser: DifferentiableOnnx) -> None:
    drawn = draw_groups(sample_groups([((0, 1), 0), ((2, 3), 1)], split="test"), (192, 128))
    pictures, marks = pixels(drawn.pixels(), torch.device("cpu")), drawn.landmarks.reshape(2, 2, 5, 2)
    latents = loss._vae.encode(pictures).latent_dist.mean * loss._vae.config.scaling_factor
    own = recogniser(aligned(pictures.repeat_interleave(2, 0), marks.flatten(0, 1))).reshape(2, 2, 1, -1)
    both, swapped, left = own, own.flip(1), torch.cat([own[:, :1], own.flip(1)[:, 1:]], 1)
    right, half, wrong = (loss(latents, marks, wanted) for wanted in (both, left, swapped))
    assert (right < half).all()
    assert (half < wrong).all()
    torch.testing.assert_close(
        half, (loss(latents, marks[:, :1], own[:, :1]) + loss(latents, marks[:, 1:], own[:, :1])) / 2
    )


def test_who_it_is_counts(loss: IdentityLoss, recogniser: DifferentiableOnnx) -> None:
    keys = [(person, scene) for person in range(6) for scene in range(2)]
    pictures, landmarks = portraits(128, keys)
    embeddings = recogniser(aligned(pictures, landmarks))
    vae = loss._vae
    latents = vae.encode(pictures).latent_dist.mean * vae.config.scaling_factor
    right = loss(latents[::2], landmarks[::2, None], embeddings[1::2, None, None])
    wrong = loss(latents[::2], landmarks[::2, None], embeddings[1::2, None, None].roll(1, 0))
    assert right.mean() < 0.25 < 0.5 < wrong.mean()


def test_the_gradient_leads_to_the_person(loss: IdentityLoss, recogniser: DifferentiableOnnx) -> None:
    pictures, landmarks = portraits(128, [(0, 0), (1, 0)])
    wanted = recogniser(aligned(pictures, landmarks)).detach().flip(0)[:, None, None]  # each is to become the other
    vae = loss._vae
    latents = (vae.encode(pictures).latent_dist.mean * vae.config.scaling_factor).detach().requires_grad_()
    optimiser = torch.optim.Adam([latents], lr=0.03)
    before = loss(latents, landmarks[:, None], wanted).detach()
    for _ in range(15):
        optimiser.zero_grad()
        loss(latents, landmarks[:, None], wanted).sum().backward()
        optimiser.step()
    assert (loss(latents, landmarks[:, None], wanted) < before - 0.3).all()


def test_faces_of_sampled_pictures_are_looked_for(loss: IdentityLoss, recogniser: DifferentiableOnnx) -> None:
    pictures, landmarks = portraits(128, [(0, 0), (1, 1)])
    pictures[1] = -0.2  # nobody is there
    vae = loss._vae
    latents = vae.encode(pictures).latent_dist.mean * vae.config.scaling_factor
    wanted = recogniser(aligned(pictures, landmarks))[:, None, None]
    moved = landmarks[:, None] + torch.tensor([14.0, -9.0])
    detector = load_analyzer(load_preset("drawn")).detector
    right, given, found = (
        loss(latents, landmarks[:, None], wanted),
        loss(latents, moved, wanted),
        loss(latents, moved, wanted, detector),
    )
    assert right[0] < 0.15
    assert given[0] > right[0] + 0.1
    assert abs(found[0] - right[0]) < 0.05
    assert found[1] == given[1], "where nobody is seen, the landmarks are those given"


def test_nobody_wanted_has_no_gradient(loss: IdentityLoss) -> None:
    latents = torch.randn(1, 12, 16, 16, requires_grad=True)
    _, landmarks = portraits(128, [(0, 0)])
    value = loss(latents, landmarks[:, None], torch.zeros(1, 1, 1, 512))
    value.sum().backward()
    assert value.item() == 1.0
    assert latents.grad is not None
    assert not latents.grad.any()


def test_pictures_without_landmarks_are_refused(loss: IdentityLoss) -> None:
    with pytest.raises(DatasetError, match="landmarks"):
        loss(torch.zeros(1, 12, 16, 16), torch.full((1, 1, 5, 2), torch.nan), torch.zeros(1, 1, 1, 512))


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_clean_latents_undo_the_noise(prediction_type: str) -> None:
    schedule = DDPMScheduler(prediction_type=prediction_type)
    z, noise, t = torch.randn(3, 4, 8, 8), torch.randn(3, 4, 8, 8), torch.tensor([1, 500, 900])
    prediction = noise if prediction_type == "epsilon" else schedule.get_velocity(z, noise, t)
    noisy = schedule.add_noise(z, noise, t)
    found = clean_latents(noisy, prediction, schedule.alphas_cumprod[t], prediction_type)
    torch.testing.assert_close(found, z, rtol=1e-3, atol=1e-3)


def test_several_recognisers_have_equal_say(loss: IdentityLoss, recogniser: DifferentiableOnnx) -> None:
    pictures, landmarks = portraits(128, [(0, 0)])
    judge = DifferentiableOnnx(WEIGHTS / "judge.onnx")
    latents = torch.randn(1, 12, 16, 16, generator=torch.Generator().manual_seed(0))
    wanted = torch.stack([network(aligned(pictures, landmarks)) for network in (recogniser, judge)], dim=1)[:, None]
    both = IdentityLoss([recogniser, judge], loss._vae)(latents, landmarks[:, None], wanted)
    alone = [
        IdentityLoss([x], loss._vae)(latents, landmarks[:, None], wanted[:, :, [k]])
        for k, x in enumerate((recogniser, judge))
    ]
    torch.testing.assert_close(both, (alone[0] + alone[1]) / 2)
