"""Training examples of the adapter: a reference of a person and another picture of them, as tensors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from consistentid.faces.parts import PARTS, part_masks
from consistentid.faces.recognition import OnnxRecogniser
from consistentid.training.stack.autoencoder import pixels
from consistentid.training.stack.clip import part_crops
from consistentid.training.stack.loop import batched, save_atomically
from consistentid.training.stack.pictures import Pool


@dataclass(frozen=True)
class References:
    """What the adapter sees of reference pictures, computed once.

    embedding (R, 512), face (R, L, D), parts (R, N, L, D) float16; mask (R, N) bool; blank (L, D).
    Rows are pictures: person ``r // views``, their scene ``r % views``.
    """

    embedding: Tensor
    face: Tensor
    parts: Tensor
    mask: Tensor
    blank: Tensor
    views: int


@torch.no_grad()
def open_references(
    pool: Pool,
    people: int,
    views: int,
    image_encoder: Any,
    recogniser: OnnxRecogniser,
    path: Path,
    device: torch.device,
) -> References:
    """References of the first ``views`` scenes of the first ``people``, kept at ``path``."""
    if not path.exists():

        def features(images: NDArray[np.uint8]) -> Tensor:
            states = image_encoder(pixels(images, device), output_hidden_states=True).hidden_states
            out: Tensor = states[-2].half().cpu()
            return out

        size = pool.spec.size
        rows = np.array([p * pool.spec.scenes + v for p in range(people) for v in range(views)])
        blank = features(np.full((1, size, size, 3), 127.5, np.float32))[0]
        parts = blank.expand(len(rows), len(PARTS), *blank.shape).clone()
        mask = torch.zeros(len(rows), len(PARTS), dtype=torch.bool)
        face, embedding = [], []
        for part in tqdm(batched(len(rows), 48), total=-(-len(rows) // 48), desc="references", mininterval=20):
            cuts = part_crops(pool, rows[part], size)
            where = [(part.start + i, PARTS.index(n)) for i, cut in enumerate(cuts) for n in cut]
            i, j = (torch.tensor(x) for x in zip(*where, strict=True))
            parts[i, j] = features(np.stack([picture for cut in cuts for picture in cut.values()]))
            mask[i, j] = True
            face.append(features(pool.images[rows[part]]))
            for row in rows[part]:
                vector = recogniser.embed(Image.fromarray(pool.images[row]), np.array(pool.landmarks[row]))
                embedding.append(torch.from_numpy(vector))
        tensors = {
            "embedding": torch.stack(embedding),
            "face": torch.cat(face),
            "parts": parts,
            "mask": mask,
            "blank": blank,
        }
        save_atomically(lambda p: torch.save(tensors, p), path)
    return References(**torch.load(path, weights_only=True, mmap=True), views=views)


def target_masks(labels: NDArray[np.uint8], size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Masks of the parts (B, N, h, w) and of the person (B, 1, h, w), shrunk by area from labels (B, H, W)."""
    masks = np.zeros((len(labels), len(PARTS), *labels.shape[1:]), np.float32)
    for row, picture in enumerate(labels):
        for part, mask in part_masks(picture).items():
            masks[row, PARTS.index(part)] = mask
    person = torch.from_numpy((labels > 0).astype(np.float32))[:, None]
    shrink = torch.nn.functional.adaptive_avg_pool2d
    return shrink(torch.from_numpy(masks), size), (shrink(person, size) > 0.25).float()
