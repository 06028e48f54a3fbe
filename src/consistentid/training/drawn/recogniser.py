"""The recogniser conditions the adapter, the teacher is asked by its identity loss, and the judge only scores.

All take (B, 3, 112, 112) RGB in [-1, 1], aligned to the ArcFace template, and give (B, 512), as w600k_r50 does, so
that photos and drawings share one contract. They differ in architecture and seed.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from consistentid.drawn.pools import Pool, pixels
from consistentid.faces.alignment import SIZE, align
from consistentid.faces.verification import accepted, impostor_threshold
from consistentid.files.devices import exactly
from consistentid.training.drawn.loop import Losses, gathered, train
from consistentid.training.drawn.onnx_network import Network, export, flawed, restore
from consistentid.training.drawn.recipe import Recipe
from consistentid.training.schedule import Schedule, batched

DIMENSIONS = 512
"""Of an embedding."""

_SAMPLES = 500  # faces by which a network that goes on is restored


def aligned(pool: Pool, rows: NDArray[np.int64], rng: np.random.Generator | None = None) -> NDArray[np.uint8]:
    """Aligned faces (B, 112, 112, 3) of rows.

    With ``rng``, with the flaws of real detections and of generated pictures.
    """
    out = []
    for row in rows:
        picture, marks = Image.fromarray(pool.images[row]), np.array(pool.landmarks[row])
        if rng is not None:
            marks = (marks + rng.normal(0, 0.006 * pool.spec.size, marks.shape)).astype(np.float32)
            picture = flawed(picture, rng)
        out.append(np.asarray(align(picture, marks)))
    return np.stack(out)


def margin_loss(embeddings: Tensor, people: Tensor, margin: float, scale: float) -> Tensor:
    """Additive angular margin (ArcFace) against the other pictures of the batch instead of learnt class centres.

    embeddings: (B, 512); people: (B,) whose picture it is, every person at least twice.
    """
    with exactly(embeddings.device):
        unit = F.normalize(embeddings.float(), dim=-1)
        cosine = unit @ unit.T
    same = people[:, None] == people[None, :]
    eye = torch.eye(len(people), dtype=torch.bool, device=people.device)
    harder = torch.cos(torch.acos(cosine.clamp(-0.9999, 0.9999)) + margin)
    logits = scale * torch.where(same, harder, cosine).masked_fill(eye, -torch.inf)
    negatives = logits.masked_fill(same, -torch.inf).logsumexp(-1, keepdim=True)
    each = F.softplus(negatives - logits)[same & ~eye]
    return each.mean()


def _train(name: str, recipe: Recipe, out: Path, device: torch.device) -> None:
    section = recipe.section(name)
    schedule: Schedule = section.schedule
    pool, held_out = recipe.pool("train"), recipe.pool("validation")
    torch.manual_seed(schedule.seed)
    network = Network(SIZE, DIMENSIONS, centred=True, **section.network)
    if init := section.options["init"]:
        rows = np.linspace(0, len(pool) - 1, _SAMPLES).astype(np.int64)
        restore(network, init, pixels(aligned(pool, rows), torch.device("cpu")))
    network.to(device)

    def loss(batch: tuple[Tensor, Tensor], _generator: torch.Generator) -> Losses:
        faces, whose = batch
        found, whose = gathered(network(pixels(faces, device))), gathered(whose.to(device))
        return {"loss": margin_loss(found, whose, section.options["margin"], section.options["scale"])}

    @torch.no_grad()
    def report() -> dict[str, float]:
        rows = np.arange(len(held_out))
        vectors = [network(pixels(aligned(held_out, rows[part]), device)) for part in batched(len(rows), 64)]
        unit = F.normalize(torch.cat(vectors), dim=-1)
        whose = torch.from_numpy(rows // held_out.spec.scenes).to(device)
        pairs = torch.triu_indices(len(rows), len(rows), 1, device=device)
        similarity, same = (unit @ unit.T)[pairs[0], pairs[1]], (whose[:, None] == whose)[pairs[0], pairs[1]]
        right, wrong = similarity[same].cpu().numpy(), similarity[~same].cpu().numpy()
        at_1, at_01 = (impostor_threshold(wrong, far) for far in (0.01, 0.001))
        return {
            "tar_at_far_1_percent": float(accepted(right, at_1).mean()),
            "tar_at_far_0.1_percent": float(accepted(right, at_01).mean()),
            "threshold": at_1,
        }

    people, precision = pool.spec.people, recipe.precision
    prepared = partial(_views, pool, section.options["views"])
    if train(
        name, network, loss, schedule, people, out, device=device, prepared=prepared,
        workers=recipe.ahead, report=report, precision=precision,
    ):  # fmt: skip
        export(network.cpu(), out / f"{name}.onnx", "embedding")


def _views(pool: Pool, views: int, people: NDArray[np.int64], seed: int) -> tuple[Tensor, Tensor]:
    """Flawed faces (B, 112, 112, 3) uint8 of people in several scenes each, and whose they are (B,)."""
    rng, scenes = np.random.default_rng(seed), pool.spec.scenes
    rows = np.concatenate([p * scenes + rng.permutation(scenes)[:views] for p in people])
    return torch.from_numpy(aligned(pool, rows, rng)), torch.from_numpy(rows // scenes)


def train_recogniser(recipe: Recipe, out: Path, device: torch.device) -> None:
    """Train ``out/recogniser.onnx``; reports the acceptance rate of held-out people at 1 % false acceptance."""
    _train("recogniser", recipe, out, device)


def train_teacher(recipe: Recipe, out: Path, device: torch.device) -> None:
    """Train ``out/teacher.onnx``, which the adapter's identity loss asks; it is finer than the recogniser."""
    _train("teacher", recipe, out, device)


def train_judge(recipe: Recipe, out: Path, device: torch.device) -> None:
    """Train ``out/judge.onnx``, another architecture from another seed."""
    _train("judge", recipe, out, device)
