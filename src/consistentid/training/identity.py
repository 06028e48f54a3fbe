"""The identity loss: whose face is in the picture that a denoising step points to.

The noise loss weighs whatever makes up the latents; few of them make a likeness. This one asks a recogniser, as PuLID
does (Guo et al., arXiv 2404.16022, section 3.3); the paper of ConsistentID has none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from consistentid.errors import DatasetError
from consistentid.faces.alignment import SIZE, way_back


class IdentityLoss:
    """One minus the cosine similarity between an embedding and that of the face in a picture, by several recognisers.

    Args:
        recognisers: each (B, 3, 112, 112) RGB in [-1, 1] to (B, D), and gradients flow through it.
        vae: decodes latents, through which gradients flow.
    """

    def __init__(self, recognisers: Sequence[nn.Module], vae: Any) -> None:
        self._recognisers, self._vae = recognisers, vae

    def __call__(self, latents: Tensor, landmarks: Tensor, wanted: Tensor) -> Tensor:
        """The loss (B,), in [0, 2]; 1 and without gradient where the embeddings are nothing but zeros.

        Args:
            latents: (B, C, h, w), scaled as the UNet has them.
            landmarks: (B, 5, 2) of the face, pixels.
            wanted: (B, K, D), whose face it should be in the eyes of each of the K recognisers.

        Raises:
            DatasetError: landmarks are missing.
        """
        if landmarks.isnan().any():
            raise DatasetError(
                "the identity loss needs landmarks, and pictures have none; make the data set with"
                " 'consistentid dataset build', or set identity_weight to 0"
            )
        pictures = self._vae.decode(latents / self._vae.config.scaling_factor, return_dict=False)[0]
        faces = aligned(pictures.float().clamp(-1, 1), landmarks)
        vectors = torch.stack([recogniser(faces) for recogniser in self._recognisers], dim=1)
        return 1 - F.cosine_similarity(vectors, wanted, dim=-1).mean(1)


def aligned(pictures: Tensor, landmarks: Tensor) -> Tensor:
    """Faces upright at their standard place and size, as `consistentid.faces.alignment.align` makes them.

    Args:
        pictures: (B, 3, S, S) in [-1, 1].
        landmarks: (B, 5, 2) pixels.

    Returns:
        (B, 3, 112, 112); -1 where a face leaves its picture.
    """
    faces = []
    for picture, marks in zip(pictures, landmarks.cpu().numpy(), strict=True):
        back, shift = way_back(marks)
        factor = max(1, int(abs(back)))
        shrunk = F.avg_pool2d(picture[None] + 1, factor)
        to_unit = 2 / picture.shape[-1]  # grids count from -1 at one border to 1 at the other
        turn = back * SIZE / 2 * to_unit
        move = (back * complex(SIZE / 2, SIZE / 2) + shift) * to_unit - complex(1, 1)
        matrix = torch.tensor([[turn.real, -turn.imag, move.real], [turn.imag, turn.real, move.imag]])
        grid = F.affine_grid(matrix[None].to(shrunk), [1, 3, SIZE, SIZE], align_corners=False)
        faces.append(F.grid_sample(shrunk, grid, align_corners=False) - 1)
    return torch.cat(faces)
