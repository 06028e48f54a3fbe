"""The latents of a pool's pictures, computed once for each autoencoder."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from consistentid.drawn.pools import Pool, pixels
from consistentid.files.claims import in_turn
from consistentid.files.writing import replacing
from consistentid.training.schedule import batched
from consistentid.training.state import weights_digest


class Latents:
    """The latents (N, C, h, w) half of a pool's pictures in a file. Sent to another process, they are opened there."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Latents, (self.path,))

    @cached_property
    def _array(self) -> NDArray[np.float16]:
        array: NDArray[np.float16] = np.load(self.path, mmap_mode="r")
        return array

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, C, h, w)."""
        return self._array.shape

    def __getitem__(self, rows: slice | NDArray[np.int64]) -> Tensor:
        """Those of some rows, (B, C, h, w) half."""
        return torch.from_numpy(np.array(self._array[rows]))


@torch.no_grad()
def open_latents(pool: Pool, vae: Any, out: Path, device: torch.device) -> Latents:
    """Scaled latents of the whole pool, kept in ``out`` under the names of pool and encoder.

    A decoder that has learnt on leaves them valid; with another encoder, or other pictures, they are computed anew.
    """
    encoder = weights_digest(vae.encoder)
    path = out / f"latents-{pool.name}-{encoder}-{vae.config.scaling_factor:g}.npy"
    with in_turn(path):
        if not path.exists():
            parts = []
            for part in tqdm(batched(len(pool), 64), total=-(-len(pool) // 64), desc="latents", mininterval=20):
                z = vae.encode(pixels(pool.images[part], device), return_dict=False)[0].mean * vae.config.scaling_factor
                parts.append(z.half().cpu().numpy())
            with replacing(path) as whole:
                np.save(whole, np.concatenate(parts))
    return Latents(path)
