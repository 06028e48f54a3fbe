"""The identity loss: whose face is in the picture that a denoising step points to.

The noise loss weighs whatever makes up the latents; few of them make a likeness. This one asks a recogniser, as PuLID
does (Guo et al., arXiv 2404.16022, section 3.3); the paper of ConsistentID has none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from diffusers.image_processor import VaeImageProcessor
from torch import Tensor, nn
from torch.nn import functional as F

from consistentid.adapter.text import in_rows
from consistentid.errors import DatasetError
from consistentid.faces.alignment import SIZE, way_back
from consistentid.faces.analyzer import Detector
from consistentid.faces.face import largest_first


class IdentityLoss:
    """One minus the cosine similarity between an embedding and that of the face in a picture, by several recognisers.

    Args:
        recognisers: each (B, 3, 112, 112) RGB in [-1, 1] to (B, D), and gradients flow through it.
        vae: decodes latents, through which gradients flow.
    """

    def __init__(self, recognisers: Sequence[nn.Module], vae: Any) -> None:
        self._recognisers, self._vae = recognisers, vae

    def __call__(self, latents: Tensor, landmarks: Tensor, wanted: Tensor, detector: Detector | None = None) -> Tensor:
        """The mean loss of the people on each picture (B,), in [0, 2]; 1 and without gradient where the embeddings are
        nothing but zeros.

        Args:
            latents: (B, C, h, w), scaled as the UNet has them.
            landmarks: (B, P, 5, 2) of the faces, pixels.
            wanted: (B, P, K, D), whose faces they should be in the eyes of each of the K recognisers.
            detector: looks for the largest face on each picture, of one person then, who may have moved away from the
                landmarks; these count where it sees none.

        Raises:
            DatasetError: landmarks are missing.
        """
        if landmarks.isnan().any():
            raise DatasetError(
                "the identity loss needs landmarks, and pictures have none; make the data set with"
                " 'consistentid dataset build', or set identity_weight to 0"
            )
        pictures = self._vae.decode(latents / self._vae.config.scaling_factor, return_dict=False)[0]
        pictures = pictures.float().clamp(-1, 1)
        if detector:
            landmarks = _found(detector, pictures, landmarks)
        return 1 - F.cosine_similarity(embedded(self._recognisers, pictures, landmarks), wanted, dim=-1).mean((1, 2))


def embedded(recognisers: Sequence[nn.Module], pictures: Tensor, landmarks: Tensor) -> Tensor:
    """What each of K recognisers sees in the faces on pictures: (B, P, K, D).

    Args:
        recognisers: see `IdentityLoss`.
        pictures: (B, 3, H, W) in [-1, 1].
        landmarks: (B, P, 5, 2) pixels.
    """
    people = landmarks.shape[1]
    faces = aligned(pictures.repeat_interleave(people, 0), landmarks.flatten(0, 1))
    vectors = torch.stack([recogniser(faces) for recogniser in recognisers], dim=1)
    return in_rows(vectors, (len(landmarks), people))


def _found(detector: Detector, pictures: Tensor, landmarks: Tensor) -> Tensor:
    """Landmarks (B, 1, 5, 2) of the largest faces on pictures (B, 3, H, W) in [-1, 1], or those given."""
    found = landmarks.clone()
    images = VaeImageProcessor().postprocess(pictures.detach(), output_type="pil")
    for row, faces in enumerate(detector.detect_batch(images)):
        if faces:
            found[row, 0] = torch.from_numpy(largest_first(faces)[0].landmarks).to(found)
    return found


def aligned(pictures: Tensor, landmarks: Tensor) -> Tensor:
    """Faces upright at their standard place and size, as `consistentid.faces.alignment.align` makes them.

    Args:
        pictures: (B, 3, H, W) in [-1, 1].
        landmarks: (B, 5, 2) pixels.

    Returns:
        (B, 3, 112, 112); -1 where a face leaves its picture.
    """
    found = [way_back(marks) for marks in landmarks.cpu().numpy()]
    factors = np.array([max(1, int(abs(back))) for back, _ in found])
    height, width = pictures.shape[-2:]
    across, down = 2 / width, 2 / height  # grids count from -1 at one border to 1 at the other
    matrices = []
    for back, shift in found:
        turn, move = back * SIZE / 2, back * complex(SIZE / 2, SIZE / 2) + shift
        matrices.append(
            [
                [turn.real * across, -turn.imag * across, move.real * across - 1],
                [turn.imag * down, turn.real * down, move.imag * down - 1],
            ]
        )
    matrix = torch.tensor(matrices).to(pictures)
    grids = F.affine_grid(matrix, [len(found), 3, SIZE, SIZE], align_corners=False)
    faces = pictures.new_empty(len(found), 3, SIZE, SIZE)
    for factor in np.unique(factors).tolist():
        rows = torch.from_numpy(np.flatnonzero(factors == factor)).to(pictures.device)
        shrunk = F.avg_pool2d(pictures[rows] + 1, factor)
        faces = faces.index_copy(0, rows, F.grid_sample(shrunk, grids[rows], align_corners=False) - 1)
    return faces
